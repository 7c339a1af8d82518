package health

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/org"
)

// figures are the metrics of the room.
type figures struct {
	probes *prometheus.HistogramVec
	deeds  *prometheus.CounterVec
}

func newFigures(reg prometheus.Registerer, d *Desk) *figures {
	const ns, sub = "postern", "health"
	f := &figures{
		probes: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: ns, Subsystem: sub, Name: "probe_seconds",
			Help: "Time of one run of an inside probe.", Buckets: prometheus.ExponentialBuckets(0.0005, 6, 8)}, []string{"probe", "result"}),
		deeds: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "deeds_total",
			Help: "Automatic repairs of this server, by what became of them."}, []string{"action", "result"}),
	}
	reg.MustRegister(f.probes, f.deeds, gauges{d})
	return f
}

// probed and deed work with nil: a Desk without metrics.
func (f *figures) probed(r Result) {
	if f != nil {
		f.probes.WithLabelValues(r.Set+"/"+r.Probe, r.Outcome.String()).Observe(r.Took.Seconds())
	}
}

func (f *figures) deed(r org.Recovery) {
	if f == nil || r.Allowed && !r.DryRun && r.Ended.IsZero() && r.Action != string(Escalate) {
		return // counted when it has ended
	}
	result := "done"
	switch {
	case r.DryRun:
		result = "would"
	case !r.Allowed:
		result = "refused"
	case r.Failed:
		result = "failed"
	}
	f.deeds.WithLabelValues(r.Action, result).Inc()
}

// gauges are read when somebody asks.
type gauges struct{ d *Desk }

var (
	stateDesc = prometheus.NewDesc("postern_health_state",
		"State of a health set, from 0: Disabled, UnInitialized, Healthy (2), Degraded to Degraded2, Repairing (6), Unavailable, Unhealthy to Unhealthy2, Unrecoverable to Unrecoverable2 (13).",
		[]string{"set"}, nil)
	monitorsDesc  = prometheus.NewDesc("postern_health_monitors", "Monitors by state.", []string{"state"}, nil)
	hungDesc      = prometheus.NewDesc("postern_health_probe_hung", "Probes that have not come back.", nil, nil)
	overridesDesc = prometheus.NewDesc("postern_health_overrides", "Overrides that hold for this server.", nil, nil)
)

// Describe implements prometheus.Collector.
func (g gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{stateDesc, monitorsDesc, hungDesc, overridesDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (g gauges) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	h, _ := g.d.healthOf(g.d.deps.Server)
	for name, s := range h.Sets {
		gauge(stateDesc, float64(s.State.Badness()), name)
	}
	count := map[org.HealthState]int{}
	monitors, _ := g.d.monitors()
	for _, m := range monitors {
		count[m.State]++
	}
	for state, n := range count {
		gauge(monitorsDesc, float64(n), string(state))
	}
	gauge(hungDesc, float64(len(g.d.hung())))
	gauge(overridesDesc, float64(h.Overrides))
}
