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

// order is a switchover as asked for.
type order struct {
	db      org.DatabaseName
	to      org.ServerName
	dial    org.MountDial
	why     string
	purpose choose.Purpose
	dry     bool
}

// move is a switchover: the active copy stops, the target has everything, the
// term changes, clients go on there. Where the active copy is gone it is a
// failover by hand.
func (m *Manager) move(ctx context.Context, o order) (command.Plan, error) {
	p := command.Plan{DryRun: o.dry}
	if err := m.group.Sync(ctx); err != nil {
		return p, err
	}
	v := m.group.View()
	def, ok := v.Database(o.db)
	mt, mounted := v.Mount(o.db)
	if !ok || !mounted {
		return p, kind.WithHint(kind.Errorf(kind.NotFound, "database %s does not exist", o.db), "postern database list")
	}
	if o.to != "" && mt.Active == o.to {
		return p, kind.Errorf(kind.Conflict, "%s is active on %s already", o.db, o.to)
	}
	if o.to != "" {
		if _, ok := def.Copy(o.to); !ok {
			return p, kind.WithHint(kind.Errorf(kind.NotFound, "%s has no copy on %s", o.db, o.to), fmt.Sprintf("postern copy add %s %s", o.db, o.to))
		}
	}
	q := m.question(v, def, mt, o.purpose)
	q.To, q.Dial = o.to, o.dial
	d := choose.Choose(q)
	if d.Target == "" {
		return p, kind.WithHint(kind.Errorf(kind.Conflict, "%s stays on %s: %s", o.db, cmp.Or(mt.Active, "nobody"), d), "postern copy status "+string(o.db))
	}
	_, dead := m.group.Dead(mt.Active)
	live := mt.Active != "" && !dead && !d.Lossy
	p.Steps = planMove(mt, d, live, m.deps.SafetyNet != nil)
	if o.dry {
		return p, nil
	}
	return m.carryOut(ctx, o, p, mt, d, live)
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
	return append(steps,
		command.Step{Name: "change term", Detail: detail},
		command.Step{Name: "mount", Detail: string(d.Target)})
}

