package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	"github.com/postern-mail/postern/test/load"
)

// Idle figures that aims look for.
const (
	idleServer  = "idle"
	idleSession = "one idle IMAP session"
)

// idleRows measures servers that do nothing, and what an idle session costs.
func idleRows(ctx context.Context, o options, s system, r *results) error {
	idle, err := settled(ctx, s, idleServer)
	if err != nil {
		return err
	}
	r.keep(idle)
	// Tickets would let sessions share what a stranger's could not.
	t := &load.Target{Servers: s.target.Servers, Users: s.target.Users, TLS: s.target.TLS.Clone()}
	t.TLS.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	// A first login of each user fills caches that are no session's.
	if _, err := load.CountAll(t); err != nil {
		return err
	}
	held := 0
	before, err := settled(ctx, s, "before sessions")
	if err != nil {
		return err
	}
	// The first sessions also pay for what all share (stacks and buffers that
	// are used again); what one more costs is the difference between two crowds.
	for _, step := range []struct {
		name string
		more int
	}{{"one of the first idle IMAP sessions", o.idle}, {idleSession, 2 * o.idle}} {
		stop, err := load.HoldIdle(ctx, t, step.more)
		if err != nil {
			return err
		}
		defer stop()
		held += step.more
		after, err := settled(ctx, s, fmt.Sprintf("%d idle IMAP sessions", held))
		if err != nil {
			return err
		}
		r.keep(after)
		one := after.each(step.name, before, step.more)
		one.Servers, one.Heap = []int64{one.total()}, []int64{sum(one.Heap)}
		r.keep(one)
		before = after
	}
	return nil
}

// Memory counts as settled when it changes by less than one part in
// settledPart from one look to the next, settleEvery later, or after settleMost.
const (
	settledPart = 200
	settleEvery = 1500 * time.Millisecond
	settleMost  = 15 * time.Second
)

// settled lets servers collect garbage, waits until they gave back what they do not
// need, and reads how much they hold.
func settled(ctx context.Context, s system, name string) (memory, error) {
	m := memory{Name: name}
	if err := collect(ctx, s); err != nil {
		return m, err
	}
	var last int64
	for begun := time.Now(); time.Since(begun) < settleMost; {
		if err := load.Rest(ctx, settleEvery); err != nil {
			return m, err
		}
		m.Servers = m.Servers[:0]
		for _, pids := range s.servers() {
			m.Servers = append(m.Servers, load.Memory(pids))
		}
		if d := last - m.total(); d < last/settledPart && -d < last/settledPart {
			break
		}
		last = m.total()
	}
	if s.lab == nil {
		return m, nil
	}
	servers, err := s.lab.Servers()
	if err != nil {
		return m, err
	}
	for _, srv := range servers {
		heap, err := srv.Metric(ctx, "go_memstats_heap_alloc_bytes")
		if err != nil {
			return m, err
		}
		m.Heap = append(m.Heap, int64(heap))
	}
	return m, nil
}

// collect makes a lab's servers collect garbage; the peer has none.
func collect(ctx context.Context, s system) error {
	if s.lab == nil {
		return nil
	}
	servers, err := s.lab.Servers()
	if err != nil {
		return err
	}
	for range 2 { // finalizers and pools let go of more the second time
		for _, srv := range servers {
			a := srv.Admin()
			err := a.Collect(ctx)
			a.Close()
			if err != nil {
				return err
			}
		}
	}
	return nil
}
