package active

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/active/choose"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

// handoverWait bounds how long clients may be held up by a switchover that
// does not come about.
const handoverWait = 2 * time.Second

// Purposes and switches of moves, by their names in choose.
const (
	Failover   = choose.Failover
	Switchover = choose.Switchover
	Rebalance  = choose.Rebalance
	HealthMove = choose.HealthMove
)

// Skip drops single checks of a move.
type Skip = choose.Skip

// Order is a move of the active copy of a database, as asked for.
type Order struct {
	Database org.DatabaseName
	To       org.ServerName // empty: the best
	Dial     org.MountDial  // empty: nothing may be missing
	Why      string
	// Purpose is Switchover where it is empty. A HealthMove names in Failing the
	// component or health set that has to be better on the target.
	Purpose choose.Purpose
	Failing string
	// FailingState is how bad that is here, as far as the orderer knows.
	FailingState org.HealthState
	Skip         Skip
	DryRun       bool

	automatic bool // nobody ordered it, and no responder has an entry for it
}

// Move makes another copy of a database the active one: the active copy stops,
// the target has everything, the term changes, clients go on there. Where the
// active copy is gone it is a failover by hand. It may be called on any server.
//
// The error is NotFound where the database or a copy on the target does not
// exist, Conflict where no copy may be activated, the database is there
// already or somebody else moves it, Busy where a limit of automatic moves holds
// it back or the target did not report the database mounted in time. But for
// the last nothing was changed then.
func (m *Manager) Move(ctx context.Context, o Order) (command.Plan, error) {
	p := command.Plan{DryRun: o.DryRun}
	o.Purpose = cmp.Or(o.Purpose, choose.Switchover)
	if err := m.group.Sync(ctx); err != nil {
		return p, err
	}
	sc := m.look(m.group.View())
	c, err := m.choose(sc, o)
	if err != nil {
		return p, err
	}
	return m.carryOut(ctx, o, c, m.isLive(c))
}

// choose decides about a move.
func (m *Manager) choose(sc *scene, o Order) (verdict, error) {
	c, err := m.ask(sc, o)
	if err != nil {
		return c, err
	}
	c.d = choose.Choose(c.q)
	return c, m.refused(c)
}

// ask makes the question of a move.
func (m *Manager) ask(sc *scene, o Order) (verdict, error) {
	c := verdict{why: o.Why, auto: o.automatic}
	def, ok := sc.v.Database(o.Database)
	mt, known := sc.v.Mount(o.Database)
	if !ok || !known {
		return c, kind.WithHint(kind.Errorf(kind.NotFound, "database %s does not exist", o.Database), "postern database list")
	}
	if o.To != "" && mt.Active == o.To {
		return c, kind.Errorf(kind.Conflict, "%s is active on %s already", o.Database, o.To)
	}
	if o.To != "" {
		if _, ok := def.Copy(o.To); !ok {
			return c, kind.WithHint(kind.Errorf(kind.NotFound, "%s has no copy on %s", o.Database, o.To), fmt.Sprintf("postern copy add %s %s", o.Database, o.To))
		}
	}
	if o.Purpose == choose.Rebalance || o.Purpose == choose.HealthMove {
		past, _ := historyOf(sc.v, o.Database)
		if why := cmp.Or(m.damped(sc.now), past.suppressed(o.Purpose, m.cfg.MoveBackOff, sc.now)); why != "" {
			return c, kind.Errorf(kind.Busy, "%s stays on %s: %s", o.Database, cmp.Or(mt.Active, "nobody"), why)
		}
	}
	c.def, c.mt = def, mt
	c.q = sc.question(def, mt, o.Purpose)
	c.q.To, c.q.Dial, c.q.Skip, c.q.Failing, c.q.FailingState = o.To, o.Dial, o.Skip, o.Failing, o.FailingState
	return c, nil
}

// refused is the error of a decision without a target.
func (m *Manager) refused(c verdict) error {
	if c.d.Target != "" {
		return nil
	}
	return kind.WithHint(kind.Errorf(kind.Conflict, "%s stays on %s: %s", c.def.Name, cmp.Or(c.mt.Active, "nobody"), c.d), "postern copy status "+string(c.def.Name))
}

// isLive tells that the active copy can hand over.
func (m *Manager) isLive(c verdict) bool {
	_, dead := m.group.Dead(c.mt.Active)
	return c.mt.Active != "" && !dead && !c.d.Lossy
}

