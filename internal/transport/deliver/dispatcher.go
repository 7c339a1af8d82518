package deliver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/schedule"
)

// routeDest is where messages wait whose destinations are not known yet.
const routeDest schedule.Dest = "route:self"

// Door is what the front door of transport does for the dispatcher.
type Door interface {
	// Route finds out where the rows of a message go and makes durable what has
	// to be before one of them is tried. It answers for the rows that are ready.
	Route(ctx context.Context, m queue.Message, rows []queue.RecipientRow) ([]Way, error)
	// Mine tells whether this server may deliver the message.
	Mine(m queue.Message) error
	// Begun waits until the holder of the copy knows that an attempt began;
	// repeat says that it does not, so that the host may get it twice.
	Begun(ctx context.Context, m queue.Message) (repeat bool, err error)
	// Finish writes what became of rows, with the reports that are due.
	Finish(ctx context.Context, m queue.Message, rows []queue.RecipientRow, cs []queue.RowChange) error
	// Overdue looks at rows that wait for long: it returns them or tells the
	// sender. next is when to look again, zero for never; over says that the
	// rows are finished.
	Overdue(ctx context.Context, m queue.Message, rows []queue.RecipientRow) (next time.Time, over bool, err error)
	// Notice is when Overdue is to look at a message first.
	Notice(m queue.Message) time.Time
	// Body is the message, fetched from where it is whole.
	Body(ctx context.Context, id mail.TraceID) ([]byte, error)
}

// Way is where one row goes.
type Way struct {
	Row          uint16
	Dest         string
	Mailbox      org.MailboxRef
	Organization org.OrganizationID
}

// Deps are what a Dispatcher needs.
type Deps struct {
	Queue  *queue.Queue
	Rules  schedule.Rules
	Agents map[string]Agent // by schedule.Dest.Kind
	Door   Door
	Now    func() time.Time
	Log    *slog.Logger
	// InDoubt is how long a row waits whose attempt another server began.
	InDoubt func() time.Duration
	// Organization names what Job.Org is the hash of.
	Organization func(hash uint64) org.OrganizationID
	Observe      func(Observed)
}

// Observed is an attempt that ended, for metrics.
type Observed struct {
	Dest    schedule.Dest
	State   queue.State
	Arrived time.Time
	Took    time.Duration
	Repeat  bool
	Double  bool
}

// Dispatcher carries out what the schedule hands out.
type Dispatcher struct {
	d Deps

	mu    sync.Mutex // guards the rest
	sched *schedule.Scheduler
	rules schedule.Rules
	// plans are the ways that no record has yet.
	plans map[mail.TraceID][]Way
	kick  chan struct{}
	// paused is closed when nothing is under way any more; nil: not paused.
	paused   chan struct{}
	underWay int
	stopped  bool // Run is ending
}

// New makes a Dispatcher; Run makes it work.
func New(d Deps) *Dispatcher {
	r := withRoute(d.Rules)
	return &Dispatcher{d: d, sched: schedule.New(r), rules: r, plans: map[mail.TraceID][]Way{}, kick: make(chan struct{}, 1)}
}

// withRoute adds the limits for messages whose destinations are not known: they
// wait for the directory, as deliveries to a database wait for its active copy.
func withRoute(r schedule.Rules) schedule.Rules {
	db := r.Kinds[localKind]
	r.Kinds = maps.Clone(r.Kinds)
	r.Kinds[routeDest.Kind()] = schedule.Limits{Start: 16, Concurrency: 16, Total: 16, Dest: db.Dest, Message: db.Message}
	return r
}

func (d *Dispatcher) now() int64 { return d.d.Now().UnixNano() }

