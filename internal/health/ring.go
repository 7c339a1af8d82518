package health

import (
	"sync"
	"time"
)

// ringSize is how many results are kept for the Engine.
const ringSize = 2048

// ring keeps the last results of this process. It is safe for concurrent use.
type ring struct {
	boot uint64
	mu   sync.Mutex // guards the rest
	all  []Result
	next uint64 // number of the next result, from 1
}

func newRing(boot uint64) *ring { return &ring{boot: boot, next: 1} }

func (r *ring) add(x Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x.Seq = r.next
	r.next++
	if len(r.all) < ringSize {
		r.all = append(r.all, x)
	} else {
		r.all[(x.Seq-1)%ringSize] = x
	}
}

// after returns the results with a number above n, oldest first, at most most, and what to
// ask after next.
func (r *ring) after(n uint64, most int) (out []Result, next uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := max(n+1, 1)
	if r.next > ringSize && first < r.next-ringSize {
		first = r.next - ringSize
	}
	for seq := first; seq < r.next && len(out) < most; seq++ {
		out = append(out, r.all[(seq-1)%ringSize])
	}
	if len(out) > 0 {
		return out, out[len(out)-1].Seq
	}
	return nil, max(n, r.next-1)
}

// cross makes results fit to be sent.
func cross(all []Result, now time.Time) []wireResult {
	out := make([]wireResult, 0, len(all))
	for _, r := range all {
		out = append(out, wireResult{Set: r.Set, Probe: r.Probe, Target: r.Target, Outcome: r.Outcome, Value: r.Value, Text: r.Text,
			Age: now.Sub(r.At), Took: r.Took})
	}
	return out
}
