package mesh

import (
	"context"
	"net"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// peer is another server; its state is what its paths make of it.
type peer struct {
	name  org.ServerName
	state State
	since time.Time
	boot  string
	says  map[org.ServerName]State
	held  map[string]published // its sections
	paths []*path              // never empty
}

// path is one way to a peer, with a connection in each direction.
type path struct {
	of   *peer
	name string

	state  State
	since  time.Time
	heard  time.Time // last heartbeat
	rtt    time.Duration
	lastTx int64         // Sent of its last beat, to echo
	deaf   time.Duration // for so long the peer had not heard us here, as it said last
	in     net.Conn      // the connection it speaks on; older ones are ignored

	kick         chan struct{} // send a heartbeat now
	cancel       context.CancelFunc
	watched      time.Time // since when we listen for it
	reset        time.Time // its connection broke
	firstRefused time.Time
}

// SetPeers says who the other members are, and by which paths each is to be
// heard, the preferred one first. At least one has to be given; its name may be
// empty.
func (m *Mesh) SetPeers(peers map[org.ServerName][]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, p := range m.peers {
		if _, ok := peers[name]; !ok {
			for _, q := range p.paths {
				q.stop()
			}
			delete(m.peers, name)
			m.touch()
		}
	}
	now := time.Now()
	for name, paths := range peers {
		if name == m.cfg.Self || len(paths) == 0 {
			continue
		}
		p := m.peers[name]
		if p == nil {
			p = &peer{name: name, state: Unknown, since: now, held: map[string]published{}}
			m.peers[name] = p
			m.touch()
		}
		m.setPaths(p, paths, now)
	}
}

// setPaths brings a peer's paths in line; mu is held.
func (m *Mesh) setPaths(p *peer, names []string, now time.Time) {
	old := p.paths
	p.paths = nil
	for _, name := range names {
		if i := slices.IndexFunc(old, func(q *path) bool { return q.name == name }); i >= 0 {
			p.paths = append(p.paths, old[i])
			continue
		}
		q := &path{of: p, name: name, state: Unknown, since: now, watched: now, kick: make(chan struct{}, 1)}
		if p.state.gone() { // a new path is no sign of life
			q.state = p.state
		}
		p.paths = append(p.paths, q)
		if m.running != nil {
			m.running(q)
		}
		m.touch()
	}
	for _, q := range old {
		if !slices.Contains(p.paths, q) {
			q.stop()
			if q.in != nil {
				q.in.Close()
			}
			m.touch()
		}
	}
	m.turn(p, p.judge(), now)
}

func (q *path) stop() {
	if q.cancel != nil {
		q.cancel()
	}
}

// judge makes a peer's state of its paths': up if any is; gone from its host's
// own word, if a path on which it was heard says so.
func (p *peer) judge() State {
	if len(p.paths) == 1 {
		return p.paths[0].state
	}
	out, refused := Silent, 0
	for _, q := range p.paths {
		switch {
		case q.state == Up:
			return Up
		case q.state == Refused:
			if refused++; !q.heard.IsZero() || refused == len(p.paths) {
				out = Refused
			}
		case q.state == Unknown && out == Silent:
			out = Unknown
		}
	}
	return out
}

// voice is the path on which a peer is told the sections: the first that is
// up. nil means that none is, and then all are tried.
func (p *peer) voice() *path {
	if i := slices.IndexFunc(p.paths, func(q *path) bool { return q.state == Up }); i >= 0 {
		return p.paths[i]
	}
	return nil
}

// heard is when the peer was heard last on any path.
func (p *peer) heard() (t time.Time) {
	for _, q := range p.paths {
		t = latest(t, q.heard)
	}
	return t
}

// otherWell tells whether another path of the same peer works in both
// directions at this moment; mu is held.
func (m *Mesh) otherWell(q *path, now time.Time) bool {
	return slices.ContainsFunc(q.of.paths, func(o *path) bool {
		return o != q && o.state == Up && now.Sub(o.heard) <= 2*m.cfg.Interval && o.deaf < m.cfg.PathSilent
	})
}

// turnPath changes a path's state, and what follows for the peer; mu is held.
func (m *Mesh) turnPath(q *path, to State, now time.Time) {
	if q.state != to {
		from, after := q.state, now.Sub(q.since)
		q.state, q.since = to, now
		m.touch()
		// A path that never worked is no news.
		if m.cfg.PathTurned != nil && len(q.of.paths) > 1 && !q.heard.IsZero() {
			server, name := q.of.name, q.name
			select {
			case m.turns <- func() { m.cfg.PathTurned(server, name, from, to, after) }:
			default:
			}
		}
	}
	m.turn(q.of, q.of.judge(), now)
}

// watchPath finds a path silent; mu is held. While the peer speaks on another
// path, it lives, and the silence is the path's: less of it is enough.
func (m *Mesh) watchPath(q *path, now time.Time) {
	if q.state == Refused {
		return
	}
	limit := m.cfg.SilentAfter
	if m.otherWell(q, now) {
		limit = m.cfg.PathSilent
	}
	if now.Sub(latest(q.heard, q.watched)) >= limit {
		m.turnPath(q, Silent, now)
	}
}

// Paths lists the ways to a peer as they are heard, the preferred one first.
func (m *Mesh) Paths(s org.ServerName) []Path {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.peers[s]; p != nil {
		return p.seen()
	}
	return nil
}

func (p *peer) seen() (out []Path) {
	for _, q := range p.paths {
		out = append(out, Path{q.name, q.state, q.since, q.heard, q.rtt})
	}
	return out
}
