package active

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/active/choose"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

// swapTogether is how many databases change their active copy in one
// transaction.
const swapTogether = 32

// verdict is a decision on its way into the agreed state.
type verdict struct {
	def    org.Database
	mt     org.Mount // as it was decided about
	q      choose.Question
	d      choose.Decision
	why    string
	auto   bool // nobody ordered it
	handed bool // the active copy stopped before
	inSync []org.ServerName
	began  time.Time
	// gathered is where the target's log ends after it was brought what other
	// copies held, zero where that was not done.
	gathered org.LSN
}

// decide looks at every database once, and decides about all that need another
// active copy in one pass.
func (m *Manager) decide(ctx context.Context) {
	v := m.group.View()
	sc := m.look(v)
	began := time.Now()
	calm := 0
	var all []verdict
	var qs []choose.Question
	for _, def := range v.Databases() {
		mt, ok := v.Mount(def.Name)
		if !ok {
			continue
		}
		why := m.needsMount(sc, def, mt)
		if why == "" {
			m.settleLossy(ctx, mt)
			calm++
			continue
		}
		if m.watch.isBusy(def.Name) {
			continue
		}
		q := sc.question(def, mt, choose.Failover)
		all, qs = append(all, verdict{def: def, mt: mt, q: q, why: why, auto: true, began: began}), append(qs, q)
	}
	for i, d := range choose.ChooseAll(qs, sc.active) {
		all[i].d = d
	}
	m.failover(ctx, sc, all)
	if n := len(v.Databases()); n > 0 && calm == n {
		m.said.say("calm", "no action: %d databases are active where they should be", n)
	}
	m.settleMoves(ctx, sc)
	m.rebalanceSometimes(ctx, v)
}

// needsMount says why a database needs another active copy, empty when it
// does not.
func (m *Manager) needsMount(sc *scene, def org.Database, mt org.Mount) string {
	if mt.Active == "" {
		if def.Dismounted {
			return ""
		}
		return "it is not mounted"
	}
	k := sc.server(mt.Active)
	if k.dead != "" {
		m.watch.forget(def.Name)
		return k.dead
	}
	st, ok := k.copies[def.Name]
	if ok && st.Term == mt.Term && (st.State == org.CopyFailed || st.State == org.CopyFailedAndSuspended) {
		m.watch.forget(def.Name)
		return fmt.Sprintf("the copy on %s is %s: %s", mt.Active, st.State, st.Reason)
	}
	if !k.fresh { // it may have mounted long ago, for all that is known here
		m.watch.forget(def.Name)
		return ""
	}
	if late := m.watch.late(mt, st, sc.now); late > 0 && sc.mayReplace(def, mt) {
		return fmt.Sprintf("%s has not mounted it within %s", mt.Active, late.Round(time.Second))
	}
	return ""
}

// mayReplace tells whether a copy that takes long to mount has another beside it
// that holds everything and is ready.
func (sc *scene) mayReplace(def org.Database, mt org.Mount) bool {
	d := choose.Choose(sc.question(def, mt, choose.Failover))
	return d.Target != "" && !d.Lossy && d.Round <= 10
}

// failover carries out what was decided about databases whose active copies are
// gone: those that lose nothing at once and together, each of the others when
// its target has what other copies hold.
func (m *Manager) failover(ctx context.Context, sc *scene, all []verdict) {
	var ready []verdict
	for _, c := range all {
		if c.d.Target == "" {
			m.noTarget(ctx, sc, c)
			continue
		}
		c.inSync = m.keepInSync(c.mt, c.d)
		if from, _ := sc.longest(c.def, c.d.Target); c.d.Lossy && from != "" {
			if m.watch.busy(c.def.Name) {
				m.beside.Go(func() { m.gatherFirst(ctx, c, from) })
			}
			continue
		}
		ready = append(ready, c)
	}
	if len(ready) > 0 {
		defer m.figures.decided(ready[0].began)
	}
	for part := range slices.Chunk(ready, swapTogether) {
		err := m.swap(ctx, sc.v, part...)
		if kind.Is(err, kind.Conflict) && len(part) > 1 {
			for _, c := range part { // somebody else's hands are on one of them
				m.saidFailover(c, m.swap(ctx, sc.v, c))
			}
			m.said.publish()
			continue
		}
		for _, c := range part {
			m.saidFailover(c, err)
		}
		m.said.publish()
		if err != nil && !kind.Is(err, kind.Conflict) {
			return // the agreed state does not answer; the next turn asks again
		}
	}
}

