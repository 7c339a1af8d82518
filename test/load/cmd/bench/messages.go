package main

import (
	"context"
	"fmt"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/test/load"
)

const (
	// own is up to how many messages of a large mailbox are appended, each
	// with its own content. The rest are copies of them: a server may keep
	// those together, and both systems do.
	own     = 10000
	ownSize = 2 << 10
	// fillers is how many sessions append.
	fillers = 16
	// copyMost is how many messages one COPY takes.
	copyMost = 20000
)

// messageRows lets one mailbox grow and looks at each step what reading and
// changing it takes, with one session.
func messageRows(ctx context.Context, o options, s system, r *results) error {
	steps := o.messages
	if !o.wants("growth") {
		steps = steps[len(steps)-1:]
	}
	user := s.target.Users[len(s.target.Users)-1]
	one := s.with([]load.User{user})
	before, err := settled(ctx, s, "before")
	if err != nil {
		return err
	}
	for i, n := range steps {
		if err := grow(ctx, one, n, r); err != nil {
			return err
		}
		for _, op := range load.Ops() {
			if op.Grows {
				continue
			}
			x := row{Group: "growth", Name: fmt.Sprintf("imap %s, %d messages", op.Name, n), Family: fmt.Sprintf("imap %s, messages", op.Name), Scale: n}
			if err := opRow(ctx, one, op, 1, scaleEach, &x); err != nil {
				return err
			}
			r.add(x)
		}
		if err := flagAll(ctx, one, n, r); err != nil {
			return err
		}
		if i < len(steps)-1 {
			continue
		}
		m, err := settled(ctx, s, fmt.Sprintf("a mailbox with %d messages", n))
		if err != nil {
			return err
		}
		r.keep(m)
		r.keep(m.each(fmt.Sprintf("one of %d messages", n), before, n))
	}
	return nil
}

// grow fills INBOX up to n messages.
func grow(ctx context.Context, s system, n int, r *results) error {
	u := s.target.Users[0]
	b, err := s.target.Open(ctx, 0, u)
	if err != nil {
		return err
	}
	defer b.Close()
	if add := min(n, own) - b.Messages(); add > 0 {
		x := row{Group: "growth", Name: fmt.Sprintf("imap append up to %d messages", n), Family: "imap append, messages", Scale: n}
		cpu, begun := load.CPU(s.pids()), time.Now()
		if err := load.AppendMany(ctx, s.target, u, add, ownSize, fillers); err != nil {
			return err
		}
		x.fill(nil, time.Since(begun), load.CPU(s.pids())-cpu, add)
		r.add(x)
		if err := b.Again(); err != nil {
			return err
		}
	}
	if b.Messages() >= n {
		return nil
	}
	return copies(ctx, s, b, n, r)
}

// copies fills INBOX up to n messages by COPY into itself.
func copies(ctx context.Context, s system, b *load.Box, n int, r *results) error {
	x := row{Group: "growth", Name: fmt.Sprintf("imap copy up to %d messages", n), Family: "imap copy, messages", Scale: n}
	from := b.Messages()
	cpu, begun := load.CPU(s.pids()), time.Now()
	var lat []time.Duration
	for b.Messages() < n {
		at := time.Now()
		if err := b.Copy(min(b.Messages(), n-b.Messages(), copyMost)); err != nil {
			return fmt.Errorf("copy at %d messages: %w", b.Messages(), err)
		}
		lat = append(lat, time.Since(at))
		had := b.Messages()
		if err := b.Again(); err != nil {
			return err
		}
		if b.Messages() <= had {
			return fmt.Errorf("copy at %d messages was OK and copied nothing", had)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	x.fill(lat, time.Since(begun), load.CPU(s.pids())-cpu, b.Messages()-from)
	r.add(x)
	return nil
}

// flagAll sets a flag on all messages with one command and takes it back.
func flagAll(ctx context.Context, s system, n int, r *results) error {
	b, err := s.target.Open(ctx, 0, s.target.Users[0])
	if err != nil {
		return err
	}
	defer b.Close()
	x := row{Group: "growth", Name: fmt.Sprintf("imap flag all of %d messages", n), Family: "imap flag all, messages", Scale: n}
	var lat []time.Duration
	var took, cpu time.Duration
	for _, step := range []struct {
		op   imap.StoreFlagsOp
		want int
	}{{imap.StoreFlagsAdd, b.Messages()}, {imap.StoreFlagsDel, 0}} {
		used, at := load.CPU(s.pids()), time.Now()
		if err := b.FlagAll(step.op, imap.FlagAnswered); err != nil {
			return fmt.Errorf("%s: %w", x.Name, err)
		}
		lat = append(lat, time.Since(at))
		took, cpu = took+time.Since(at), cpu+load.CPU(s.pids())-used
		// An OK that changed nothing would be fast.
		got, err := b.WithFlag(imap.FlagAnswered)
		if err == nil && got != step.want {
			err = fmt.Errorf("%d messages have the flag, want %d", got, step.want)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", x.Name, err)
		}
	}
	x.fill(lat, took, cpu, 2*b.Messages())
	r.add(x)
	return nil
}
