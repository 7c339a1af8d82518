package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/test/load"
)

// worldPorts is how far above the base port the outside world is.
const worldPorts = 3000

// outside starts an outside world that counts and forgets.
func outside(o options) (*load.World, error) {
	w, err := load.StartWorld(o.basePort + worldPorts)
	if err == nil {
		w.Sink.Forget = true
	}
	return w, err
}

// relayName is the connector by which the bench writes to the outside.
const relayName = "bench"

// organizationOf is the organization of a lab.
func organizationOf(ctx context.Context, lab *load.Lab) (string, error) {
	var list []struct {
		ID string `json:"organization"`
	}
	if err := lab.Command(ctx, &list, "organization", "list"); err != nil {
		return "", err
	}
	if len(list) != 1 {
		return "", fmt.Errorf("%d organizations, want one", len(list))
	}
	return list[0].ID, nil
}

// allowRelay lets this machine send to the outside for the lab's organization.
func allowRelay(ctx context.Context, s system) error {
	if s.lab == nil {
		return nil // mynetworks says so
	}
	o, err := organizationOf(ctx, s.lab)
	if err != nil {
		return err
	}
	var have []struct {
		Name string `json:"name"`
	}
	if err := s.lab.Command(ctx, &have, "connector", "list"); err != nil {
		return err
	}
	if len(have) > 0 {
		return nil
	}
	return s.lab.Command(ctx, nil, "connector", "create", o, relayName, "--kind", "smtp", "--direction", "in", "--networks", "127.0.0.0/8")
}

// relayTo makes senders whose mail goes to a domain outside.
func relayTo(t *load.Target, size load.Sizes, domain string) func(string, int, *load.History) *load.Sender {
	var next atomic.Int64
	return func(name string, i int, h *load.History) *load.Sender {
		return &load.Sender{Name: name, Number: i, Target: t, History: h, Sizes: size, From: t.Users[i%len(t.Users)].Address,
			To: func() []string { return []string{fmt.Sprintf("r%d@%s", next.Add(1)%100000, domain)} }}
	}
}

// relayRows measures mail that comes in and goes out again, by size and
// connections.
func relayRows(ctx context.Context, o options, s system, r *results) error {
	if err := allowRelay(ctx, s); err != nil {
		return err
	}
	for _, size := range o.sizes {
		for _, n := range o.conns {
			x := row{Group: "relay", Family: fmt.Sprintf("relay %s, connections", size), Scale: n, Name: fmt.Sprintf("relay %s %d connections", size, n)}
			if err := relayRow(ctx, o, s, load.Sizes(size), &x); err != nil {
				return fmt.Errorf("%s: %w", x.Name, err)
			}
			r.add(x)
		}
	}
	return nil
}

// relayRow sends for a while, then waits until all of it came out.
func relayRow(ctx context.Context, o options, s system, size load.Sizes, x *row) error {
	out := s.world.Sink.Count.Load()
	cpu, begun := load.CPU(s.pids()), time.Now()
	sent, err := sendBy(ctx, x.Scale, o.each, relayTo(s.target, size, load.Polite))
	if err != nil {
		return err
	}
	if err := until(ctx, 5*time.Minute, func() (string, bool) {
		n := s.world.Sink.Count.Load() - out
		return fmt.Sprintf("%d of %d messages came out", n, sent.confirmed), n >= int64(sent.confirmed)
	}); err != nil {
		return err
	}
	all := time.Since(begun)
	sent.fill(x, load.CPU(s.pids())-cpu)
	x.Visible = float64(sent.confirmed) / all.Seconds()
	return nil
}

// until waits until something is so; what it was last is in the error.
func until(ctx context.Context, patience time.Duration, so func() (string, bool)) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	end := time.NewTimer(patience)
	defer end.Stop()
	for {
		what, ok := so()
		if ok {
			return nil
		}
		select {
		case <-tick.C:
		case <-end.C:
			return fmt.Errorf("after %s: %s", patience, what)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