// planMove names the steps of a move. It is pure.
func planMove(mt org.Mount, d choose.Decision, live, ask bool) []command.Step {
	var steps []command.Step
	if live {
		steps = append(steps, command.Step{Name: "hand over", Detail: fmt.Sprintf("%s stops; %s confirms that it has everything", mt.Active, d.Target)})
	}
	detail := fmt.Sprintf("term %d, active on %s: %s", mt.Term+1, d.Target, d.Why)
	if d.Lossy {
		if ask {
			detail += "; Safety Net is asked for the mail that is missing"
		}
		detail += "; what is missing is delivered again when " + string(mt.Active) + " comes back"
	}
	for _, w := range d.Warnings {
		detail += "; warning: " + w
	}
	return append(steps,
		command.Step{Name: "change term", Detail: detail},
		command.Step{Name: "mount", Detail: string(d.Target)})
}

// carryOut does what was decided, step by step.
func (m *Manager) carryOut(ctx context.Context, o Order, c verdict, live bool) (command.Plan, error) {
	db, mt, d := c.def.Name, c.mt, c.d
	p := command.Plan{DryRun: o.DryRun, Steps: planMove(mt, d, live, m.deps.SafetyNet != nil)}
	if o.DryRun {
		return p, nil
	}
	step := 0
	if live {
		if target, _ := c.def.Copy(d.Target); target.ReplayLag > 0 {
			// Clients are served by the active copy while it replays what it has.
			if err := m.copies.CatchUp(ctx, db, d.Target); err != nil {
				p.Steps[0].Error = err.Error()
				return p, kind.WithHint(fmt.Errorf("move %s to %s: %w", db, d.Target, err), "nothing was changed; try again")
			}
		}
		hctx, cancel := context.WithTimeout(ctx, handoverWait)
		_, err := m.copies.Handover(hctx, db, mt.Active, d.Target)
		cancel()
		if err != nil {
			p.Steps[0].Error = err.Error()
			if !kind.Is(err, kind.Conflict) { // else it is somebody else's handover
				m.thaw(ctx, db, mt.Active)
			}
			m.figures.moved(c.q.Purpose, err)
			return p, kind.WithHint(fmt.Errorf("move %s to %s: %w", db, d.Target, err), "nothing was changed; try again")
		}
		p.Steps[0].Done = true
		step = 1
	} else if d.Lossy {
		c = m.gatherBefore(ctx, c)
	}
	err := m.changeTerm(ctx, c, live)
	m.figures.moved(c.q.Purpose, err)
	if err != nil {
		p.Steps[step].Error = err.Error()
		if live {
			m.thaw(ctx, db, mt.Active)
		}
		return p, fmt.Errorf("move %s to %s: %w", db, d.Target, err)
	}
	p.Steps[step].Done = true
	m.said.say(string(db), "%s: moved from %s to %s, term %d: %s", db, cmp.Or(mt.Active, "nobody"), d.Target, mt.Term+1, o.Why)
	m.deps.Events.Emit(evSwitchover, "%s moved from %s to %s: %s", db, cmp.Or(mt.Active, "nobody"), d.Target, o.Why)
	if err := m.awaitMounted(ctx, db, d.Target, mt.Term+1); err != nil {
		p.Steps[step+1].Error = err.Error()
		return p, err
	}
	p.Steps[step+1].Done = true
	return p, nil
}

// gatherBefore brings the target of a lossy move by hand what other live copies
// hold, as far as that succeeds.
func (m *Manager) gatherBefore(ctx context.Context, c verdict) verdict {
	from, _ := m.look(m.group.View()).longest(c.def, c.d.Target)
	if from == "" {
		return c
	}
	gctx, cancel := context.WithTimeout(ctx, gatherWait)
	defer cancel()
	end, err := m.copies.Gather(gctx, c.def.Name, c.d.Target, from)
	if err != nil {
		m.said.say("gather "+string(c.def.Name), "%s: the last log that %s holds could not be brought to %s: %v", c.def.Name, from, c.d.Target, err)
	}
	c.gathered = end
	return c
}

// thaw takes a handover back that came to nothing. Where it cannot, the active
// copy goes on by itself a little later.
func (m *Manager) thaw(ctx context.Context, db org.DatabaseName, active org.ServerName) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	if err := m.copies.Thaw(ctx, db, active); err != nil {
		m.deps.Log.Warn("take a handover back", "database", db, "err", err)
	}
}

