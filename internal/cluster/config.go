package cluster

import (
	"net"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster/agreed"
	"github.com/postern-mail/postern/internal/org"
)

// External says how to reach an etcd that the user runs (etcd.endpoints).
type External = agreed.External

// Config says where a server keeps its part of the group, and how fast it is.
// Zero values mean the defaults named.
type Config struct {
	// Dir is the data folder made by Init, Join or Restore.
	Dir string
	// Listen is host:port to listen on, if it is not the address the others use.
	Listen string
	// External is used instead of etcd in the servers if it has endpoints.
	External External
	// Version is this program's, shown in server rows.
	Version string
	// Volumes are this server's now; nil leaves the row's.
	Volumes []org.VolumeName

	// Heartbeat is etcd's, 50 ms, the same on all servers. It is also the step
	// in which members choose how long they wait before they stand for
	// election: with few steps two choose the same too often, and nobody wins
	// (docs/decisions/0012).
	Heartbeat time.Duration
	Election  time.Duration // etcd's, 500 ms; at least five heartbeats

	MeshInterval time.Duration // heartbeat between servers, 100 ms
	SilentAfter  time.Duration // 1 s without a heartbeat is silence, half of it on one path of several
	// Failback is how long a network has to work before it is preferred again
	// where the group has set nothing, 60 s.
	Failback time.Duration
	LeaseTTL time.Duration // whole seconds, 2 s

	CertificateLife time.Duration // 90 days; renewed at two thirds
	SnapshotEvery   time.Duration // at most this often the view is saved, 2 s
	CommitTimeout   time.Duration // longest wait for quorum in Commit and Sync, 5 s

	// Interfaces are this server's addresses in its networks; nil finds them
	// on the machine.
	Interfaces func() []org.Interface
	// NoSync leaves out etcd's fsync: for tests only.
	NoSync bool
}

func or[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Validate fills in defaults and refuses what cannot work.
func (c *Config) Validate() error {
	or(&c.Heartbeat, 50*time.Millisecond)
	or(&c.Election, 500*time.Millisecond)
	or(&c.MeshInterval, 100*time.Millisecond)
	or(&c.SilentAfter, time.Second)
	or(&c.Failback, org.DefaultFailback)
	or(&c.LeaseTTL, 2*time.Second)
	or(&c.CertificateLife, 90*24*time.Hour)
	or(&c.SnapshotEvery, 2*time.Second)
	or(&c.CommitTimeout, 5*time.Second)
	switch {
	case c.Dir == "":
		return kind.Errorf(kind.Invalid, "cluster: no data folder given")
	case c.Heartbeat < time.Millisecond || c.Election < 5*c.Heartbeat || c.Election > 50*time.Second:
		return kind.Errorf(kind.Invalid, "cluster: election %s must be at least five heartbeats (%s) and at most 50s", c.Election, c.Heartbeat)
	case c.MeshInterval <= 0 || c.SilentAfter < 3*c.MeshInterval:
		return kind.Errorf(kind.Invalid, "cluster: silent-after %s must be at least three mesh intervals (%s)", c.SilentAfter, c.MeshInterval)
	case c.LeaseTTL < time.Second || c.LeaseTTL%time.Second != 0:
		return kind.Errorf(kind.Invalid, "cluster: lease of %s must be whole seconds", c.LeaseTTL)
	case c.LeaseTTL < c.Election*3/2:
		return kind.Errorf(kind.Invalid, "cluster: lease of %s must be at least one and a half elections (%s)", c.LeaseTTL, c.Election)
	}
	return nil
}

func checkAddr(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || port == "" || port == "0" {
		return kind.Errorf(kind.Invalid, "cluster address %q: want host:port as the other servers reach it", addr)
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		return kind.Errorf(kind.Invalid, "cluster address %q: the other servers cannot reach it; give the server's own address, and cluster.listen to listen on all", addr)
	}
	return nil
}
