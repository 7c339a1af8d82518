package mailbox

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mailbox/lag"
	"github.com/postern-mail/postern/internal/org"
)

// A lagged copy writes and acknowledges log like any other, so that it may be
// in sync, and brings it to its index late: what users or programs destroyed is
// still there in the index of some days ago, with all log and all bodies since.
// When it becomes active it replays all of it.

// Pauses of a copy that replays late.
const (
	lagLook   = time.Minute            // between two looks at what is due, at most
	lagHurry  = 100 * time.Millisecond // the same while it replays all
	lagDecide = time.Minute            // between two decisions whether it does
	// lagBatch is the backlog, in bytes of log, from which on the copy replays
	// what comes as it comes again.
	lagBatch = 1 << 20
	// lagMarks is how many moments a copy remembers of when log arrived.
	lagMarks = 1024
)

// lateness is what a copy that replays late knows of it.
type lateness struct {
	// late tells that log is replayed beside the log stream, not by it: the
	// copy has a lag, or still has much to replay after it had one.
	late atomic.Bool
	kick chan struct{} // buffered: look now
	// copied is when the newest record that was written here was made, Unix
	// nanoseconds; 0: not known.
	copied atomic.Int64

	mu      sync.Mutex // guards the rest
	begun   time.Time  // with a monotonic reading
	state   lag.State
	last    lag.Decision
	decided time.Time
	hurry   time.Time // until when all is replayed, as the copy is to become active
	head    int64     // when the first record was made that is not replayed, Unix nanoseconds; 0: there is none
	marks   []arrival // oldest first
}

// arrival tells that all log before end was here at a moment.
type arrival struct {
	at  int64 // Unix nanoseconds
	end org.LSN
}

func newLateness() *lateness { return &lateness{kick: make(chan struct{}, 1), begun: time.Now()} }

func (l *lateness) poke() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// now is the older of the wall clock and of what the wall clock showed at the
// start with the time that passed since: a clock that jumps ahead makes nothing
// be replayed early.
func (l *lateness) now() time.Time {
	wall := time.Now().Round(0)
	if passed := l.begun.Round(0).Add(time.Since(l.begun)); passed.Before(wall) {
		return passed
	}
	return wall
}

// mark notes where the log ends now, so often that a lag has enough of it.
func (l *lateness) mark(now time.Time, end org.LSN, every time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := now.UnixNano()
	if n := len(l.marks); n > 0 && at-l.marks[n-1].at < int64(every) {
		return
	}
	if len(l.marks) >= 2*lagMarks {
		l.marks = slices.Delete(l.marks, 0, lagMarks)
	}
	l.marks = append(l.marks, arrival{at, end})
}

