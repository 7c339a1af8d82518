package mailbox

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"context"
	"net"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Volume is a disk that holds copies.
type Volume struct {
	Name    org.VolumeName `toml:"name" doc:"name of the volume, as copies refer to it"`
	Path    string         `toml:"path" doc:"folder where the volume is mounted"`
	MaxSize int64          `toml:"max_size" doc:"bytes Postern may use on it, 0 for all of the disk"`
	// Spare counts when the volume is seen for the first time; then the group's
	// row of it says what it is for.
	Spare bool `toml:"spare" doc:"an empty disk that takes the place of one that fails; it counts when the volume is first seen, later: postern volume set"`
}

// Config are the settings of the room. The zero value of a field means its
// default.
type Config struct {
	Volumes []Volume `toml:"volume" doc:"disks for mailbox databases"`
	// Grace is how long a copy of the in-sync set may stall before it is
	// taken out of the set.
	Grace time.Duration `toml:"grace" doc:"how long an in-sync copy may stall before it is taken out of the set" default:"1s"`
	// LostGrace is the same for a copy whose connection is gone.
	LostGrace time.Duration `toml:"lost_grace" doc:"the same for a copy whose connection is gone" default:"300ms"`
	// Lease is how long a leading copy may answer reads after it last heard
	// from its in-sync copies; a copy does not lead earlier than this after
	// it last answered the former one.
	Lease time.Duration `toml:"lease" doc:"how long reads are answered after in-sync copies were last heard" default:"800ms"`
	// Heartbeat is the pause between signs of life to following copies.
	Heartbeat time.Duration `toml:"heartbeat" doc:"pause between signs of life to following copies" default:"100ms"`
	// SegmentSize is the default size of log segments in bytes.
	SegmentSize int64 `toml:"segment_size" doc:"size of log segments in bytes" default:"16777216"`
	// Reserve is what has to stay free on a volume, in bytes.
	Reserve int64 `toml:"reserve" doc:"bytes that stay free on each volume" default:"1073741824"`
	// CacheSize is the most memory for index blocks of all copies, in bytes.
	// 0 stays 0: what it means depends on the machine.
	CacheSize int64 `toml:"cache_size" doc:"most bytes of memory for index blocks; 0: a 64th of what the machine or the control group has, 32 MiB to 1 GiB" default:"0"`
	// ScrubRate is how many bytes per second the background scrub reads from each copy.
	ScrubRate int64 `toml:"scrub_rate" doc:"bytes per second the background scrub reads" default:"1048576"`
	// ScrubInterval is the time from one scrub of a copy to the next.
	ScrubInterval time.Duration `toml:"scrub_interval" doc:"time between two scrubs of a copy" default:"168h"`
	// FlushEvery bounds what is replayed after a crash, in bytes of log.
	FlushEvery int64 `toml:"flush_every" doc:"bytes of log after which the index is flushed" default:"67108864"`
	// ReclaimInterval is the pause between two looks for space to give back.
	ReclaimInterval time.Duration `toml:"reclaim_interval" doc:"pause between two looks for space to give back" default:"1m"`
	// ReclaimBelow is the living share of the oldest segments, in percent, below which they are
	// written again and dropped.
	ReclaimBelow int `toml:"reclaim_below" doc:"living share in percent below which the oldest log is written again" default:"50"`
	// VolumeProbe is the pause between two write tests of a volume.
	VolumeProbe time.Duration `toml:"volume_probe" doc:"pause between two write tests of each volume, negative for none" default:"10s"`
	// SeedsInParallel is how many copies of this server are seeded at a time,
	// SeedsPerSource how many of them from one server.
	SeedsInParallel int `toml:"seeds_in_parallel" doc:"how many copies of this server are seeded at a time" default:"10"`
	SeedsPerSource  int `toml:"seeds_per_source" doc:"how many of them from one server" default:"2"`
	// CopiesPerVolume is how many copies should share a volume.
	CopiesPerVolume int `toml:"copies_per_volume" doc:"how many copies should share a volume; more are a problem that volume check names" default:"8"`
	// LagMaxDelay is how long playing down a lagged copy waits for a slow disk.
	LagMaxDelay time.Duration `toml:"replay_lag_max_delay" doc:"how long a lagged copy waits for a slow disk before it replays without its lag as copies are missing; negative for not at all" default:"24h"`
	// CheckpointEvery is the time from one kept checkpoint of an index to the next.
	CheckpointEvery time.Duration `toml:"checkpoint_every" doc:"time between two kept checkpoints of each index, from which postern mailbox recover shows mailboxes as they were; 0 for none" default:"0s"`
	// CheckpointKeep is how far back kept checkpoints go.
	CheckpointKeep time.Duration `toml:"checkpoint_keep" doc:"how far back kept checkpoints go; what is removed meanwhile stays on the disk" default:"24h"`
	// KeepLeftovers holds the reclaimer back.
	KeepLeftovers bool `toml:"keep_leftovers" doc:"keep for ever what was set aside on volumes; otherwise it is removed after 1, 2 or 14 days, see operating.md"`
	// DuplicateWindow is how long a mailbox remembers what was delivered to it,
	// so that the same delivery once more changes nothing. It has to cover how
	// long transport may try a message and Safety Net keep it.
	DuplicateWindow time.Duration `toml:"duplicate_window" doc:"how long a mailbox remembers deliveries, so that the same one once more changes nothing; at least 12 hours more than hold_time and message_expiration of transport together" default:"120h"`
}

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// WithDefaults fills in what is not set.
func (c Config) WithDefaults() Config {
	orDefault(&c.Grace, time.Second)
	orDefault(&c.LostGrace, 300*time.Millisecond)
	orDefault(&c.Lease, 800*time.Millisecond)
	orDefault(&c.Heartbeat, 100*time.Millisecond)
	orDefault(&c.SegmentSize, 16<<20)
	orDefault(&c.Reserve, 1<<30)
	orDefault(&c.ScrubRate, 1<<20)
	orDefault(&c.ScrubInterval, 7*24*time.Hour)
	orDefault(&c.FlushEvery, 64<<20)
	orDefault(&c.ReclaimInterval, time.Minute)
	orDefault(&c.ReclaimBelow, 50)
	orDefault(&c.DuplicateWindow, 5*24*time.Hour)
	orDefault(&c.VolumeProbe, 10*time.Second)
	orDefault(&c.SeedsInParallel, 10)
	orDefault(&c.SeedsPerSource, 2)
	orDefault(&c.CopiesPerVolume, 8)
	orDefault(&c.LagMaxDelay, 24*time.Hour)
	orDefault(&c.CheckpointKeep, 24*time.Hour)
	return c
}

