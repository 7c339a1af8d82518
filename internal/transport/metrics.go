package transport

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/transport/deliver"
	"github.com/postern-mail/postern/internal/transport/schedule"
)

// figures are the metrics of the front door. None names an address.
type figures struct {
	acceptedTotal  *prometheus.CounterVec
	acceptSeconds  prometheus.Histogram
	attempts       *prometheus.CounterVec
	attemptSeconds *prometheus.HistogramVec
	delivery       *prometheus.HistogramVec
	duplicates     prometheus.Counter
	repeats        prometheus.Counter
	reports        *prometheus.CounterVec
}

func newFigures(reg prometheus.Registerer, m *Mover) *figures {
	const ns, sub = "postern", "transport"
	buckets := prometheus.ExponentialBuckets(0.001, 2.5, 14)
	f := &figures{
		acceptedTotal: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "accepted_total",
			Help: "Messages offered to the queue, by door and by what became of them."}, []string{"door", "result"}),
		acceptSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: ns, Subsystem: sub, Name: "accept_seconds",
			Help: "Time until a message was durable on two servers.", Buckets: buckets}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "attempts_total",
			Help: "Recipients tried, by kind of destination and by what became of them."}, []string{"class", "result"}),
		attemptSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: ns, Subsystem: sub, Name: "attempt_seconds",
			Help: "Time of one attempt.", Buckets: buckets}, []string{"class"}),
		delivery: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: ns, Subsystem: sub, Name: "delivery_seconds",
			Help: "Time from acceptance to the end of a recipient.", Buckets: prometheus.ExponentialBuckets(0.005, 4, 13)}, []string{"class"}),
		duplicates: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "duplicates_total",
			Help: "Deliveries a mailbox had already."}),
		repeats: prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "repeats_possible_total",
			Help: "Recipients elsewhere that may have got a message twice."}),
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "dsn_total",
			Help: "Delivery status notifications, by kind."}, []string{"kind"}),
	}
	reg.MustRegister(f.acceptedTotal, f.acceptSeconds, f.attempts, f.attemptSeconds, f.delivery, f.duplicates, f.repeats, f.reports, gauges{m})
	return f
}

func (f *figures) accepted(door string, err error, took time.Duration) {
	result := "queued"
	if err != nil {
		result = kind.Of(err).String()
	} else {
		f.acceptSeconds.Observe(took.Seconds())
	}
	f.acceptedTotal.WithLabelValues(door, result).Inc()
}

func (f *figures) observe(o deliver.Observed) {
	class := o.Dest.Kind()
	f.attempts.WithLabelValues(class, o.State.String()).Inc()
	f.attemptSeconds.WithLabelValues(class).Observe(o.Took.Seconds())
	if o.State.Finished() {
		f.delivery.WithLabelValues(class).Observe(time.Since(o.Arrived).Seconds())
	}
	if o.Double {
		f.duplicates.Inc()
	}
	if o.Repeat {
		f.repeats.Inc()
	}
}

// gauges are read when somebody asks.
type gauges struct{ m *Mover }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("postern_transport_"+name, help, labels, nil)
}

var (
	descMessages     = desc("messages", "Unfinished messages of this server.")
	descLevel        = desc("level", "Pressure on the queue: 0 normal, 1 medium, 2 high.")
	descLogBytes     = desc("log_bytes", "Bytes of the queue's log.")
	descSyncs        = desc("log_syncs_total", "Times the queue's log was brought to stable storage.")
	descLag          = desc("ledger_lag_bytes", "Bytes of log that would be read again if the server ended now.")
	descHot          = desc("hot_bytes", "Bytes of messages kept in memory until they were tried.")
	descOldest       = desc("oldest_seconds", "Age of the oldest unfinished message of this server.")
	descDestinations = desc("destinations", "Destinations that messages wait for, by whether they work.", "state")
	descJobs         = desc("jobs", "Deliveries that wait or are under way, by kind of destination and state.", "class", "state")
)

// Describe implements prometheus.Collector.
func (g gauges) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descMessages, descLevel, descLogBytes, descSyncs, descLag, descHot, descOldest, descDestinations, descJobs} {
		c <- d
	}
}

// Collect implements prometheus.Collector.
func (g gauges) Collect(c chan<- prometheus.Metric) {
	st := g.m.queue.Stats()
	set := func(d *prometheus.Desc, v float64, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	set(descMessages, float64(st.Open))
	set(descLevel, float64(g.m.queue.Level()))
	set(descLogBytes, float64(st.LogBytes))
	c <- prometheus.MustNewConstMetric(descSyncs, prometheus.CounterValue, float64(st.Syncs))
	set(descLag, float64(st.LedgerLag))
	set(descHot, float64(st.HotBytes))
	age := 0.0
	if at := g.m.queue.Oldest(); !at.IsZero() {
		age = max(0, g.m.now().Sub(at).Seconds())
	}
	set(descOldest, age)
	var dests []schedule.DestStats
	if g.m.dispatch != nil {
		dests = g.m.dispatch.Stats()
	}
	failing := 0
	jobs := map[string]*[4]int{}
	for _, d := range dests {
		if d.Fails > 0 {
			failing++
		}
		j := jobs[d.Dest.Kind()]
		if j == nil {
			j = new([4]int)
			jobs[d.Dest.Kind()] = j
		}
		j[0], j[1], j[2], j[3] = j[0]+d.Ready, j[1]+d.Waiting, j[2]+d.Suspended, j[3]+d.InFlight
	}
	set(descDestinations, float64(len(dests)-failing), "working")
	set(descDestinations, float64(failing), "failing")
	for class, j := range jobs {
		for i, state := range []string{"ready", "waiting", "suspended", "under way"} {
			set(descJobs, float64(j[i]), class, state)
		}
	}
}
