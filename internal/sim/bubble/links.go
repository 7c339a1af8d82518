package bubble

import (
	"context"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// way is one direction between two servers.
type way struct{ from, to org.ServerName }

// links carries what servers say to each other.
type links struct {
	rnd *random

	mu    sync.Mutex // guards the rest
	hosts map[org.ServerName]*host
	cuts  map[way]int // how many faults hold this direction
	slow  map[way]time.Duration
	pipes map[*half]bool
	moved chan struct{} // closed when a link or a host changes
}

// host is a machine as the others reach it.
type host struct {
	dark   int      // how many faults keep it without power or network
	frozen int      // how many faults hold its process
	proc   *process // nil: nobody listens
}

func newLinks(r *random) *links {
	return &links{rnd: r, hosts: map[org.ServerName]*host{}, cuts: map[way]int{}, slow: map[way]time.Duration{},
		pipes: map[*half]bool{}, moved: make(chan struct{})}
}

// change changes links or hosts and wakes who waits for that.
func (l *links) change(f func()) {
	l.mu.Lock()
	f()
	close(l.moved)
	l.moved = make(chan struct{})
	halves := make([]*half, 0, len(l.pipes))
	for h := range l.pipes {
		halves = append(halves, h)
	}
	l.mu.Unlock()
	for _, h := range halves {
		h.poke()
	}
}

// hold adds (1) or takes back (-1) a cut of a direction.
func (l *links) hold(from, to org.ServerName, n int) {
	l.change(func() { l.cuts[way{from, to}] = max(0, l.cuts[way{from, to}]+n) })
}

// heal takes back everything that keeps links and hosts from working.
func (l *links) heal() {
	l.change(func() {
		clear(l.cuts)
		clear(l.slow)
		for _, h := range l.hosts {
			h.dark, h.frozen = 0, 0
		}
	})
}

// passes tells whether what from says reaches to now.
func (l *links) passes(from, to org.ServerName) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.passesLocked(from, to)
}

func (l *links) passesLocked(from, to org.ServerName) bool {
	a, b := l.hosts[from], l.hosts[to]
	if a.dark+b.dark+a.frozen+b.frozen > 0 {
		return false
	}
	return from == to || l.cuts[way{from, to}] == 0
}

// answers tells whether the process of a server runs and is not held.
func (l *links) answers(s org.ServerName) *process {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.hosts[s]; h.frozen == 0 {
		return h.proc
	}
	return nil
}

// refuses tells that to's machine answers from, and nobody listens there.
func (l *links) refuses(from, to org.ServerName) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hosts[to].proc == nil && l.passesLocked(from, to) && l.passesLocked(to, from)
}

// delay is how long the next words take.
func (l *links) delay(w way) time.Duration {
	l.mu.Lock()
	d := l.slow[w]
	l.mu.Unlock()
	d += l.rnd.between(100*time.Microsecond, 1500*time.Microsecond)
	if l.rnd.intN(500) == 0 {
		d += l.rnd.between(20*time.Millisecond, 250*time.Millisecond) // lost and sent again
	}
	return d
}

// dial connects p with a server for a protocol.
func (l *links) dial(ctx context.Context, p *process, to org.ServerName, proto string) (net.Conn, error) {
	me := p.srv.name
	for {
		l.mu.Lock()
		there := l.hosts[to].proc
		open := l.passesLocked(me, to) && l.passesLocked(to, me)
		moved := l.moved
		l.mu.Unlock()
		if open {
			if !rest(ctx, l.delay(way{me, to})+l.delay(way{to, me})) {
				return nil, ctx.Err()
			}
			if there == nil {
				return nil, kind.Errorf(kind.Busy, "dial %s: %w", to, syscall.ECONNREFUSED)
			}
			near, far := l.connect(p, there)
			if near != nil && there.accept(p.srv.name, proto, far) {
				return near, nil
			}
			if near != nil {
				near.Close()
			}
			return nil, kind.Errorf(kind.Busy, "dial %s: %w", to, syscall.ECONNREFUSED)
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, kind.Errorf(kind.Busy, "dial %s: %w", to, ctx.Err())
		}
	}
}

// connect makes both ends of a connection, nil where one process is over.
func (l *links) connect(a, b *process) (near, far net.Conn) {
	there, back := newHalf(l, way{a.srv.name, b.srv.name}), newHalf(l, way{b.srv.name, a.srv.name})
	n, f := &pipe{in: back, out: there}, &pipe{in: there, out: back}
	if !a.hold(n) {
		return nil, nil
	}
	if !b.hold(f) {
		return nil, nil
	}
	l.mu.Lock()
	l.pipes[there], l.pipes[back] = true, true
	l.mu.Unlock()
	return n, f
}

func (l *links) forget(h *half) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pipes, h)
}

// rest waits, and tells whether ctx is still alive.
func rest(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
