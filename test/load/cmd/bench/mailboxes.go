package main

import (
	"context"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/test/load"
)

// creators is how many mailboxes are created at one time.
const creators = 32

// scaleEach is the time of one row of growth.
const scaleEach = 2 * time.Second

// mailboxRows creates mailboxes and looks at each step what the servers hold and
// what a delivery and a login take.
func mailboxRows(ctx context.Context, o options, s system, r *results) error {
	steps := o.mailboxes
	if !o.wants("growth") {
		steps = steps[len(steps)-1:]
	}
	first := len(s.target.Users)
	all := append([]load.User(nil), s.target.Users...)
	for _, n := range steps {
		if n <= len(all) {
			continue
		}
		had := len(all)
		before, err := settled(ctx, s, fmt.Sprintf("%d mailboxes", had))
		if err != nil {
			return err
		}
		if had == first {
			r.keep(before)
		}
		x := row{Group: "growth", Name: fmt.Sprintf("create mailboxes up to %d", n), Family: "create a mailbox, mailboxes", Scale: n}
		made, err := create(ctx, s, len(all), n, &x)
		if err != nil {
			return err
		}
		all = append(all, made...)
		r.add(x)
		m, err := settled(ctx, s, fmt.Sprintf("%d mailboxes", n))
		if err != nil {
			return err
		}
		r.keep(m)
		if n == steps[len(steps)-1] {
			r.keep(m.each(fmt.Sprintf("one of %d mailboxes", n), before, n-had))
		}
		if err := amongMany(ctx, s, all, r); err != nil {
			return err
		}
	}
	return nil
}

// create creates the mailboxes from number have up to number want.
func create(ctx context.Context, s system, have, want int, x *row) ([]load.User, error) {
	servers, err := s.lab.Servers()
	if err != nil {
		return nil, err
	}
	var admins []*load.Admin
	for _, srv := range servers {
		a := srv.Admin()
		defer a.Close()
		admins = append(admins, a)
	}
	databases, err := s.lab.Databases(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]load.User, want-have)
	password := s.target.Users[0].Password
	hash := foreignHash(password)
	var mu sync.Mutex // guards lat
	var lat []time.Duration
	var done atomic.Int64
	finish := progress("mailboxes created", want-have, &done)
	defer finish()
	cpu, begun := load.CPU(s.pids()), time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(creators)
	for i := range out {
		out[i] = load.User{Address: fmt.Sprintf("many%d@example.test", have+i+1), Password: password, Database: databases[i%len(databases)].Name}
		g.Go(func() error {
			at := time.Now()
			err := admins[i%len(admins)].Change(gctx, "mailbox", "create", map[string]any{
				"address": out[i].Address, "database": out[i].Database, "password_hash": hash})
			done.Add(1)
			mu.Lock()
			defer mu.Unlock()
			lat = append(lat, time.Since(at))
			return err
		})
	}
	err = g.Wait()
	x.fill(lat, time.Since(begun), load.CPU(s.pids())-cpu, len(lat))
	return out, err
}

// foreignHash is a password as another system hashed it: cheap to make, so that
// creation is measured and not the hash.
func foreignHash(password string) string {
	salt := make([]byte, 8)
	rand.Read(salt) // never fails (crypto/rand)
	sum := sha512.Sum512(append([]byte(password), salt...))
	return "{SSHA512}" + base64.StdEncoding.EncodeToString(append(sum[:], salt...))
}

// amongMany measures delivery to all mailboxes in turn, and logins of some.
func amongMany(ctx context.Context, s system, all []load.User, r *results) error {
	n := len(all)
	x := row{Group: "growth", Name: fmt.Sprintf("smtp 4k 16 connections, %d mailboxes", n), Family: "smtp 4k 16 connections, mailboxes", Scale: n}
	cpu := load.CPU(s.pids())
	sent, err := send(ctx, s.with(all).target, load.Size4K, 16, scaleEach)
	if err != nil {
		return fmt.Errorf("%s: %w", x.Name, err)
	}
	sent.fill(&x, load.CPU(s.pids())-cpu)
	r.add(x)
	var some []load.User
	for i := range 16 {
		some = append(some, all[i*(n-1)/15])
	}
	few := s.with(some)
	// The first login brings a password to today's form, the second pays for
	// it: neither is what is measured.
	for range 2 {
		if _, err := load.CountAll(few.target); err != nil {
			return err
		}
	}
	for _, op := range load.Ops() {
		if !op.Fresh {
			continue
		}
		y := row{Group: "growth", Name: fmt.Sprintf("imap %s, %d mailboxes", op.Name, n), Family: fmt.Sprintf("imap %s, mailboxes", op.Name), Scale: n}
		if err := opRow(ctx, few, op, len(some), scaleEach, &y); err != nil {
			return err
		}
		r.add(y)
	}
	return nil
}

// progress tells every few seconds how far a long work is; finish ends it.
func progress(what string, of int, done *atomic.Int64) (finish func()) {
	tick := time.NewTicker(10 * time.Second)
	end, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		for {
			select {
			case <-tick.C:
				fmt.Printf("  %d of %d %s\n", done.Load(), of, what)
			case <-end:
				return
			}
		}
	}()
	return func() {
		tick.Stop()
		close(end)
		<-gone
	}
}
