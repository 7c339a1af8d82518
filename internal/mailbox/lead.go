package mailbox

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mailbox/store"
	"github.com/postern-mail/postern/internal/org"
)

// Limits of a leading copy.
const (
	maxBuilding = 8 << 20  // bytes of one write
	maxInflight = 64 << 20 // bytes sequenced and not yet applied
)

// pending is a request that waits for its record to be confirmed and applied.
type pending struct {
	end     org.LSN
	changed []store.Change
	done    chan error // buffered
}

// leader is a copy in the leading role for one term: it orders changes,
// writes them, ships them, and confirms them when every member of the in-sync
// set has them.
type leader struct {
	c     *dbCopy
	term  org.Term
	start time.Time // for echo times on this process's own clock

	// seqMu orders the log: it guards planner, next and frozen. It is taken
	// before mu.
	seqMu   sync.Mutex
	planner *store.Planner
	next    journal.Position // where the next record goes
	frozen  bool             // handing over: nothing new is sequenced

	look chan struct{} // buffered: the in-sync set is to be looked at

	mu      sync.Mutex // guards the rest
	changed chan struct{}
	build   piece   // the write that is being gathered
	local   org.LSN // durable here
	begun   org.LSN // end of the log when the term began: all before it may have been confirmed
	commit  org.LSN
	applied org.LSN
	waiting []*pending // in order of end
	crowd   int        // how many requests the next write is worth waiting for
	mount   org.Mount
	members map[org.ServerName]*member
	lines   map[org.ServerName]int // number of the newest connection
	conns   map[org.ServerName]io.Closer
	alone   bool        // may confirm with no other member
	held    string      // why nothing is confirmed, for the status
	ready   bool        // own term's first record is applied
	paused  bool        // as frozen, for those who wait
	noReads bool        // handed over
	stopped time.Time   // when a handover began, zero for none
	ended   error       // set when the role is over
	fail    func(error) // ends the role
}

// leadTerm plays the leading role until ctx ends or the term is lost.
func (c *dbCopy) leadTerm(ctx context.Context, term org.Term) error {
	c.mu.Lock()
	m := c.mount
	c.mu.Unlock()
	if m.Term != term || m.Active != c.k.me {
		return nil
	}
	c.begin(org.CopyMounting, "")
	if c.jn.End().Term >= term {
		// This copy led the term before its process ended. What it had sent
		// and not yet written may stand in other logs, so it begins a new one.
		const why = "the active copy's process started again"
		err := c.k.casMount(ctx, m, func(n *org.Mount) {
			n.Term, n.Handed, n.Since, n.Why = term+1, true, time.Now(), why
		})
		if err == nil {
			c.k.note(org.Note{Action: actAgain, Target: string(c.k.me), Responder: "Store", Cause: why,
				Evidence: proof("Store", c.name, "restarted", "its log is of term %d, which it led before", term), Result: fmt.Sprintf("%s: mounted here again in term %d", c.name, term+1)})
		}
		return err
	}
	if c.jn.End().LSN == 0 && (term > 1 || m.Begun) {
		// Empty is never fine (faults P24, P25): this database has been
		// written to, so its log was here and is gone.
		c.fail(org.CopyFailedAndSuspended, kind.Errorf(kind.Corrupt, "the log is missing"))
		<-ctx.Done()
		return nil
	}
	if err := c.awaitLease(ctx, m); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l := newLeader(c, m, cancel)
	c.setLead(l)
	err := l.run(ctx)
	c.setState(org.CopyDismounting, "")
	c.setLead(nil)
	l.end(kind.Errorf(kind.Elsewhere, "%s: term %d ended here", c.name, term))
	c.hub.pingAll()
	if l.isReady() {
		c.k.deps.Events.Emit(evStepped, "%s is no longer active on %s (term %d): %v", c.name, c.k.me, term, context.Cause(ctx))
	}
	return err
}

