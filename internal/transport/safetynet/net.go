package safetynet

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// Group is what Safety Net needs of the group; *cluster.Cluster is one.
type Group interface {
	Name() org.ServerName
	View() *cluster.View
	Changed() <-chan struct{}
	Commit(context.Context, cluster.Txn) (int64, error)
	Alive(org.ServerName) bool
}

// Item is a delivery to be made again.
type Item struct {
	Request string // it is for
	Message queue.Message
	Row     queue.RecipientRow
	// Database and Mailbox are where it went; the mailbox may be elsewhere now.
	Database org.DatabaseName
	Mailbox  org.MailboxID
	// To is the address that gets it instead; empty: Mailbox.
	To string
	// Body is the message, verified. It must not be changed. Corrupt where the
	// disk has it no more; the other server that held it may.
	Body func(ctx context.Context) ([]byte, error)
}

// Deps are what a Net is built from.
type Deps struct {
	Group    Group
	Queue    *queue.Queue
	Settings func() settings.Group // with the defaults filled in
	// Resubmit delivers an item to its mailbox, with Message.Identity and
	// without reports to anybody, and tells whether the mailbox had it. It holds
	// up while new mail waits. Busy is tried again, NotFound says that there is
	// no such mailbox any more; everything else is counted as failed.
	Resubmit func(ctx context.Context, it Item) (duplicate bool, err error)
	// DuplicateWindow is how long mailboxes remember deliveries.
	DuplicateWindow time.Duration
	Now             func() time.Time // guarded time; nil: time.Now
	Noted           func(org.Note)   // writes the recovery log, without waiting; nil: nobody
	Log             *slog.Logger
	Events          *event.Log
	Metrics         prometheus.Registerer // nil for nobody
}

// Limits of what goes on at a time.
const (
	maxScans    = 16        // parts under way
	maxAtOnce   = 8         // resubmissions of one part
	maxBytes    = 256 << 20 // of bodies of all
	batchSize   = 256       // deliveries between two notes of progress
	cleanPeriod = time.Hour
)

// timers are the intervals of a Net.
type timers struct {
	turn   time.Duration // between two looks when nothing changes
	settle time.Duration // before a part begins: deliveries that are being noted
	report time.Duration // between two writes of the row of a part
	retry  time.Duration // first pause after a resubmission that found the store busy
	poll   time.Duration // between two looks at whether the queue has written
}

// Net is Safety Net on one server.
type Net struct {
	d       Deps
	me      org.ServerName
	t       timers
	bytes   *semaphore.Weighted
	metrics *metrics

	mu      sync.Mutex // guards the rest
	since   time.Time  // this queue is used, zero: not known yet
	runs    map[task]*run
	seen    map[string]time.Time         // requests, since when
	away    map[org.ServerName]time.Time // servers, since when
	states  map[string]string            // as they were when last looked at
	cleaned time.Time
	more    chan struct{} // buffered: a part ended
}

// task is one part of a request.
type task struct {
	id     string
	whose  org.ServerName // empty: own
	except string
}

// run is a part under way.
type run struct {
	db     org.DatabaseName
	cancel context.CancelFunc
	done   chan struct{}
}

// New makes a Net; nothing runs before Run.
func New(d Deps) *Net {
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	n := &Net{
		d: d, me: d.Group.Name(), bytes: semaphore.NewWeighted(maxBytes),
		t:    timers{turn: time.Second, settle: 3 * time.Second, report: 3 * time.Second, retry: 100 * time.Millisecond, poll: 20 * time.Millisecond},
		runs: map[task]*run{}, seen: map[string]time.Time{}, away: map[org.ServerName]time.Time{},
		states: map[string]string{}, more: make(chan struct{}, 1),
	}
	n.metrics = newMetrics(func() float64 { return d.Settings().HoldTime.Std().Seconds() })
	if d.Metrics != nil {
		d.Metrics.MustRegister(n.metrics.all()...)
	}
	return n
}

