package notify

import "github.com/prometheus/client_golang/prometheus"

// figures are the metrics of the room. Channels are named by administrators and
// at most 32.
type figures struct {
	sent    *prometheus.CounterVec
	alerts  *prometheus.GaugeVec
	dropped prometheus.Counter
}

func newFigures(reg prometheus.Registerer) *figures {
	const ns, sub = "postern", "notify"
	f := &figures{
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "sent_total",
			Help: "Messages of notification channels that this server tried to send, by what became of them."}, []string{"channel", "result"}),
		alerts: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "alerts",
			Help: "Alerts of the group by state."}, []string{"state"}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "dropped_total",
			Help: "Reports that became no alert, as there were too many at once."}),
	}
	if reg != nil {
		reg.MustRegister(f.sent, f.alerts, f.dropped)
	}
	return f
}
