package plan

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// Deps are what an Engine is built from.
type Deps struct {
	Group Group
	// RoleKey is the row of the primary role; Primary tells who has it.
	RoleKey string
	Primary func() org.ServerName
	// Tell hears of each plan that begins or ends, is Held or goes on.
	Tell func(p org.Plan, what string)
	Log  *slog.Logger
	Now  func() time.Time // nil: time.Now
}

// Engine carries out plans while this server has the primary role.
type Engine struct {
	group Group
	deps  Deps
	kinds map[string]Kind
	now   func() time.Time

	mu      sync.Mutex // guards driving and rows
	driving map[string]bool
	rows    map[string]row // as they were last read, at most 2*kept
}

// row is the row of a plan at a revision.
type row struct {
	rev  int64
	plan org.Plan
}

// New builds an Engine; nothing runs before Run.
func New(d Deps, kinds ...Kind) *Engine {
	e := &Engine{group: d.Group, deps: d, kinds: map[string]Kind{}, now: d.Now, driving: map[string]bool{}, rows: map[string]row{}}
	for _, k := range kinds {
		e.kinds[k.Name()] = k
	}
	if e.now == nil {
		e.now = time.Now
	}
	if e.deps.Tell == nil {
		e.deps.Tell = func(org.Plan, string) {}
	}
	return e
}

// Pauses of the loop.
const (
	lookPause  = 2 * time.Second // between two looks for plans, when nothing changes
	turnPause  = 250 * time.Millisecond
	retryPause = time.Second      // after a step's Do failed
	againPause = 10 * time.Second // after it succeeded, while the step has not come about
	notePause  = time.Second      // between two notes of what is waited for
	readPause  = 5 * time.Second  // between two looks at a plan that waits for a person
	undoTries  = 10               // of one step, before it stays as it is
	mostAtOnce = 4                // plans that are carried out at the same time
)

// Run carries out plans until ctx ends. It returns when no step is under way.
func (e *Engine) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(lookPause)
	defer tick.Stop()
	for {
		changed := e.group.Changed()
		if e.deps.Primary() == e.group.Name() {
			for _, p := range e.List() {
				if !p.State.Ended() && e.begin(p.ID) {
					wg.Go(func() {
						defer e.end(p.ID)
						e.drive(ctx, p.ID)
					})
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-tick.C:
		}
	}
}

// begin notes that a plan is being driven here; false where it is already, or
// too many are.
func (e *Engine) begin(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.driving[id] || len(e.driving) >= mostAtOnce {
		return false
	}
	e.driving[id] = true
	return true
}

func (e *Engine) end(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.driving, id)
}

// drive carries a plan on until it ends, this server loses the role, or ctx
// ends.
func (e *Engine) drive(ctx context.Context, id string) {
	d := &driver{e: e, id: id, at: -1}
	for ctx.Err() == nil {
		changed := e.group.Changed()
		pause, goOn := d.turn(ctx)
		if !goOn {
			return
		}
		if pause == 0 {
			continue
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-t.C:
		case <-changed:
			// Whatever changed, facts are looked at a few times a second at most.
			if pause > turnPause {
				break
			}
			select {
			case <-t.C:
			case <-ctx.Done():
			}
		}
		t.Stop()
	}
}

// driver carries out one plan. What it remembers is only what saves work: all
// else is in the row.
type driver struct {
	e  *Engine
	id string

	at    int       // step that is under way here, -1 for none
	begun time.Time // Begun of that step when this server first saw it so
	seen  time.Time // when that was
	spent time.Duration
	again time.Time // not before then is Do called again
	noted time.Time // when what is waited for was last written
	tries int       // of the present undo

	p    org.Plan
	rev  int64
	role int64
}

// turn does the next thing. It returns how long to wait before the next turn,
// and false when this server has nothing more to do with the plan.
func (d *driver) turn(ctx context.Context) (time.Duration, bool) {
	v := d.e.group.View()
	role, ok := v.Get(d.e.deps.RoleKey)
	if !ok || d.e.deps.Primary() != d.e.group.Name() {
		return 0, false
	}
	d.role = role.Revision
	p, rev, err := d.e.read(d.id)
	if err != nil || p.State.Ended() {
		return 0, false
	}
	k, known := d.e.kinds[p.Kind]
	if !known {
		return readPause, true
	}
	d.p, d.rev = p, rev
	if p.Owner != d.e.group.Name() || p.OwnerRevision != role.Revision {
		return d.own(ctx), true
	}
	switch p.State {
	case org.PlanPlanned:
		d.p.State = org.PlanRunning
		return d.save(ctx, "begins"), true
	case org.PlanUndoing:
		return d.undo(ctx, k), true
	case org.PlanHeld:
		if p.Ask {
			return readPause, true
		}
	}
	return d.step(ctx, k), true
}

