package mesh

import (
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

// talk keeps the connection on which this server speaks to a peer.
func (m *Mesh) talk(ctx context.Context, p *peer) {
	for ctx.Err() == nil {
		dctx, cancel := context.WithTimeout(ctx, m.cfg.SilentAfter)
		c, err := m.cfg.Dial(dctx, p.name)
		cancel()
		if err != nil {
			pause(ctx, m.dialFailed(p, err))
			continue
		}
		m.dialed(p)
		m.speak(ctx, p, c)
		c.Close()
		m.mu.Lock()
		p.reset = time.Now()
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
func (m *Mesh) dialFailed(p *peer, err error) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	broke := now.Sub(p.reset) < afterReset
	if !m.cfg.Refused(err) {
		p.firstRefused = time.Time{}
		if p.state == Refused && now.Sub(p.heard) >= m.cfg.SilentAfter {
			m.turn(p, Silent, now) // the host is gone as well
		}
		if broke {
			return retryQuick
		}
		return m.cfg.Interval
	}
	twice := !p.firstRefused.IsZero() && now.Sub(p.firstRefused) >= m.cfg.Interval
	if p.firstRefused.IsZero() {
		p.firstRefused = now
	}
	// A peer heard on its own connection in this moment is not gone.
	if (broke || twice) && now.Sub(p.heard) >= 2*retryQuick {
		m.turn(p, Refused, now)
	} else if broke {
		return 2 * retryQuick
	}
	return m.cfg.Interval
}

// dialed notes that somebody answers with the peer's certificate.
func (m *Mesh) dialed(p *peer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p.firstRefused = time.Time{}
	if p.state == Refused {
		p.watched = time.Now() // it has SilentAfter to be heard
		m.turn(p, Unknown, p.watched)
	}
}

// speak sends heartbeats and sections until the connection breaks.
func (m *Mesh) speak(ctx context.Context, p *peer, c net.Conn) {
	broken := make(chan struct{})
	go func() { // nothing is ever sent to us here: an answer is the end
		defer close(broken)
		c.Read(make([]byte, 1))
	}()
	defer func() {
		c.Close()
		<-broken
	}()
	if m.write(c, frame{Hello: &hello{Version, m.boot}}) != nil {
		return
	}
	sent := map[string]uint64{}
	t := time.NewTicker(m.cfg.Interval)
	defer t.Stop()
	for {
		if m.write(c, frame{Beat: m.beat(p)}) != nil {
			return
		}
		for name, s := range m.unsent(sent) {
			if m.write(c, frame{Section: &section{name, s.value}}) != nil {
				return
			}
			sent[name] = s.version
		}
		select {
		case <-ctx.Done():
			return
		case <-broken:
			return
		case <-p.kick:
		case <-t.C:
		}
	}
}

func (m *Mesh) write(c net.Conn, f frame) error {
	c.SetWriteDeadline(time.Now().Add(m.cfg.SilentAfter))
	_, err := c.Write(encode(f))
	return err
}

func (m *Mesh) beat(to *peer) *beat {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	b := &beat{Sent: int64(now.Sub(m.start)) + 1, Echo: to.lastTx}
	if to.lastTx != 0 {
		b.Held = int64(now.Sub(to.heard))
	}
	for _, p := range m.peers {
		if p != to {
			b.Opinions = append(b.Opinions, opinion{p.name, p.state, now.Sub(p.since).Milliseconds()})
		}
	}
	return b
}

func (m *Mesh) unsent(sent map[string]uint64) map[string]published {
	m.mu.Lock()
	defer m.mu.Unlock()
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
	if !m.greeted(from, c, f.Hello.Boot) {
		return
	}
	for {
		c.SetReadDeadline(time.Now().Add(10 * m.cfg.SilentAfter))
		f, err := read(c)
		if err != nil || !m.hear(from, c, f) {
			m.ended(from, c)
			return
		}
	}
}

// greeted makes c the connection the peer speaks on.
func (m *Mesh) greeted(from org.ServerName, c net.Conn, boot string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.peers[from]
	if p == nil {
		return false
	}
	if p.in != nil {
		p.in.Close()
	}
	p.in = c
	if p.boot != boot {
		p.boot = boot
		p.lastTx, p.says = 0, nil
		p.held = map[string][]byte{}
		m.touch()
	}
	return true
}

// hear takes in a frame; false means that c is no longer the peer's.
func (m *Mesh) hear(from org.ServerName, c net.Conn, f frame) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.peers[from]
	if p == nil || p.in != c {
		return false
	}
	now := time.Now()
	switch {
	case f.Beat != nil:
		m.hearBeat(p, f.Beat, now)
	case f.Section != nil:
		if _, ok := p.held[f.Section.Name]; ok || len(p.held) < MaxSections {
			p.held[f.Section.Name] = f.Section.Value
		}
	}
	return true
}

func (m *Mesh) hearBeat(p *peer, b *beat, now time.Time) {
	p.heard, p.lastTx = now, b.Sent
	if b.Echo > 0 && b.Held >= 0 {
		if rtt := now.Sub(m.start) - time.Duration(b.Echo) - time.Duration(b.Held); rtt > 0 {
			if p.rtt == 0 {
				p.rtt = rtt
			}
			p.rtt += (rtt - p.rtt) / 8
		}
	}
	says := make(map[org.ServerName]State, len(b.Opinions))
	for _, o := range b.Opinions {
		says[o.Server] = o.State
	}
	if !maps.Equal(says, p.says) {
		p.says = says
		m.touch()
	}
	m.turn(p, Up, now)
}

// ended notes that the peer's connection broke, which makes the next refusal
// count at once.
func (m *Mesh) ended(from org.ServerName, c net.Conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.peers[from]; p != nil && p.in == c {
		p.in = nil
		p.reset = time.Now()
	}
}
