package mesh

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// Config says how a mesh works. Dial must verify who answers.
type Config struct {
	Self        org.ServerName
	Interval    time.Duration // between heartbeats
	SilentAfter time.Duration
	// PathSilent is silence for a path while another path of the same peer
	// speaks; 0 means half of SilentAfter.
	PathSilent time.Duration
	// Dial connects to a peer on one of its paths.
	Dial func(ctx context.Context, s org.ServerName, path string) (net.Conn, error)
	// Refused tells a dial error that means "nobody listens there".
	Refused func(error) bool
	// Turned is told the changes of peers' states, in order and from a
	// goroutine of its own; what it cannot keep up with is left out.
	Turned func(s org.ServerName, from, to State, after time.Duration)
	// PathTurned is told likewise how the paths of peers with several change.
	PathTurned func(s org.ServerName, path string, from, to State, after time.Duration)
	Log        *slog.Logger
}

// Peer is what this server finds of another.
type Peer struct {
	Server    org.ServerName
	State     State
	Since     time.Time // in this state
	LastHeard time.Time // zero: never since this process started
	RTT       time.Duration
	Boot      string // changes when its process was started anew
	Paths     []Path // the preferred one first
}

// Path is what this server finds of one way to a peer.
type Path struct {
	Name      string
	State     State
	Since     time.Time
	LastHeard time.Time
	RTT       time.Duration
}

// Mesh is one server's end of the mesh.
type Mesh struct {
	cfg   Config
	boot  string
	start time.Time

	mu       sync.Mutex // guards all below and all fields of peers and paths
	peers    map[org.ServerName]*peer
	sections map[string]published
	versions uint64
	changed  chan struct{}
	deafTill time.Time // after a gap in our own life: find nobody silent before
	running  func(*path)
	turns    chan func()
}

// maxTurns bounds the changes of state that wait to be told.
const maxTurns = 256

type published struct {
	value   []byte
	version uint64
	came    time.Time // when this value was first heard
}

// New makes a mesh with a new boot id.
func New(cfg Config) *Mesh {
	if cfg.PathSilent == 0 {
		cfg.PathSilent = cfg.SilentAfter / 2
	}
	return &Mesh{cfg: cfg, boot: rand.Text(), start: time.Now(), peers: map[org.ServerName]*peer{},
		sections: map[string]published{}, changed: make(chan struct{}), turns: make(chan func(), maxTurns)}
}

// Boot is the id of this process's life.
func (m *Mesh) Boot() string { return m.boot }

// Run speaks with the peers until ctx ends.
func (m *Mesh) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	m.mu.Lock()
	m.running = func(q *path) {
		pctx, cancel := context.WithCancel(ctx)
		q.cancel = cancel
		q.watched = time.Now()
		wg.Go(func() { m.talk(pctx, q) })
	}
	for _, p := range m.peers {
		for _, q := range p.paths {
			m.running(q)
		}
	}
	m.mu.Unlock()
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case tell := <-m.turns:
				tell()
			}
		}
	})
	m.watch(ctx)
	m.mu.Lock()
	m.running = nil
	m.mu.Unlock()
	wg.Wait()
	return nil
}

// touch announces a change; mu is held.
func (m *Mesh) touch() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// turn changes a peer's state, tells everybody, and lets the peers know at
// once; mu is held.
func (m *Mesh) turn(p *peer, to State, now time.Time) {
	if p.state == to {
		return
	}
	from, after := p.state, now.Sub(p.since)
	p.state, p.since = to, now
	m.touch()
	for _, other := range m.peers {
		for _, q := range other.paths {
			select {
			case q.kick <- struct{}{}:
			default:
			}
		}
	}
	if m.cfg.Turned != nil {
		name := p.name
		select {
		case m.turns <- func() { m.cfg.Turned(name, from, to, after) }:
		default:
		}
	}
}

// watch finds who is silent.
func (m *Mesh) watch(ctx context.Context) {
	step := m.cfg.Interval / 2
	t := time.NewTicker(step)
	defer t.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now := time.Now()
		m.mu.Lock()
		if now.Sub(last) > step+m.cfg.SilentAfter/2 {
			m.deafTill = now.Add(m.cfg.SilentAfter)
			m.cfg.Log.Warn("mesh: this process was held up", "for", now.Sub(last).String())
		}
		last = now
		if now.After(m.deafTill) {
			for _, p := range m.peers {
				for _, q := range p.paths {
					m.watchPath(q, now)
				}
			}
		}
		m.mu.Unlock()
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Peers lists the other members by name.
func (m *Mesh) Peers() []Peer {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Peer, 0, len(m.peers))
	for _, p := range m.peers {
		x := Peer{Server: p.name, State: p.state, Since: p.since, LastHeard: p.heard(), RTT: p.paths[0].rtt, Boot: p.boot}
		if v := p.voice(); v != nil {
			x.RTT = v.rtt
		}
		x.Paths = p.seen()
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b Peer) int { return cmp.Compare(a.Server, b.Server) })
	return out
}

// Changed is closed at the next change of a state, of a peer's opinion or of
// the members.
func (m *Mesh) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// Dead judges a server; see the package comment.
func (m *Mesh) Dead(s org.ServerName) (why string, dead bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.peers[s]
	if p == nil {
		return "not a peer", false
	}
	var heard []witness
	for _, w := range m.peers {
		if w != p && w.state == Up {
			heard = append(heard, witness{w.name, cmp.Or(w.says[s], Unknown)})
		}
	}
	slices.SortFunc(heard, func(a, b witness) int { return cmp.Compare(a.server, b.server) })
	return judge(p.state, time.Since(p.since), heard)
}

// Publish replaces a section of what this server tells all others. A value
// over MaxSection, or a section over MaxSections, is dropped with a warning.
func (m *Mesh) Publish(name string, v []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old, ok := m.sections[name]
	if ok && bytes.Equal(old.value, v) {
		return
	}
	if len(v) > MaxSection || len(name) > 64 || (!ok && len(m.sections) >= MaxSections) {
		m.cfg.Log.Warn("mesh: section not published: over the limit", "section", name, "bytes", len(v))
		return
	}
	m.versions++
	m.sections[name] = published{bytes.Clone(v), m.versions, time.Now()}
}

// Published returns a section of a server, and when it was last heard to be
// current. The caller must not change it.
func (m *Mesh) Published(s org.ServerName, name string) (v []byte, heard time.Time, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s == m.cfg.Self {
		sec, ok := m.sections[name]
		return sec.value, time.Now(), ok
	}
	p := m.peers[s]
	if p == nil {
		return nil, time.Time{}, false
	}
	held, ok := p.held[name]
	return held.value, p.heard(), ok
}

// Came tells when the present value of a section was first heard here. It
// grows old where a server lives and beats, but has nothing new to say.
func (m *Mesh) Came(s org.ServerName, name string) (came time.Time, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	held := m.sections
	if s != m.cfg.Self {
		p := m.peers[s]
		if p == nil {
			return time.Time{}, false
		}
		held = p.held
	}
	v, ok := held[name]
	return v.came, ok
}
