package mailbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/lock"
	"github.com/postern-mail/postern/internal/mailbox/store"
	"github.com/postern-mail/postern/internal/org"
)

// diskPatience is how long one write of log may take before the copy is
// reported as failed; it is Healthy again when the disk answers.
const diskPatience = 3 * time.Second

// unknownServer is the name of no server.
const unknownServer org.ServerName = "?"

// role is what a copy has to do now; two equal roles need no change.
type role struct {
	do       string // "lead", "follow", "rest"
	term     org.Term
	source   org.ServerName // whom to follow
	seedFrom org.ServerName
	reseed   int
	why      string // of rest
}

// dbCopy is one copy of a database on this server. Its run goroutine owns the
// role; log and index are safe for concurrent readers.
type dbCopy struct {
	k    *Keeper
	name org.DatabaseName
	// identity and segmentSize never change: a database made anew under the
	// name gets another copy.
	identity    string
	segmentSize int64
	dir         string
	vol         *volume
	log         *slog.Logger

	gate gate         // between users of jn and index, and their closing
	jn   *journal.Log // set by open, before any role
	ixp  atomic.Pointer[store.Index]
	w    *window

	// applyMu serializes applying of the log to the index.
	applyMu lock.Mutex
	freed   []freedBody // guarded by applyMu: bodies to punch once the index is durable
	trims   []freedBody // guarded by applyMu: log to drop once the index is durable
	// unlisted is where the log begins whose freed bodies are not in freed, as
	// there were too many; 0 for none. Guarded by applyMu.
	unlisted org.LSN

	mu     sync.Mutex // guards the fields below
	def    org.Database
	mount  org.Mount
	lead   *leader       // while leading
	leadCh chan struct{} // closed when lead or mount changes
	state  org.CopyState
	reason string
	cause  string    // class of what it failed of
	since  time.Time // of state
	// failedSince is since when the copy is Failed, not counting that it was
	// tried again meanwhile: what stays Failed is for AutoReseed.
	failedSince time.Time
	maxTerm     org.Term // the newest term seen: nothing older is followed
	heardEnd    org.LSN  // the active's end of log as last heard
	commit      org.LSN  // known to be confirmed
	promised    time.Time
	promisee    org.ServerName
	seed        seedProgress
	crawlTo     org.LSN // where the log ended when the index was begun anew from it
	// gathering is what is to be taken from another copy than the active one.
	gathering *gatherOrder
	network   string    // its log comes by
	following *follower // of the active copy, while there is one
	// seedCount is the last ordered seed that was begun.
	seedCount int

	// spoiled is why what is on the disk cannot be trusted any more, and
	// spoiledAt the seed that was ordered last when that was found. Only run uses
	// them.
	spoiled   error
	spoiledAt int

	aside    atomic.Bool // there may be parts that were set aside and not offered yet
	repairs  atomic.Uint64
	lastTime atomic.Int64 // of the newest record that was applied, Unix nanoseconds; 0: not known
	markers  markerBook
	late     *lateness
	// checkpoints are those kept of the index.
	checkpoints checkpointBook
	kick        chan struct{} // buffered: the role may have to change
	hub         hub
}

type freedBody struct {
	lsn   org.LSN // of the record that holds the body
	after org.LSN // position at which it was freed
}

func newCopy(k *Keeper, def org.Database, v *volume) *dbCopy {
	return &dbCopy{
		k: k, name: def.Name, def: def, vol: v, identity: def.Identity, segmentSize: cmpOr(def.SegmentSize, k.cfg.SegmentSize),
		dir:   filepath.Join(v.Path, string(def.Name)),
		log:   k.deps.Log.With("database", string(def.Name)),
		kick:  make(chan struct{}, 1),
		state: org.CopyInitializing, since: time.Now(),
		w: newWindow(), leadCh: make(chan struct{}), late: newLateness(),
	}
}

// setLead notes the leading role, or its end.
func (c *dbCopy) setLead(l *leader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lead = l
	c.leadMoved()
}