// own writes that this server carries the plan out.
func (d *driver) own(ctx context.Context) time.Duration {
	was := d.p.Owner
	d.at = -1
	d.p.Owner, d.p.OwnerRevision = d.e.group.Name(), d.role
	what := ""
	if was != "" && was != d.p.Owner {
		what = fmt.Sprintf("goes on: %s carries it out instead of %s", d.p.Owner, was)
	}
	return d.save(ctx, what)
}

// save writes the plan, if it and the role are what they were. what is for
// people, empty for nothing to tell.
func (d *driver) save(ctx context.Context, what string) time.Duration {
	b, err := json.Marshal(d.p)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_, err = d.e.group.Commit(ctx, cluster.Txn{If: d.conds(), Then: []cluster.Op{{Key: Key(d.id), Value: b}}})
	}
	switch {
	case err == nil:
		if what != "" {
			d.e.deps.Tell(d.p, what)
		}
		return 0
	case !kind.Is(err, kind.Conflict):
		d.e.deps.Log.Warn("plan not written", "plan", d.id, "err", err)
	}
	return turnPause
}

func (d *driver) conds() []cluster.Cond {
	return []cluster.Cond{{Key: Key(d.id), Revision: d.rev}, {Key: d.e.deps.RoleKey, Revision: d.role}}
}

func (d *driver) pen(i int) *Pen {
	return &Pen{group: d.e.group, conds: d.conds(), Plan: d.p, At: i}
}

// step looks at the first step that is not over and does what is next.
func (d *driver) step(ctx context.Context, k Kind) time.Duration {
	i := d.p.Step()
	if i == len(d.p.Steps) {
		d.p.State, d.p.Held, d.p.Ended = org.PlanDone, "", d.e.now().UTC()
		return d.save(ctx, "is done")
	}
	s := &d.p.Steps[i]
	def, ok := k.Step(d.p, *s)
	if !ok {
		return d.stop(ctx, s, Ask, "this version does not know the step "+s.Name)
	}
	look, cancel := context.WithTimeout(ctx, 10*time.Second)
	f := def.Check(look)
	cancel()
	if f.Note != "" {
		s.Detail = f.Note
	}
	switch {
	case f.Done:
		return d.done(ctx, s)
	case d.p.State == org.PlanHeld:
		return d.held(ctx, i, f)
	case f.Stop != "":
		return d.stop(ctx, s, def.Late, f.Stop)
	case s.State == org.StepWaiting:
		s.State, s.Begun, s.Wait, s.Tries = org.StepRunning, d.e.now().UTC(), f.Wait, s.Tries+1
		return d.save(ctx, "")
	}
	d.watch(i)
	if d.late(*s) {
		why := fmt.Sprintf("not within %s", s.Deadline)
		for _, more := range []string{f.Wait, s.Error} {
			if more != "" {
				why += ": " + more
			}
		}
		return d.stop(ctx, s, def.Late, why)
	}
	if def.Do != nil && !d.e.now().Before(d.again) {
		return d.do(ctx, def, i)
	}
	return d.wait(ctx, s, f.Wait)
}

// watch begins to count the time of a step that is under way. The row has wall
// time, of a server that may be gone; from here on only what passes here counts.
func (d *driver) watch(i int) {
	s := d.p.Steps[i]
	if d.at == i && d.begun.Equal(s.Begun) {
		return
	}
	now := d.e.now()
	d.at, d.begun, d.seen, d.again = i, s.Begun, now, time.Time{}
	d.spent = min(max(0, now.Sub(s.Begun)), s.Deadline)
	if s.Begun.After(now) {
		d.spent = 0
	}
}

func (d *driver) late(s org.PlanStep) bool {
	return d.spent+d.e.now().Sub(d.seen) >= s.Deadline
}

// held lets a plan go on whose reason to be held has ended. A step that was not
// in time has to come about, or somebody has to resume the plan.
func (d *driver) held(ctx context.Context, i int, f Finding) time.Duration {
	s := &d.p.Steps[i]
	if s.State == org.StepRunning {
		d.watch(i)
		if d.late(*s) {
			return d.wait(ctx, s, f.Wait)
		}
	}
	if f.Stop != "" {
		return d.wait(ctx, s, f.Stop)
	}
	d.p.State, d.p.Held, s.Error = org.PlanRunning, "", ""
	return d.save(ctx, "goes on: what held "+s.Name+" has ended")
}

