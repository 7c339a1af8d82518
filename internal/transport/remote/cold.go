package remote

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// coldTime is how long an address that did not answer is tried after all
	// others, so that a family or a host that swallows packets does not hold up
	// each message by the time it takes to notice.
	coldTime = 5 * time.Minute
	// maxCold bounds the addresses that are remembered.
	maxCold = 10_000
)

// cold remembers addresses that did not answer.
type cold struct {
	mu    sync.Mutex
	until map[netip.AddrPort]time.Time
}

func newCold() *cold { return &cold{until: map[netip.AddrPort]time.Time{}} }

func (c *cold) is(a netip.AddrPort, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	until, ok := c.until[a]
	if ok && !now.Before(until) {
		delete(c.until, a)
	}
	return ok && now.Before(until)
}

func (c *cold) add(a netip.AddrPort, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.until) >= maxCold {
		for a, until := range c.until {
			if !now.Before(until) {
				delete(c.until, a)
			}
		}
	}
	if len(c.until) < maxCold {
		c.until[a] = now.Add(coldTime)
	}
}

func (c *cold) answered(a netip.AddrPort) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.until, a)
}
