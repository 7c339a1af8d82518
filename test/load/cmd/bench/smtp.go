package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/postern-mail/postern/test/load"
)

// growthConns are the connections whose growth is shown, with messages of
// growthSize.
var growthConns = []int{1, 16, 64, 256}

const growthSize = load.Size4K

// smtpRows measures delivery by size and connections.
func smtpRows(ctx context.Context, o options, s system, r *results) error {
	done := map[string]bool{}
	one := func(size load.Sizes, n int) error {
		x := row{Group: "smtp", Family: fmt.Sprintf("smtp %s, connections", size), Scale: n, Name: fmt.Sprintf("smtp %s %d connections", size, n)}
		if done[x.Name] {
			return nil
		}
		done[x.Name] = true
		if err := smtpRow(ctx, o, s, size, &x); err != nil {
			return fmt.Errorf("%s: %w", x.Name, err)
		}
		r.add(x)
		return nil
	}
	if o.wants("smtp") {
		for _, size := range o.sizes {
			for _, n := range o.conns {
				if err := one(load.Sizes(size), n); err != nil {
					return err
				}
			}
		}
	}
	if o.wants("growth") {
		for _, n := range growthConns {
			if err := one(growthSize, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// smtpRow sends for a while, then waits until all of it is visible over IMAP.
func smtpRow(ctx context.Context, o options, s system, size load.Sizes, x *row) error {
	before, err := load.CountAll(s.target)
	if err != nil {
		return err
	}
	syncs, cpu, begun := s.syncs(ctx), load.CPU(s.pids()), time.Now()
	sent, err := send(ctx, s.target, size, x.Scale, o.each)
	if err != nil {
		return err
	}
	if err := untilVisible(ctx, s.target, before+sent.confirmed); err != nil {
		return err
	}
	all := time.Since(begun)
	sent.fill(x, load.CPU(s.pids())-cpu)
	x.Visible = float64(sent.confirmed) / all.Seconds()
	if s.lab != nil {
		x.Syncs = (s.syncs(ctx) - syncs) / float64(sent.confirmed) / float64(s.copies)
	}
	return nil
}

// sent is what senders did.
type sent struct {
	confirmed int
	bytes     int64
	took      time.Duration
	lat       []time.Duration
	troubles  int
}

func (d sent) fill(x *row, cpu time.Duration) {
	x.fill(d.lat, d.took, cpu, d.confirmed)
	x.Bytes, x.Errors = float64(d.bytes)/d.took.Seconds(), d.troubles
}

// send sends to users with n connections for a while.
func send(ctx context.Context, t *load.Target, size load.Sizes, n int, d time.Duration) (sent, error) {
	return sendBy(ctx, n, d, func(name string, i int, h *load.History) *load.Sender {
		return &load.Sender{Name: name, Number: i, Target: t, History: h, Sizes: size, OneRecipient: true}
	})
}

// sendBy sends with n senders, each made by a function, for a while.
func sendBy(ctx context.Context, n int, d time.Duration, sender func(name string, i int, h *load.History) *load.Sender) (sent, error) {
	h := load.NewHistory()
	sctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	begun := time.Now()
	var wg sync.WaitGroup
	var mu sync.Mutex // guards out.bytes
	var out sent
	for i := range n {
		snd := sender(fmt.Sprintf("b%d-%d", begun.UnixNano(), i), i, h)
		snd.Sent = func(n int) { mu.Lock(); out.bytes += int64(n); mu.Unlock() }
		wg.Go(func() { snd.Run(sctx) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		return out, ctx.Err()
	}
	out.took = time.Since(begun)
	out.confirmed, _, _ = h.Messages()
	out.lat, out.troubles = h.Latencies(""), len(h.Troubles())
	if out.confirmed == 0 {
		for _, t := range h.Troubles() {
			return out, fmt.Errorf("nothing was accepted: %s", t.Text)
		}
		return out, errors.New("nothing was accepted")
	}
	return out, nil
}

// untilVisible waits until the mailboxes hold so many messages; senders that
// were stopped in the middle of one may have left more.
func untilVisible(ctx context.Context, t *load.Target, want int) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	end := time.NewTimer(5 * time.Minute)
	defer end.Stop()
	for {
		n, err := load.CountAll(t)
		if err == nil && n >= want {
			return nil
		}
		select {
		case <-tick.C:
		case <-end.C:
			return errors.Join(fmt.Errorf("%d of %d messages visible after five minutes", n, want), err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
