package shadow

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// Group is what this package needs of the group; *cluster.Cluster is one.
type Group interface {
	Name() org.ServerName
	Site() org.SiteName
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
	Conn(org.ServerName) (*grpc.ClientConn, error)
	RegisterService(*grpc.ServiceDesc, any)
}

// Deps are what a Keeper is built from.
type Deps struct {
	Group    Group
	Queue    *queue.Queue
	Settings func() settings.Group // with its defaults filled in
	Fast     bool                  // short times, for tests and drills
	// Taken is told messages that are this server's work from now on, some of
	// them perhaps once more.
	Taken func(ctx context.Context, ids []mail.TraceID)
	// Gone is told messages that are not this server's work, at least until
	// Taken names them. It must not wait.
	Gone func(ids []mail.TraceID)
	// Noted has what the room did by itself written into the recovery log. It
	// must not wait; nil: nobody listens.
	Noted func(org.Note)
	// Answer answers Ask of other servers.
	Answer  func(ctx context.Context, peer org.ServerName, method string, request []byte) ([]byte, error)
	Version string           // of the program, for the other servers
	Now     func() time.Time // guarded time; nil: time.Now
	Log     *slog.Logger
	Events  *event.Log
	Metrics prometheus.Registerer // nil for nobody
}

// Limits.
const (
	maxIDs       = 1000      // messages of one question between servers
	maxNotices   = 5000      // of one call
	maxClaimRows = 20_000    // rows after which an answer about claims ends
	batchNotices = 500       // after which a batch is sent
	maxSending   = 64 << 20  // bytes of bodies on their way to one server
	maxReceiving = 256 << 20 // bytes of bodies on their way from all
	reshadowRate = 50 << 20  // bytes a second
	unknownAfter = 10 * time.Minute
	stuckAfter   = 10 * time.Minute
	publishFresh = 10 * time.Second
)

// timers are the intervals of the loops.
type timers struct {
	judge, retry, call, notice, reshadow, begun time.Duration
}

func timersFor(fast bool) timers {
	if fast {
		return timers{judge: 50 * time.Millisecond, retry: 50 * time.Millisecond, call: 2 * time.Second,
			notice: 5 * time.Millisecond, reshadow: 500 * time.Millisecond, begun: 2 * time.Second}
	}
	return timers{judge: time.Second, retry: 500 * time.Millisecond, call: 5 * time.Second,
		notice: 20 * time.Millisecond, reshadow: 5 * time.Second, begun: 2 * time.Second}
}

// Keeper has the copies of this server's messages held by others, and holds
// those of others.
type Keeper struct {
	d     Deps
	me    org.ServerName
	t     timers
	peers caller

	started  atomic.Bool // the epoch of this run is in the agreed state and in the log
	draining atomic.Bool
	alone    atomic.Bool  // what was accepted last had no second copy
	late     atomic.Bool  // a copy came in after its epoch was fenced
	single   atomic.Int64 // messages without a second copy, as of the last look
	waiting  atomic.Int64
	// reconciled is the fence up to which it is known whose messages are whose.
	reconciled atomic.Uint64
	ready      chan struct{}

	gate gate

	mu       sync.Mutex // guards the rest
	rows     map[org.ServerName]cachedRow
	busy     map[mail.TraceID]int  // their copies are being made
	ours     map[mail.TraceID]bool // being taken: asked by others, they are owned here
	senders  map[org.ServerName]*sender
	sending  map[org.ServerName]int64
	received int64
	epochs   chan struct{} // closed when the epoch changes

	wakeJudge, wakeTake, wakeReconcile, wakeReshadow chan struct{}
	metrics                                          *metrics
}

type cachedRow struct {
	revision int64
	row      org.QueueRow
}

// New makes a Keeper and registers its service; before the group runs.
func New(d Deps) *Keeper {
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	k := &Keeper{d: d, me: d.Group.Name(), t: timersFor(d.Fast),
		ready: make(chan struct{}), epochs: make(chan struct{}),
		rows: map[org.ServerName]cachedRow{}, busy: map[mail.TraceID]int{}, ours: map[mail.TraceID]bool{},
		senders: map[org.ServerName]*sender{}, sending: map[org.ServerName]int64{},
		wakeJudge: make(chan struct{}, 1), wakeTake: make(chan struct{}, 1), wakeReconcile: make(chan struct{}, 1), wakeReshadow: make(chan struct{}, 1)}
	k.peers = k.remote
	k.metrics = newMetrics(k)
	if d.Metrics != nil {
		d.Metrics.MustRegister(k.metrics.all()...)
	}
	d.Group.RegisterService(k.service(), k)
	return k
}

// wake asks a loop to look now.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// row returns the queue row of a server in a view.
func (k *Keeper) row(v *cluster.View, s org.ServerName) (org.QueueRow, int64, bool) {
	it, ok := v.Get(org.QueueKey(s))
	if !ok {
		return org.QueueRow{}, 0, false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if c, ok := k.rows[s]; ok && c.revision == it.Revision {
		return c.row, c.revision, true
	}
	var r org.QueueRow
	if err := json.Unmarshal(it.Value, &r); err != nil {
		k.d.Log.Error("queue row cannot be read", "server", s, "error", err)
		return org.QueueRow{}, 0, false
	}
	k.rows[s] = cachedRow{it.Revision, r}
	return r, it.Revision, true
}

// takenUpTo is the epoch up to which messages of a server belong to the
// holders of their copies.
func (k *Keeper) takenUpTo(s org.ServerName) uint64 {
	r, _, _ := k.row(k.d.Group.View(), s)
	return r.TakenUpTo
}

// others are the members that have a queue, without this one.
func (k *Keeper) others(v *cluster.View) []org.Server {
	var out []org.Server
	for _, s := range v.Servers() {
		if s.Name != k.me && !s.Witness {
			out = append(out, s)
		}
	}
	return out
}

// mark counts a message whose copies are being made; the result ends that.
func (k *Keeper) mark(id mail.TraceID) (done func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.busy[id]++
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.busy[id]--; k.busy[id] == 0 {
			delete(k.busy, id)
		}
	}
}

func (k *Keeper) isBusy(id mail.TraceID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.busy[id] > 0
}

func (k *Keeper) setOurs(ids []mail.TraceID, on bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range ids {
		if on {
			k.ours[id] = true
		} else {
			delete(k.ours, id)
		}
	}
}

func (k *Keeper) isOurs(id mail.TraceID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ours[id]
}