// changeTerm writes the new row. The in-sync set may have changed since the
// decision, so the newest row of the term counts: a target that was chosen
// because it has everything and was taken out meanwhile is refused, and so is one
// that people, or plans, decided otherwise about.
func (m *Manager) changeTerm(ctx context.Context, c verdict, live bool) error {
	db := c.mt.Database
	for range 3 {
		if err := m.group.Sync(ctx); err != nil {
			return err
		}
		v := m.group.View()
		now, ok := v.Mount(db)
		if !ok || now.Term != c.mt.Term || now.Active != c.mt.Active {
			return kind.Errorf(kind.Conflict, "%s was moved by somebody else meanwhile", db)
		}
		if live && now.Thaws != c.mt.Thaws {
			return kind.Errorf(kind.Conflict, "%s serves %s again: it took the handover back", now.Active, db)
		}
		if c.d.Target != "" && !c.d.Lossy && !now.IsInSync(c.d.Target) {
			return kind.Errorf(kind.Conflict, "%s on %s is no longer in sync", db, c.d.Target)
		}
		n := c
		n.mt, n.handed, n.inSync = now, live, slices.Clone(now.InSync)
		if !live {
			n.inSync = m.keepInSync(now, c.d)
		}
		if why := m.barred(v, n); why != "" {
			return kind.Errorf(kind.Conflict, "%s is not activated on %s: %s", db, c.d.Target, why)
		}
		err := m.swap(ctx, v, n)
		if !kind.Is(err, kind.Conflict) {
			return err
		}
	}
	return kind.Errorf(kind.Conflict, "the rows of %s change all the time", db)
}

// awaitMounted waits until the target reports the database mounted.
func (m *Manager) awaitMounted(ctx context.Context, db org.DatabaseName, s org.ServerName, t org.Term) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if st, ok := m.status(s, db); ok && st.State == org.CopyMounted && st.Term >= t {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return kind.WithHint(kind.Errorf(kind.Busy, "%s is active on %s by the group's state, and has not reported so within 15 s", db, s), "postern copy status "+string(db))
		}
	}
}

// dismount takes a database offline; nothing is lost and no copy becomes active.
func (m *Manager) dismount(ctx context.Context, db org.DatabaseName, dry bool) (command.Plan, error) {
	p := command.Plan{DryRun: dry, Steps: []command.Step{{Name: "hand over", Detail: "to nobody"}, {Name: "change term", Detail: "no copy of " + string(db) + " is active"}}}
	v := m.group.View()
	mt, ok := v.Mount(db)
	if !ok {
		return p, kind.WithHint(kind.Errorf(kind.NotFound, "database %s does not exist", db), "postern database list")
	}
	if dry || mt.Active == "" && m.isDismounted(v, db) {
		return p, nil
	}
	if err := m.setDismounted(ctx, db, true); err != nil {
		return p, err
	}
	if mt.Active != "" {
		hctx, cancel := context.WithTimeout(ctx, handoverWait)
		defer cancel()
		if _, err := m.copies.Handover(hctx, db, mt.Active, ""); err != nil {
			return p, err
		}
	}
	p.Steps[0].Done = true
	err := m.changeTerm(ctx, verdict{mt: mt, why: "dismounted by an administrator"}, true)
	p.Steps[1].Done = err == nil
	return p, err
}

func (m *Manager) isDismounted(v *cluster.View, db org.DatabaseName) bool {
	def, _ := v.Database(db)
	return def.Dismounted
}

// mount lets Active Manager activate a copy of a dismounted database.
func (m *Manager) mount(ctx context.Context, db org.DatabaseName) error {
	return m.setDismounted(ctx, db, false)
}

func (m *Manager) setDismounted(ctx context.Context, db org.DatabaseName, on bool) error {
	return m.changeDatabase(ctx, db, func(def *org.Database) error {
		def.Dismounted = on
		return nil
	})
}

// changeDatabase changes the row of a database. Conflict: somebody else did at
// the same moment.
func (m *Manager) changeDatabase(ctx context.Context, db org.DatabaseName, change func(*org.Database) error) error {
	v := m.group.View()
	def, ok := v.Database(db)
	if !ok {
		return kind.WithHint(kind.Errorf(kind.NotFound, "database %s does not exist", db), "postern database list")
	}
	if err := change(&def); err != nil {
		return err
	}
	b, err := json.Marshal(def)
	if err != nil {
		return err
	}
	key := mailbox.DatabaseKey(db)
	_, err = m.group.Commit(ctx, cluster.Txn{If: []cluster.Cond{{Key: key, Revision: v.DatabaseRevision(db)}}, Then: []cluster.Op{{Key: key, Value: b}}})
	return err
}
