package mailbox

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// streamStall bounds how long one side of a log stream may be silent or not
// take what is sent.
const streamStall = 10 * time.Second

// frameBytes is about how much log goes into one frame.
const frameBytes = 1 << 20

// serveLog answers one log stream from a peer (cluster.Handle).
func (k *Keeper) serveLog(ctx context.Context, peer org.ServerName, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	s := newStream(conn, streamStall)
	var h hello
	if err := s.expect(frameHello, &h); err != nil {
		return
	}
	c := k.copy(h.Database)
	if c == nil {
		_ = s.sendValue(frameRefuse, refusal{Text: "no copy of " + string(h.Database) + " here"})
		return
	}
	inside, leave, ok := c.gate.enter(ctx)
	if !ok {
		_ = s.sendValue(frameRefuse, refusal{Text: "the copy is not open"})
		return
	}
	defer leave()
	defer context.AfterFunc(inside, func() { conn.Close() })()
	if !h.Seed {
		// The peer may have seen the mount row a moment earlier than this server.
		c.awaitLead(inside, h.Term, time.Second)
	}
	if r := c.refusesStream(peer, h); r != nil {
		_ = s.sendValue(frameRefuse, r) // the peer tries elsewhere either way
		return
	}
	l := c.leader()
	if h.Seed {
		l = nil
	}
	if l != nil {
		l.doubt(peer)
		// What was sent and is being written here is no fork.
		wait, cancel := context.WithTimeout(inside, time.Second)
		_ = l.wait(wait, func() bool { return l.local >= min(h.End.LSN, l.build.from.LSN) })
		cancel()
	}
	pos, ok := c.agreePosition(s, h, l)
	if !ok {
		return
	}
	if p := k.deps.Paths; h.Zip && p != nil && p.Compresses(peer, conn, h.Seed || int64(c.jn.End().LSN)-int64(pos.LSN) > seedBehind) {
		s.zip = k.zip()
	}
	err := (&feed{c: c, l: l, s: s, peer: peer, pos: pos, whole: h.Whole, keep: h.Keep, joint: h.Joint && l != nil}).run(inside)
	k.deps.Log.Debug("log stream ended", "database", h.Database, "peer", peer, "err", err)
}

// refusesStream says why peer may not have this log here, nil when it may.
func (c *dbCopy) refusesStream(peer org.ServerName, h hello) *refusal {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, member := c.def.Copy(peer)
	switch {
	case !member:
		return &refusal{Text: string(peer) + " has no copy of " + string(c.name)}
	case h.Identity != c.identity:
		return &refusal{Text: "another database has this name"}
	case h.Seed && c.lead == nil:
		return nil
	case c.lead == nil:
		return &refusal{Text: "not active here", Term: c.maxTerm}
	case h.Term > c.lead.term:
		return &refusal{Text: "the peer knows a newer term", Term: c.lead.term}
	}
	return nil
}

// agreePosition finds the position from which the peer can go on: the end of
// its log when that is in this history, otherwise the fork it is told.
func (c *dbCopy) agreePosition(s *stream, h hello, l *leader) (journal.Position, bool) {
	term := org.Term(0)
	if l != nil {
		term = l.term
	}
	for range 64 { // each round narrows the fork down
		start, end := c.jn.Start(), c.jn.End()
		switch {
		case h.End.LSN == 0 && h.End.Chain == 0, h.End.LSN >= start && c.jn.Contains(h.End):
			a := accept{Term: term, Start: start, End: end, Total: int64(end.LSN - max(start, h.End.LSN))}
			if err := s.sendValue(frameAccept, a); err != nil {
				return journal.Position{}, false
			}
			h.End.LSN = max(h.End.LSN, start)
			return h.End, true
		case h.End.LSN < start:
			_ = s.sendValue(frameRefuse, refusal{Text: "the log here begins later than the peer's ends", Trimmed: true})
			return journal.Position{}, false
		}
		if err := s.sendValue(frameFork, fork{None: true}); err != nil {
			return journal.Position{}, false
		}
		if !c.answerLandmarks(s, &h) {
			return journal.Position{}, false
		}
	}
	return journal.Position{}, false
}

