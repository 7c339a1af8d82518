package cluster

import "github.com/prometheus/client_golang/prometheus"

var (
	descPathUp  = prometheus.NewDesc("postern_cluster_path_up", "1 where a server is heard in a network.", []string{"peer", "network"}, nil)
	descPathRTT = prometheus.NewDesc("postern_cluster_path_rtt_seconds", "Round trip to a server in a network, averaged over the last heartbeats.", []string{"peer", "network"}, nil)
)

// Figures shows the paths to the other servers whenever it is asked.
func (c *Cluster) Figures() prometheus.Collector { return figures{c} }

type figures struct{ c *Cluster }

// Describe implements prometheus.Collector.
func (figures) Describe(ch chan<- *prometheus.Desc) {
	ch <- descPathUp
	ch <- descPathRTT
}

// Collect implements prometheus.Collector.
func (f figures) Collect(ch chan<- prometheus.Metric) {
	for _, p := range f.c.Peers() {
		for _, q := range p.Paths {
			up := 0.0
			if q.State == PeerUp {
				up = 1
			}
			labels := []string{string(p.Server), q.Name}
			ch <- prometheus.MustNewConstMetric(descPathUp, prometheus.GaugeValue, up, labels...)
			if q.RTT > 0 {
				ch <- prometheus.MustNewConstMetric(descPathRTT, prometheus.GaugeValue, q.RTT.Seconds(), labels...)
			}
		}
	}
}