// idleHeartbeat is the pause between signs of life while there is nothing to tell:
// longer, and short enough that several may be late within the lease.
func (c Config) idleHeartbeat() time.Duration {
	return max(c.Heartbeat, min(c.Heartbeat*max(1, c.Lease/4/c.Heartbeat), ownBeat))
}

// lagMaxDelay is LagMaxDelay as lag.Rules have it.
func (c Config) lagMaxDelay() time.Duration { return max(0, c.LagMaxDelay) }

// cacheSize is CacheSize, or what suits the machine.
func (c Config) cacheSize() int64 {
	if c.CacheSize > 0 {
		return c.CacheSize
	}
	return min(max(memory()/64, 32<<20), 1<<30)
}

// Validate reports the first setting that cannot work.
func (c Config) Validate() error {
	seen := map[org.VolumeName]bool{}
	for _, v := range c.Volumes {
		if err := org.ValidName(string(v.Name)); err != nil {
			return fmt.Errorf("mailbox volume: %w", err)
		}
		if v.Path == "" {
			return fmt.Errorf("mailbox volume %s: path is empty; give the folder where it is mounted", v.Name)
		}
		if seen[v.Name] {
			return fmt.Errorf("mailbox volume %s: named twice", v.Name)
		}
		seen[v.Name] = true
	}
	d := c.WithDefaults()
	if d.Lease >= d.Grace {
		return fmt.Errorf("mailbox lease %s: must be shorter than grace %s", d.Lease, d.Grace)
	}
	if d.DuplicateWindow < time.Hour {
		return fmt.Errorf("mailbox duplicate_window %s: must be at least 1h", d.DuplicateWindow)
	}
	if d.SeedsInParallel < 1 || d.SeedsPerSource < 1 || d.CopiesPerVolume < 1 {
		return fmt.Errorf("mailbox seeds_in_parallel %d, seeds_per_source %d, copies_per_volume %d: must be at least 1", d.SeedsInParallel, d.SeedsPerSource, d.CopiesPerVolume)
	}
	if d.CheckpointEvery < 0 || d.CheckpointEvery > 0 && (d.CheckpointEvery < time.Minute || d.CheckpointKeep < d.CheckpointEvery || d.CheckpointKeep > checkpointsMost*d.CheckpointEvery) {
		return fmt.Errorf("mailbox checkpoint_every %s, checkpoint_keep %s: want 0, or at least 1m, kept for 1 to %d times that", d.CheckpointEvery, d.CheckpointKeep, checkpointsMost)
	}
	if d.SegmentSize < 64<<10 {
		return fmt.Errorf("mailbox segment_size %d: must be at least 65536", d.SegmentSize)
	}
	return nil
}