// madeBy is when the record at position lsn was made at the latest: as it says,
// or, where that is in the future as its maker's clock was wrong, when it was
// known to be here.
func (l *lateness) madeBy(r journal.Record, now time.Time) int64 {
	if r.Time <= now.UnixNano() {
		return r.Time
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	i, _ := slices.BinarySearchFunc(l.marks, r.LSN, func(a arrival, at org.LSN) int {
		if a.end <= at {
			return -1
		}
		return 1
	})
	if i < len(l.marks) {
		return min(r.Time, l.marks[i].at)
	}
	return now.UnixNano()
}

// lagSet is the lag of this copy as it is set, and what it keeps beyond it.
func (c *dbCopy) lagSet() (replay, truncation time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	mine, _ := c.def.Copy(c.k.me)
	return mine.ReplayLag, mine.TruncationLag
}

// lagNow is the lag that is in force: none while all is replayed.
func (c *dbCopy) lagNow() time.Duration {
	set, _ := c.lagSet()
	l := c.late
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last.PlayDown || time.Until(l.hurry) > 0 {
		return 0
	}
	return set
}

// replayLate brings log to the index as it becomes due, until ctx ends. It runs
// beside the log stream, so that log is written and acknowledged meanwhile.
func (c *dbCopy) replayLate(ctx context.Context) error {
	for {
		wait := lagLook
		if c.late.late.Load() {
			c.decideLag(c.late.now())
			var err error
			if wait, err = c.applyDue(ctx); err != nil {
				return err
			}
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-c.late.kick:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
		t.Stop()
	}
}

// applyDue applies what is due and returns when to look again.
func (c *dbCopy) applyDue(ctx context.Context) (time.Duration, error) {
	for ctx.Err() == nil {
		set, _ := c.lagSet()
		inForce := c.lagNow()
		now, end := c.late.now(), c.jn.End().LSN
		c.late.mark(now, end, max(time.Second, set/lagMarks))
		wait, more, err := c.applyDueStep(ctx, min(c.commitEnd(), end), now, inForce)
		if err != nil || more {
			if err != nil {
				return lagLook, err
			}
			continue
		}
		if set == 0 && end-c.index().Applied().LSN < lagBatch && c.late.late.CompareAndSwap(true, false) {
			continue // the log stream replays what comes from here on; what came before it knew is replayed here
		}
		if inForce == 0 {
			return lagHurry, nil
		}
		return min(wait, max(inForce/16, lagHurry/10)), nil
	}
	return lagLook, ctx.Err()
}

// applyDueStep applies some of what is due before position to, and tells
// whether there may be more, or how long there is nothing.
func (c *dbCopy) applyDueStep(ctx context.Context, to org.LSN, now time.Time, inForce time.Duration) (wait time.Duration, more bool, err error) {
	c.applyMu.Lock()
	defer c.applyMu.Unlock()
	at := c.index().Applied().LSN
	if at >= to {
		c.late.setHead(0)
		return lagLook, false, nil
	}
	recs, head, err := c.dueRecords(at, to, now, inForce)
	if kind.Is(err, kind.Corrupt) && c.repairFrom(ctx, at, to) {
		return 0, true, nil
	}
	if err != nil {
		return lagLook, false, err
	}
	if len(recs) > 0 {
		return 0, true, c.applyRecords(ctx, recs)
	}
	c.late.setHead(head)
	if head == 0 {
		return lagLook, false, nil // to lies inside a record that is not whole yet
	}
	due := time.Unix(0, head).Add(inForce).Sub(now)
	return min(max(due, 0)+time.Millisecond, lagLook), false, nil
}

func (l *lateness) setHead(head int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.head = head
}

// dueRecords reads some of the records between at and to that are older than
// the lag. head is when the first was made that is not, 0 where none was met.
func (c *dbCopy) dueRecords(at, to org.LSN, now time.Time, inForce time.Duration) (recs []journal.Record, head int64, err error) {
	n := 0
	for r, err := range c.jn.Records(max(at, c.jn.Start()), to) {
		if err != nil {
			if len(recs) > 0 {
				return recs, 0, nil
			}
			return nil, 0, err
		}
		if r.Next().LSN > to || n >= applyStep {
			break
		}
		if inForce > 0 {
			if made := c.late.madeBy(r, now); made > now.Add(-inForce).UnixNano() {
				return recs, made, nil
			}
		}
		recs = append(recs, r)
		n += len(r.Ops) + journal.HeaderSize
	}
	return recs, 0, nil
}

// noteCopied keeps when the newest of a run of whole records was made.
func (l *lateness) noteCopied(data []byte) {
	for r, err := range journal.Records(data) {
		if err != nil {
			return
		}
		l.copied.Store(r.Time)
	}
}

// decideLag decides, once a minute, whether the copy replays all it has.
func (c *dbCopy) decideLag(now time.Time) {
	l := c.late
	l.mu.Lock()
	due := l.decided.IsZero() || now.Sub(l.decided) >= lagDecide
	l.mu.Unlock()
	if !due {
		return
	}
	f := c.lagFacts()
	rules := lag.Default()
	rules.MaxDelay = c.k.cfg.lagMaxDelay()
	l.mu.Lock()
	was := l.last
	l.state, l.last = lag.Decide(l.state, f, rules)
	is := l.last
	l.decided = now
	l.mu.Unlock()
	c.tellLag(was, is, f)
}

// tellLag tells of a decision that differs from the one before.
func (c *dbCopy) tellLag(was, is lag.Decision, f lag.Facts) {
	set, action := f.Lag, actPlayDown
	switch {
	case is.PlayDown && (!was.PlayDown || was.Cause != is.Cause):
		c.k.deps.Events.Emit(evPlayDown, "%s on %s replays without its lag of %s: %s", c.name, c.k.me, set, is.Why)
	case is.Deferred && !was.Deferred:
		c.k.deps.Events.Emit(evPlayDown, "%s on %s would replay without its lag of %s and waits: %s", c.name, c.k.me, set, is.Why)
	case was.PlayDown && !is.PlayDown && !is.Deferred:
		action = actLagAgain
		c.k.deps.Events.Emit(evLagAgain, "%s on %s lags again: %s", c.name, c.k.me, is.Why)
	default:
		return
	}
	c.noteLag(action, is, set, f)
	c.k.reportSoon()
}

// catchUpFor is how long a copy replays without its lag after it was asked to
// catch up: by then it is active, or was not made so.
const catchUpFor = 2 * time.Minute

// CatchUp has the copy of db on a server replay all it has, however late it is
// to, and waits until what is left takes a moment.
func (k *Keeper) CatchUp(ctx context.Context, db org.DatabaseName, on org.ServerName) error {
	_, err := callPeer[none, none](ctx, k, on, "CatchUp", db, none{})
	return err
}

// opCatchUp is the call of CatchUp.
func opCatchUp() op[none, none] {
	return op[none, none]{"CatchUp", func(ctx context.Context, c *dbCopy, _ org.MailboxRef, _ none) (none, error) {
		return none{}, c.catchUp(ctx)
	}}
}

func (c *dbCopy) catchUp(ctx context.Context) error {
	for {
		c.late.mu.Lock()
		c.late.hurry = time.Now().Add(catchUpFor)
		c.late.mu.Unlock()
		c.late.poke()
		to := min(c.commitEnd(), c.jn.End().LSN)
		if at := c.index().Applied().LSN; at >= to || to-at < lagBatch {
			return nil
		}
		if !sleep(ctx, lagHurry) {
			return kind.Errorf(kind.Busy, "%s on %s has %d bytes of log to replay and did not do it in time", c.name, c.k.me, to-c.index().Applied().LSN)
		}
	}
}

// lagFacts are what the decision rests on.
func (c *dbCopy) lagFacts() lag.Facts {
	c.mu.Lock()
	def, mount := c.def, c.mount
	c.mu.Unlock()
	mine, _ := def.Copy(c.k.me)
	v := c.vol.status()
	f := lag.Facts{Now: time.Since(c.late.begun), Lag: mine.ReplayLag, Free: v.Free, Size: v.Size, Reserve: c.vol.reserve, Latency: c.vol.slowest(95)}
	if !v.Looked {
		f.Free = f.Size + 1<<62 // nothing is known yet: no reason to hurry
	}
	for _, cp := range def.Copies {
		if cp.ReplayLag > 0 {
			continue
		}
		f.Designed++
		st, ok := c.k.peerStatus(cp.Server, c.name)
		if ok && c.k.heard(cp.Server) && mount.IsInSync(cp.Server) && (st.State == org.CopyHealthy || st.State == org.CopyMounted) {
			f.Available++
		}
	}
	return f
}

// slowest is what percent of 100 of the newest write tests of the volume took at most.
func (v *volume) slowest(percent int) time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.latency) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(v.latency))
	return sorted[len(sorted)*percent/100]
}

