package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/clock"
	"github.com/postern-mail/postern/internal/transport/deliver"
	"github.com/postern-mail/postern/internal/transport/guard"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/safetynet"
	"github.com/postern-mail/postern/internal/transport/schedule"
	"github.com/postern-mail/postern/internal/transport/settings"
	"github.com/postern-mail/postern/internal/transport/shadow"
)

// Group is what transport needs of the group; *cluster.Cluster is one.
type Group interface {
	shadow.Group
	SealSecret(purpose string, plain []byte) ([]byte, error)
	OpenSecret(purpose string, sealed []byte) ([]byte, error)
	DeriveSecret(purpose string) []byte
}

// Deps are what a Mover is built from.
type Deps struct {
	Group     Group
	Store     mail.Store
	Directory *directory.Directory
	// Delivered tells whether a mailbox got a delivery identity within the
	// duplicate window, which is so long.
	Delivered       func(ctx context.Context, at org.MailboxRef, identity [32]byte) (mail.EmailID, bool, error)
	DuplicateWindow time.Duration
	// ClientCertificate gives the certificate that a connector names.
	ClientCertificate func(name string) (*tls.Certificate, error)
	// Component tells what org.Transport may do on this server and gives a channel
	// that is closed when that may have changed; nil: always Active.
	Component func(org.Component) (org.ComponentState, <-chan struct{})
	Hostname  string // of this server, where the configuration has none
	Version   string
	// Noted has what the room did by itself written into the recovery log. It
	// must not wait; nil: nobody listens.
	Noted   func(org.Note)
	Fast    bool   // short times, for tests and drills
	FS      fsx.FS // nil: the disk
	IndexFS vfs.FS // nil: the disk
	Log     *slog.Logger
	Events  *event.Log
	Metrics prometheus.Registerer
}

// Mover moves messages. Its methods may be called from any goroutine.
type Mover struct {
	cfg      Config
	deps     Deps
	me       org.ServerName
	log      *slog.Logger
	settings *settings.Book
	clock    *clock.Clock
	queue    *queue.Queue
	shadow   *shadow.Keeper
	net      *safetynet.Net
	dispatch *deliver.Dispatcher
	local    *deliveries
	guard    *guard.Guard
	outside
	metrics *figures

	srs           []byte // secret of rewritten senders
	names         atomic.Pointer[names]
	organizations hashes
	ready         chan struct{}
	held          held
}

// New opens the queue and registers what other servers ask of it; it has to be
// called before the group runs. Run has to follow, or Close.
func New(cfg Config, d Deps) (*Mover, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.WithDefaults()
	if cfg.Hostname == "" {
		cfg.Hostname = d.Hostname
	}
	m := &Mover{cfg: cfg, deps: d, me: d.Group.Name(), log: d.Log.With("part", "transport"), ready: make(chan struct{})}
	m.settings = settings.New(d.Group, m.log)
	m.srs = d.Group.DeriveSecret("sender rewriting")
	m.organizations.list = func() (out []org.OrganizationID) {
		for _, o := range d.Directory.Organizations() {
			out = append(out, o.ID)
		}
		return out
	}
	if err := m.openQueue(); err != nil {
		return nil, err
	}
	m.shadow = shadow.New(shadow.Deps{Group: d.Group, Queue: m.queue, Settings: m.settings.Group, Fast: d.Fast,
		Taken:  func(ctx context.Context, ids []mail.TraceID) { m.dispatch.Submit(ctx, ids...) },
		Gone:   func(ids []mail.TraceID) { m.dispatch.Remove(ids...) },
		Answer: m.answer, Noted: d.Noted, Version: d.Version, Now: m.now, Log: m.log, Events: d.Events, Metrics: d.Metrics})
	if err := m.assemble(); err != nil {
		return nil, errors.Join(err, m.queue.Close())
	}
	m.metrics = newFigures(d.Metrics, m)
	return m, nil
}

// openQueue opens the queue and the clock, which goes on from what was written
// last.
func (m *Mover) openQueue() error {
	g := m.settings.Group()
	var guarded *clock.Clock
	q, err := queue.Open(queue.Options{Dir: m.cfg.Dir, FS: m.deps.FS, IndexFS: m.deps.IndexFS, SegmentSize: m.cfg.SegmentSize, Reserve: m.cfg.Reserve,
		MaxSize: m.cfg.MaxSize, HotMemory: m.cfg.HotMemory, MaxMessages: m.cfg.MaxMessages,
		Hold: g.HoldTime.Std(), Retention: max(g.TraceRetention.Std(), g.HoldTime.Std()), Expiration: g.MessageExpiration.Std(),
		Now: func() time.Time {
			if guarded == nil {
				return time.Now()
			}
			return guarded.Now()
		}, Noted: m.deps.Noted, Log: m.log, Events: m.deps.Events})
	if err != nil {
		return err
	}
	m.queue = q
	m.clock = clock.New(q.LastTime(), m.peerClocks)
	guarded = m.clock
	return nil
}

func (m *Mover) now() time.Time { return m.clock.Now() }

func (m *Mover) hostname() string { return m.cfg.Hostname }

// Close closes a Mover that is not run.
func (m *Mover) Close() error { return m.queue.Close() }