// Group is what a Keeper needs of the group of servers; *cluster.Cluster is one.
type Group interface {
	Name() org.ServerName
	View() *cluster.View
	Changed() <-chan struct{}
	Commit(context.Context, cluster.Txn) (int64, error)
	Sync(context.Context) error
	Quorum() bool
	Peers() []cluster.Peer
	PeersChanged() <-chan struct{}
	Dead(org.ServerName) (string, bool)
	Alive(org.ServerName) bool
	LeaseValid() bool
	Publish(section string, v []byte)
	Published(s org.ServerName, section string) ([]byte, time.Time, bool)
	Dial(ctx context.Context, s org.ServerName, proto string) (net.Conn, error)
	Handle(proto string, h func(ctx context.Context, peer org.ServerName, c net.Conn))
	Conn(org.ServerName) (*grpc.ClientConn, error)
	RegisterService(*grpc.ServiceDesc, any)
}

// Deps are what a Keeper is built from.
type Deps struct {
	Group Group
	FS    fsx.FS // the disk; nil for the machine's
	// IndexFS is the disk as the index sees it; nil for the machine's.
	IndexFS vfs.FS
	Log     *slog.Logger
	Events  *event.Log
	// Metrics takes the room's figures, nil for nobody.
	Metrics prometheus.Registerer
	// Paths chooses among the networks to another server; nil where there is
	// one way only.
	Paths Paths
	// Mailbox tells where the mailbox of an address is, for postern mailbox
	// recover; nil: nowhere.
	Mailbox func(mail.Address) (org.MailboxRef, bool)
	// HoldTime is how long mail can be delivered again after its delivery
	// (hold_time of transport), which bounds replay lags; nil: nobody knows.
	HoldTime func() time.Duration
	// Named tells the address of a mailbox, for postern database activate; false for
	// one that is nobody's. nil: identities are told.
	Named func(org.OrganizationID, org.MailboxID) (mail.Address, bool)
	// Fast shortens the pauses between looks at volumes, for tests.
	Fast bool
	// Noted has what the room did by itself written into the recovery log. It
	// does not block; nil: nobody listens.
	Noted func(org.Note)
	// Permission tells whether copies here may lead; nil: they may.
	Permission Permission
}

// Permission holds a server's copies back from leading, whatever the group's
// rows say (active.Sites).
type Permission interface {
	MayLead() (why string, ok bool)
	// LeadChanged is closed at the next change of that.
	LeadChanged() <-chan struct{}
}
