package active

import (
	"cmp"
	"context"
	"crypto"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/active/choose"
	"github.com/postern-mail/postern/internal/active/drill"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

// Me is this server; it implements drill.World, as do the methods below.
func (w *works) Me() org.ServerName { return w.m.me }

// MoveTo moves a database without loss.
func (w *works) MoveTo(ctx context.Context, db org.DatabaseName, to org.ServerName, why string) error {
	_, err := w.m.Move(ctx, Order{Database: db, To: to, Why: why, Purpose: choose.Switchover})
	return err
}

// Red are the critical health sets that are not well.
func (w *works) Red() []string {
	var out []string
	for _, s := range w.m.group.View().Servers() {
		h, ok := w.Health(s.Name)
		if !ok {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(h.Sets)) {
			if set := h.Sets[name]; set.Priority == org.PriorityCritical && set.State.Red() {
				out = append(out, fmt.Sprintf("%s on %s is %s: %s", name, s.Name, set.State, set.Worst))
			}
		}
	}
	return out
}

// Identity is what reports are signed with.
func (w *works) Identity() (certificate []byte, key crypto.Signer) {
	return w.m.deps.Plans.Identity()
}

// Mail are the mailboxes.
func (w *works) Mail() drill.Mail { return w.m.deps.Plans.Store }

// HealthMailbox is that of a database.
func (w *works) HealthMailbox(ctx context.Context, db org.DatabaseName) (org.MailboxRef, error) {
	return w.m.deps.Plans.HealthMailbox(ctx, db)
}

// Recover brings mail of the past back.
func (w *works) Recover(ctx context.Context, r mailbox.Recovery) ([]mailbox.Recovered, error) {
	return w.m.deps.Plans.Keeper.Recover(ctx, r)
}

// Verify compares a copy with the others.
func (w *works) Verify(ctx context.Context, db org.DatabaseName, s org.ServerName) (string, error) {
	all, err := w.m.deps.Plans.Keeper.Verify(ctx, db, false)
	for _, v := range all {
		if v.Server != s || err != nil {
			continue
		}
		if v.Compared() {
			return fmt.Sprintf("%s on %s is %s at position %d: %d keys, digest %.16s", db, s, v.Result, v.Position, v.Keys, v.Digest), nil
		}
		return "", kind.Errorf(kind.Corrupt, "%s on %s: %s", db, s, v.Result)
	}
	if err == nil {
		err = kind.Errorf(kind.Busy, "%s on %s was not compared", db, s)
	}
	return "", err
}

// means are what there is for an exercise.
func (w *works) means(ctx context.Context, o drill.Order) (m drill.Means) {
	d := w.m.deps.Plans
	switch o.Exercise {
	case drill.Restore:
		m.Past = d.Keeper.KeepsPast(ctx, o.Database)
	case drill.ReseedSpare:
		def, _ := w.View().Database(o.Database)
		c, _ := def.Copy(o.Server)
		m.Volume = c.Volume
		for _, s := range d.Keeper.SparesFor(ctx, o.Server, o.Database) {
			m.Spares = append(m.Spares, drill.Spare(s))
		}
	case drill.Network:
		for _, n := range d.Networks() {
			m.Networks = append(m.Networks, drill.Way{Name: n.Name, Role: n.Role, Works: n.Works(), State: string(n.State)})
		}
	}
	return m
}

// meters are the clients of this server that measure a drill.
type meters struct {
	m      *Manager
	drill  string
	stop   context.CancelFunc
	ending sync.WaitGroup
}

// measurePause is how often a server looks whether it has to measure.
const measurePause = time.Second

// RunDrills measures, while a drill asks this server to, and begins those that
// are scheduled, until ctx ends.
func (m *Manager) RunDrills(ctx context.Context) error {
	if m.deps.Plans.Store == nil {
		<-ctx.Done() // a witness has no mailboxes
		return nil
	}
	run := &meters{m: m}
	defer run.ending.Wait()
	defer func() { run.end() }()
	tick := time.NewTicker(measurePause)
	defer tick.Stop()
	var looked time.Time
	for {
		changed := m.group.Changed()
		run.look(ctx)
		if time.Since(looked) >= scheduleEvery {
			looked = time.Now()
			m.strays(ctx)
			m.schedules(ctx, looked)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-changed:
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(100 * time.Millisecond): // whatever changes, not more often
			}
		}
	}
}