// lagStatus adds to a status how late the copy is. c.mu is not held.
func (c *dbCopy) lagStatus(s *org.CopyStatus) {
	set, _ := c.lagSet()
	if set == 0 && !c.late.late.Load() || s.State == org.CopyMounted || s.State == org.CopyMounting {
		return
	}
	l := c.late
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	s.ReplayLag = set
	s.LastTime = max(s.LastTime, l.copied.Load())
	reach := c.lastTime.Load() // the index shows what was there from then until head
	if reach == 0 {
		reach = l.head
	}
	if reach != 0 {
		s.ReplayLagNow = max(0, min(set, now.Sub(time.Unix(0, reach))))
	}
	switch {
	case time.Until(l.hurry) > 0:
		s.ReplayLagWhy = "it replays all, as it is to become active"
	case set == 0:
		s.ReplayLagWhy = "it had a lag and replays what it has"
	case l.last.PlayDown:
		s.ReplayLagWhy = "played down: " + l.last.Why
	case l.last.Deferred || l.last.Left > 0:
		s.ReplayLagWhy = l.last.Why
	case s.ReplayLagNow < set:
		s.ReplayLagWhy = "it builds up"
	}
}

// lagTolerance is how much later than its lag a copy may be before what it has
// to replay counts as a queue.
const lagTolerance = 10 * time.Minute

// overdue is for how long the first record that is not replayed should have been.
func (c *dbCopy) overdue() time.Duration {
	inForce := c.lagNow()
	l := c.late
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.head == 0 {
		return 0
	}
	return now.Sub(time.Unix(0, l.head)) - inForce
}

// lagText is a lag as people read it.
func lagText(st org.CopyStatus) string {
	switch {
	case st.ReplayLag == 0:
		return ""
	case st.ReplayLagNow < st.ReplayLag-time.Minute:
		return fmt.Sprintf("%s of %s", days(st.ReplayLagNow), days(st.ReplayLag))
	}
	return days(st.ReplayLag)
}

// days writes a duration with days.
func days(d time.Duration) string {
	if d >= 24*time.Hour && d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	}
	if d >= 24*time.Hour {
		return fmt.Sprintf("%dd%s", d/(24*time.Hour), shortTime(d%(24*time.Hour)))
	}
	return shortTime(d)
}

func shortTime(d time.Duration) string {
	switch {
	case d >= time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d >= time.Minute:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}
