package api

import (
	"log/slog"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/base/event"
)

// Operator events of the admin door.
var (
	EventLoginsBlocked = event.Define(1601, "admin_logins_blocked", slog.LevelWarn,
		"An address sent too many wrong passwords to the admin API.", "See who is there; the limit ends by itself.")
	EventAuditRefused = event.Define(1602, "admin_audit_refused", slog.LevelWarn,
		"A change did not run because it could not be written to the audit log.", "See whether the group has quorum: `postern cluster status`.")
	EventPanic = event.Define(1603, "admin_command_broke", slog.LevelError,
		"A command ended by a mistake of the program; the server goes on.", "Report the lines of the log with this trace id.")
)

// collectors is what the door counts.
type collectors struct {
	requests *prometheus.CounterVec
	seconds  prometheus.Histogram
	failed   prometheus.Counter
	running  prometheus.Gauge
	limited  prometheus.Counter
}

func newCollectors() *collectors {
	return &collectors{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_admin_requests_total", Help: "Requests to the admin API by command and HTTP status."}, []string{"command", "code"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "postern_admin_request_seconds", Help: "Time until a request to the admin API was answered.",
			Buckets: []float64{.001, .005, .02, .1, .5, 2, 10, 60}}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_admin_logins_failed_total", Help: "Logins to the admin API with a wrong name or password."}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postern_admin_requests_running", Help: "Requests to the admin API that run now."}),
		limited: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_admin_requests_limited_total", Help: "Requests to the admin API refused at a limit."}),
	}
}

func (c *collectors) register(r prometheus.Registerer) error {
	for _, one := range []prometheus.Collector{c.requests, c.seconds, c.failed, c.running, c.limited} {
		if err := r.Register(one); err != nil {
			return err
		}
	}
	return nil
}

func (c *collectors) count(name string, status int) {
	c.requests.WithLabelValues(name, strconv.Itoa(status)).Inc()
}
