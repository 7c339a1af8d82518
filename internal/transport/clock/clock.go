// Package clock is time as transport may rely on it. A wall clock that jumps
// must not expire a message, nor send one again early (fault P26).
//
// It promises that Now never runs backwards, follows the wall clock while that
// is plausible, and goes on by the monotonic clock while it is not; Trusted
// then says why nothing should be given up.
package clock

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// Jump is the difference from which a clock is not believed.
const Jump = 10 * time.Minute

// Clock is safe for concurrent use.
type Clock struct {
	wall func() time.Time // the system's, with its monotonic reading
	// peers are the offsets of other servers' clocks from this one's.
	peers func() []time.Duration

	mu     sync.Mutex // guards the rest
	base   time.Time  // wall time with its monotonic reading, from which is counted
	offset time.Duration
	last   time.Time
	why    string
}

// New makes a clock. last is the newest time this server wrote down, zero for
// none; peers tells how far the clocks of the other servers are ahead.
func New(last time.Time, peers func() []time.Duration) *Clock {
	return newClock(time.Now, last, peers)
}

func newClock(wall func() time.Time, last time.Time, peers func() []time.Duration) *Clock {
	c := &Clock{wall: wall, peers: peers, base: wall()}
	if !last.IsZero() && last.Sub(c.base) > Jump {
		c.offset = last.Sub(c.base)
		c.why = fmt.Sprintf("the clock is %v behind what this server wrote last", c.offset.Round(time.Second))
	}
	c.last = last
	return c
}

// Now is the present time, without a monotonic reading.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now()
}

func (c *Clock) now() time.Time {
	w := c.wall()
	steady := c.base.Add(w.Sub(c.base)).Round(0).Add(c.offset) // by the monotonic clock
	stated := w.Round(0)
	switch off := stated.Sub(steady); {
	case off.Abs() <= Jump:
		c.base, c.offset = w, 0
		steady = stated
		c.why = ""
	case c.why == "":
		c.why = fmt.Sprintf("the clock jumped by %v", off.Round(time.Second))
	}
	if steady.Before(c.last) {
		steady = c.last
	}
	c.last = steady
	return steady
}

// Trusted tells whether times may be acted upon that cannot be taken back, and
// why not.
func (c *Clock) Trusted() (bool, string) {
	c.mu.Lock()
	c.now()
	why := c.why
	c.mu.Unlock()
	if why != "" {
		return false, why
	}
	offs := c.peers()
	if len(offs) == 0 {
		return true, ""
	}
	slices.Sort(offs)
	if m := offs[len(offs)/2]; m.Abs() > Jump {
		return false, fmt.Sprintf("the clocks of the other servers differ by %v", m.Round(time.Second))
	}
	return true, ""
}
