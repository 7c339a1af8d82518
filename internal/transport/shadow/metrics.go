package shadow

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	copies      *prometheus.CounterVec
	seconds     prometheus.Histogram
	takeovers   prometheus.Counter
	alone       prometheus.GaugeFunc
	reconciling prometheus.GaugeFunc
}

func newMetrics(k *Keeper) *metrics {
	return &metrics{
		copies: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_transport_shadow_copies_total",
			Help: "Messages that were accepted, by what became of their second copy: ok, alone, refused."}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "postern_transport_shadow_seconds",
			Help: "Time until a second copy was stored.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 15)}),
		takeovers: prometheus.NewCounter(prometheus.CounterOpts{Name: "postern_transport_takeovers_total",
			Help: "Times that messages of another server were taken over."}),
		alone: prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "postern_transport_alone_messages",
			Help: "Messages without a second copy, as of the last look."}, func() float64 { return float64(k.single.Load()) }),
		reconciling: prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "postern_transport_reconciling",
			Help: "Messages that wait until it is known which server owns them."}, func() float64 { return float64(k.waiting.Load()) }),
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.copies, m.seconds, m.takeovers, m.alone, m.reconciling}
}

func (m *metrics) copied(result string, began time.Time) {
	m.copies.WithLabelValues(result).Inc()
	if result == "ok" {
		m.seconds.Observe(time.Since(began).Seconds())
	}
}