func (m *Manager) carryOut(ctx context.Context, o order, p command.Plan, mt org.Mount, d choose.Decision, live bool) (command.Plan, error) {
	step := 0
	if live {
		hctx, cancel := context.WithTimeout(ctx, handoverWait)
		_, err := m.copies.Handover(hctx, o.db, mt.Active, d.Target)
		cancel()
		if err != nil {
			p.Steps[0].Error = err.Error()
			if !kind.Is(err, kind.Conflict) { // else it is somebody else's handover
				m.thaw(ctx, o.db, mt.Active)
			}
			return p, kind.WithHint(fmt.Errorf("move %s to %s: %w", o.db, d.Target, err), "nothing was changed; try again")
		}
		p.Steps[0].Done = true
		step = 1
	}
	err := m.changeTerm(ctx, o, mt, d, live)
	if err != nil {
		p.Steps[step].Error = err.Error()
		if live {
			m.thaw(ctx, o.db, mt.Active)
		}
		return p, fmt.Errorf("move %s to %s: %w", o.db, d.Target, err)
	}
	p.Steps[step].Done = true
	m.said.say(string(o.db), "%s: moved from %s to %s, term %d: %s", o.db, cmp.Or(mt.Active, "nobody"), d.Target, mt.Term+1, o.why)
	m.deps.Events.Emit(evSwitchover, "%s moved from %s to %s: %s", o.db, cmp.Or(mt.Active, "nobody"), d.Target, o.why)
	if err := m.awaitMounted(ctx, o.db, d.Target, mt.Term+1); err != nil {
		p.Steps[step+1].Error = err.Error()
		return p, err
	}
	p.Steps[step+1].Done = true
	return p, nil
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

// changeTerm writes the new row. The active copy may have changed its in-sync
// set before it stopped, so the newest row of its term counts.
func (m *Manager) changeTerm(ctx context.Context, o order, mt org.Mount, d choose.Decision, live bool) error {
	for range 3 {
		if err := m.group.Sync(ctx); err != nil {
			return err
		}
		now, ok := m.group.View().Mount(o.db)
		if !ok || now.Term != mt.Term || now.Active != mt.Active {
			return kind.Errorf(kind.Conflict, "%s was moved by somebody else meanwhile", o.db)
		}
		inSync := slices.Clone(now.InSync)
		if !live {
			inSync = m.keepInSync(now, d)
		} else if d.Target != "" && !now.IsInSync(d.Target) {
			return kind.Errorf(kind.Conflict, "%s on %s is no longer in sync", o.db, d.Target)
		}
		err := m.swap(ctx, now, d, o.why, live, inSync)
		if !kind.Is(err, kind.Conflict) {
			return err
		}
	}
	return kind.Errorf(kind.Conflict, "the mount row of %s changes all the time", o.db)
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
	err := m.changeTerm(ctx, order{db: db, why: "dismounted by an administrator"}, mt, choose.Decision{}, true)
	p.Steps[1].Done = err == nil
	return p, err
}

func (m *Manager) isDismounted(v *cluster.View, db org.DatabaseName) bool {
	def, _ := v.Database(db)
	return def.Dismounted
}

// mount lets Active Manager activate a copy of a dismounted database.
func (m *Manager) mount(ctx context.Context, db org.DatabaseName) error {
	if _, ok := m.group.View().Database(db); !ok {
		return kind.WithHint(kind.Errorf(kind.NotFound, "database %s does not exist", db), "postern database list")
	}
	return m.setDismounted(ctx, db, false)
}

func (m *Manager) setDismounted(ctx context.Context, db org.DatabaseName, on bool) error {
	v := m.group.View()
	def, _ := v.Database(db)
	def.Dismounted = on
	b, err := json.Marshal(def)
	if err != nil {
		return err
	}
	key := mailbox.DatabaseKey(db)
	_, err = m.group.Commit(ctx, cluster.Txn{If: []cluster.Cond{{Key: key, Revision: v.DatabaseRevision(db)}}, Then: []cluster.Op{{Key: key, Value: b}}})
	return err
}

// rebalanceSometimes moves databases back to their preferred servers, not
// more often than the settings say.
func (m *Manager) rebalanceSometimes(ctx context.Context, v *cluster.View) {
	if m.cfg.PreferenceMoveFrequency < 0 {
		return
	}
	m.mu.Lock()
	due := !m.balanced.IsZero() && time.Since(m.balanced) >= m.cfg.PreferenceMoveFrequency
	if due || m.balanced.IsZero() {
		m.balanced = time.Now()
	}
	m.mu.Unlock()
	if !due {
		return
	}
	// Beside the loop: a move may wait for its target, a failover must not.
	if !m.balancing.TryLock() {
		return
	}
	go func() {
		defer m.balancing.Unlock()
		m.rebalanceNow(ctx, v)
	}()
}

func (m *Manager) rebalanceNow(ctx context.Context, v *cluster.View) {
	for _, o := range m.unbalanced(v) {
		if !m.mayMoveAgain(o.db) {
			continue
		}
		if _, err := m.move(ctx, o); err != nil {
			m.said.say("rebalance "+string(o.db), "%s was not moved back to %s: %v", o.db, o.to, err)
			continue
		}
		m.noteMove(o.db)
	}
}

// unbalanced lists the moves that would bring each database to its most
// preferred copy that is healthy and in sync.
func (m *Manager) unbalanced(v *cluster.View) []order {
	var out []order
	for _, def := range v.Databases() {
		mt, ok := v.Mount(def.Name)
		if !ok || mt.Active == "" {
			continue
		}
		active, _ := def.Copy(mt.Active)
		best := active
		for _, c := range def.Copies {
			st, known := m.status(c.Server, def.Name)
			if known && st.State == org.CopyHealthy && mt.IsInSync(c.Server) && !c.ActivationSuspended && c.Preference < best.Preference {
				best = c
			}
		}
		if best.Server != mt.Active {
			out = append(out, order{db: def.Name, to: best.Server, why: "back to its preferred server", purpose: choose.Rebalance})
		}
	}
	return out
}