// leadMoved wakes whoever waits for this copy to lead. c.mu is held.
func (c *dbCopy) leadMoved() {
	close(c.leadCh)
	c.leadCh = make(chan struct{})
}

// awaitLead waits until this copy leads a term of at least t, as the group's
// rows say it soon will, and returns nil when it does not in time.
func (c *dbCopy) awaitLead(ctx context.Context, t org.Term, atMost time.Duration) *leader {
	timeout := time.NewTimer(atMost)
	defer timeout.Stop()
	for {
		c.mu.Lock()
		l, ch := c.lead, c.leadCh
		coming := c.mount.Active == c.k.me || t > c.mount.Term
		c.mu.Unlock()
		switch {
		case l != nil && l.term >= t:
			return l
		case !coming:
			return nil
		}
		select {
		case <-ch:
		case <-timeout.C:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// poke makes the run loop look at the view again.
func (c *dbCopy) poke() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// wanted works out the role from the group's rows. It is pure.
func wanted(me org.ServerName, def org.Database, m org.Mount) role {
	mine, ok := def.Copy(me)
	switch {
	case !ok:
		return role{do: "rest", why: "the database has no copy here"}
	case m.Active == me:
		return role{do: "lead", term: m.Term}
	case mine.Suspended && mine.SuspendedBy != "":
		return role{do: "rest", why: mine.SuspendComment, reseed: mine.SeedCount}
	case mine.Suspended:
		return role{do: "rest", why: "suspended by an administrator: " + mine.SuspendComment, reseed: mine.SeedCount}
	case m.Active == "":
		return role{do: "rest", term: m.Term, why: "the database is dismounted"}
	}
	return role{do: "follow", term: m.Term, source: m.Active, seedFrom: mine.SeedFrom, reseed: mine.SeedCount}
}

// wantedNow is the role the rows ask for, as far as this server may play it.
// c.mu is held.
func (c *dbCopy) wantedNow() role {
	r := wanted(c.k.me, c.def, c.mount)
	if why, ok := c.k.mayLead(); r.do == "lead" && !ok {
		return role{do: "rest", term: r.term, why: why}
	}
	return r
}

// run opens the copy and plays its role until ctx ends.
func (c *dbCopy) run(ctx context.Context) {
	wait := 250 * time.Millisecond
	for ctx.Err() == nil {
		err := c.vol.usable(ctx)
		if err == nil {
			err = c.trusted()
		}
		if err == nil {
			err = c.takeUp()
		}
		if err == nil {
			err = c.honourReseed()
		}
		if err == nil {
			err = c.open()
		}
		if err == nil {
			inside, stop := c.vol.while(ctx)
			err = c.live(inside)
			stop()
			wait = 250 * time.Millisecond
		}
		if verr := c.vol.failure(); verr != nil && ctx.Err() == nil {
			// It is told before the copy is closed, which may take as long as the
			// disk does.
			err = verr
			c.fail(org.CopyFailed, err)
		}
		c.close()
		if ctx.Err() != nil {
			return
		}
		var again *restart
		if errors.As(err, &again) {
			err = c.prepareRestart(again)
		}
		if err == nil || errors.Is(err, errReseed) {
			continue
		}
		if classOf(err) != "" {
			c.vol.nudge()
		}
		wait = min(2*wait, 30*time.Second)
		c.rest(ctx, err, wait)
	}
}

// rest shows a copy that cannot be opened and waits until it may be tried
// again: after a while, when the volume works again, or when a reseed is
// ordered. One that the system suspended waits for its resumption, one that
// cannot be trusted for a reseed.
func (c *dbCopy) rest(ctx context.Context, err error, wait time.Duration) {
	moved := c.vol.change()
	t := time.NewTimer(wait)
	defer t.Stop()
	c.mu.Lock()
	before, _ := c.def.Copy(c.k.me)
	c.mu.Unlock()
	for ctx.Err() == nil {
		c.mu.Lock()
		mine, _ := c.def.Copy(c.k.me)
		c.mu.Unlock()
		if mine.SeedCount != before.SeedCount || before.Suspended && !mine.Suspended {
			return
		}
		due, state := t.C, org.CopyFailed
		lasting := mine.Suspended && mine.SuspendedBy != "" || c.spoiled != nil
		if lasting {
			due, state = nil, org.CopyFailedAndSuspended
		}
		c.fail(state, err)
		select {
		case <-ctx.Done():
		case <-moved:
			if !lasting {
				return
			}
			moved = nil
		case <-due:
			return
		case <-c.kick:
		}
	}
}

// trusted refuses to open what a failed fsync left (faults P6) until a reseed
// is ordered.
func (c *dbCopy) trusted() error {
	if c.spoiled != nil && c.seedOrder() > c.spoiledAt {
		c.spoiled = nil
	}
	return c.spoiled
}

// live plays roles, with the background work beside, until ctx ends, the disk
// fails or a reseed is ordered.
func (c *dbCopy) live(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	bg, stop := context.WithCancel(ctx)
	defer stop()
	wg.Go(func() { c.housekeep(bg) })
	wg.Go(func() { c.scrubLoop(bg) })
	wg.Go(func() { c.offerLoop(bg) })
	return c.play(ctx)
}

// When a role ends at once, again and again, it is begun less often, and others
// are told: each beginning of a leading copy costs a term.
const (
	rolePause     = 20 * time.Millisecond
	rolePauseMost = 5 * time.Second
	roleLasted    = 5 * time.Second // not at once
	roleTries     = 5               // then the copy is reported as failed meanwhile
)

// play runs one role after the other.
func (c *dbCopy) play(ctx context.Context) error {
	failures := 0
	for ctx.Err() == nil {
		if c.reseedOrdered() {
			return errReseed
		}
		c.mu.Lock()
		r := c.wantedNow()
		c.mu.Unlock()
		rctx, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		began := time.Now()
		go func() { done <- c.playRole(rctx, r) }()
		err := c.watchRole(ctx, r, done, cancel)
		cancel()
		if err != nil && ctx.Err() == nil {
			c.log.Debug("role ended", "role", r.do, "term", r.term, "err", err)
			var again *restart
			if errors.As(err, &again) || errors.Is(err, errReseed) {
				return err
			}
			if c.jn.Failed() != nil {
				return c.awaitReseed(ctx)
			}
			if time.Since(began) >= roleLasted {
				failures = 0 // it worked
			}
			if passes := kind.Is(err, kind.Busy) || kind.Is(err, kind.Conflict) || kind.Is(err, kind.Elsewhere); !passes {
				failures++
			}
			c.pauseRole(ctx, r, failures, err)
		}
	}
	return nil
}

// pauseRole waits before a role that failed begins again, longer with each
// failure, or until another is wanted. A copy that cannot lead is reported as
// failed, so that another one is made active.
func (c *dbCopy) pauseRole(ctx context.Context, r role, failures int, err error) {
	if r.do == "lead" && failures >= roleTries {
		c.fail(org.CopyFailed, err)
	}
	t := time.NewTimer(min(rolePause<<min(max(failures-1, 0), 10), rolePauseMost))
	defer t.Stop()
	for {
		select {
		case <-t.C:
			return
		case <-ctx.Done():
			return
		case <-c.kick:
			c.mu.Lock()
			now := c.wantedNow()
			c.mu.Unlock()
			if now != r || c.reseedOrdered() {
				return
			}
		}
	}
}

// watchRole waits for the end of a role, and ends it when another is wanted.
func (c *dbCopy) watchRole(ctx context.Context, r role, done chan error, cancel func()) error {
	for {
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			cancel()
			return <-done
		case <-c.kick:
			c.mu.Lock()
			now := c.wantedNow()
			c.mu.Unlock()
			if now != r {
				cancel()
				return <-done
			}
		}
	}
}

func (c *dbCopy) playRole(ctx context.Context, r role) error {
	switch r.do {
	case "lead":
		return c.leadTerm(ctx, r.term)
	case "follow":
		return c.followTerm(ctx, r)
	}
	c.mu.Lock()
	mine, _ := c.def.Copy(c.k.me)
	c.mu.Unlock()
	switch {
	case mine.Suspended && mine.SuspendedBy != "":
		c.begin(org.CopyFailedAndSuspended, r.why)
	case mine.Suspended:
		c.begin(org.CopySuspended, r.why)
	default:
		c.begin(org.CopyDismounted, r.why)
	}
	<-ctx.Done()
	return nil
}

// awaitReseed waits out a failed disk. After a failed fsync nobody knows what
// is on it (faults P6), so the copy does not start again from those files by
// itself: it is seeded anew when an administrator, or AutoReseed, says so.
func (c *dbCopy) awaitReseed(ctx context.Context) error {
	err := fmt.Errorf("disk: %w", c.jn.Failed())
	c.spoiled, c.spoiledAt = err, c.seedOrder()
	c.fail(org.CopyFailedAndSuspended, err)
	c.vol.nudge()
	for !c.reseedOrdered() {
		select {
		case <-ctx.Done():
			return err
		case <-c.kick:
		}
	}
	return errReseed
}

var errReseed = errors.New("a reseed was ordered")

// open opens log and index, and makes the index anew from the log where it
// cannot be used.
func (c *dbCopy) open() error {
	c.setState(org.CopyInitializing, "opening")
	fs := c.k.fs
	jn, err := journal.Open(filepath.Join(c.dir, "log"), journal.Options{
		FS: c.vol.fs, Identity: c.identity, SegmentSize: c.segmentSize,
		Reserve: c.k.cfg.Reserve, Log: c.log,
	})
	if err != nil {
		return err
	}
	c.jn = jn
	ix, err := c.openIndex()
	if err != nil {
		return err
	}
	c.ixp.Store(ix)
	if at, end := ix.Applied().LSN, c.jn.End().LSN; at > end {
		// What is in the index was durable in the log once. Nobody may take
		// what is left for the whole (faults P24).
		return kind.WithHint(kind.Errorf(kind.Corrupt, "the log ends at %d, the index was at %d: durable log is missing", end, at),
			fmt.Sprintf("postern copy reseed %s %s", c.name, c.k.me))
	}
	if at := ix.Applied(); !c.jn.Contains(at) && at.LSN >= c.jn.Start() && at.LSN > 0 {
		return &restart{why: fmt.Sprintf("it is at position %d of another history", at.LSN), index: true}
	}
	if err := fs.MkdirAll(c.asideDir()); err != nil {
		return err
	}
	c.aside.Store(true)
	if err := c.loadCheckpoints(); err != nil {
		return err
	}
	c.lastTime.Store(c.timeBefore(ix.Applied().LSN))
	if c.late.late.Load() {
		c.late.copied.Store(c.timeBefore(jn.End().LSN))
	}
	c.mu.Lock()
	if c.crawlTo = 0; c.index().Applied().LSN == 0 {
		c.crawlTo = c.jn.End().LSN
	}
	c.maxTerm = max(c.maxTerm, c.jn.End().Term)
	c.commit = c.index().Applied().LSN
	if c.promised.IsZero() {
		// What this copy promised before its process ended is not written
		// down, so it counts as promised to somebody just now.
		c.promised, c.promisee = time.Now(), c.mount.Active
		if len(c.def.Copies) > 1 && (c.promisee == "" || c.promisee == c.k.me) {
			c.promisee = unknownServer
		}
	}
	c.mu.Unlock()
	c.gate.opened()
	return nil
}

// timeMost bounds the log that is read to find when its newest record was written.
const timeMost = 64 << 20

// timeBefore is when the record that ends at position at was written, Unix
// nanoseconds, and 0 where it cannot be found soon.
func (c *dbCopy) timeBefore(at org.LSN) (last int64) {
	for _, m := range c.jn.Landmarks(64) {
		if m.LSN >= at {
			continue
		}
		if at-m.LSN > timeMost {
			return 0
		}
		for r, err := range c.jn.Records(m.LSN, at) {
			if err != nil {
				return 0
			}
			if r.Next().LSN <= at {
				last = r.Time
			}
		}
		return last
	}
	return 0
}

func (c *dbCopy) openIndex() (*store.Index, error) {
	dir := filepath.Join(c.dir, "index")
	o := store.Options{FS: c.k.deps.IndexFS, Cache: c.k.cache, Identity: c.identity, Log: c.log}
	ix, err := store.Open(dir, o)
	if !kind.Is(err, kind.Corrupt) {
		return ix, err
	}
	c.k.deps.Events.Emit(evIndexReset, "index of %s on %s is made anew from the log: %v", c.name, c.k.me, err)
	c.noteRestart(&restart{why: err.Error()})
	if err := c.k.deps.IndexFS.RemoveAll(dir); err != nil {
		return nil, err
	}
	return store.Open(dir, o)
}

// restart is the error of a role that found that the copy has to be opened
// anew, after its index or its log was put away.
type restart struct {
	why   string
	index bool // the index is made anew from the log
	log   bool // the log is set aside and the copy seeded
}

func (r *restart) Error() string { return r.why }

// prepareRestart puts away what the role said, while the copy is closed.
func (c *dbCopy) prepareRestart(r *restart) error {
	c.log.Warn("copy is opened anew", "why", r.why)
	if err := c.dropCheckpoints(0); err != nil {
		return err
	}
	if err := c.dropIndex(); err != nil {
		return err
	}
	if r.log {
		aside := filepath.Join(c.asideDir(), fmt.Sprintf("%d-whole", time.Now().UnixNano()))
		if err := moveDurably(c.k.fs, filepath.Join(c.dir, "log"), aside); err != nil {
			return err
		}
		c.markSeeding(true)
	}
	c.k.deps.Events.Emit(evIndexReset, "index of %s on %s is made anew: %s", c.name, c.k.me, r.why)
	c.noteRestart(r)
	return nil
}

// dropIndex removes the index for good, before any log that it was made of goes:
// an index that comes back after a crash and is ahead of its log looks like a
// log that was lost (faults P24), and the copy would not open again.
func (c *dbCopy) dropIndex() error {
	disk := c.k.deps.IndexFS
	if err := disk.RemoveAll(filepath.Join(c.dir, "index")); err != nil {
		return err
	}
	d, err := disk.OpenDir(c.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (c *dbCopy) close() {
	c.gate.closed()
	var errs []error
	if ix := c.index(); ix != nil {
		errs = append(errs, ix.Close()) // flushes too, as long as the disk lets it in time
	}
	if c.jn != nil {
		errs = append(errs, c.jn.Close())
	}
	c.jn = nil
	c.ixp.Store(nil)
	c.w.reset()
	c.applyMu.Lock()
	c.freed, c.trims, c.unlisted = nil, nil, 0 // they speak of an index that may be made anew
	c.applyMu.Unlock()
	if err := errors.Join(errs...); err != nil {
		c.log.Warn("close copy", "err", err)
	}
}

func (c *dbCopy) index() *store.Index { return c.ixp.Load() }

// divergedName is the folder of a copy for log that was cut off.
const divergedName = "diverged"

func (c *dbCopy) asideDir() string { return filepath.Join(c.dir, divergedName) }

// update gives the copy the rows of the newest view.
func (c *dbCopy) update(def org.Database, m org.Mount) {
	c.mu.Lock()
	c.def = def
	if m.Term >= c.mount.Term {
		c.mount = m
	}
	c.maxTerm = max(c.maxTerm, m.Term)
	c.leadMoved()
	mine, _ := def.Copy(c.k.me)
	if mine.ReplayLag > 0 {
		c.late.late.Store(true)
	}
	if c.lead != nil {
		c.lead.lookSoon()
	}
	c.mu.Unlock()
	c.late.poke()
	c.poke()
}

// leader returns the leading role, nil while this copy does not lead.
func (c *dbCopy) leader() *leader {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lead
}

// sleep waits, and tells whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func cmpOr[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}