// Run works until ctx ends; attempts under way end within drain after that.
func (d *Dispatcher) Run(ctx context.Context, drain time.Duration) error {
	if err := d.load(ctx); err != nil {
		return fmt.Errorf("load unfinished messages: %w", err)
	}
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		d.start(work, &wg)
		d.mu.Lock()
		wait := time.Duration(d.sched.Wake() - d.now())
		if d.paused != nil {
			wait = time.Minute
		}
		d.mu.Unlock()
		timer.Reset(min(max(wait, 0), time.Minute))
		select {
		case <-ctx.Done():
		case <-d.kick:
		case <-timer.C:
		}
	}
	d.mu.Lock()
	d.stopped = true
	d.mu.Unlock()
	end := time.AfterFunc(drain, stop)
	defer end.Stop()
	wg.Wait()
	return nil
}

// start begins all attempts that may begin.
func (d *Dispatcher) start(ctx context.Context, wg *sync.WaitGroup) {
	for {
		j, late, ok := d.take()
		if !ok {
			return
		}
		wg.Go(func() { d.work(ctx, j, late) })
	}
}

// work carries out a job and then whatever may be tried next.
func (d *Dispatcher) work(ctx context.Context, j schedule.Job, late bool) {
	for ok := true; ok; j, late, ok = d.take() {
		if late {
			d.overdue(ctx, j)
		} else {
			d.attempt(ctx, j)
		}
		d.ended()
	}
}

// take takes a job from the schedule; late ones are to be looked at for their
// age.
func (d *Dispatcher) take() (j schedule.Job, late, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.paused != nil || d.stopped {
		return j, false, false
	}
	now := d.now()
	if j, late = d.sched.Overdue(now); late {
		ok = true
	} else {
		j, ok = d.sched.Next(now)
	}
	if ok {
		d.underWay++
	}
	return j, late, ok
}

func (d *Dispatcher) ended() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.underWay--; d.underWay == 0 && d.paused != nil {
		close(d.paused)
	}
}

func (d *Dispatcher) wake() {
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

// load schedules what was unfinished when the queue was opened.
func (d *Dispatcher) load(ctx context.Context) error {
	for q, err := range d.d.Queue.Unfinished() {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		j := schedule.Job{ID: q.ID, Dest: schedule.Dest(cmp.Or(q.Dest, string(routeDest))), Size: q.Size, Priority: q.Priority, Attempts: q.Attempts,
			Flow: schedule.Flow{Organization: d.d.Organization(q.Org), Sender: q.Sender}, Suspended: q.State == queue.StateSuspended}
		if !q.Next.IsZero() {
			j.Next = q.Next.UnixNano()
		}
		if q.State == queue.StateDoubtful {
			j.Next = max(j.Next, d.d.Now().Add(d.doubt(q.ID)).UnixNano())
		}
		d.times(&j, q.Expires, q.ID)
		d.add(j)
	}
	return nil
}

// doubt is how long a row waits of which nobody knows whether it was taken.
func (d *Dispatcher) doubt(id mail.TraceID) time.Duration {
	if m, _, err := d.d.Queue.Message(id); err == nil && m.TakenFrom != "" {
		return d.d.InDoubt()
	}
	return time.Minute
}

func (d *Dispatcher) times(j *schedule.Job, expires time.Time, id mail.TraceID) {
	if !expires.IsZero() {
		j.Expires = expires.UnixNano()
	}
	if at := d.d.Door.Notice(queue.Message{ID: id, Expires: expires, Received: id.Time()}); !at.IsZero() {
		j.Notice = at.UnixNano()
	}
}

// add gives a job to the schedule. One for which there is no place waits in the
// ledger and is looked for again by Refill.
func (d *Dispatcher) add(j schedule.Job) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.sched.Add(j, d.now()); err != nil && !kind.Is(err, kind.Exists) {
		d.d.Log.Error("schedule message", "trace", j.ID, "destination", j.Dest, "err", err)
	}
}

// Submit routes messages that were accepted or taken over and schedules them.
func (d *Dispatcher) Submit(ctx context.Context, ids ...mail.TraceID) {
	for _, id := range ids {
		m, rows, err := d.d.Queue.Message(id)
		if err != nil {
			d.d.Log.Error("schedule message", "trace", id, "err", err)
			continue
		}
		d.submit(ctx, m, rows)
	}
	d.wake()
}

