package main

import (
	"context"
	"fmt"
	"time"

	"github.com/postern-mail/postern/test/load"
)

// imapRows measures operations on the mailboxes that the SMTP rows filled.
func imapRows(ctx context.Context, o options, s system, r *results) error {
	if err := seed(ctx, s); err != nil {
		return err
	}
	for _, op := range load.Ops() {
		x := row{Group: "imap", Name: "imap " + op.Name}
		if err := opRow(ctx, s, op, o.sessions, o.each, &x); err != nil {
			return err
		}
		r.add(x)
	}
	return nil
}

// opRow repeats an operation in several sessions for a while.
func opRow(ctx context.Context, s system, op load.Op, sessions int, d time.Duration, x *row) error {
	cpu, begun := load.CPU(s.pids()), time.Now()
	lat, fails, err := load.RunOp(ctx, s.target, op, sessions, d)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", x.Name, err)
	}
	x.Errors = fails
	x.fill(lat, time.Since(begun), load.CPU(s.pids())-cpu, len(lat))
	return nil
}

// seed makes sure that each mailbox has messages to read.
func seed(ctx context.Context, s system) error {
	n, err := load.CountAll(s.target)
	if err != nil || n >= 100*len(s.target.Users) {
		return err
	}
	done, err := send(ctx, s.target, load.Size4K, 16, 10*time.Second)
	if err != nil {
		return err
	}
	return untilVisible(ctx, s.target, n+done.confirmed)
}