// Run answers requests until ctx ends and all it began is over.
func (n *Net) Run(ctx context.Context) error {
	tick := time.NewTicker(n.t.turn)
	defer tick.Stop()
	defer n.stopAll()
	short := ""
	for {
		changed := n.d.Group.Changed()
		short = n.covers(n.d.Group.View(), short)
		n.begun(ctx)
		n.turn(ctx, n.d.Group.View())
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-n.more:
		case <-tick.C:
		}
	}
}

// covers says so when the settings leave a gap, once for each gap, and returns
// what it says.
func (n *Net) covers(v *cluster.View, said string) string {
	err := n.d.Settings().Covers(org.LongestLag(v.Databases()), n.d.DuplicateWindow)
	if err == nil {
		return ""
	}
	if err.Error() != said {
		n.d.Events.Emit(EventShort, "Safety Net falls short: %v.", err)
	}
	return err.Error()
}

// stopAll ends all parts and waits for them.
func (n *Net) stopAll() {
	n.mu.Lock()
	var all []*run
	for _, r := range n.runs {
		r.cancel()
		all = append(all, r)
	}
	n.mu.Unlock()
	for _, r := range all {
		<-r.done
	}
}

// turn begins and ends parts as the view says.
func (n *Net) turn(ctx context.Context, v *cluster.View) {
	all := entries(v)
	n.noteAway(v)
	wanted := map[task]*entry{}
	var order []task
	for _, e := range all {
		for _, t := range n.tasks(v, e) {
			wanted[t] = e
			order = append(order, t)
		}
	}
	n.mu.Lock()
	busy := map[org.DatabaseName]bool{}
	for t, r := range n.runs {
		if wanted[t] == nil {
			r.cancel()
		}
		busy[r.db] = true
	}
	for _, t := range order {
		db := wanted[t].request.Database
		if n.runs[t] == nil && !busy[db] && len(n.runs) < maxScans {
			busy[db] = true
			n.begin(ctx, t, wanted[t])
		}
	}
	n.mu.Unlock()
	n.look(v, all)
	n.clean(ctx, v, all)
}

// begin starts a part. n.mu is held.
func (n *Net) begin(ctx context.Context, t task, e *entry) {
	ctx, cancel := context.WithCancel(ctx)
	r := &run{db: e.request.Database, cancel: cancel, done: make(chan struct{})}
	n.runs[t] = r
	p := &part{n: n, t: t, r: e.request}
	go func() {
		defer close(r.done)
		defer cancel()
		p.run(ctx)
		n.mu.Lock()
		delete(n.runs, t)
		n.mu.Unlock()
		select {
		case n.more <- struct{}{}:
		default:
		}
	}()
}

// noteAway remembers since when servers do not answer.
func (n *Net) noteAway(v *cluster.View) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.d.Now()
	for _, s := range v.Servers() {
		if n.d.Group.Alive(s.Name) {
			delete(n.away, s.Name)
		} else if _, ok := n.away[s.Name]; !ok {
			n.away[s.Name] = now
		}
	}
	for s := range n.away {
		if _, ok := v.Server(s); !ok {
			delete(n.away, s)
		}
	}
}