// awaitLease waits until a former active copy can no longer answer reads by the
// lease this copy gave it.
func (c *dbCopy) awaitLease(ctx context.Context, m org.Mount) error {
	for {
		c.mu.Lock()
		wait, to := time.Until(c.promised.Add(c.k.cfg.Lease)), c.promisee
		c.mu.Unlock()
		if wait <= 0 || m.Handed || to == c.k.me || to == "" || c.k.processGone(to) {
			return nil
		}
		if !sleep(ctx, min(wait, 20*time.Millisecond)) {
			return ctx.Err()
		}
	}
}

func newLeader(c *dbCopy, m org.Mount, fail func(error)) *leader {
	end := c.jn.End()
	l := &leader{
		c: c, term: m.Term, start: time.Now(), planner: store.NewPlanner(c.index(), c.k.cfg.DuplicateWindow), next: end,
		look: make(chan struct{}, 1), changed: make(chan struct{}), local: end.LSN, applied: c.index().Applied().LSN, begun: end.LSN,
		commit: max(c.index().Applied().LSN, min(c.commitEnd(), end.LSN)),
		build:  piece{from: end, to: end}, mount: m,
		members: map[org.ServerName]*member{}, lines: map[org.ServerName]int{}, conns: map[org.ServerName]io.Closer{}, fail: fail,
	}
	c.mu.Lock()
	def := c.def
	c.mu.Unlock()
	l.setCopies(def)
	return l
}

// setCopies makes a member of every other copy of the database, in sync as the mount says.
func (l *leader) setCopies(def org.Database) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, cp := range def.Copies {
		if cp.Server == l.c.k.me {
			continue
		}
		m := l.members[cp.Server]
		if m == nil {
			// A copy has the whole grace time to connect to a new leader.
			m = &member{server: cp.Server, lostAt: time.Now().Add(l.c.k.cfg.Grace - l.c.k.cfg.LostGrace)}
			l.members[cp.Server] = m
			// A stream that began before this was seen counts for nobody: it
			// ends at its next acknowledgement, and the copy connects again.
			l.lines[cp.Server]++
		}
		m.inSync = l.mount.IsInSync(cp.Server)
	}
	for s, m := range l.members {
		if _, ok := def.Copy(s); ok {
			continue
		}
		// A copy that was removed is waited for until the row no longer
		// names it.
		if m.short = m.inSync || m.joining; !m.short {
			delete(l.members, s)
		}
	}
}

// bump tells everybody who waits that something moved. l.mu is held.
func (l *leader) bump() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// run writes the term's first record and works until the role ends.
func (l *leader) run(ctx context.Context) error {
	if l.mount.Lossy != nil {
		l.c.k.deps.Events.Emit(evLossyMount, "%s was mounted on %s although %s may have held more than position %d", l.c.name, l.c.k.me, l.mount.Lossy.Former, l.mount.Lossy.From)
	}
	if !l.mount.Begun {
		if err := l.cas(ctx, func(m *org.Mount) { m.Begun = true }); err != nil {
			return err
		}
	}
	row := l.mount // as the term begins; from here on others change it
	l.seqMu.Lock()
	first := l.appendLocked(journal.KindTermStart, nil, nil)
	l.seqMu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { l.writeLoop(ctx) })
	wg.Go(func() { l.applyLoop(ctx) })
	wg.Go(func() { l.memberLoop(ctx) })
	defer wg.Wait()
	if err := l.wait(ctx, func() bool { return l.applied >= first }); err != nil {
		return err
	}
	if row.Lossy != nil {
		if err := l.skipNumbers(ctx); err != nil {
			return err
		}
	}
	l.mu.Lock()
	l.ready = true
	l.bump()
	took := time.Since(l.start)
	l.mu.Unlock()
	l.c.setState(org.CopyMounted, "")
	l.c.hub.pingAll()
	l.c.k.deps.Events.Emit(evMounted, "%s is active on %s, term %d, %s after the mount began: %s", l.c.name, l.c.k.me, l.term, took.Round(time.Millisecond), row.Why)
	<-ctx.Done()
	return context.Cause(ctx)
}

