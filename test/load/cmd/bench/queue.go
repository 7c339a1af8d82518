package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/test/load"
)

// deferredAt is in the name of the figure of memory with a long queue.
const deferredAt = "messages deferred at"

// deferredConns are the connections that fill the queue.
const deferredConns = 16

// deferredRows lets a destination defer everything: what the queue holds then,
// how soon its server is back after kill -9, and what trying all of it costs.
func deferredRows(ctx context.Context, o options, s system, r *results) error {
	if err := allowRelay(ctx, s); err != nil {
		return err
	}
	servers, err := s.lab.Servers()
	if err != nil {
		return err
	}
	before, err := settled(ctx, s, "nothing in the queues")
	if err != nil {
		return err
	}
	r.keep(before)
	if err := fillQueue(ctx, o, s, r); err != nil {
		return err
	}
	m, err := settled(ctx, s, fmt.Sprintf("%d %s %s", o.deferred, deferredAt, servers[0].Name))
	if err != nil {
		return err
	}
	r.keep(m)
	if err := restart(ctx, o, s, servers[0].Name, r); err != nil {
		return err
	}
	if m, err = settled(ctx, s, "after kill -9 and restart"); err != nil {
		return err
	}
	r.keep(m)
	return retryPass(ctx, o, s, r)
}

