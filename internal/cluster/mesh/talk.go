package mesh

import (
	"bytes"
	"context"
	"maps"
	"net"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

const (
	// afterReset is how long a broken connection makes one refusal enough.
	afterReset = 500 * time.Millisecond
	// retryQuick is the pause between dials right after a reset, when the
	// dying process may still own its listener.
	retryQuick = 5 * time.Millisecond
)

// talk keeps the connection on which this server speaks to a peer on a path.
func (m *Mesh) talk(ctx context.Context, q *path) {
	for ctx.Err() == nil {
		dctx, cancel := context.WithTimeout(ctx, m.cfg.SilentAfter)
		c, err := m.cfg.Dial(dctx, q.of.name, q.name)
		cancel()
		if err != nil {
			pause(ctx, m.dialFailed(q, err))
			continue
		}
		m.dialed(q)
		m.speak(ctx, q, c)
		c.Close()
		m.mu.Lock()
		q.reset = time.Now()
		m.mu.Unlock()
		pause(ctx, retryQuick)
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// dialFailed draws the conclusion and says when to try again.
func (m *Mesh) dialFailed(q *path, err error) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	broke := now.Sub(q.reset) < afterReset
	if !m.cfg.Refused(err) {
		q.firstRefused = time.Time{}
		if q.state == Refused && now.Sub(q.heard) >= m.cfg.SilentAfter {
			m.turnPath(q, Silent, now) // the host is gone as well
		}
		if broke {
			return retryQuick
		}
		return m.cfg.Interval
	}
	twice := !q.firstRefused.IsZero() && now.Sub(q.firstRefused) >= m.cfg.Interval
	if q.firstRefused.IsZero() {
		q.firstRefused = now
	}
	// A peer heard on its own connection in this moment is not gone.
	if (broke || twice) && now.Sub(q.heard) >= 2*retryQuick {
		m.turnPath(q, Refused, now)
	} else if broke {
		return 2 * retryQuick
	}
	return m.cfg.Interval
}

// dialed notes that somebody answers with the peer's certificate.
func (m *Mesh) dialed(q *path) {
	m.mu.Lock()
	defer m.mu.Unlock()
	q.firstRefused = time.Time{}
	if q.state == Refused {
		q.watched = time.Now() // it has SilentAfter to be heard
		m.turnPath(q, Unknown, q.watched)
	}
}

// speak sends heartbeats and sections until the connection breaks.
func (m *Mesh) speak(ctx context.Context, q *path, c net.Conn) {
	broken := make(chan struct{})
	go func() { // nothing is ever sent to us here: an answer is the end
		defer close(broken)
		c.Read(make([]byte, 1))
	}()
	defer func() {
		c.Close()
		<-broken
	}()
	if m.write(c, frame{Hello: &hello{Version, m.boot, q.name}}) != nil {
		return
	}
	began, sent := time.Now(), map[string]uint64{}
	t := time.NewTicker(m.cfg.Interval)
	defer t.Stop()
	for {
		if m.write(c, frame{Beat: m.beat(q)}) != nil {
			return
		}
		for name, s := range m.unsent(q, sent) {
			if m.write(c, frame{Section: &section{name, s.value, s.version}}) != nil {
				return
			}
			sent[name] = s.version
		}
		if m.stuck(q, began) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-broken:
			return
		case <-q.kick:
		case <-t.C:
		}
	}
}

// stuckAfter is how many times SilentAfter a connection on a silent path is
// kept.
const stuckAfter = 3

// stuck tells that a connection is better made anew: on a path that was cut,
// TCP tries more and more seldom, and would find its return late.
func (m *Mesh) stuck(q *path, began time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	patience := stuckAfter * m.cfg.SilentAfter
	return len(q.of.paths) > 1 && q.state == Silent && time.Since(q.since) >= patience && time.Since(began) >= patience
}

func (m *Mesh) write(c net.Conn, f frame) error {
	c.SetWriteDeadline(time.Now().Add(m.cfg.SilentAfter))
	_, err := c.Write(encode(f))
	return err
}

func (m *Mesh) beat(to *path) *beat {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	b := &beat{Sent: int64(now.Sub(m.start)) + 1, Echo: to.lastTx}
	if to.lastTx != 0 {
		b.Held = int64(now.Sub(to.heard))
	}
	for _, p := range m.peers {
		if p != to.of {
			b.Opinions = append(b.Opinions, opinion{p.name, p.state, now.Sub(p.since).Milliseconds()})
		}
	}
	return b
}

func (m *Mesh) unsent(q *path, sent map[string]uint64) map[string]published {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v := q.of.voice(); v != nil && v != q {
		return nil
	}
	out := map[string]published{}
	for name, s := range m.sections {
		if sent[name] != s.version {
			out[name] = s
		}
	}
	return out
}

// Serve listens to a peer on a connection that it opened.
func (m *Mesh) Serve(ctx context.Context, from org.ServerName, c net.Conn) {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	c.SetReadDeadline(time.Now().Add(10 * m.cfg.SilentAfter))
	f, err := read(c)
	if err != nil || f.Hello == nil {
		return
	}
	if f.Hello.Version != Version {
		m.cfg.Log.Warn("mesh: peer speaks another version", "peer", from, "version", f.Hello.Version, "here", Version)
		return
	}
	e := ear{m: m, from: from, c: c, hello: *f.Hello}
	defer e.ended()
	for e.greeted() {
		c.SetReadDeadline(time.Now().Add(10 * m.cfg.SilentAfter))
		f, err := read(c)
		if err != nil || !e.hear(f) {
			return
		}
	}
}

// ear is a connection on which a peer speaks.
type ear struct {
	m     *Mesh
	from  org.ServerName
	c     net.Conn
	hello hello
	known bool // c was made the connection of its path
}

// path finds whose words these are; nil for a path that this server does not
// know (yet). A peer of an older version names none. mu is held.
func (e *ear) path() *path {
	p := e.m.peers[e.from]
	if p == nil {
		return nil
	}
	for i, q := range p.paths {
		if q.name == e.hello.Path || e.hello.Path == "" && i == 0 {
			return q
		}
	}
	return nil
}

// greeted makes c the connection the peer speaks on, once its path is known;
// until then what it says is not heard. False ends the connection.
func (e *ear) greeted() bool {
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	p, q := e.m.peers[e.from], e.path()
	if p == nil || q == nil || e.known {
		return p != nil
	}
	e.known = true
	if q.in != nil {
		q.in.Close()
	}
	q.in = e.c
	if p.boot != e.hello.Boot {
		p.boot, p.says = e.hello.Boot, nil
		p.held = map[string]published{}
		for _, o := range p.paths {
			o.lastTx, o.deaf = 0, 0
		}
		e.m.touch()
	}
	return true
}

// hear takes in a frame; false means that c is no longer the peer's.
func (e *ear) hear(f frame) bool {
	m := e.m
	m.mu.Lock()
	defer m.mu.Unlock()
	p, q := m.peers[e.from], e.path()
	switch {
	case p == nil:
		return false
	case !e.known:
		return true
	case q == nil || q.in != e.c || p.boot != e.hello.Boot:
		return false
	case f.Beat != nil:
		m.hearBeat(q, f.Beat, time.Now())
	case f.Section != nil:
		s := f.Section
		old, ok := p.held[s.Name]
		// What was held up on one path must not undo what came on another.
		if s.Version >= old.version && (ok || len(p.held) < MaxSections) {
			came := time.Now()
			if ok && bytes.Equal(old.value, s.Value) {
				came = old.came // said again on a new connection
			}
			p.held[s.Name] = published{s.Value, s.Version, came}
		}
	}
	return true
}

func (m *Mesh) hearBeat(q *path, b *beat, now time.Time) {
	q.heard, q.lastTx, q.deaf = now, b.Sent, 0
	if b.Echo > 0 && b.Held >= 0 {
		q.deaf = time.Duration(b.Held)
		if rtt := now.Sub(m.start) - time.Duration(b.Echo) - time.Duration(b.Held); rtt > 0 {
			if q.rtt == 0 {
				q.rtt = rtt
			}
			q.rtt += (rtt - q.rtt) / 8
		}
	}
	p := q.of
	says := make(map[org.ServerName]State, len(b.Opinions))
	for _, o := range b.Opinions {
		says[o.Server] = o.State
	}
	if !maps.Equal(says, p.says) {
		p.says = says
		m.touch()
	}
	// A path that carries words in one direction only is no path, if there is
	// another.
	if q.deaf >= m.cfg.PathSilent && m.otherWell(q, now) {
		m.turnPath(q, Silent, now)
		return
	}
	m.turnPath(q, Up, now)
}

// ended notes that the peer's connection broke, which makes the next refusal
// count at once.
func (e *ear) ended() {
	e.m.mu.Lock()
	defer e.m.mu.Unlock()
	if q := e.path(); q != nil && q.in == e.c {
		q.in = nil
		q.reset = time.Now()
	}
}
