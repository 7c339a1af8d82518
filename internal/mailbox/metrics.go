package mailbox

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
)

// collector shows the state of this server's copies whenever it is asked.
type collector struct{ k *Keeper }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("postern_mailbox_"+name, help, append([]string{"database"}, labels...), nil)
}

var (
	descActive    = desc("active", "1 where this server's copy is active and ready for clients.")
	descInSync    = desc("copies_in_sync", "Members of the in-sync set, where this server's copy is active.")
	descAlone     = desc("alone", "1 while changes are confirmed on one copy only.")
	descCopyQueue = desc("copy_queue_generations", "Log generations this copy has not received.")
	descReplay    = desc("replay_queue_generations", "Log generations this copy has received and not replayed.")
	descSyncs     = desc("log_syncs_total", "Syncs of the log of this copy.")
	descLog       = desc("log_bytes_total", "End of the log of this copy, in bytes since the database was made.")
	descDisk      = desc("disk_bytes", "Bytes the log of this copy takes on disk.")
	descRepairs   = desc("repairs_total", "Damaged ranges of this copy that were replaced from another.")
	descState     = desc("copy_state", "1 for the state this copy is in.", "state")
)

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descActive, descInSync, descAlone, descCopyQueue, descReplay, descSyncs, descLog, descDisk, descRepairs, descState} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	for _, st := range c.k.Statuses() {
		db := string(st.Database)
		gauge := func(d *prometheus.Desc, v float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{db}, labels...)...)
		}
		total := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, db)
		}
		ready, _ := c.k.Lead(st.Database)
		gauge(descActive, oneIf(ready))
		if m, ok := c.k.group.View().Mount(st.Database); ok && ready {
			gauge(descInSync, float64(len(m.InSync)))
			gauge(descAlone, oneIf(m.AloneSince != nil))
		}
		gauge(descCopyQueue, float64(st.CopyQueueLength()))
		gauge(descReplay, float64(st.ReplayQueueLength()))
		gauge(descDisk, float64(st.DiskUsed))
		gauge(descState, 1, string(st.State))
		total(descLog, float64(st.Copied))
		total(descRepairs, float64(st.Repairs))
		if cp := c.k.copy(st.Database); cp != nil {
			if _, leave, ok := cp.gate.enter(context.Background()); ok {
				total(descSyncs, float64(cp.jn.Syncs()))
				leave()
			}
		}
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
