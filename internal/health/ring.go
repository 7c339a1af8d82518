package health

import (
	"slices"
	"sync"
	"time"
)

// Limits of what is kept of results.
const (
	ringSize = 2048 // of all items, for the Engine
	perItem  = 16   // of each item, for people
	maxKept  = 4000 // items about targets
)

// ring keeps the last results of this process. It is safe for concurrent use.
type ring struct {
	boot uint64
	mu   sync.Mutex // guards the rest
	all  []Result
	next uint64 // number of the next result, from 1
	each map[itemKey][]Result
}

type itemKey struct{ set, probe, target string }

func newRing(boot uint64) *ring { return &ring{boot: boot, next: 1, each: map[itemKey][]Result{}} }

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
	k := itemKey{x.Set, x.Probe, x.Target}
	old, known := r.each[k]
	if !known && len(r.each) >= maxKept {
		r.forget()
	}
	if len(old) >= perItem {
		old = append(old[:0], old[1:]...)
	}
	r.each[k] = append(old, x)
}

// forget drops the item that was not heard of for the longest time.
func (r *ring) forget() {
	var oldest itemKey
	var at uint64
	for k, all := range r.each {
		if seq := all[len(all)-1].Seq; at == 0 || seq < at {
			oldest, at = k, seq
		}
	}
	delete(r.each, oldest)
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

// of returns the last results of one item, oldest first.
func (r *ring) of(set, probe, target string) []Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.each[itemKey{set, probe, target}])
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
