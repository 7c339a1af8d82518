package mailbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// seedFrom is how far behind, in bytes, a copy has to be for its catching up
// to count as a seed: it is throttled, shown with progress, and taken from
// the copy an administrator named.
const seedBehind = 64 << 20

// recvQueue bounds the bytes received and not yet written.
const recvQueue = 32 << 20

// followTerm plays the following role: it connects to the active copy, again
// and again, until ctx ends.
func (c *dbCopy) followTerm(ctx context.Context, r role) error {
	c.setState(org.CopyInitializing, "connecting to "+string(r.source))
	failures := 0
	var next *line // the connection to go on with
	defer func() { next.close() }()
	for ctx.Err() == nil {
		if c.reseedOrdered() {
			return errReseed
		}
		var err error
		if next == nil {
			c.gatherLast(ctx, r.term)
			err = c.seedFromPassive(ctx, r)
		}
		if err == nil {
			via := next
			next = nil
			err = c.followOnce(ctx, r.source, r.term, false, via)
		}
		var moved *movedError
		if errors.As(err, &moved) {
			next, failures = moved.to, 0
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		if c.jn.Failed() != nil {
			return c.jn.Failed()
		}
		var again *restart
		if errors.As(err, &again) {
			return err
		}
		if errors.Is(err, errSeedWaits) {
			sleep(ctx, seedWait)
			continue
		}
		c.noteDisconnect(r, err)
		var refused *refusedError
		if errors.As(err, &refused) && refused.r.Trimmed {
			if err := c.mayGiveUp(0); err != nil {
				c.noteDisconnect(r, err)
				sleep(ctx, 200*time.Millisecond)
				continue
			}
			return &restart{why: "the copy has to be seeded: " + refused.r.Text, index: true, log: true}
		}
		failures++
		if !sleep(ctx, min(time.Duration(failures)*25*time.Millisecond, 500*time.Millisecond)) {
			return nil
		}
	}
	return nil
}

// mayGiveUp refuses to give up log from position at that is confirmed while
// the group counts on this copy for it: then it is the source whose history
// is wrong, or cannot be read. Once the active copy has taken this one out of
// the set, it may.
func (c *dbCopy) mayGiveUp(at org.LSN) error {
	end := c.jn.End().LSN
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mount.IsInSync(c.k.me) && at < min(c.commit, end) {
		return kind.Errorf(kind.Corrupt, "%s: the source's history lacks what was confirmed beyond position %d", c.name, at)
	}
	return nil
}

func (c *dbCopy) noteDisconnect(r role, err error) {
	c.mu.Lock()
	healthy := c.state == org.CopyHealthy
	c.seed.active = false
	c.mu.Unlock()
	why := fmt.Sprintf("no connection to %s: %v", r.source, err)
	if healthy {
		c.setState(org.CopyDisconnectedAndHealthy, why)
		return
	}
	c.mu.Lock()
	c.reason = why
	c.mu.Unlock()
}

// seedFromPassive takes what it can from the copy an administrator named as
// the source of a seed, so that the active one is spared.
func (c *dbCopy) seedFromPassive(ctx context.Context, r role) error {
	if r.seedFrom == "" || r.seedFrom == c.k.me || r.seedFrom == r.source {
		return nil
	}
	st, ok := c.k.peerStatus(r.seedFrom, c.name)
	if !ok || int64(st.Committed)-int64(c.jn.End().LSN) < frameBytes {
		return nil
	}
	var via *line
	for {
		err := c.followOnce(ctx, r.seedFrom, r.term, true, via)
		var moved *movedError
		if errors.As(err, &moved) {
			via = moved.to
			continue
		}
		c.log.Info("seed from passive copy ended", "source", r.seedFrom, "at", c.jn.End().LSN, "err", err)
		return nil
	}
}

// follower is one connection to a source of log.
type follower struct {
	c       *dbCopy
	s       *stream
	source  org.ServerName
	network string // it is in, empty if that is not known
	term    org.Term
	seed    bool
	whole   bool
	limit   atomic.Pointer[rate.Limiter] // of a seed, nil for none

	sendMu sync.Mutex // guards writing to s

	mu    sync.Mutex // guards the rest
	queue []incoming
	bytes int
	more  chan struct{} // buffered: there is something to write
	room  chan struct{} // buffered: there is room
	end   org.LSN       // the source's, as last heard
	echo  int64
	err   error
}

// incoming is a frame of records.
type incoming struct {
	from, to journal.Position
	data     []byte         // whole records
	chunk    *journal.Chunk // instead of data, with bodies left out
}

// followOnce follows on one connection, via or a new one, until that ends. The
// error is a movedError where it is to go on with another.
func (c *dbCopy) followOnce(ctx context.Context, source org.ServerName, term org.Term, seed bool, via *line) error {
	return c.followAs(ctx, source, term, hello{Seed: seed}, via)
}

// followWhole takes all that a copy holds that does not lead, confirmed or not.
func (c *dbCopy) followWhole(ctx context.Context, source org.ServerName, term org.Term) error {
	return c.followAs(ctx, source, term, hello{Seed: true, Whole: true}, nil)
}

// followAs is followOnce; h says what is asked for.
func (c *dbCopy) followAs(ctx context.Context, source org.ServerName, term org.Term, h hello, via *line) error {
	seed := h.Seed
	if via == nil {
		var err error
		if via, err = c.dialLog(ctx, source); err != nil {
			return err
		}
	}
	conn := via.conn
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	s := newStream(conn, streamStall)
	s.unzip, h.Zip, h.Keep, h.Joint = c.k.zip(), true, c.keepsRemoved(), true
	a, err := c.greet(s, term, h)
	if err != nil {
		return err
	}
	c.mu.Lock()
	if !seed && a.Term < c.maxTerm {
		c.mu.Unlock()
		return kind.Errorf(kind.Elsewhere, "%s leads term %d, older than %d", source, a.Term, c.maxTerm)
	}
	c.maxTerm = max(c.maxTerm, a.Term)
	if !h.Whole { // else the copy that is asked may have heard less
		c.heardEnd = a.End.LSN
	}
	mine, _ := c.def.Copy(c.k.me)
	behind := int64(a.End.LSN) - int64(max(c.jn.End().LSN, a.Start))
	fresh := c.jn.End().LSN == 0 || c.seedUnfinished()
	isSeed := (behind > seedBehind || fresh && behind > frameBytes) && !h.Whole
	c.mu.Unlock()
	if isSeed {
		give, err := c.k.seeds.take(c.name, source)
		if err != nil {
			c.markSeeding(true)
			c.setState(org.CopySeeding, err.Error())
			return errSeedWaits
		}
		defer give()
		c.mu.Lock()
		c.seed = seedProgress{active: true, total: a.Total, source: source}
		c.seed.note(max(0, a.Total-behind), time.Now())
		c.mu.Unlock()
	}
	c.mu.Lock()
	c.network = via.network
	c.mu.Unlock()
	f := &follower{c: c, s: s, source: source, network: via.network, term: a.Term, seed: seed, whole: h.Whole, end: a.End.LSN,
		more: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	if isSeed {
		c.markSeeding(true)
		c.setState(org.CopySeeding, "from "+string(source))
		if mine.SeedRate > 0 {
			f.limit.Store(rate.NewLimiter(rate.Limit(mine.SeedRate), max(int(mine.SeedRate), 4*frameBytes)))
		}
	} else if behind > 0 && !h.Whole {
		c.setState(org.CopyResynchronizing, "catching up with "+string(source))
	}
	if !seed && !h.Whole {
		c.follows(f)
		defer c.follows(nil)
	}
	return f.run(ctx)
}

// greet says hello and, where the histories differ, finds the fork, cuts the
// log there and says hello again.
func (c *dbCopy) greet(s *stream, term org.Term, h hello) (accept, error) {
	h.Database, h.Identity, h.Term = c.name, c.identity, term
	for range 8 {
		h.End = c.jn.End()
		if err := s.sendValue(frameHello, h); err != nil {
			return accept{}, err
		}
		t, p, err := s.recv()
		if err != nil {
			return accept{}, err
		}
		switch t {
		case frameAccept:
			var a accept
			return a, codec.Unmarshal(p, &a)
		case frameRefuse:
			var r refusal
			if err := codec.Unmarshal(p, &r); err != nil {
				return accept{}, err
			}
			return accept{}, &refusedError{r}
		case frameFork:
			if h.Seed {
				return accept{}, kind.Errorf(kind.Conflict, "the seed's source has another history")
			}
			at, found, err := c.findFork(s)
			if err != nil {
				return accept{}, err
			}
			if !found {
				return accept{}, &refusedError{refusal{Text: "nothing in common with the active copy's log", Trimmed: true}}
			}
			if err := c.cutAt(at); err != nil {
				return accept{}, err
			}
		default:
			return accept{}, kind.Errorf(kind.Invalid, "log stream: frame %q after hello", t)
		}
	}
	return accept{}, kind.Errorf(kind.Internal, "log stream: no agreement on a position")
}

// findFork finds the newest record boundary that the source has too, exactly:
// cutting more would take confirmed records from a member of the in-sync set.
func (c *dbCopy) findFork(s *stream) (journal.Position, bool, error) {
	marks := c.jn.Landmarks(4096)
	best, found, err := askLandmarks(s, marks)
	if err != nil || !found {
		return best, found, err
	}
	next := c.jn.End().LSN
	for _, m := range marks {
		if m.LSN > best.LSN && m.LSN < next {
			next = m.LSN
		}
	}
	var fine []journal.Position
	ask := func() error {
		b, ok, err := askLandmarks(s, fine)
		if err == nil && ok && b.LSN > best.LSN {
			best = b
		}
		fine = fine[:0]
		return err
	}
	for r, err := range c.jn.Records(best.LSN, next) {
		if err != nil {
			return best, true, err
		}
		fine = append(fine, r.Next())
		if len(fine) == 4096 {
			if err := ask(); err != nil {
				return best, true, err
			}
		}
	}
	if len(fine) > 0 {
		err = ask()
	}
	return best, true, err
}

func askLandmarks(s *stream, marks []journal.Position) (journal.Position, bool, error) {
	if err := s.sendValue(frameLandmarks, marks); err != nil {
		return journal.Position{}, false, err
	}
	var f fork
	err := s.expect(frameFork, &f)
	return f.At, !f.None, err
}

// run receives in one goroutine and writes in another, so that one write and
// one fsync take all that came meanwhile.
func (f *follower) run(ctx context.Context) error {
	inner, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel()
		f.note(f.receive(inner))
	})
	wg.Go(func() {
		defer cancel()
		defer f.s.c.Close()
		f.note(f.write(inner))
	})
	if !f.seed {
		wg.Go(func() {
			defer cancel()
			f.note(f.c.replayLate(inner))
		})
	}
	if f.c.k.deps.Paths != nil && !f.whole {
		wg.Go(func() {
			to := f.betterPath(inner)
			if to == nil {
				return
			}
			defer cancel()
			if !f.note(&movedError{to}) {
				to.close()
			}
		})
	}
	wg.Wait()
	if f.whole { // what came before the source ended the stream counts
		f.note(f.store(ctx, f.queue))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// note keeps the first error and tells whether it is this one.
func (f *follower) note(err error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return false
	}
	f.err = err
	return true
}

func (f *follower) receive(ctx context.Context) error {
	for {
		t, p, err := f.s.recv()
		if err != nil {
			return err
		}
		switch t {
		case frameBeat:
			b, err := decodeBeat(p)
			if err != nil {
				return err
			}
			if err := f.onBeat(b); err != nil {
				return err
			}
		case frameJoint:
			if err := f.onJoint(p); err != nil {
				return err
			}
		case frameData, frameChunk:
			if err := f.onData(ctx, t, p); err != nil {
				return err
			}
		default:
			return kind.Errorf(kind.Invalid, "log stream: frame %q from a source", t)
		}
	}
}

// checkTerm refuses a source whose term is over (G3).
func (f *follower) checkTerm(t org.Term) error {
	if f.seed {
		return nil
	}
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	if t != f.term || t < f.c.maxTerm {
		return kind.Errorf(kind.Elsewhere, "%s sends term %d, term %d is known", f.source, t, f.c.maxTerm)
	}
	return nil
}

func (f *follower) onBeat(b beat) error {
	if err := f.checkTerm(b.Term); err != nil {
		return err
	}
	news := f.learn(b.End, b.Commit)
	if f.seed {
		return nil
	}
	f.mu.Lock()
	f.echo = b.Sent
	f.mu.Unlock()
	// The answer is a promise: this copy leads no newer term within the lease.
	f.c.mu.Lock()
	f.c.promised, f.c.promisee = time.Now(), f.source
	news = news || f.c.state != org.CopyHealthy
	f.c.mu.Unlock()
	if news {
		f.wake()
	}
	return f.sendAck()
}

// learn notes how far the source is, and tells whether that was not known.
func (f *follower) learn(end, commit org.LSN) (news bool) {
	f.c.mu.Lock()
	news = end > f.c.heardEnd || commit > f.c.commit
	f.c.heardEnd = max(end, f.c.heardEnd)
	f.c.commit = max(f.c.commit, commit)
	f.c.mu.Unlock()
	f.mu.Lock()
	f.end = max(f.end, end)
	f.mu.Unlock()
	return news
}

func (f *follower) sendAck() error {
	f.mu.Lock()
	echo := f.echo
	f.mu.Unlock()
	a := ack{Term: f.term, Durable: f.c.jn.End().LSN, Echo: echo}
	f.sendMu.Lock()
	defer f.sendMu.Unlock()
	return f.s.send(frameAck, a.encode())
}

func (f *follower) onData(ctx context.Context, t byte, p []byte) error {
	h, rest, err := decodeDataHead(p)
	if err != nil {
		return err
	}
	if err := f.checkTerm(h.Term); err != nil {
		return err
	}
	if limit := f.limit.Load(); limit != nil {
		for n := len(rest); n > 0; n -= limit.Burst() {
			if err := limit.WaitN(ctx, min(n, limit.Burst())); err != nil {
				return err
			}
		}
	}
	in := incoming{from: h.From, to: h.To, data: rest}
	if t == frameChunk {
		in.data, in.chunk = nil, new(journal.Chunk)
		if err := codec.Unmarshal(rest, in.chunk); err != nil {
			return err
		}
		if len(in.chunk.Elided) == 0 {
			in.data, in.chunk = in.chunk.Data, nil
		}
	}
	f.learn(h.To.LSN, h.Commit)
	return f.enqueue(ctx, in, len(rest))
}

func (f *follower) enqueue(ctx context.Context, in incoming, size int) error {
	for {
		f.mu.Lock()
		if f.bytes == 0 || f.bytes+size <= recvQueue {
			f.queue = append(f.queue, in)
			f.bytes += size
			f.mu.Unlock()
			f.wake()
			return nil
		}
		f.mu.Unlock()
		select {
		case <-f.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *follower) wake() {
	select {
	case f.more <- struct{}{}:
	default:
	}
}

// write makes what came durable, acknowledges it, and applies what is
// confirmed.
func (f *follower) write(ctx context.Context) error {
	for {
		f.mu.Lock()
		q := f.queue
		f.queue, f.bytes = nil, 0
		f.mu.Unlock()
		select {
		case f.room <- struct{}{}:
		default:
		}
		if len(q) > 0 {
			if err := f.store(ctx, q); err != nil {
				return err
			}
			if err := f.sendAck(); err != nil {
				return err
			}
		}
		if err := f.apply(ctx); err != nil {
			return err
		}
		if len(q) > 0 {
			continue
		}
		select {
		case <-f.more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// store writes a run of frames with as few syncs as it can.
func (f *follower) store(ctx context.Context, q []incoming) error {
	if len(q) > 0 && f.c.jn.End() == (journal.Position{}) && q[0].from.LSN > 0 {
		// The source dropped its oldest log; this copy begins where it does.
		if err := f.c.jn.Begin(q[0].from); err != nil {
			return err
		}
	}
	for len(q) > 0 {
		if q[0].chunk != nil {
			if err := f.retryFull(ctx, func() error { return f.c.jn.WriteChunk(*q[0].chunk) }); err != nil {
				return err
			}
			q = q[1:]
			continue
		}
		n := 1
		for n < len(q) && q[n].chunk == nil && q[n].from == q[n-1].to {
			n++
		}
		data := q[0].data
		if n > 1 {
			size := 0
			for _, in := range q[:n] {
				size += len(in.data)
			}
			data = make([]byte, 0, size)
			for _, in := range q[:n] {
				data = append(data, in.data...)
			}
		}
		from, to := q[0].from, q[n-1].to
		if got, err := journal.Verify(data, from); err != nil || got != to {
			return kind.Errorf(kind.Corrupt, "log from %s at %d is damaged: %v", f.source, from.LSN, err)
		}
		if err := f.retryFull(ctx, func() error { return f.c.jn.Write(data, from, to) }); err != nil {
			return err
		}
		f.c.w.add(piece{from: from, to: to, data: data})
		if f.c.late.late.Load() {
			f.c.late.noteCopied(data)
		}
		q = q[n:]
	}
	return nil
}

// retryFull waits while the volume is full. The active copy takes this one
// out of the in-sync set meanwhile.
func (f *follower) retryFull(ctx context.Context, write func() error) error {
	for {
		err := write()
		if !kind.Is(err, kind.Full) || f.c.jn.Failed() != nil {
			return err
		}
		f.c.vol.setFull(true, f.c.k.deps.Events)
		if !sleep(ctx, 500*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// apply brings the index to what is confirmed, unless that is to be late, and
// reports how far the copy is.
func (f *follower) apply(ctx context.Context) error {
	c := f.c
	here := c.jn.End().LSN
	if c.late.late.Load() {
		c.w.trim(here) // what is replayed late is read from the disk
	} else {
		if err := c.applyTo(ctx, min(c.commitEnd(), here)); err != nil {
			return err
		}
		c.w.trim(c.index().Applied().LSN)
	}
	f.mu.Lock()
	end := f.end
	f.mu.Unlock()
	c.mu.Lock()
	if c.seed.active {
		c.seed.note(c.seed.total-max(0, int64(end)-int64(here)), time.Now())
	}
	state := c.state
	c.mu.Unlock()
	if f.seed || int64(end)-int64(here) > frameBytes {
		return nil
	}
	if state != org.CopyHealthy {
		f.caughtUp(state)
	}
	return nil
}

func (f *follower) caughtUp(state org.CopyState) {
	c := f.c
	c.mu.Lock()
	wasSeed := c.seed.active
	total := c.seed.total
	c.seed.active = false
	c.mu.Unlock()
	f.limit.Store(nil)
	c.markSeeding(false)
	if wasSeed {
		c.k.deps.Events.Emit(evSeeded, "%s on %s was seeded from %s, %d bytes", c.name, c.k.me, f.source, total)
	}
	c.setState(org.CopyHealthy, "")
}