// saidFailover notes what became of a failover; many are published together.
func (m *Manager) saidFailover(c verdict, err error) {
	m.figures.moved(c.q.Purpose, err)
	if err != nil {
		m.said.note(string(c.def.Name), fmt.Sprintf("%s: %s; %s; not done: %v", c.def.Name, c.why, c.d, err))
		return
	}
	m.said.note(string(c.def.Name), fmt.Sprintf("%s: %s; %s; decided in %s", c.def.Name, c.why, c.d, time.Since(c.began).Round(time.Millisecond)))
	m.deps.Events.Emit(evFailover, "%s fails over from %s to %s: %s", c.def.Name, cmp.Or(c.mt.Active, "nobody"), c.d.Target, c.why)
}

// noTarget puts on record that no copy of a database can be activated, when
// that is news and not more than once a minute.
func (m *Manager) noTarget(ctx context.Context, sc *scene, c verdict) {
	m.said.say(string(c.def.Name), "%s: %s; %s", c.def.Name, c.why, c.d)
	if !m.watch.mayTellAgain(c.def.Name, sc.now) {
		return
	}
	e := Explained{At: sc.now.UTC(), By: m.me, Why: c.why, Question: c.q, Decision: c.d}
	if old := decisionsOf(sc.v, c.def.Name); len(old) > 0 && e.same(old[len(old)-1]) {
		return
	}
	m.deps.Events.Emit(evNoTarget, "%s: %s; %s", c.def.Name, c.why, c.d)
	op, number, err := m.explainedOp(sc.v, e)
	if err == nil {
		r := m.entryOf(c, fmt.Sprintf("%s-%d", c.def.Name, number), e.At)
		r.Allowed, r.Refused = false, "no copy could be activated"
		var entry cluster.Op
		if entry, err = entryOp(r); err == nil {
			ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
			defer cancel()
			_, err = m.group.Commit(ctx, cluster.Txn{Then: []cluster.Op{op, entry}})
		}
	}
	if err != nil {
		m.deps.Log.Warn("keep a decision", "database", c.def.Name, "err", err)
	}
}

// gatherWait bounds how long a lossy mount waits for what other copies hold.
const gatherWait = 5 * time.Second

// gatherFirst brings the target of a lossy mount what another live copy holds
// beyond it (Exchange: attempt copy last logs), and mounts what is then to be
// mounted.
func (m *Manager) gatherFirst(ctx context.Context, c verdict, from org.ServerName) {
	defer m.watch.idle(c.def.Name)
	gctx, cancel := context.WithTimeout(ctx, gatherWait)
	end, err := m.copies.Gather(gctx, c.def.Name, c.d.Target, from)
	cancel()
	if err != nil {
		m.said.say("gather "+string(c.def.Name), "%s: the last log that %s holds could not be brought to %s: %v", c.def.Name, from, c.d.Target, err)
	}
	if end > 0 {
		c.gathered = end
		sc := m.look(m.group.View())
		for i := range c.q.Candidates {
			if cand := &c.q.Candidates[i]; cand.Server == c.d.Target {
				cand.Missing = org.Generations(end, sc.newest(c.def))
			}
		}
		was := c.d.Target
		if c.d = choose.Choose(c.q); c.d.Target != was {
			c.gathered = 0
		}
	}
	if c.d.Target == "" {
		return
	}
	c.inSync = m.keepInSync(c.mt, c.d)
	v := m.group.View()
	if why := m.barred(v, c); why != "" { // the next turn decides anew
		m.saidFailover(c, kind.Errorf(kind.Conflict, "%s meanwhile: %s", c.d.Target, why))
		return
	}
	m.saidFailover(c, m.swap(ctx, v, c))
	m.said.publish()
}

// keepInSync is the in-sync set of the next term: of the old one, the servers that live.
// A lossy mount begins with its target alone, as nothing is known of the rest.
func (m *Manager) keepInSync(mt org.Mount, d choose.Decision) []org.ServerName {
	if d.Lossy {
		return []org.ServerName{d.Target}
	}
	return slices.DeleteFunc(slices.Clone(mt.InSync), func(s org.ServerName) bool {
		_, dead := m.group.Dead(s)
		return s != d.Target && (dead || s == mt.Active)
	})
}

// barred says why a target may not be activated by what people, or plans,
// decided, empty where it may: the choice may be some seconds older than v.
func (m *Manager) barred(v *cluster.View, c verdict) string {
	if c.d.Target == "" {
		return ""
	}
	def, _ := v.Database(c.mt.Database)
	is, ok := def.Copy(c.d.Target)
	was, _ := c.def.Copy(c.d.Target)
	switch {
	case !ok:
		return "it has no copy any more"
	case c.d.Lossy && (is.SeedCount != was.SeedCount || is.Volume != was.Volume):
		return "its copy is made anew" // one in sync leaves the set for that
	}
	return c.q.Barred(m.look(v).candidate(def, c.mt, is, 0))
}

