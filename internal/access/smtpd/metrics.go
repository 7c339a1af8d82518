package smtpd

import (
	"log/slog"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/base/event"
)

// The operator events of this package.
var (
	eventOpen   = event.Define(1500, "smtp_open", slog.LevelInfo, "The SMTP doors of this server are open.", "")
	eventClosed = event.Define(1501, "smtp_closed", slog.LevelInfo, "The SMTP doors of this server were closed and drained.", "")
	eventFull   = event.Define(1502, "smtp_connections_full", slog.LevelWarn,
		"The SMTP doors refuse connections because as many as allowed are open.",
		"Look for a client that opens too many; raise smtp.max_connections if they are all wanted.")
	eventMemory = event.Define(1503, "smtp_memory_full", slog.LevelWarn,
		"Messages were turned away for a while because messages being received hold all memory allowed.",
		"Raise smtp.message_memory if the server has memory to spare, or add servers.")
	eventAccept = event.Define(1504, "smtp_accept_failed", slog.LevelError,
		"An SMTP door cannot take connections, often for lack of file handles.",
		"Raise the limit of open files of the service.")
	eventPanic = event.Define(1505, "smtp_internal_error", slog.LevelError,
		"An SMTP connection was ended by an error in Postern; its message was not accepted.",
		"Report it with the log lines of that moment.")
)

// metrics are counted per door, never per address.
type metrics struct {
	connections *prometheus.CounterVec // door, result
	open        *prometheus.GaugeVec   // door
	handshakes  *prometheus.CounterVec // door, result
	logins      *prometheus.CounterVec // result
	messages    *prometheus.CounterVec // door, result
	replies     *prometheus.CounterVec // door, class
	bytes       prometheus.Counter
	seconds     prometheus.Histogram
	memory      prometheus.GaugeFunc
}

func newMetrics(r prometheus.Registerer, mem *budget) *metrics {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "postern", Subsystem: "smtp", Name: name, Help: help}, labels)
	}
	m := &metrics{
		connections: vec("connections_total", "Connections by door and whether they were let in.", "door", "result"),
		handshakes:  vec("tls_handshakes_total", "TLS handshakes by door and result.", "door", "result"),
		logins:      vec("logins_total", "Logins by result.", "result"),
		messages:    vec("messages_total", "Messages whose data began, by door and result: queued, quarantined, discarded, deferred, refused, timeout, lost.", "door", "result"),
		replies:     vec("refusals_total", "Answers of 400 and above by door and code.", "door", "code"),
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "postern", Subsystem: "smtp", Name: "connections_open",
			Help: "Connections open now, by door."}, []string{"door"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{Namespace: "postern", Subsystem: "smtp", Name: "message_bytes_total",
			Help: "Bytes of messages received, refused ones included."}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "postern", Subsystem: "smtp", Name: "message_seconds",
			Help: "From the start of the data to the answer.", Buckets: prometheus.ExponentialBuckets(0.002, 2, 15)}),
		memory: prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "postern", Subsystem: "smtp", Name: "message_memory_bytes",
			Help: "Bytes that messages being received hold in memory."}, func() float64 { return float64(mem.used.Load()) }),
	}
	if r != nil {
		r.MustRegister(m.connections, m.open, m.handshakes, m.logins, m.messages, m.replies, m.bytes, m.seconds, m.memory)
	}
	return m
}

// class is the code of an answer as a label; codes are few.
func (r reply) class() string { return strconv.Itoa(r.code) }