func (d *Dispatcher) submit(ctx context.Context, m queue.Message, rows []queue.RecipientRow) {
	j := schedule.Job{ID: m.ID, Size: m.Size, Priority: m.Priority, Flow: schedule.Flow{Organization: m.Origin.Organization, Sender: queue.Hash(m.Envelope.From)}}
	d.times(&j, m.Expires, m.ID)
	if err := d.route(ctx, m, rows, j); err != nil {
		if !kind.Is(err, kind.Busy) && !kind.Is(err, kind.Conflict) {
			d.d.Log.Warn("route message", "trace", m.ID, "err", err)
		}
		j.Dest = routeDest
		d.add(j)
	}
}

// route schedules a job for each destination of the rows.
func (d *Dispatcher) route(ctx context.Context, m queue.Message, rows []queue.RecipientRow, j schedule.Job) error {
	var ways []Way
	unrouted := false
	for i := range rows {
		unrouted = unrouted || rows[i].State == queue.StateNew
	}
	if unrouted {
		var err error
		if ways, err = d.d.Door.Route(ctx, m, rows); err != nil {
			return err
		}
	}
	dests := map[string]org.OrganizationID{}
	for _, w := range ways {
		dests[w.Dest] = w.Organization
	}
	jobs := map[string]schedule.Job{}
	for i := range rows {
		r := &rows[i]
		if r.State.Finished() || r.Dest == "" {
			continue
		}
		if _, there := jobs[r.Dest]; there && r.State == queue.StateSuspended {
			continue // the others of that destination go on
		}
		dests[r.Dest] = r.Organization
		jobs[r.Dest] = d.timesOf(r, &m, j)
	}
	if err := d.note(ctx, m.ID, ways); err != nil {
		return err
	}
	for dest, o := range dests {
		job, ok := jobs[dest]
		if !ok {
			job = j
		}
		job.Dest = schedule.Dest(dest)
		job.Flow.Organization = cmp.Or(job.Flow.Organization, o)
		d.add(job)
	}
	return nil
}

// maxPlans bounds the ways that are only in memory.
const maxPlans = 50_000

// note keeps ways: in memory where all lead to mailboxes that can be delivered
// to, as they are used up at once and follow from the message again; otherwise
// in the ledger, where administrators look for what waits for a destination.
func (d *Dispatcher) note(ctx context.Context, id mail.TraceID, ways []Way) error {
	if len(ways) == 0 {
		return nil
	}
	d.mu.Lock()
	d.plans[id] = ways
	short := len(d.plans) <= maxPlans && !slices.ContainsFunc(ways, func(w Way) bool {
		return schedule.Dest(w.Dest).Kind() != localKind || d.sched.Waits(schedule.Dest(w.Dest), w.Organization)
	})
	d.mu.Unlock()
	if short {
		return nil
	}
	return d.writePlans(ctx, []mail.TraceID{id})
}

// writeWaiting writes the ways of all that wait for a destination, empty for
// all: it does not work, so somebody may ask what is there.
func (d *Dispatcher) writeWaiting(ctx context.Context, dest schedule.Dest) {
	d.mu.Lock()
	var ids []mail.TraceID
	for id, ways := range d.plans {
		if dest == "" || slices.ContainsFunc(ways, func(w Way) bool { return w.Dest == string(dest) }) {
			ids = append(ids, id)
		}
	}
	d.mu.Unlock()
	if err := d.writePlans(ctx, ids); err != nil && ctx.Err() == nil {
		d.d.Log.Warn("note where messages go", "destination", dest, "err", err)
	}
}

