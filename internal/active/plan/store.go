package plan

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// kept is how many ended plans stay in the agreed state.
const kept = 200

// guardKey names the plan that was started last. Whoever starts one changes
// this row, so that of two at once one hears of the other.
const guardKey = "active/plan"

// Key is the row of a plan.
func Key(id string) string { return org.PlanPrefix + id }

// newID makes an id that is ordered by time and easy to type.
func newID(now time.Time) string {
	var b [2]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return now.UTC().Format("060102-150405") + "-" + hex.EncodeToString(b[:])
}

// read returns a plan and the revision of its row.
func (e *Engine) read(id string) (org.Plan, int64, error) {
	it, ok := e.group.View().Get(Key(id))
	if !ok {
		return org.Plan{}, 0, kind.WithHint(kind.Errorf(kind.NotFound, "there is no plan %s", id), "postern plan list")
	}
	p, err := e.decoded(Key(id), it)
	p.Steps = slices.Clone(p.Steps)
	return p, it.Revision, err
}

// decoded reads the row of a plan, once for each time it changes: the same rows
// are looked at several times a second. The steps are not to be changed.
func (e *Engine) decoded(key string, it cluster.Item) (org.Plan, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c, ok := e.rows[key]; ok && c.rev == it.Revision {
		return c.plan, nil
	}
	var p org.Plan
	if err := json.Unmarshal(it.Value, &p); err != nil {
		return p, kind.Errorf(kind.Corrupt, "row of a plan: %w", err)
	}
	if len(e.rows) > 2*kept { // most are of plans that are kept no more
		clear(e.rows)
	}
	e.rows[key] = row{it.Revision, p}
	return p, nil
}

// List returns all plans, the newest first. Their steps are not to be changed.
func (e *Engine) List() []org.Plan {
	var out []org.Plan
	for key, it := range e.group.View().Prefix(org.PlanPrefix) {
		if p, err := e.decoded(key, it); err == nil {
			out = append(out, p)
		}
	}
	slices.SortStableFunc(out, func(a, b org.Plan) int { return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(b.ID, a.ID)) })
	return out
}

// Get returns a plan; NotFound where there is none.
func (e *Engine) Get(id string) (org.Plan, error) {
	p, _, err := e.read(id)
	return p, err
}

// Running is the plan that has not ended, if there is one.
func (e *Engine) Running() (org.Plan, bool) {
	for _, p := range e.List() {
		if !p.State.Ended() {
			return p, true
		}
	}
	return org.Plan{}, false
}

// Start writes a plan, to be carried out from now on, and returns it with its
// id. While another plan has not ended the error is Conflict and names it.
func (e *Engine) Start(ctx context.Context, p org.Plan) (org.Plan, error) {
	if _, ok := e.kinds[p.Kind]; !ok {
		return p, kind.Errorf(kind.Invalid, "start plan: kind %q is not known", p.Kind)
	}
	if err := e.group.Sync(ctx); err != nil {
		return p, fmt.Errorf("start plan: %w", err)
	}
	// Before the look at what runs: a plan that is started after it changes this row.
	guard, _ := e.group.View().Get(guardKey)
	if other, ok := e.Running(); ok {
		return p, busyWith(other)
	}
	now := e.now().UTC()
	p.ID, p.Created, p.State = newID(now), now, org.PlanPlanned
	for i := range p.Steps {
		p.Steps[i].State = org.StepWaiting
	}
	t := cluster.Txn{If: []cluster.Cond{{Key: guardKey, Revision: guard.Revision}, {Key: Key(p.ID)}},
		Then: append([]cluster.Op{{Key: guardKey, Value: []byte(p.ID)}}, e.dropOld()...)}
	b, err := json.Marshal(p)
	if err != nil {
		return p, err
	}
	t.Then = append(t.Then, cluster.Op{Key: Key(p.ID), Value: b})
	_, err = e.group.Commit(ctx, t)
	if !kind.Is(err, kind.Conflict) {
		return p, err
	}
	if serr := e.group.Sync(ctx); serr != nil {
		return p, serr
	}
	if other, ok := e.Running(); ok {
		return p, busyWith(other)
	}
	return p, kind.WithHint(fmt.Errorf("start plan: %w", err), "somebody else started one at the same moment; try again")
}

