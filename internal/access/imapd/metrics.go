package imapd

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	connections prometheus.Gauge
	sessions    prometheus.Gauge
	refused     *prometheus.CounterVec
	logins      *prometheus.CounterVec
	commands    *prometheus.CounterVec
	seconds     *prometheus.HistogramVec
	unavailable prometheus.Counter
	panics      prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		connections: prometheus.NewGauge(prometheus.GaugeOpts{Name: "postern_imap_connections", Help: "Open IMAP connections."}),
		sessions:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "postern_imap_sessions", Help: "IMAP sessions that are logged in."}),
		refused:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_imap_refused_total", Help: "IMAP connections refused, by reason."}, []string{"reason"}),
		logins:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_imap_logins_total", Help: "IMAP logins, by result."}, []string{"result"}),
		commands:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_imap_commands_total", Help: "IMAP commands, by name and result."}, []string{"command", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "postern_imap_command_seconds", Help: "Time to answer IMAP commands.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9)}, []string{"command"}),
		unavailable: prometheus.NewCounter(prometheus.CounterOpts{Name: "postern_imap_unavailable_total", Help: "IMAP commands that waited for their database in vain."}),
		panics:      prometheus.NewCounter(prometheus.CounterOpts{Name: "postern_imap_panics_total", Help: "IMAP sessions ended by a bug."}),
	}
	if r != nil {
		r.MustRegister(m.connections, m.sessions, m.refused, m.logins, m.commands, m.seconds, m.unavailable, m.panics)
	}
	return m
}

// command counts one command. name is one of a fixed set, so that clients
// cannot make up series.
func (m *metrics) command(name, result string, d time.Duration) {
	m.commands.WithLabelValues(name, result).Inc()
	m.seconds.WithLabelValues(name).Observe(d.Seconds())
}