// answerLandmarks answers questions about positions until the peer says hello
// again with the end of its log after the cut.
func (c *dbCopy) answerLandmarks(s *stream, h *hello) bool {
	for range 1000 {
		t, p, err := s.recv()
		if err != nil {
			return false
		}
		switch t {
		case frameHello:
			return codec.Unmarshal(p, h) == nil
		case frameLandmarks:
			var marks []journal.Position
			if codec.Unmarshal(p, &marks) != nil {
				return false
			}
			f := fork{None: true}
			for _, m := range marks {
				if c.jn.Contains(m) && (f.None || m.LSN > f.At.LSN) {
					f = fork{At: m}
				}
			}
			if s.sendValue(frameFork, f) != nil {
				return false
			}
		default:
			return false
		}
	}
	return false
}

// feed sends the log of a copy to one peer. Without a leader (a seed from a
// passive copy) it sends what is known to be confirmed and then ends.
type feed struct {
	c    *dbCopy
	l    *leader
	s    *stream
	peer org.ServerName
	pos  journal.Position
	// whole sends, without a leader, all that is in the log.
	whole bool
	keep  bool          // also bodies that nobody needs here
	told  atomic.Uint64 // the position up to which the peer was told all is confirmed
	joint bool          // the peer reads joint beats
	line  int           // number of the connection, for a leader
}

func (f *feed) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if f.l != nil {
		f.line = f.l.connect(f.peer, f.pos.LSN, f.s.c)
		defer f.l.disconnect(f.peer, f.line)
		if f.joint {
			defer f.c.k.joints.add(f)()
		}
		go func() {
			defer cancel()
			defer f.s.c.Close()
			f.readAcks(f.line)
		}()
		stop := context.AfterFunc(ctx, func() { f.s.c.Close() })
		defer stop()
	} else {
		go func() { // a seed's acknowledgements only keep the line alive
			defer cancel()
			for {
				if _, _, err := f.s.recv(); err != nil {
					return
				}
			}
		}()
	}
	var beat, own time.Time // the last, and the last on this stream
	for ctx.Err() == nil {
		if now := time.Now(); !now.Before(f.nextBeat(beat, f.confirmed())) {
			if !f.spared(now, own) {
				if err := f.beat(now); err != nil {
					return err
				}
				own = now
			}
			if err := f.beatJointly(now); err != nil {
				return err
			}
			beat = now
		}
		sent, err := f.sendSome(ctx)
		if err != nil {
			return err
		}
		if sent {
			continue
		}
		if f.l == nil {
			return nil
		}
		f.pause(ctx, beat)
		if f.l.over() {
			return f.l.ended
		}
	}
	return ctx.Err()
}

// pause waits for more log, or for the beat after the last one.
func (f *feed) pause(ctx context.Context, last time.Time) {
	f.l.mu.Lock()
	if f.c.w.end() > f.pos.LSN { // only a position beyond what was sent is news
		f.l.mu.Unlock()
		return
	}
	more, due := f.l.changed, f.nextBeat(last, f.l.commit)
	f.l.mu.Unlock()
	t := time.NewTimer(max(0, time.Until(due)))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-more:
	}
}

func (c *dbCopy) commitEnd() org.LSN {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.commit
}

// sendSome sends the next part of the log, from memory where it is still
// there, and tells whether there was any.
func (f *feed) sendSome(ctx context.Context) (bool, error) {
	h := dataHead{}
	limit := org.LSN(0)
	if f.l != nil {
		f.l.mu.Lock()
		h.Term, h.Commit = f.l.term, f.l.commit
		f.l.mu.Unlock()
		if ps := f.c.w.from(f.pos.LSN, frameBytes); len(ps) > 0 {
			h.From, h.To = ps[0].from, ps[len(ps)-1].to
			parts := make([][]byte, 0, len(ps)+1)
			parts = append(parts, h.encode())
			for _, p := range ps {
				parts = append(parts, p.data)
			}
			f.pos = h.To
			f.told.Store(uint64(h.Commit))
			f.l.owed(f.peer, f.pos.LSN)
			return true, f.s.send(frameData, parts...)
		}
	} else {
		limit = f.c.commitEnd()
		h.Commit = limit
		if f.whole {
			limit = f.c.jn.End().LSN
		}
		if f.pos.LSN >= limit {
			return false, nil
		}
	}
	if f.pos.LSN >= f.c.jn.End().LSN {
		return false, nil
	}
	dead := f.c.bodyDead
	if f.keep {
		dead = nil
	}
	ch, err := f.c.jn.Chunk(f.pos.LSN, frameBytes, dead)
	if kind.Is(err, kind.Corrupt) {
		return true, f.c.repair(ctx, f.pos.LSN, err)
	}
	if err != nil {
		return false, err
	}
	if f.l == nil && ch.End.LSN > limit {
		return false, nil // a seed ends with what is confirmed
	}
	if ch.End.LSN == ch.From.LSN {
		return false, nil
	}
	h.From, h.To = ch.From, ch.End
	frame, b := byte(frameData), ch.Data
	if len(ch.Elided) > 0 { // a chunk that is whole goes as log fresh from memory does
		frame = frameChunk
		if b, err = codec.Marshal(ch); err != nil {
			return false, err
		}
	}
	f.pos = ch.End
	f.told.Store(uint64(h.Commit))
	if f.l != nil {
		f.l.owed(f.peer, f.pos.LSN)
	}
	return true, f.s.send(frame, h.encode(), b)
}