// look begins or ends measuring, as the running plan wants it.
func (x *meters) look(ctx context.Context) {
	p, ok := x.m.works.engine.Running()
	o, measuring := drill.Measuring(p)
	measuring = ok && measuring && slices.Contains(o.Meters, x.m.me)
	if x.drill != "" && (!measuring || p.ID != x.drill) {
		x.end()
	}
	if !measuring || x.drill == p.ID {
		return
	}
	x.drill = p.ID
	inner, cancel := context.WithCancel(ctx)
	x.stop = cancel
	for _, db := range o.Databases {
		x.ending.Go(func() { x.measure(inner, p.ID, db, o.Allowed) })
	}
}

func (x *meters) end() {
	if x.stop != nil {
		x.stop()
	}
	x.drill, x.stop = "", nil
}

// measure is one client: it tells that it begins, measures, and tells what it
// found.
func (x *meters) measure(ctx context.Context, id string, db org.DatabaseName, allowed time.Duration) {
	m := &drill.Meter{Store: x.m.deps.Plans.Store, Server: x.m.me, Database: db, Drill: id, Limit: 2 * allowed,
		Over: func(d time.Duration) {
			by := fmt.Sprintf("%s: %s cannot be used for %s", x.m.me, db, d.Round(time.Millisecond))
			if err := x.m.works.engine.Abort(ctx, id, by); err != nil {
				x.m.deps.Log.Warn("end a drill", "plan", id, "err", err)
			}
		}}
	for {
		begin, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := m.Begin(begin)
		cancel()
		if err == nil {
			err = x.write(ctx, id, drill.Measure{Server: x.m.me, Database: db, Begun: time.Now().UTC()})
		}
		if err == nil {
			break
		}
		x.m.deps.Log.Warn("measure a drill", "plan", id, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
	got := m.Run(ctx)
	if p, err := x.m.works.engine.Get(id); err != nil || p.State.Ended() {
		return // nobody asks any more
	}
	for range 5 {
		if x.write(context.WithoutCancel(ctx), id, got) == nil {
			return
		}
	}
}

func (x *meters) write(ctx context.Context, id string, m drill.Measure) error {
	op, err := drill.MeasureOp(id, m)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err = x.m.group.Commit(ctx, cluster.Txn{Then: []cluster.Op{op}})
	return err
}

// drillPlan is the plan of a drill, refused where it may not begin.
func (m *Manager) drillPlan(ctx context.Context, o drill.Order) (org.Plan, error) {
	f := m.works.maintain.Facts(ctx)
	o, err := drill.Complete(f, o)
	if err != nil {
		return org.Plan{}, err
	}
	if m.deps.Plans.Keeper == nil {
		return org.Plan{}, kind.WithHint(kind.Errorf(kind.Invalid, "this server has no mailboxes"), "ask a mail server of the group")
	}
	o, no := drill.Equip(o, m.works.means(ctx, o))
	if err := refused(append(no, drill.Judge(f, o, m.works.Red())...)); err != nil {
		return org.Plan{}, err
	}
	if def, ok := m.group.View().Database(o.Database); ok && o.Exercise == drill.Reseed {
		c, _ := def.Copy(o.Server)
		o.Seed = c.SeedCount + 1
	}
	o.Before = drill.Rows(m.group.View())
	o.Why = cmp.Or(o.Why, "a drill")
	return drill.Plan(o, m.works.maintain.Times)
}