// Ready is closed when messages can be accepted.
func (m *Mover) Ready() <-chan struct{} { return m.ready }

// Run moves messages until ctx ends; attempts under way may then end within
// the drain time.
func (m *Mover) Run(ctx context.Context) error {
	under, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var base, upper sync.WaitGroup
	fail := make(chan error, 8)
	run := func(wg *sync.WaitGroup, what string, f func() error) {
		wg.Go(func() {
			if err := f(); err != nil {
				fail <- fmt.Errorf("%s: %w", what, err)
			}
		})
	}
	run(&base, "queue", func() error { return m.queue.Run(under) })
	<-m.queue.Running()
	if err := m.shadow.Start(ctx); err != nil {
		m.log.Warn("the queue goes on with the epoch it had", "err", err)
	}
	telling, quiet := context.WithCancel(under)
	defer quiet()
	var told sync.WaitGroup
	run(&told, "shadow", func() error { return m.shadow.Run(telling) })
	m.followSettings(ctx) // before the first attempt: what is suspended stays so
	m.holdFirst()         // before the first message
	inner, end := context.WithCancel(ctx)
	defer end()
	run(&upper, "dispatch", func() error { return m.dispatch.Run(inner, m.cfg.Drain.Std()) })
	run(&upper, "safety net", func() error { return m.net.Run(inner) })
	run(&upper, "guard", func() error { return m.guard.Run(inner) })
	m.outside.run(inner, &upper, run)
	run(&upper, "keep", func() error { return m.keep(inner) })
	run(&upper, "component", func() error { m.obey(inner); return nil })
	run(&upper, "delivery", func() error { m.obeyDelivery(inner); return nil })
	close(m.ready)
	var err error
	select {
	case <-ctx.Done():
	case err = <-fail:
		m.log.Error("a part of transport ended", "err", err)
	}
	end()
	upper.Wait()
	quiet() // the holders of copies hear the last words while the queue notes them
	told.Wait()
	stop()
	base.Wait()
	return errors.Join(err, m.queue.Close())
}

// keepEvery is how often what others should know is published.
const keepEvery = 5 * time.Second

// keep follows the settings and tells the time to the other servers.
func (m *Mover) keep(ctx context.Context) error {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	trusted := true
	for {
		changed := m.deps.Group.Changed()
		m.publishClock()
		m.deps.Group.Publish(hostSection, []byte(m.hostname()))
		ok, why := m.clock.Trusted()
		if ok != trusted {
			trusted = ok
			if ok {
				m.deps.Events.Emit(EventClockGood, "The clock of this server is trusted again.")
			} else {
				m.deps.Events.Emit(EventClock, "The clock of this server is not trusted, so nothing expires: %s.", why)
			}
		}
		m.followSettings(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-changed:
			// At most twice a second, whatever changes.
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(500 * time.Millisecond):
			}
		}
	}
}

// rules are the limits of the schedule as settings and organizations want them.
func (m *Mover) rules() schedule.Rules {
	r := schedule.DefaultRules()
	r.MaxJobs = int(m.cfg.MaxMessages) * 2
	r.Organizations = map[org.OrganizationID]schedule.Share{}
	for _, o := range m.deps.Directory.Organizations() {
		p := m.settings.Policy(o.ID)
		if p.Concurrency > 0 || p.MessagesPerMinute > 0 {
			r.Organizations[o.ID] = schedule.Share{Concurrency: p.Concurrency, PerMinute: p.MessagesPerMinute}
		}
	}
	r.Dests = map[schedule.Dest]schedule.Limits{}
	for _, c := range m.settings.AllConnectors() {
		l := r.Default
		if c.Concurrency > 0 {
			l.Concurrency = c.Concurrency
		}
		l.PerMinute = c.PerMinute
		r.Dests[schedule.Dest("connector:"+string(c.Organization)+"/"+c.Name)] = l
	}
	return r
}

// Mine implements deliver.Door.
func (m *Mover) Mine(msg queue.Message) error { return m.shadow.Mine(msg) }

// Begun implements deliver.Door.
func (m *Mover) Begun(ctx context.Context, msg queue.Message) (bool, error) {
	if msg.Shadow == "" {
		return false, nil
	}
	return m.shadow.Begun(ctx, msg.ID, msg.Shadow)
}

// Body implements deliver.Door: a body that is damaged here is fetched from
// the server that has the copy and written again.
func (m *Mover) Body(ctx context.Context, id mail.TraceID) ([]byte, error) {
	b, err := m.queue.Body(ctx, id)
	if !kind.Is(err, kind.Corrupt) {
		return b, err
	}
	whole, ferr := m.shadow.Fetch(ctx, id)
	if ferr != nil {
		return nil, errors.Join(err, ferr)
	}
	return whole, nil
}

// AskSafetyNet makes the request for what a lossy mount may lack, and what has
// to be written with the mount so that it cannot be forgotten.
func (m *Mover) AskSafetyNet(db org.DatabaseName, since time.Time, why string) (id string, op cluster.Op) {
	return m.net.Ask(db, since, why)
}

// SafetyNetCompleted tells whether a request was answered in full.
func (m *Mover) SafetyNetCompleted(id string) bool { return m.net.Completed(id) }