// awayLong tells whether a server is away for so long that others answer for it.
func (n *Net) awayLong(v *cluster.View, s org.ServerName, now time.Time) bool {
	if _, member := v.Server(s); !member {
		return true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	since, ok := n.away[s]
	return ok && now.Sub(since) >= n.d.Settings().SafetyNetShadowAfter.Std()
}

// tasks are the parts of a request that this server has to do now.
func (n *Net) tasks(v *cluster.View, e *entry) (out []task) {
	now := n.d.Now()
	q := n.question(v, e)
	if e.bad != nil || e.request.Disabled || now.After(e.request.To.Add(q.Hold)) || !n.settled(e, now) {
		return nil
	}
	// A queue whose identity the group does not know yet may have taken the
	// place of another.
	row, _ := queueOf(v, n.me)
	if _, ended := q.ended(n.me, ""); !ended && row.Identity == n.d.Queue.Identity() {
		out = append(out, task{id: e.request.ID})
	}
	me := Member{Name: n.me}
	for _, m := range q.Members {
		_, copies := q.due(m)
		if !copies || !q.standsIn(me, m) {
			continue
		}
		t := task{id: e.request.ID, whose: m.Name}
		if own, ended := q.ended(m.Name, ""); ended {
			t.except = own.Except
		} else if !n.awayLong(v, m.Name, now) {
			continue
		}
		out = append(out, t)
	}
	return out
}

// settled tells whether what was confirmed before the request came is noted by
// now.
func (n *Net) settled(e *entry, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.since.IsZero() {
		return false
	}
	since, ok := n.seen[e.request.ID]
	if !ok {
		n.seen[e.request.ID], since = now, now
	}
	return now.Sub(since) >= n.t.settle
}

// question is what the state of a request follows from.
func (n *Net) question(v *cluster.View, e *entry) Question {
	g := n.d.Settings()
	return Question{
		Request: e.request, Parts: e.parts, Now: n.d.Now(), Hold: g.HoldTime.Std(),
		Copies:  g.ShadowEnabled == nil || *g.ShadowEnabled,
		Members: members(v, &e.request, g.SafetyNetMargin.Std(), n.d.Group.Alive),
	}
}

// note has the end of a request that nobody made by hand written into the
// recovery log. Its begin is there with the failover.
func (n *Net) note(r org.SafetyNetRequest, state, why string) {
	if n.d.Noted == nil || r.By != "" || state == StateNew || state == StateRunning {
		return
	}
	n.d.Noted(org.Note{Action: "Resubmit", Target: string(r.Database), Responder: "SafetyNet", Cause: r.Why, Failed: state == StateFailed,
		Evidence: []org.RecoveryEvidence{{Item: "SafetyNet", Target: string(r.Database), Result: state,
			Text: fmt.Sprintf("request %s, mail delivered from %s to %s", r.ID, r.From.UTC().Format(time.RFC3339), r.To.UTC().Format(time.RFC3339))}},
		Result: state + prefixed(": ", why)})
}

// look tells of requests that changed their state, on one server of the group.
func (n *Net) look(v *cluster.View, all []*entry) {
	states := map[string]string{}
	count := map[string]float64{}
	for _, e := range all {
		state, why := n.state(v, e)
		states[e.request.ID] = state
		count[state]++
		n.mu.Lock()
		was, known := n.states[e.request.ID]
		n.mu.Unlock()
		if was == state || !known && state != StateNew || !n.first(v) {
			continue
		}
		n.note(e.request, state, why)
		n.d.Events.Emit(EventRequest, "Safety Net request %s for %s is %s%s.", e.request.ID, e.request.Database, state, cmp.Or(prefixed(": ", why), ""))
	}
	n.metrics.requests.Reset()
	for s, c := range count {
		n.metrics.requests.WithLabelValues(s).Set(c)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.states = states
	for id := range n.seen {
		if _, ok := states[id]; !ok {
			delete(n.seen, id)
		}
	}
}

func prefixed(p, s string) string {
	if s == "" {
		return ""
	}
	return p + s
}

// first tells whether this server is the first by name of those that live.
func (n *Net) first(v *cluster.View) bool {
	for _, s := range v.Servers() {
		if !s.Witness && s.Name < n.me && n.d.Group.Alive(s.Name) {
			return false
		}
	}
	return true
}

// clean removes requests that are over for long.
func (n *Net) clean(ctx context.Context, v *cluster.View, all []*entry) {
	now := n.d.Now()
	n.mu.Lock()
	due := now.Sub(n.cleaned) >= cleanPeriod
	n.mu.Unlock()
	if !due || !n.first(v) {
		return
	}
	n.mu.Lock()
	n.cleaned = now
	n.mu.Unlock()
	for _, e := range all {
		if !e.request.Expires.IsZero() && now.After(e.request.Expires) {
			if err := n.remove(ctx, e); err != nil {
				n.d.Log.Warn("remove an old Safety Net request", "request", e.request.ID, "error", err)
			}
		}
	}
}

// after tells whether a delivery comes behind another in the order of a scan.
func after(k, than queue.Kept) bool {
	if c := k.At.Compare(than.At); c != 0 {
		return c > 0
	}
	if c := cmp.Compare(string(k.ID[:]), string(than.ID[:])); c != 0 {
		return c > 0
	}
	return k.Row > than.Row
}
