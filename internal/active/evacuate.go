package active

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/active/choose"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// movesAtOnce is how many databases are moved at the same time.
const movesAtOnce = 8

// Evacuation moves everything off a server, as asked for.
type Evacuation struct {
	Server org.ServerName
	To     org.ServerName // empty: each database to its best copy
	// AllOrNone moves nothing unless every database can be moved.
	AllOrNone bool
	// PreferredOnly leaves databases where they are that prefer this server.
	PreferredOnly bool
	Databases     []org.DatabaseName // only these; empty: all that are active there
	Why           string
	Purpose       choose.Purpose // Switchover where it is empty
	Failing       string         // of a HealthMove
	FailingState  org.HealthState
	Skip          Skip
	DryRun        bool
}

// Evacuate moves the active copies off a server without loss, several at the
// same time. Targets are chosen for all of them in one pass, so that no maximum
// is passed. What cannot be moved stays, unless all or none was asked for, and
// the plan says why.
//
// The error is NotFound for a server that is no member, Conflict where
// databases are left on it. It may be called on any server, and again.
func (m *Manager) Evacuate(ctx context.Context, e Evacuation) (command.Plan, error) {
	p := command.Plan{DryRun: e.DryRun}
	if err := m.group.Sync(ctx); err != nil {
		return p, err
	}
	sc := m.look(m.group.View())
	if _, ok := sc.v.Server(e.Server); !ok {
		return p, kind.WithHint(kind.Errorf(kind.NotFound, "%s is no member", e.Server), "postern server list")
	}
	if _, ok := sc.v.Server(e.To); e.To != "" && (!ok || e.To == e.Server) {
		return p, kind.WithHint(kind.Errorf(kind.Invalid, "%s is no other member", e.To), "postern server list")
	}
	var os []Order
	for _, mt := range sc.v.Mounts() {
		if mt.Active != e.Server || len(e.Databases) > 0 && !slices.Contains(e.Databases, mt.Database) {
			continue
		}
		if def, _ := sc.v.Database(mt.Database); e.PreferredOnly && prefers(def, e.Server) {
			continue
		}
		os = append(os, Order{Database: mt.Database, Why: cmp.Or(e.Why, "everything is moved off "+string(e.Server)), Purpose: e.Purpose, Failing: e.Failing, FailingState: e.FailingState, Skip: e.Skip, To: e.To})
	}
	p, err := m.moveAll(ctx, sc, os, movesAtOnce, e.AllOrNone, e.DryRun)
	if err != nil {
		return p, fmt.Errorf("evacuate %s: %w", e.Server, err)
	}
	return p, nil
}

// prefers tells that no copy is preferred to the one on s.
func prefers(def org.Database, s org.ServerName) bool {
	mine, ok := def.Copy(s)
	return ok && !slices.ContainsFunc(def.Copies, func(c org.Copy) bool { return c.Preference < mine.Preference })
}

// moveAll decides about many moves in one pass and carries them out, some at
// the same time. Each is a step of the plan.
func (m *Manager) moveAll(ctx context.Context, sc *scene, os []Order, atOnce int, allOrNone, dry bool) (command.Plan, error) {
	p := command.Plan{DryRun: dry, Steps: make([]command.Step, len(os))}
	cs := make([]verdict, len(os))
	errs := make([]error, len(os))
	var qs []choose.Question
	var at []int
	for i, o := range os {
		o.Purpose = cmp.Or(o.Purpose, choose.Switchover)
		os[i] = o
		p.Steps[i] = command.Step{Name: "move " + string(o.Database)}
		if cs[i], errs[i] = m.ask(sc, o); errs[i] == nil {
			qs, at = append(qs, cs[i].q), append(at, i)
		}
	}
	for j, d := range choose.ChooseAll(qs, sc.active) {
		i := at[j]
		cs[i].d = d
		errs[i] = m.refused(cs[i])
		if errs[i] == nil {
			p.Steps[i].Detail = fmt.Sprintf("from %s to %s: %s", cmp.Or(cs[i].mt.Active, "nobody"), d.Target, d.Why)
		}
	}
	if dry || allOrNone && firstOf(errs) != nil {
		return p, m.summary(p.Steps, errs, dry)
	}
	began, done := time.Now(), 0
	var mu sync.Mutex // guards done
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i := range os {
		if errs[i] != nil {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if errs[i] = ctx.Err(); errs[i] == nil {
				errs[i] = m.moveOne(ctx, os[i], cs[i])
			}
			p.Steps[i].Done = errs[i] == nil
			mu.Lock()
			defer mu.Unlock()
			done++
			command.Progress(ctx, "%d of %d moved, %s: %s", done, len(os), time.Since(began).Round(10*time.Millisecond), cmp.Or(errText(errs[i]), string(os[i].Database)+" is on "+string(cs[i].d.Target)))
		})
	}
	wg.Wait()
	return p, m.summary(p.Steps, errs, false)
}

// moveOne carries out one decided move, and asks once more where the decision
// was overtaken.
func (m *Manager) moveOne(ctx context.Context, o Order, c verdict) error {
	_, err := m.carryOut(ctx, o, c, m.isLive(c))
	if err == nil || ctx.Err() != nil {
		return err
	}
	mt, ok := m.group.View().Mount(o.Database)
	switch {
	case !ok || mt.Active != c.mt.Active:
		if mt.Active == c.d.Target {
			return err // moved, and not reported as mounted yet
		}
		return nil // somebody else moved it
	}
	_, again := m.Move(ctx, o)
	return again
}

// summary puts the errors into the steps, and into one.
func (m *Manager) summary(steps []command.Step, errs []error, dry bool) error {
	left := 0
	for i, err := range errs {
		if err != nil {
			steps[i].Error, steps[i].Done = err.Error(), false
			left++
		}
	}
	first := firstOf(errs)
	if first == nil || dry {
		return nil
	}
	return kind.Errorf(kind.Of(first), "%d of %d databases were not moved, first: %w", left, len(errs), first)
}

func firstOf(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
