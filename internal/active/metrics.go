package active

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/active/choose"
)

// figures are what a monitoring system sees of the room.
type figures struct {
	decision prometheus.Histogram
	moves    *prometheus.CounterVec
}

func newFigures(reg prometheus.Registerer) *figures {
	const ns, sub = "postern", "active"
	f := &figures{
		decision: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: ns, Subsystem: sub, Name: "decision_seconds",
			Help: "Time to decide about all databases that need another active copy, and to write it.", Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 10)}),
		moves: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "moves_total",
			Help: "Changes of active copies that this server decided, by purpose and by what became of them."}, []string{"purpose", "result"}),
	}
	if reg != nil {
		reg.MustRegister(f.decision, f.moves)
	}
	return f
}

func (f *figures) moved(p choose.Purpose, err error) {
	result := "done"
	if err != nil {
		result = "failed"
	}
	f.moves.WithLabelValues(string(p), result).Inc()
}

// decided notes how long a pass took that had something to decide.
func (f *figures) decided(began time.Time) { f.decision.Observe(time.Since(began).Seconds()) }
