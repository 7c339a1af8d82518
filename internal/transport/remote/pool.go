package remote

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/smtpc"
)

// Limits of connections.
const (
	maxIdle        = 10 * time.Second
	maxAge         = 5 * time.Minute
	maxMessages    = 100  // of a connection
	maxPerDest     = 20   // connections, where a connector has no number of its own
	maxConnections = 1000 // in all
	goodbye        = 2 * time.Second
)

// session is a connection and what it may be used for.
type session struct {
	conn  *smtpc.Conn
	dest  string
	key   string // of the pool: who may use it
	host  string
	tls   uint8 // as in deliver.Result
	born  time.Time
	since time.Time // idle
	sent  int       // messages tried
	again bool      // it was idle before
}

// pool bounds the connections and keeps those that are idle. The number of
// connections counts those in use and idle ones.
type pool struct {
	now func() time.Time
	wg  sync.WaitGroup // sessions being closed

	mu      sync.Mutex // guards the rest
	open    bool       // Run works
	idle    []*session // longest idle first
	count   map[string]int
	live    map[string]int // of these, sessions that stand
	total   int
	changed chan struct{} // closed when there may be room
}

func newPool(now func() time.Time) *pool {
	return &pool{now: now, count: map[string]int{}, live: map[string]int{}, changed: make(chan struct{})}
}

// take gives an idle session, the one used last; nil: there is none.
func (p *pool) take(key string) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.find(key)
}

func (p *pool) find(key string) *session {
	for i, s := range slices.Backward(p.idle) {
		if s.key == key && !p.stale(s) {
			p.idle = slices.Delete(p.idle, i, i+1)
			s.again = true
			return s
		}
	}
	return nil
}

func (p *pool) stale(s *session) bool {
	now := p.now()
	return now.Sub(s.since) >= maxIdle || now.Sub(s.born) >= maxAge
}

// reserve waits until another connection may be opened, of which a destination
// has at most limit, or gives a session that became idle meanwhile.
func (p *pool) reserve(ctx context.Context, dest, key string, limit int) (*session, error) {
	for {
		p.mu.Lock()
		if s := p.find(key); s != nil {
			p.mu.Unlock()
			return s, nil
		}
		full := p.count[dest] >= limit
		if full || p.total >= maxConnections {
			if i := slices.IndexFunc(p.idle, func(s *session) bool { return !full || s.dest == dest }); i >= 0 {
				s := p.idle[i]
				p.idle = slices.Delete(p.idle, i, i+1)
				p.retire(s)
				full = p.count[dest] >= limit
			}
		}
		if !full && p.total < maxConnections {
			p.count[dest]++
			p.total++
			p.mu.Unlock()
			return nil, nil
		}
		changed := p.changed
		p.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// release gives back what reserve gave and nothing came of.
func (p *pool) release(dest string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(dest)
}

func (p *pool) drop(dest string) {
	p.total--
	if p.count[dest]--; p.count[dest] == 0 {
		delete(p.count, dest)
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

// established tells that a session came of what reserve gave.
func (p *pool) established(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.live[s.dest]++
}

// alive counts the sessions with a destination.
func (p *pool) alive(dest string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.live[dest]
}

// put takes a session back after use.
func (p *pool) put(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.since = p.now()
	if !p.open || !s.conn.Usable() || s.sent >= maxMessages || p.stale(s) {
		p.retire(s)
		return
	}
	p.idle = append(p.idle, s)
	close(p.changed) // who waits for room can have this one's
	p.changed = make(chan struct{})
}

// retire ends a session that is not idle any more. Nobody waits for the
// goodbye but Run; without Run there is none.
func (p *pool) retire(s *session) {
	if p.live[s.dest]--; p.live[s.dest] == 0 {
		delete(p.live, s.dest)
	}
	p.drop(s.dest)
	if !p.open || !s.conn.Usable() {
		s.conn.Close()
		return
	}
	p.wg.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), goodbye)
		defer cancel()
		s.conn.Quit(ctx)
	})
}

// run ends sessions that were idle for too long, and all when ctx ends.
func (p *pool) run(ctx context.Context) error {
	p.mu.Lock()
	p.open = true
	p.mu.Unlock()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			p.reap(false)
		}
	}
	p.reap(true)
	p.wg.Wait()
	return nil
}

func (p *pool) reap(all bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = slices.DeleteFunc(p.idle, func(s *session) bool {
		if !all && !p.stale(s) {
			return false
		}
		p.retire(s)
		return true
	})
	p.open = !all
}
