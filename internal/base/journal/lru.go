package journal

import (
	"sync"

	"github.com/postern-mail/postern/internal/org"
)

// lru remembers something about the positions used last: two generations of
// at most max/2 each, the older one forgotten whole.
type lru[T any] struct {
	mu       sync.Mutex
	max      int
	now, old map[org.LSN]T
}

func (c *lru[T]) get(lsn org.LSN) (T, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.now[lsn]
	if !ok {
		if v, ok = c.old[lsn]; ok {
			c.put(lsn, v)
		}
	}
	return v, ok
}

func (c *lru[T]) add(lsn org.LSN, v T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put(lsn, v)
}

func (c *lru[T]) put(lsn org.LSN, v T) {
	if len(c.now) >= c.max/2 || c.now == nil {
		c.old, c.now = c.now, make(map[org.LSN]T)
	}
	c.now[lsn] = v
}

func (c *lru[T]) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now, c.old = nil, nil
}
