package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// options of a run.
type options struct {
	postern    string
	dir        string
	keep       bool
	fast       bool
	servers    int
	databases  int
	users      int
	basePort   int
	senders    int
	sessions   int
	watchers   int
	sizes      string
	every      time.Duration
	duration   time.Duration
	rounds     int
	pauses     int
	partitions int
	fills      int
	corrupts   int
	moves      int
	outside    int
	outPause   time.Duration
	groups     int
	queueDisk  int64
	queueFills int
	patience   time.Duration
	worst      time.Duration
	median     time.Duration
}

func parse() options {
	var o options
	flag.StringVar(&o.postern, "postern", "bin/postern", "the binary under test")
	flag.StringVar(&o.dir, "dir", "", "folder of the lab (default a new one in the temporary folder)")
	flag.BoolVar(&o.keep, "keep", false, "keep the folder")
	flag.BoolVar(&o.fast, "fast", false, "a lab with short timers")
	flag.IntVar(&o.servers, "servers", 3, "servers")
	flag.IntVar(&o.databases, "databases", 3, "databases")
	flag.IntVar(&o.users, "users", 12, "users")
	flag.IntVar(&o.basePort, "base-port", 21000, "ports of the lab")
	flag.IntVar(&o.senders, "senders", 64, "SMTP senders at full speed")
	flag.IntVar(&o.sessions, "sessions", 50, "IMAP sessions that append, flag, move and idle")
	flag.IntVar(&o.watchers, "watchers", 6, "IMAP sessions that only idle on INBOX and count")
	flag.StringVar(&o.sizes, "sizes", "4k", "message sizes: 4k, 64k or mix")
	flag.DurationVar(&o.every, "every", 20*time.Second, "time from one fault to the next, at least")
	flag.DurationVar(&o.duration, "duration", 0, "faults until this time is over, instead of -rounds")
	flag.IntVar(&o.rounds, "rounds", 20, "rounds with kill -9")
	flag.IntVar(&o.pauses, "pauses", 0, "rounds with SIGSTOP for 30 s")
	flag.IntVar(&o.partitions, "partitions", 0, "rounds in which a server is cut off for 30 s (needs root and nft)")
	flag.IntVar(&o.fills, "fills", 0, "rounds in which the disk of a server is filled")
	flag.IntVar(&o.corrupts, "corrupts", 0, "rounds in which bytes of a copy are flipped")
	flag.IntVar(&o.moves, "moves", 0, "planned database moves")
	flag.IntVar(&o.outside, "outside", 6, "people who write to the outside world over submission, 0 for a group without outside")
	flag.DurationVar(&o.outPause, "outside-pause", 30*time.Millisecond, "their pause between two messages")
	flag.IntVar(&o.groups, "groups", 3, "groups that get mail")
	flag.Int64Var(&o.queueDisk, "queue-disk", 16<<30, "bytes of a disk for the queue of each server (a sparse file), 0 for none (needs root and mkfs.ext4)")
	flag.IntVar(&o.queueFills, "queue-fills", 0, "rounds in which the disk of a queue is filled")
	flag.DurationVar(&o.patience, "patience", 2*time.Minute, "time a server has to be in sync again")
	flag.DurationVar(&o.median, "median", 0, "fail when the median pause is longer, 0 for no limit")
	flag.DurationVar(&o.worst, "worst", 0, "fail when the worst pause is longer, 0 for no limit")
	flag.Parse()
	return o
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, parse())
	stop()
	switch {
	case errors.Is(err, errFailed):
		fmt.Println("FAILED:", err)
		os.Exit(1)
	case err != nil:
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(2)
	}
	fmt.Println("PASSED")
}

// errFailed is the verdict; other errors mean that there was none.
var errFailed = errors.New("a promise was broken")
