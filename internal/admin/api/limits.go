package api

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/admin/wire"
)

// slots bounds what runs at one time.
type slots chan struct{}

func (s slots) take() bool {
	select {
	case s <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s slots) give() { <-s }

// buckets are token buckets by name. They remember between limit and twice
// limit names: when the newer half is full, the older half is forgotten,
// which for a name not seen lately changes little.
type buckets struct {
	burst float64
	every time.Duration // a token comes back after
	limit int

	mu         sync.Mutex // guards both halves
	newer, old map[string]bucket
}

type bucket struct {
	tokens float64
	at     time.Time
}

func newBuckets(burst int, every time.Duration, limit int) *buckets {
	return &buckets{burst: float64(burst), every: every, limit: limit, newer: map[string]bucket{}}
}

// take takes a token, or tells how long until there is one.
func (b *buckets) take(name string, now time.Time) (ok bool, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := b.at(name, now)
	if k.tokens < 1 {
		b.put(name, k)
		return false, time.Duration((1-k.tokens)*float64(b.every)).Truncate(time.Second) + time.Second
	}
	k.tokens--
	b.put(name, k)
	return true, 0
}

// give puts a token back.
func (b *buckets) give(name string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := b.at(name, now)
	k.tokens = min(k.tokens+1, b.burst)
	b.put(name, k)
}

func (b *buckets) at(name string, now time.Time) bucket {
	k, ok := b.newer[name]
	if !ok {
		k, ok = b.old[name]
	}
	if !ok {
		return bucket{b.burst, now}
	}
	if d := now.Sub(k.at); d > 0 {
		k.tokens, k.at = min(b.burst, k.tokens+float64(d)/float64(b.every)), now
	}
	return k
}

func (b *buckets) put(name string, k bucket) {
	if len(b.newer) >= b.limit {
		b.old, b.newer = b.newer, make(map[string]bucket)
	}
	b.newer[name] = k
}

// retry is a problem that says when to come back.
type retry struct {
	*wire.Problem
	after time.Duration
}

func (r *retry) Unwrap() error { return r.Problem }

func tooMany(wait time.Duration) error {
	return &retry{wire.New(http.StatusTooManyRequests, wire.KindTooMany, "too many requests", fmt.Sprintf("try again in %s", wait)), wait}
}
