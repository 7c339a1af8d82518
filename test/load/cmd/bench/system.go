package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/postern-mail/postern/test/load"
)

// system is one of the two that are measured.
type system struct {
	name    string
	copies  int // of each message
	target  *load.Target
	lab     *load.Lab      // nil for the peer
	world   *load.World    // what is outside, where it is needed
	servers func() [][]int // processes of each server
}

// pids are all processes.
func (s system) pids() []int {
	var out []int
	for _, p := range s.servers() {
		out = append(out, p...)
	}
	return out
}

// syncs counts those of all logs so far; 0 where nobody counts.
func (s system) syncs(ctx context.Context) float64 {
	if s.lab == nil {
		return 0
	}
	n, err := total(ctx, s.lab, "postern_mailbox_log_syncs_total")
	if err != nil {
		return 0
	}
	return n
}

// total sums a metric over the servers of a lab.
func total(ctx context.Context, lab *load.Lab, metric string) (float64, error) {
	servers, err := lab.Servers()
	if err != nil {
		return 0, err
	}
	var sum float64
	for _, s := range servers {
		v, err := s.Metric(ctx, metric)
		if err != nil {
			return 0, err
		}
		sum += v
	}
	return sum, nil
}

// with gives the same servers other users.
func (s system) with(users []load.User) system {
	s.target = &load.Target{Servers: s.target.Servers, TLS: s.target.TLS, Users: users}
	return s
}

// group is one thing to measure on a system.
type group struct {
	name string
	do   func(ctx context.Context, o options, s system, r *results) error
	on   bool
}

// measure does all groups that are wanted; what fails does not keep the others
// from being measured.
func measure(ctx context.Context, o options, s system, r *results, groups []group) error {
	var failed error
	for _, g := range groups {
		if !g.on || ctx.Err() != nil {
			continue
		}
		fmt.Printf("\n%s, %s:\n", s.name, g.name)
		begun := time.Now()
		if err := g.do(ctx, o, s, r); err != nil && ctx.Err() == nil {
			err = fmt.Errorf("%s, %s: %w", s.name, g.name, err)
			fmt.Println("  FAILED:", err)
			failed = errors.Join(failed, err)
		}
		fmt.Printf("  (%s)\n", time.Since(begun).Round(time.Second))
	}
	return failed
}

// measurePostern measures two labs one after the other: one under load, and
// a fresh one for memory, so that no garbage of the load is in its figures.
func measurePostern(ctx context.Context, o options, r *results) error {
	err := withLab(ctx, o, "loaded", r, []group{
		{"delivery over SMTP", smtpRows, o.wants("smtp", "growth")},
		{"relay to the outside", relayRows, o.wants("relay")},
		{"a store that is away for 5 s", outageRows, o.wants("outage")},
		{"Safety Net delivers again", safetyNetRows, o.wants("safetynet")},
		{"IMAP", imapRows, o.wants("imap")},
		{"failover and switchover", failoverRows, o.wants("failover")},
		{"reseed of a copy", reseedRows, o.wants("reseed")},
	})
	if ctx.Err() != nil {
		return err
	}
	err = errors.Join(err, withLab(ctx, o, "waiting", r, []group{{"a long queue", deferredRows, o.wants("deferred")}}))
	if ctx.Err() != nil {
		return err
	}
	return errors.Join(err, withLab(ctx, o, "quiet", r, []group{
		{"memory of idle servers and sessions", idleRows, o.wants("memory")},
		{"many mailboxes", mailboxRows, o.wants("memory", "growth")},
		{"one large mailbox", messageRows, o.wants("memory", "growth")},
	}))
}

// withLab starts a lab of three servers with three copies, measures the
// groups, and takes it down again.
func withLab(ctx context.Context, o options, name string, r *results, groups []group) error {
	if !anyOn(groups) {
		return nil
	}
	dir := filepath.Join(o.dir, name)
	fmt.Println("\nstarting three servers")
	world, err := outside(o)
	if err != nil {
		return err
	}
	defer world.Close()
	lab, err := load.StartLab(ctx, o.postern, dir, append(world.LabArgs(), "--base-port", fmt.Sprint(o.basePort), "--users", fmt.Sprint(o.users))...)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) // run removes what this cannot
	defer lab.Stop()
	t, err := load.LabTarget(lab.File())
	if err != nil {
		return err
	}
	s := system{name: r.System, copies: 3, target: t, lab: lab, world: world, servers: func() [][]int {
		servers, err := lab.Servers()
		if err != nil {
			return nil
		}
		var out [][]int
		for _, s := range servers {
			out = append(out, s.PIDs())
		}
		return out
	}}
	return measure(ctx, o, s, r, groups)
}

func anyOn(groups []group) bool {
	for _, g := range groups {
		if g.on {
			return true
		}
	}
	return false
}

// measurePeer starts Postfix and Dovecot with the same users.
func measurePeer(ctx context.Context, o options, r *results) error {
	const password = "bench-secret"
	groups := []group{
		{"memory of idle servers and sessions", idleRows, o.wants("memory")},
		{"delivery over SMTP", smtpRows, o.wants("smtp", "growth")},
		{"relay to the outside", relayRows, o.wants("relay")},
		{"IMAP", imapRows, o.wants("imap")},
		{"one large mailbox", messageRows, o.wants("memory", "growth")},
	}
	if !anyOn(groups) {
		return nil
	}
	fmt.Println("\nstarting Postfix and Dovecot")
	world, err := outside(o)
	if err != nil {
		return err
	}
	defer world.Close()
	p, err := startPeer(ctx, filepath.Join(o.dir, "peer"), "example.test", password, o.basePort+2000, world.Host())
	if err != nil {
		return fmt.Errorf("postfix and dovecot: %w", err)
	}
	defer p.stop()
	conf, err := load.Trust(p.ca())
	if err != nil {
		return err
	}
	t := &load.Target{TLS: conf, Servers: []*load.Server{{Name: "postfix", SMTP: fmt.Sprintf("127.0.0.1:%d", p.smtp), IMAP: fmt.Sprintf("127.0.0.1:%d", p.imaps)}}}
	for i := range o.users {
		t.Users = append(t.Users, load.User{Address: fmt.Sprintf("user%d@example.test", i+1), Password: password})
	}
	return measure(ctx, o, system{name: r.System, copies: 1, target: t, world: world, servers: func() [][]int { return [][]int{p.pids()} }}, r, groups)
}
