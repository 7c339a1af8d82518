package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options of a run.
type options struct {
	postern   string
	dir       string
	json      string
	each      time.Duration
	conns     []int
	sizes     []string
	mailboxes []int
	messages  []int
	users     int
	sessions  int
	idle      int
	moves     int
	kills     int
	basePort  int
	deferred  int
	resubmit  int
	outages   int
	reseed    int // MiB
	noPeer    bool
	groups    []string
}

// allGroups in the order in which they are measured.
var allGroups = []string{"smtp", "relay", "outage", "safetynet", "deferred", "imap", "failover", "reseed", "memory", "growth"}

// wants tells whether one of the groups is to be measured.
func (o options) wants(groups ...string) bool {
	return slices.ContainsFunc(groups, func(g string) bool { return slices.Contains(o.groups, g) })
}

func parse() (options, error) {
	var o options
	var conns, sizes, only, mailboxes, messages string
	flag.StringVar(&o.postern, "postern", "bin/postern", "the binary under test")
	flag.StringVar(&o.dir, "dir", os.TempDir(), "folder on the disk to measure; data go to a new one in it")
	flag.StringVar(&o.json, "json", "", "file to write all figures to")
	flag.DurationVar(&o.each, "each", 5*time.Second, "time of each row under load")
	flag.StringVar(&conns, "conns", "1,16,64,256", "SMTP connections")
	flag.StringVar(&sizes, "sizes", "4k,64k,mix", "message sizes")
	flag.StringVar(&mailboxes, "mailboxes", "100,1000,10000", "steps of growth in mailboxes; memory takes the last")
	flag.StringVar(&messages, "messages", "1000,10000,200000", "steps of growth of one mailbox; memory takes the last")
	flag.IntVar(&o.users, "users", 64, "mailboxes under load")
	flag.IntVar(&o.sessions, "sessions", 64, "IMAP sessions under load")
	flag.IntVar(&o.idle, "idle", 1000, "idle IMAP sessions for the memory row")
	flag.IntVar(&o.moves, "moves", 20, "planned moves of a database")
	flag.IntVar(&o.kills, "kills", 5, "servers killed with -9")
	flag.IntVar(&o.deferred, "deferred", 5000, "messages that a destination defers (1000000 for the long run)")
	flag.IntVar(&o.resubmit, "resubmit", 5000, "messages that Safety Net delivers again (100000 for the long run)")
	flag.IntVar(&o.reseed, "reseed-size", 256, "MiB of the database that is seeded anew (5120 for the long run)")
	flag.IntVar(&o.outages, "outages", 2, "times a database is away for 5 s under load")
	flag.IntVar(&o.basePort, "base-port", 26000, "ports")
	flag.BoolVar(&o.noPeer, "no-peer", false, "leave Postfix and Dovecot out")
	flag.StringVar(&only, "only", "", "only these groups, of "+strings.Join(allGroups, ","))
	flag.Parse()
	o.sizes, o.groups = strings.Split(sizes, ","), allGroups
	if only != "" {
		o.groups = strings.Split(only, ",")
	}
	for _, g := range o.groups {
		if !slices.Contains(allGroups, g) {
			return o, fmt.Errorf("-only %s: want some of %s", only, strings.Join(allGroups, ","))
		}
	}
	var err [3]error
	o.conns, err[0] = numbers("conns", conns)
	o.mailboxes, err[1] = numbers("mailboxes", mailboxes)
	o.messages, err[2] = numbers("messages", messages)
	return o, errors.Join(err[:]...)
}

// numbers reads a list that grows.
func numbers(name, list string) ([]int, error) {
	var out []int
	for c := range strings.SplitSeq(list, ",") {
		var n int
		if _, err := fmt.Sscan(c, &n); err != nil || n < 1 || len(out) > 0 && n <= out[len(out)-1] {
			return nil, fmt.Errorf("-%s %q: want numbers that grow", name, list)
		}
		out = append(out, n)
	}
	return out, nil
}

func main() {
	o, err := parse()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err = run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures everything, prints and writes what there is, and leaves
// nothing else behind.
func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp(o.dir, "postern-bench-")
	if err == nil {
		dir, err = filepath.Abs(dir) // Postfix takes no other
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	o.dir = dir
	// The peers' workers are users of their own and have to reach their folders.
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	f := figures{Begun: time.Now(), Machine: machine()}
	f.print(os.Stdout)
	if f.Disk, err = measureDisk(dir); err != nil {
		return err
	}
	f.Disk.print(os.Stdout)
	f.Postern = &results{System: "postern"}
	failed := measurePostern(ctx, o, f.Postern)
	if ctx.Err() == nil && !o.noPeer {
		if why := missing(); why != nil {
			fmt.Println("no comparison:", why)
		} else {
			f.Peer = &results{System: "postfix+dovecot"}
			failed = errors.Join(failed, measurePeer(ctx, o, f.Peer))
		}
	}
	f.Took = time.Since(f.Begun)
	f.Aims = aims(f.Postern, f.Peer, f.Disk)
	if ctx.Err() != nil {
		failed = errors.New("interrupted")
	}
	if failed != nil {
		f.Incomplete = failed.Error()
	}
	f.report(os.Stdout)
	if o.json != "" {
		if err := f.write(o.json); err != nil {
			return err
		}
	}
	if failed != nil {
		return errors.New("not complete, see above")
	}
	return nil
}