// writePlans brings ways from memory into the ledger.
func (d *Dispatcher) writePlans(ctx context.Context, ids []mail.TraceID) error {
	for _, id := range ids {
		d.mu.Lock()
		ways := d.plans[id]
		d.mu.Unlock()
		_, rows, err := d.d.Queue.Message(id)
		if err != nil || len(ways) == 0 {
			continue
		}
		c := queue.Change{ID: id, At: d.now()}
		for _, w := range ways {
			if int(w.Row) < len(rows) && rows[w.Row].State == queue.StateNew {
				c.Rows = append(c.Rows, queue.RowChange{N: w.Row, State: queue.StateReady, Dest: w.Dest, Mailbox: w.Mailbox, Org: w.Organization})
			}
		}
		if len(c.Rows) > 0 {
			err = d.d.Queue.Apply(ctx, []queue.Change{c}, queue.Lazy)
			if err != nil && !kind.Is(err, kind.Conflict) { // a conflict: it was tried meanwhile
				return err
			}
		}
		d.mu.Lock()
		d.forget(id)
		d.mu.Unlock()
	}
	return nil
}

// timesOf is the job of a row that has a history already, as after a takeover.
func (d *Dispatcher) timesOf(r *queue.RecipientRow, m *queue.Message, j schedule.Job) schedule.Job {
	j.Attempts = r.Attempts
	j.Suspended = r.State == queue.StateSuspended
	if !r.Next.IsZero() {
		j.Next = r.Next.UnixNano()
	}
	if r.State == queue.StateDoubtful {
		wait := time.Minute
		if m.TakenFrom != "" {
			wait = d.d.InDoubt()
		}
		j.Next = max(j.Next, d.d.Now().Add(wait).UnixNano())
	}
	return j
}

// rowsOf reads a message and, of its rows, the unfinished ones of a job. Ways
// that no record has yet are read first: they are dropped only when one has.
func (d *Dispatcher) rowsOf(j schedule.Job) (m queue.Message, mine, all []queue.RecipientRow, err error) {
	d.mu.Lock()
	ways := d.plans[j.ID]
	d.mu.Unlock()
	m, all, err = d.d.Queue.Message(j.ID)
	return m, matching(all, ways, j), all, err
}

func matching(rows []queue.RecipientRow, ways []Way, j schedule.Job) []queue.RecipientRow {
	var out []queue.RecipientRow
	for _, r := range rows {
		if i := slices.IndexFunc(ways, func(w Way) bool { return w.Row == r.N }); i >= 0 && r.Dest == "" {
			r.Dest, r.Mailbox, r.Organization = ways[i].Dest, ways[i].Mailbox, cmp.Or(r.Organization, ways[i].Organization)
		}
		if !r.State.Finished() && r.State != queue.StateSuspended && cmp.Or(r.Dest, string(routeDest)) == string(j.Dest) {
			out = append(out, r)
		}
	}
	return out
}

// forget drops the ways of a message once no job of it needs them.
func (d *Dispatcher) forget(id mail.TraceID) {
	delete(d.plans, id)
}

func (d *Dispatcher) done(j schedule.Job, o schedule.Outcome) (next int64) {
	d.mu.Lock()
	next, err := d.sched.Done(j, o, d.now())
	d.mu.Unlock()
	if err != nil && !kind.Is(err, kind.NotFound) {
		d.d.Log.Error("schedule message", "trace", j.ID, "err", err)
	}
	d.wake()
	return next
}

// overdue has a look at a job that waits for long.
func (d *Dispatcher) overdue(ctx context.Context, j schedule.Job) {
	m, rows, _, err := d.rowsOf(j)
	if err != nil || len(rows) == 0 {
		d.done(j, schedule.Outcome{Result: schedule.Gone})
		return
	}
	next, over, err := d.d.Door.Overdue(ctx, m, rows)
	if err != nil {
		d.d.Log.Warn("overdue message", "trace", j.ID, "err", err)
		next = d.d.Now().Add(time.Minute)
	}
	switch {
	case over && err == nil:
		d.done(j, schedule.Outcome{Result: schedule.Gone})
		return
	case next.IsZero():
		j.Notice = 0
	default: // not before, also where it is over age already
		j.Notice = next.UnixNano()
		if j.Expires != 0 {
			j.Expires = max(j.Expires, j.Notice)
		}
	}
	d.done(j, schedule.Outcome{Result: schedule.Back})
}

var errGone = errors.New("nothing is left to do")