// end answers everybody who still waits.
func (l *leader) end(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = err
	for _, p := range l.waiting {
		p.done <- err
	}
	l.waiting = nil
	l.bump()
}

func (l *leader) isReady() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ready
}

// wait blocks until ok, called with l.mu held, is true.
func (l *leader) wait(ctx context.Context, ok func() bool) error {
	for {
		l.mu.Lock()
		if l.ended != nil {
			defer l.mu.Unlock()
			return l.ended
		}
		if ok() {
			l.mu.Unlock()
			return nil
		}
		ch := l.changed
		l.mu.Unlock()
		select {
		case <-ch:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// appendLocked sequences one record and returns where it ends. l.seqMu is held.
func (l *leader) appendLocked(k journal.Kind, ops, body []byte) org.LSN {
	l.mu.Lock()
	defer l.mu.Unlock()
	had := len(l.build.data)
	l.build.data, l.next = journal.AppendRecord(l.build.data, l.next, k, l.term, time.Now().UnixNano(), ops, body)
	l.build.to = l.next
	if had == 0 || had < gatherBytes && len(l.build.data) >= gatherBytes {
		l.bump() // the writer takes all there is, so it is woken when there is something, and when there is much
	}
	return l.next.LSN
}

// submit plans req, puts it in the log, and answers when it is confirmed and
// applied. grow tells that it needs space.
// When ctx ends first the outcome is unknown: the error is kind.Busy, and a
// repetition with the same key answers as this would have.
func (l *leader) submit(ctx context.Context, req any, grow bool) (any, error) {
	if err := l.admit(ctx, grow); err != nil {
		return nil, err
	}
	l.seqMu.Lock()
	for l.frozen {
		l.seqMu.Unlock()
		if err := l.wait(ctx, func() bool { return !l.paused }); err != nil {
			return nil, err
		}
		l.seqMu.Lock()
	}
	pl, planErr := l.planner.Plan(req, l.next.LSN, time.Now())
	p := &pending{changed: pl.Changed, done: make(chan error, 1)}
	if planErr != nil || pl.NoOp {
		// The answer may rest on changes that are not confirmed yet.
		p.end = pl.DependsOn
	} else {
		p.end = l.appendLocked(journal.KindChange, pl.Ops, pl.Body)
	}
	err := l.enqueue(p)
	l.seqMu.Unlock()
	if err != nil {
		return nil, err
	}
	select {
	case err := <-p.done:
		switch {
		case err != nil:
			return nil, err
		case planErr == nil && !pl.NoOp:
			return pl.Result, nil
		}
		// No other copy had a say in this answer, so it is as good as a read:
		// of a term that may be over it would be wrong.
		if ok, stale := l.readable(); !ok || stale {
			return nil, kind.Errorf(kind.Busy, "%s on %s has not heard from its in-sync copies", l.c.name, l.c.k.me)
		}
		return pl.Result, planErr
	case <-ctx.Done():
		return nil, kind.Errorf(kind.Busy, "%s: not confirmed in time; it may still be", l.c.name)
	}
}

// admit waits until a request may be sequenced.
func (l *leader) admit(ctx context.Context, grow bool) error {
	err := l.wait(ctx, func() bool {
		return l.ready && len(l.build.data) < maxBuilding && int64(l.build.to.LSN)-int64(l.applied) < maxInflight
	})
	if err != nil {
		return err
	}
	if !grow {
		return nil
	}
	if l.c.vol.full() {
		return kind.Errorf(kind.Full, "volume %s: less than its reserve is free", l.c.vol.Name)
	}
	return l.c.jn.Room()
}

// enqueue puts p among those who wait, in order. l.seqMu is held, so only an
// answer that rests on an older record can come out of order.
func (l *leader) enqueue(p *pending) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended != nil {
		return l.ended
	}
	if p.end <= l.applied {
		p.done <- nil
		return nil
	}
	i := len(l.waiting)
	for i > 0 && l.waiting[i-1].end > p.end {
		i--
	}
	l.waiting = slices.Insert(l.waiting, i, p)
	if len(l.waiting) == l.crowd {
		l.bump() // the writer may wait for the last of them
	}
	return nil
}

// writeLoop writes what was gathered while the last write was under way:
// hundreds of changes become one write and one fsync.
func (l *leader) writeLoop(ctx context.Context) {
	for {
		if l.wait(ctx, func() bool { return len(l.build.data) > 0 }) != nil {
			return
		}
		l.gather(ctx)
		if ctx.Err() != nil {
			return
		}
		l.mu.Lock()
		b := l.build
		l.build = piece{from: b.to, to: b.to, data: make([]byte, 0, min(len(b.data), 1<<20))}
		// The other copies get it at the same moment as the disk.
		l.c.w.add(b)
		l.bump()
		l.mu.Unlock()
		if err := l.write(ctx, b); err != nil {
			l.fail(fmt.Errorf("write log of %s: %w", l.c.name, err))
			return
		}
		l.mu.Lock()
		l.local = b.to.LSN
		l.bump()
		l.advance()
		l.mu.Unlock()
	}
}

// gatherMost bounds how long a write waits for company.
const gatherMost = 3 * time.Millisecond

// gather waits a moment for the requests that are likely to come, where there
// were several at a time lately: those who were answered last mostly ask again
// at once, and one write for all of them costs hardly more than one for the
// first. Who asks alone never waits.
func (l *leader) gather(ctx context.Context) {
	l.mu.Lock()
	want := l.crowd
	l.mu.Unlock()
	if want > 1 {
		moment, cancel := context.WithTimeout(ctx, gatherMost)
		_ = l.wait(moment, func() bool { return len(l.waiting) >= want || len(l.build.data) >= gatherBytes }) // all there, or the time is over
		cancel()
	}
	l.mu.Lock()
	l.crowd = max(len(l.waiting), l.crowd*7/8) // grows at once and shrinks slowly
	l.mu.Unlock()
}

// gatherBytes is a write that is worth doing without more company.
const gatherBytes = 256 << 10

// write makes b durable here. A volume without room is waited for: the record
// may be on other copies already, so it keeps its place.
func (l *leader) write(ctx context.Context, b piece) error {
	for {
		err := l.c.jn.Write(b.data, b.from, b.to)
		if !kind.Is(err, kind.Full) || l.c.jn.Failed() != nil {
			return err
		}
		if !sleep(ctx, 200*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// advance moves the confirmed position to what every member of the in-sync
// set, and this copy, has on stable storage. l.mu is held.
func (l *leader) advance() {
	to := l.local
	others := 0
	for _, m := range l.members {
		if m.inSync || m.joining {
			to = min(to, m.acked)
			others++
		}
	}
	if others == 0 && (!l.alone || len(l.members) > 0 && !l.c.k.group.LeaseValid()) {
		// Without a lease another copy may have been mounted with loss.
		return
	}
	if to > l.commit {
		l.commit = to
		l.bump()
	}
}

// applyLoop applies what is confirmed and answers those who wait for it.
func (l *leader) applyLoop(ctx context.Context) {
	for {
		if l.wait(ctx, func() bool { return l.commit > l.applied }) != nil {
			return
		}
		l.mu.Lock()
		to := l.commit
		l.mu.Unlock()
		if err := l.c.applyTo(ctx, to); err != nil {
			l.fail(fmt.Errorf("apply log of %s: %w", l.c.name, err))
			return
		}
		at := l.c.index().Applied().LSN
		l.seqMu.Lock()
		l.planner.Settled(at)
		l.seqMu.Unlock()
		l.c.w.trim(at)
		l.c.noteCommit(to)
		l.release(at)
	}
}

// release answers everybody whose record is applied.
func (l *leader) release(at org.LSN) {
	l.mu.Lock()
	l.applied = at
	n := 0
	for n < len(l.waiting) && l.waiting[n].end <= at {
		n++
	}
	done := l.waiting[:n:n]
	l.waiting = l.waiting[n:]
	l.bump()
	l.mu.Unlock()
	var changed []store.Change
	for _, p := range done {
		changed = append(changed, p.changed...)
	}
	l.c.hub.ping(changed)
	for _, p := range done {
		p.done <- nil
	}
}

func (c *dbCopy) noteCommit(to org.LSN) {
	c.mu.Lock()
	c.commit = max(c.commit, to)
	c.mu.Unlock()
}

// handover stops sequencing, waits until everything is confirmed and to, when given, has
// it, and returns the end of the log. Reads stop too: the new active may
// confirm changes any moment. The role goes on until the mount row says
// otherwise; thaw takes it back.
func (l *leader) handover(ctx context.Context, to org.ServerName) (org.LSN, error) {
	l.seqMu.Lock()
	if l.frozen {
		l.seqMu.Unlock()
		return 0, kind.Errorf(kind.Conflict, "%s: a handover is under way", l.c.name)
	}
	l.frozen = true
	end := l.next.LSN
	l.mu.Lock()
	l.paused, l.stopped = true, time.Now()
	l.mu.Unlock()
	l.seqMu.Unlock()
	err := l.wait(ctx, func() bool {
		m := l.members[to]
		return l.applied >= end && (to == "" || m != nil && m.inSync && m.acked >= end)
	})
	if err != nil {
		l.unfreeze()
		return 0, fmt.Errorf("hand %s over to %s: %w", l.c.name, to, err)
	}
	l.mu.Lock()
	l.noReads = true
	l.mu.Unlock()
	return end, nil
}

func (l *leader) unfreeze() {
	l.seqMu.Lock()
	l.frozen = false
	l.seqMu.Unlock()
	l.mu.Lock()
	l.paused, l.noReads, l.stopped = false, false, time.Time{}
	l.bump()
	l.mu.Unlock()
}

// handoverLimit is how long a handover may stay without a new row before the
// leading copy goes on by itself: whoever asked for it is gone.
const handoverLimit = 5 * time.Second

// thawIfForgotten ends a handover that nobody finished.
func (l *leader) thawIfForgotten(ctx context.Context) {
	l.mu.Lock()
	due := !l.stopped.IsZero() && time.Since(l.stopped) >= handoverLimit
	l.mu.Unlock()
	if !due {
		return
	}
	if err := l.thaw(ctx); err != nil {
		l.c.log.Warn("take a forgotten handover back", "err", err)
		return
	}
	l.c.k.note(org.Note{Action: actThaw, Target: string(l.c.name), Responder: "Store", Cause: "a handover was begun and nobody ended it",
		Evidence: proof("Store", l.c.name, "frozen", "for more than %s", handoverLimit), Result: "it leads again in the same term"})
}

// thaw takes a handover back: the mount row tells so first, with which a late
// compare and swap of the mover loses, also one that reads the row once more.
func (l *leader) thaw(ctx context.Context) error {
	if err := l.cas(ctx, func(m *org.Mount) { m.Thaws++ }); err != nil {
		return err
	}
	l.unfreeze()
	return nil
}

// casMount changes the mount row if it is still m.
func (k *Keeper) casMount(ctx context.Context, m org.Mount, change func(*org.Mount)) error {
	n := m
	n.InSync = slices.Clone(m.InSync)
	change(&n)
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	key := MountKey(m.Database)
	_, err = k.group.Commit(ctx, cluster.Txn{If: []cluster.Cond{{Key: key, Revision: m.Revision}}, Then: []cluster.Op{{Key: key, Value: b}}})
	return err
}

// MountKey is the key of a database's mount row in the agreed state.
func MountKey(db org.DatabaseName) string { return "mounts/" + string(db) }

// DatabaseKey is the key of a database's definition in the agreed state.
func DatabaseKey(db org.DatabaseName) string { return "databases/" + string(db) }