func busyWith(p org.Plan) error {
	return kind.WithHint(kind.Errorf(kind.Conflict, "plan %s (%s) is %s: one plan at a time", p.ID, p.Title, p.State),
		"postern plan show "+p.ID+"; postern plan abort "+p.ID)
}

// dropOld removes the oldest ended plans beyond those that are kept.
func (e *Engine) dropOld() []cluster.Op {
	var out []cluster.Op
	n := 0
	for _, p := range e.List() {
		if !p.State.Ended() {
			continue
		}
		if n++; n >= kept && len(out) < 100 {
			out = append(out, cluster.Op{Key: Key(p.ID), Delete: true})
		}
	}
	return out
}

// Abort ends a plan: what was done is taken back, where its steps can.
func (e *Engine) Abort(ctx context.Context, id, by string) error {
	return e.order(ctx, id, func(p *org.Plan) error {
		if p.State.Ended() {
			return kind.Errorf(kind.Conflict, "plan %s is %s already", id, p.State)
		}
		if p.State == org.PlanUndoing {
			return kind.Errorf(kind.Conflict, "plan %s is being undone already", id)
		}
		p.State, p.AbortedBy, p.Ask = org.PlanUndoing, cmp.Or(by, "somebody"), false
		p.Held = "aborted by " + p.AbortedBy
		return nil
	})
}

// Resume lets a plan that is Held go on. Its step gets its time anew; with skip
// it is left out instead.
func (e *Engine) Resume(ctx context.Context, id, by string, skip bool) error {
	return e.order(ctx, id, func(p *org.Plan) error {
		if p.State != org.PlanHeld {
			return kind.Errorf(kind.Conflict, "plan %s is %s, not Held", id, p.State)
		}
		p.State, p.Held, p.Ask = org.PlanRunning, "", false
		i := p.Step()
		if i == len(p.Steps) {
			return nil
		}
		s := &p.Steps[i]
		if skip {
			s.State, s.Ended, s.Error = org.StepSkipped, e.now().UTC(), "left out by "+cmp.Or(by, "somebody")+": "+cmp.Or(s.Wait, s.Error)
			s.Wait = ""
		} else if s.State == org.StepRunning {
			s.Begun = e.now().UTC()
		}
		return nil
	})
}

// order changes a plan on behalf of a person.
func (e *Engine) order(ctx context.Context, id string, change func(*org.Plan) error) error {
	for range 5 {
		if err := e.group.Sync(ctx); err != nil {
			return err
		}
		p, rev, err := e.read(id)
		if err != nil {
			return err
		}
		if err := change(&p); err != nil {
			return err
		}
		b, err := json.Marshal(p)
		if err != nil {
			return err
		}
		_, err = e.group.Commit(ctx, cluster.Txn{If: []cluster.Cond{{Key: Key(id), Revision: rev}}, Then: []cluster.Op{{Key: Key(id), Value: b}}})
		if !kind.Is(err, kind.Conflict) {
			return err
		}
	}
	return kind.Errorf(kind.Busy, "plan %s changes all the time; try again", id)
}

// Await returns when a plan has ended or is Held, and tells of each step.
func (e *Engine) Await(ctx context.Context, id string, say func(string)) (org.Plan, error) {
	told := map[string]bool{}
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		changed := e.group.Changed()
		p, _, err := e.read(id)
		if err != nil {
			return p, err
		}
		for _, line := range Lines(p) {
			if !told[line] {
				told[line] = true
				say(line)
			}
		}
		if p.State.Ended() || p.State == org.PlanHeld {
			return p, nil
		}
		select {
		case <-ctx.Done():
			return p, ctx.Err()
		case <-changed:
		case <-tick.C:
		}
	}
}

// Lines is a plan in words, a line for each step that was begun.
func Lines(p org.Plan) []string {
	var out []string
	for _, s := range p.Steps {
		if s.State == org.StepWaiting {
			continue
		}
		name := s.Name
		if s.Server != "" {
			name += " " + string(s.Server)
		}
		line := fmt.Sprintf("%s: %s", name, s.State)
		if s.State == org.StepRunning {
			line = fmt.Sprintf("%s: %s", name, cmp.Or(s.Wait, "begun"))
		} else if s.Error != "" {
			line += ": " + s.Error
		}
		out = append(out, line)
	}
	return out
}