// done notes that a step has come about.
func (d *driver) done(ctx context.Context, s *org.PlanStep) time.Duration {
	now := d.e.now().UTC()
	if s.Begun.IsZero() {
		s.Begun = now
	}
	s.State, s.Ended, s.Wait, s.Error = org.StepDone, now, "", ""
	what := ""
	if d.p.State == org.PlanHeld {
		d.p.State, d.p.Held, d.p.Ask, what = org.PlanRunning, "", false, "goes on: "+s.Name+" came about"
	}
	d.at = -1
	return d.save(ctx, what)
}

// wait notes what is waited for, where that has changed.
func (d *driver) wait(ctx context.Context, s *org.PlanStep, wait string) time.Duration {
	now := d.e.now()
	if wait == "" || wait == s.Wait || now.Sub(d.noted) < notePause {
		return turnPause
	}
	s.Wait, d.noted = wait, now
	d.save(ctx, "")
	return turnPause
}

// do carries a step out. It is called off when the plan or the role changes.
func (d *driver) do(ctx context.Context, def Step, i int) time.Duration {
	s := &d.p.Steps[i]
	left := max(time.Second, s.Deadline-d.spent-d.e.now().Sub(d.seen))
	err := d.guarded(ctx, left, func(ctx context.Context) error { return def.Do(ctx, d.pen(i)) })
	if err == nil {
		d.again = d.e.now().Add(againPause)
		if s.Error == "" {
			return 0
		}
		s.Error = ""
		return d.save(ctx, "")
	}
	d.again = d.e.now().Add(retryPause)
	if ctx.Err() != nil || d.pen(i).Holds() != nil || err.Error() == s.Error {
		return turnPause
	}
	s.Error = err.Error()
	d.save(ctx, "")
	return turnPause
}

// guarded runs f until it returns, at most for a time, and ends it sooner when
// the plan or the role is not what it was.
func (d *driver) guarded(ctx context.Context, most time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	for {
		changed := d.e.group.Changed()
		if d.pen(0).Holds() != nil {
			cancel()
		}
		select {
		case err := <-done:
			return err
		case <-changed:
		}
	}
}

// stop ends a step that has not come about in the way it asks for.
func (d *driver) stop(ctx context.Context, s *org.PlanStep, how Late, why string) time.Duration {
	what := ""
	switch how {
	case GoOn:
		now := d.e.now().UTC()
		if s.Begun.IsZero() {
			s.Begun = now
		}
		s.State, s.Ended, s.Error, s.Wait = org.StepSkipped, now, "left out: "+why, ""
		d.at = -1
	case Fail:
		s.State, s.Ended, s.Error, s.Wait = org.StepFailed, d.e.now().UTC(), why, ""
		d.p.State, d.p.Held = org.PlanUndoing, s.Name+": "+why
		what = "failed at " + d.p.Held
	default:
		s.Error = why
		d.p.State, d.p.Held, d.p.Ask = org.PlanHeld, s.Name+": "+why, how == Ask
		what = "is held at " + d.p.Held
	}
	return d.save(ctx, what)
}

// undo takes back the last step that may have done something, or ends the plan.
func (d *driver) undo(ctx context.Context, k Kind) time.Duration {
	for i := len(d.p.Steps) - 1; i >= 0; i-- {
		s := &d.p.Steps[i]
		if s.Tries == 0 || s.State == org.StepUndone || s.State == org.StepWaiting {
			continue
		}
		def, ok := k.Step(d.p, *s)
		if !ok || def.Undo == nil || s.Wait == notUndone {
			continue
		}
		err := d.guarded(ctx, 30*time.Second, func(ctx context.Context) error { return def.Undo(ctx, d.pen(i)) })
		if d.tries++; err != nil && (ctx.Err() != nil || d.tries < undoTries) {
			d.e.deps.Log.Warn("undo", "plan", d.id, "step", s.Name, "err", err)
			return retryPause
		}
		d.tries = 0
		if err != nil {
			s.State, s.Wait, s.Error = org.StepFailed, notUndone, err.Error()
			return d.save(ctx, "")
		}
		s.State, s.Wait = org.StepUndone, ""
		return d.save(ctx, "")
	}
	d.p.Ended = d.e.now().UTC()
	d.p.State = org.PlanUndone
	what := "is undone: " + d.p.Held
	if d.p.AbortedBy != "" {
		d.p.State, what = org.PlanAborted, "is aborted by "+d.p.AbortedBy
	}
	for _, s := range d.p.Steps {
		if s.Wait == notUndone {
			d.p.State, what = org.PlanFailed, "failed, and "+s.Name+" was not taken back: "+s.Error
		}
	}
	return d.save(ctx, what)
}

// notUndone marks a step that could not be taken back.
const notUndone = "could not be taken back"