// fillQueue gives one server all messages.
func fillQueue(ctx context.Context, o options, s system, r *results) error {
	one := &load.Target{Servers: s.target.Servers[:1], Users: s.target.Users, TLS: s.target.TLS}
	x := row{Group: "deferred", Name: fmt.Sprintf("accept %d messages that are deferred", o.deferred)}
	h := load.NewHistory()
	make1 := relayTo(one, load.Size4K, load.Busy)
	fctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cpu, begun := load.CPU(s.pids()), time.Now()
	left := make(chan struct{}, o.deferred)
	for range o.deferred {
		left <- struct{}{}
	}
	close(left)
	var wg sync.WaitGroup
	for i := range deferredConns {
		snd := make1(fmt.Sprintf("q%d", i), i, h)
		snd.More = left
		wg.Go(func() { snd.Run(fctx) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	n, _, _ := h.Messages()
	x.fill(h.Latencies(""), time.Since(begun), load.CPU(s.pids())-cpu, n)
	x.Errors = len(h.Troubles())
	r.add(x)
	if n < o.deferred {
		return fmt.Errorf("%d of %d messages were accepted: %v", n, o.deferred, h.Troubles()[:min(1, len(h.Troubles()))])
	}
	return nil
}

// restart kills the server that holds the queue and waits until it accepts again.
func restart(ctx context.Context, o options, s system, server string, r *results) error {
	if err := s.lab.Order(ctx, "kill", server); err != nil {
		return err
	}
	begun := time.Now()
	if err := s.lab.Order(ctx, "start", server, "--wait"); err != nil {
		return err
	}
	x := row{Group: "deferred", Name: fmt.Sprintf("ready again after kill -9 with %d messages", o.deferred)}
	took := time.Since(begun)
	x.fill([]time.Duration{took}, took, 0, 1)
	r.add(x)
	return until(ctx, time.Minute, func() (string, bool) {
		n, err := unfinished(ctx, s)
		return fmt.Sprintf("%d messages in the queues (%v), want %d", n, err, o.deferred), err == nil && n >= o.deferred
	})
}

// unfinished counts messages in all queues.
func unfinished(ctx context.Context, s system) (n int, err error) {
	list, err := s.lab.Queues(ctx)
	for _, q := range list {
		n += q.Unfinished
	}
	return n, err
}

// retryPass has everything tried once, which the destination defers again.
func retryPass(ctx context.Context, o options, s system, r *results) error {
	before := s.world.Sink.Deferred.Load()
	cpu, begun := load.CPU(s.pids()), time.Now()
	if err := s.lab.Command(ctx, nil, "queue", "retry", "--destination", "mx:"+load.Busy); err != nil {
		return err
	}
	x := row{Group: "deferred", Name: fmt.Sprintf("try %d deferred messages once", o.deferred)}
	err := until(ctx, 10*time.Minute, func() (string, bool) {
		n := s.world.Sink.Deferred.Load() - before
		return fmt.Sprintf("%d of %d messages were tried", n, o.deferred), n >= int64(o.deferred)
	})
	x.fill(nil, time.Since(begun), load.CPU(s.pids())-cpu, o.deferred)
	if err != nil {
		return err
	}
	r.add(x)
	return nil
}

// safetyNetRows delivers kept messages again while new mail comes in.
func safetyNetRows(ctx context.Context, o options, s system, r *results) error {
	db := s.target.Users[0].Database
	var there []load.User
	for _, u := range s.target.Users {
		if u.Database == db {
			there = append(there, u)
		}
	}
	begun := time.Now()
	if err := fillMailboxes(ctx, o, s, there); err != nil {
		return err
	}
	alone := row{Group: "safetynet", Name: "smtp 4k 16 connections, Safety Net at rest"}
	if err := smtpRow(ctx, o, s, load.Size4K, alone.at(16)); err != nil {
		return err
	}
	r.add(alone)
	for _, to := range []string{"", there[len(there)-1].Address} {
		what := "that mailboxes have"
		if to != "" {
			what = "to another mailbox"
		}
		if err := resubmit(ctx, o, s, r, db, begun, to, what); err != nil {
			return err
		}
	}
	return nil
}

// at sets the connections of a row.
func (x *row) at(n int) *row { x.Scale = n; return x }

// fillMailboxes has messages delivered to mailboxes of one database.
func fillMailboxes(ctx context.Context, o options, s system, users []load.User) error {
	t := &load.Target{Servers: s.target.Servers, Users: users, TLS: s.target.TLS}
	before, err := load.CountAll(t)
	if err != nil {
		return err
	}
	h := load.NewHistory()
	left := make(chan struct{}, o.resubmit)
	for range o.resubmit {
		left <- struct{}{}
	}
	close(left)
	var wg sync.WaitGroup
	for i := range deferredConns {
		snd := &load.Sender{Name: fmt.Sprintf("sn%d", i), Number: i, Target: t, History: h, Sizes: load.Size4K, OneRecipient: true, More: left}
		wg.Go(func() { snd.Run(ctx) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return untilVisible(ctx, t, before+o.resubmit)
}

// resubmit asks Safety Net for all that was delivered since, and measures both
// how long it takes and what is left for new mail.
func resubmit(ctx context.Context, o options, s system, r *results, db string, since time.Time, to, what string) error {
	args := []string{"safetynet", "request", db, "--from", since.Add(-time.Second).UTC().Format(time.RFC3339), "--to", time.Now().Add(time.Second).UTC().Format(time.RFC3339), "--reason", "bench"}
	if to != "" {
		args = append(args, "--resubmit-to", to)
	}
	type request struct {
		ID         string `json:"id"`
		State      string `json:"state"`
		Found      int    `json:"found"`
		Delivered  int    `json:"delivered"`
		Duplicates int    `json:"duplicates"`
		Failed     int    `json:"failed"`
	}
	begun := time.Now()
	var asked json.RawMessage
	if err := s.lab.Command(ctx, &asked, args...); err != nil {
		return err
	}
	var q request
	if err := json.Unmarshal(asked, &q); err != nil || q.ID == "" {
		return fmt.Errorf("safetynet request: %w: %s", err, asked)
	}
	done := make(chan error, 1)
	took := time.Duration(0)
	go func() {
		done <- until(ctx, resubmitPatience, func() (string, bool) {
			id := q.ID
			if err := s.lab.Command(ctx, &q, "safetynet", "show", id); err != nil {
				return err.Error(), false
			}
			took = time.Since(begun)
			return fmt.Sprintf("%+v", q), q.State == org.SafetyNetCompleted
		})
	}()
	beside := row{Group: "safetynet", Name: "smtp 4k 16 connections, beside " + what}
	err := smtpRow(ctx, o, s, load.Size4K, beside.at(16))
	if werr := <-done; werr != nil {
		return fmt.Errorf("safety net: %w", werr)
	}
	if err != nil {
		return err
	}
	r.add(beside)
	x := row{Group: "safetynet", Name: fmt.Sprintf("Safety Net: %d messages %s", q.Found, what), Errors: q.Failed}
	x.fill(nil, took, 0, q.Delivered+q.Duplicates) // the processors work for new mail as well
	r.add(x)
	if q.Failed > 0 || q.Found < o.resubmit || q.Delivered+q.Duplicates != q.Found {
		return fmt.Errorf("safety net: %+v, want %d", q, o.resubmit)
	}
	return nil
}

// resubmitPatience is how long Safety Net may take.
const resubmitPatience = 15 * time.Minute

// awayFor is how long a store is away.
const awayFor = 5 * time.Second

// outageRows take a database away under load and bring it back: how long it
// takes until all that was accepted meanwhile is visible.
func outageRows(ctx context.Context, o options, s system, r *results) error {
	var lat []time.Duration
	n := 0
	for range o.outages {
		took, accepted, err := outage(ctx, s)
		if err != nil {
			return err
		}
		lat, n = append(lat, took), n+accepted
	}
	x := row{Group: "outage", Name: fmt.Sprintf("store back after %s until %d messages visible", awayFor, n)}
	total := time.Duration(0)
	for _, d := range lat {
		total += d
	}
	x.fill(lat, total, 0, len(lat))
	r.add(x)
	return nil
}

func outage(ctx context.Context, s system) (took time.Duration, accepted int, err error) {
	db := s.target.Users[0].Database
	before, err := load.CountAll(s.target)
	if err != nil {
		return 0, 0, err
	}
	type result struct {
		sent
		err error
	}
	sending := make(chan result, 1)
	go func() {
		sent, err := send(ctx, s.target, load.Size4K, 16, awayFor+time.Second)
		sending <- result{sent, err}
	}()
	err = load.Rest(ctx, time.Second)
	if err == nil {
		err = s.lab.Command(ctx, nil, "database", "dismount", db)
	}
	all := <-sending
	if err != nil {
		return 0, 0, err
	}
	begun := time.Now()
	if err := s.lab.Command(ctx, nil, "database", "mount", db); err != nil {
		return 0, 0, err
	}
	if all.err != nil {
		return 0, 0, all.err
	}
	err = untilVisible(ctx, s.target, before+all.confirmed)
	return time.Since(begun), all.confirmed, err
}