// grounds are the rows in v by which a server may be given databases: whoever
// takes it out of service changes one of them.
func grounds(v *cluster.View, s org.ServerName) []cluster.Cond {
	row, _ := v.Server(s)
	keys := []string{org.SitePrefix + string(row.Site)}
	for _, r := range org.Requesters() {
		keys = append(keys, org.ComponentKey(s, org.HighAvailability, r), org.ComponentKey(s, org.ServerOffline, r))
	}
	var out []cluster.Cond
	for _, k := range keys {
		it, _ := v.Get(k)
		out = append(out, cluster.Cond{Key: k, Revision: it.Revision})
	}
	return out
}

// swap writes the mount rows of the next terms, with what explains them, if
// every mount row is still as it was decided about, and in view v the databases,
// and what permits their targets to have them.
func (m *Manager) swap(ctx context.Context, v *cluster.View, cs ...verdict) error {
	var t cluster.Txn
	looked := map[org.ServerName]bool{"": true}
	for _, c := range cs {
		ops, err := m.opsOf(v, c)
		if err != nil {
			return err
		}
		t.If = append(t.If, cluster.Cond{Key: mailbox.MountKey(c.mt.Database), Revision: c.mt.Revision})
		if c.d.Target != "" {
			t.If = append(t.If, cluster.Cond{Key: mailbox.DatabaseKey(c.mt.Database), Revision: v.DatabaseRevision(c.mt.Database)})
		}
		if !looked[c.d.Target] {
			looked[c.d.Target] = true
			t.If = append(t.If, grounds(v, c.d.Target)...)
		}
		t.Then = append(t.Then, ops...)
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	_, err := m.group.Commit(ctx, t)
	return err
}

// opsOf are the rows of one change: the mount, the decision, the history and,
// for a lossy mount, what asks for the mail that is missing.
func (m *Manager) opsOf(v *cluster.View, c verdict) ([]cluster.Op, error) {
	mt := c.mt
	n, now := mt, time.Now().UTC()
	n.Term, n.Active, n.InSync = mt.Term+1, c.d.Target, c.inSync
	n.Handed, n.Since, n.Why = c.handed, now, c.why
	var ask []cluster.Op
	if c.d.Lossy {
		n.AloneSince = nil
		n.Lossy, ask = m.lossy(mt, c.d.Target, c.gathered)
	} else if len(c.inSync) > 1 {
		n.AloneSince = nil
	}
	b, err := json.Marshal(n)
	if err != nil {
		return nil, err
	}
	ops := append([]cluster.Op{{Key: mailbox.MountKey(mt.Database), Value: b}}, ask...)
	if c.d.Target == "" {
		return ops, nil // dismounted
	}
	e := Explained{At: now, By: m.me, Why: c.why, Term: n.Term, Question: c.q, Decision: c.d}
	op, number, err := m.explainedOp(v, e)
	if err != nil {
		return nil, err
	}
	past, _ := historyOf(v, mt.Database)
	mv := Moved{At: now, From: mt.Active, To: c.d.Target, Purpose: c.q.Purpose, Term: n.Term, Decision: number}
	if last := past.open(); last != nil {
		ops = append(ops, closed(v, last.Recovery, leftBefore, now)...)
	}
	if c.auto {
		e.Number = number
		r := m.entryOf(c, e.ID(), now)
		if n.Lossy != nil && c.d.Lossy {
			r.Evidence = append(r.Evidence[:min(len(r.Evidence), 9)], org.RecoveryEvidence{At: now, Item: byManager, Target: string(n.Lossy.Former), Result: "lossy",
				Text: fmt.Sprintf("it may have held more than position %d; Safety Net is asked: %s", n.Lossy.From, cmp.Or(n.Lossy.Request, "nobody"))})
		}
		entry, err := entryOp(r)
		if err != nil {
			return nil, err
		}
		mv.Recovery = r.ID
		ops = append(ops, entry)
	}
	failed := ""
	if c.q.Purpose == choose.Failover {
		failed = c.why
	}
	b, err = json.Marshal(past.add(mv, failed))
	return append(ops, op, cluster.Op{Key: movesPrefix + string(mt.Database), Value: b}), err
}

// newest is the end of the log of a database as far as anybody told.
func (sc *scene) newest(def org.Database) org.LSN {
	var newest org.LSN
	for _, c := range def.Copies {
		if st, ok := sc.server(c.Server).copies[def.Name]; ok {
			newest = max(newest, st.Generated, st.Copied)
		}
	}
	return newest
}