func (f *feed) readAcks(line int) {
	for {
		t, p, err := f.s.recv()
		if err == nil && t == frameJoint {
			if err = f.answered(p); err == nil {
				continue
			}
		}
		if err != nil || t != frameAck {
			return
		}
		a, err := decodeAck(p)
		if err != nil || a.Term != f.l.term {
			return
		}
		if !f.l.acked(f.peer, line, a) {
			return
		}
	}
}

// doubt forgets what a member acknowledged: it says hello again and may be
// about to cut its log. Acknowledgements of older streams no longer count.
func (l *leader) doubt(s org.ServerName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines[s]++
	if m := l.members[s]; m != nil {
		m.acked = 0
		if m.connected {
			m.connected, m.lostAt = false, time.Now()
		}
		l.lookSoon()
	}
}

// connect notes a new stream of a member; an older one no longer counts.
func (l *leader) connect(s org.ServerName, at org.LSN, conn io.Closer) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines[s]++
	if former := l.conns[s]; former != nil {
		go former.Close() // it may be on a path that was cut, and would try for long
	}
	l.conns[s] = conn
	if m := l.members[s]; m != nil {
		now := time.Now()
		m.connected, m.lostAt, m.spoke, m.own = true, time.Time{}, now, now
		m.acked, m.behindSince = at, time.Now() // until its first acknowledgement
		// Nothing was confirmed that this copy, as a member of the set, did
		// not hold; a log that ends earlier was lost or replaced.
		m.short = (m.inSync || m.joining) && (at < l.commit || at == 0 && l.begun > 0 ||
			int64(l.build.from.LSN)-int64(at) > maxInflight+2*maxBuilding)
		// It may hold by now what an earlier stream did not live to acknowledge.
		l.bump()
		l.advance()
		l.lookSoon()
	}
	return l.lines[s]
}

func (l *leader) disconnect(s org.ServerName, line int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lines[s] != line {
		return
	}
	delete(l.conns, s)
	if m := l.members[s]; m != nil {
		m.connected, m.lostAt = false, time.Now()
		l.bump()
		l.lookSoon()
	}
}

// owed notes that log up to lsn is on its way to a member.
func (l *leader) owed(s org.ServerName, lsn org.LSN) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m := l.members[s]; m != nil && lsn > m.acked && m.behindSince.IsZero() {
		m.behindSince = time.Now()
	}
}

// acked notes what a member has on stable storage; false ends its stream.
func (l *leader) acked(s org.ServerName, line int, a ack) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.members[s]
	if m == nil || l.lines[s] != line || l.ended != nil {
		return false
	}
	m.spoke = time.Now()
	m.own = m.spoke
	if a.Echo > 0 {
		if t := l.start.Add(time.Duration(a.Echo)); t.After(m.heard) {
			m.heard = t
		}
	}
	if a.Durable > m.acked {
		m.acked, m.short = a.Durable, m.short && a.Durable < l.commit
		m.behindSince = time.Time{}
		if m.acked < l.build.from.LSN {
			m.behindSince = time.Now()
		}
		l.advance()
	} else if m.acked >= l.build.from.LSN {
		m.behindSince = time.Time{}
	}
	return true
}

func (l *leader) over() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ended != nil
}
