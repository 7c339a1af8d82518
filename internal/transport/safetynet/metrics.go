package safetynet

import "github.com/prometheus/client_golang/prometheus"

// metrics are the figures of Safety Net.
type metrics struct {
	resubmitted *prometheus.CounterVec // by result
	requests    *prometheus.GaugeVec   // by state
	hold        prometheus.GaugeFunc
}

func newMetrics(hold func() float64) *metrics {
	return &metrics{
		resubmitted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_transport_safetynet_resubmitted_total", Help: "Messages that Safety Net delivered again.",
		}, []string{"result"}),
		requests: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "postern_transport_safetynet_requests", Help: "Safety Net requests of the group.",
		}, []string{"state"}),
		hold: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postern_transport_safetynet_hold_seconds", Help: "How long Safety Net is to keep a delivered message.",
		}, hold),
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.resubmitted, m.requests, m.hold}
}
