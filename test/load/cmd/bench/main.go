package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/postern-mail/postern/test/load"
)

// options of a run.
type options struct {
	postern  string
	dir      string
	each     time.Duration
	conns    []int
	sizes    []string
	users    int
	sessions int
	idle     int
	basePort int
	noPeer   bool
	only     string
}

func main() {
	var o options
	var conns, sizes string
	flag.StringVar(&o.postern, "postern", "bin/postern", "the binary under test")
	flag.StringVar(&o.dir, "dir", "", "folder for data, on the disk to measure (default a new one in the temporary folder)")
	flag.DurationVar(&o.each, "each", 8*time.Second, "time of each row")
	flag.StringVar(&conns, "conns", "1,16,64", "SMTP connections")
	flag.StringVar(&sizes, "sizes", "4k,64k,mix", "message sizes")
	flag.IntVar(&o.users, "users", 64, "mailboxes")
	flag.IntVar(&o.sessions, "sessions", 64, "IMAP sessions")
	flag.IntVar(&o.idle, "idle", 1000, "idle IMAP sessions for the memory row")
	flag.IntVar(&o.basePort, "base-port", 26000, "ports")
	flag.BoolVar(&o.noPeer, "no-peer", false, "leave Postfix and Dovecot out")
	flag.StringVar(&o.only, "only", "", "only smtp, imap or memory")
	flag.Parse()
	for c := range strings.SplitSeq(conns, ",") {
		var n int
		if _, err := fmt.Sscan(c, &n); err != nil || n < 1 {
			fmt.Fprintf(os.Stderr, "bench: -conns %q: want numbers\n", conns)
			os.Exit(2)
		}
		o.conns = append(o.conns, n)
	}
	o.sizes = strings.Split(sizes, ",")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// system is one of the two that are measured.
type system struct {
	name   string
	copies int // of each message
	target *load.Target
	pids   func() []int
	syncs  func() float64 // of all copies so far, nil where nobody counts
}

func run(ctx context.Context, o options) error {
	if o.dir == "" {
		dir, err := os.MkdirTemp("", "postern-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		o.dir = dir
	}
	// The peers' workers are users of their own and have to reach their folders.
	if err := os.Chmod(o.dir, 0o755); err != nil {
		return err
	}
	d, err := measureDisk(o.dir)
	if err != nil {
		return err
	}
	d.print(os.Stdout)
	p, err := measurePostern(ctx, o)
	if err != nil {
		return err
	}
	var q *results
	if !o.noPeer {
		if err := missing(); err != nil {
			fmt.Println("no comparison:", err)
		} else if q, err = measurePeer(ctx, o); err != nil {
			return fmt.Errorf("postfix and dovecot: %w", err)
		}
	}
	report(os.Stdout, p, q, d)
	return nil
}

// measurePostern starts a lab of three servers with three copies.
func measurePostern(ctx context.Context, o options) (*results, error) {
	lab, err := load.StartLab(ctx, o.postern, filepath.Join(o.dir, "lab"), "--base-port", fmt.Sprint(o.basePort), "--users", fmt.Sprint(o.users))
	if err != nil {
		return nil, err
	}
	defer lab.Stop()
	t, err := load.LabTarget(lab.File())
	if err != nil {
		return nil, err
	}
	s := system{name: "postern", copies: 3, target: t,
		pids: func() []int {
			pids, err := lab.LabProcesses()
			if err != nil {
				return nil
			}
			return pids
		},
		syncs: func() float64 { return countSyncs(lab) }}
	return measure(ctx, o, s)
}

// measurePeer starts Postfix and Dovecot with the same users.
func measurePeer(ctx context.Context, o options) (*results, error) {
	const password = "bench-secret"
	p, err := startPeer(ctx, filepath.Join(o.dir, "peer"), "example.test", password, o.basePort+2000)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	conf, err := load.Trust(p.ca())
	if err != nil {
		return nil, err
	}
	t := &load.Target{TLS: conf, Servers: []*load.Server{{Name: "postfix", SMTP: fmt.Sprintf("127.0.0.1:%d", p.smtp), IMAP: fmt.Sprintf("127.0.0.1:%d", p.imaps)}}}
	for i := range o.users {
		t.Users = append(t.Users, load.User{Address: fmt.Sprintf("user%d@example.test", i+1), Password: password})
	}
	return measure(ctx, o, system{name: "postfix+dovecot", copies: 1, target: t, pids: p.pids})
}
