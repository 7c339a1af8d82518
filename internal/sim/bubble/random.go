package bubble

import (
	"math/rand/v2"
	"sync"
	"time"
)

// random is one source of chance for many goroutines.
type random struct {
	mu sync.Mutex // guards r
	r  *rand.Rand
}

func newRandom(seed, stream uint64) *random {
	return &random{r: rand.New(rand.NewPCG(seed, stream))}
}

func (r *random) intN(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.r.IntN(n)
}

func (r *random) uint64() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.r.Uint64()
}

// between draws a duration from least to most.
func (r *random) between(least, most time.Duration) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return least + time.Duration(r.r.Int64N(int64(most-least)+1))
}

// key draws the bytes of a key.
func (r *random) key() (k [16]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range k {
		k[i] = byte(r.r.Uint32())
	}
	return k
}

func (r *random) between64(least, most int64) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return least + r.r.Int64N(most-least+1)
}
