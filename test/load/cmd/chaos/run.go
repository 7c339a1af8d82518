package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/test/load"
)

// game is one run.
type game struct {
	opt     options
	lab     *load.Lab
	target  *load.Target
	history *load.History
	faults  []load.Fault
	down    []downtime
	broken  []string // promises, in words
	groups  []load.Group
	world   *load.World // nil: there is nothing outside
	disks   *queueDisks // nil: queues are on the same disk as everything
}

// downtime is when a server could not keep its clients.
type downtime struct {
	server   string
	from, to time.Time
}

func run(ctx context.Context, o options) error {
	if o.dir == "" {
		dir, err := os.MkdirTemp("", "postern-chaos-")
		if err != nil {
			return err
		}
		o.dir = dir
	}
	args := []string{"--servers", strconv.Itoa(o.servers), "--copies", strconv.Itoa(o.servers), "--databases", strconv.Itoa(o.databases),
		"--users", strconv.Itoa(o.users), "--base-port", strconv.Itoa(o.basePort)}
	if o.fast {
		args = append(args, "--fast")
	}
	g := &game{opt: o, history: load.NewHistory()}
	err := g.start(ctx, args)
	if g.lab != nil {
		if err == nil {
			err = g.play(ctx)
		}
		g.lab.Stop()
	}
	if g.world != nil {
		err = errors.Join(err, g.world.Close())
	}
	err = errors.Join(err, g.disks.unmount())
	switch {
	case err == nil && !o.keep:
		return os.RemoveAll(o.dir)
	default:
		fmt.Println("the lab's folder stays:", o.dir)
	}
	return err
}

// start starts the rest of the world and the lab.
func (g *game) start(ctx context.Context, args []string) (err error) {
	if g.opt.outside > 0 {
		if g.world, err = load.StartWorld(g.opt.basePort); err != nil {
			return err
		}
		args = append(args, g.world.LabArgs()...)
	}
	if g.opt.queueDisk > 0 && canMount() {
		if g.disks, err = makeQueueDisks(g.opt.dir, g.opt.servers, g.opt.queueDisk); err != nil {
			return err
		}
	}
	fmt.Println("starting a lab in", g.opt.dir)
	g.lab, err = load.StartLab(ctx, g.opt.postern, g.opt.dir, args...)
	return err
}

func (g *game) play(ctx context.Context) (err error) {
	if g.target, err = load.LabTarget(g.lab.File()); err != nil {
		return err
	}
	if err := g.prepare(ctx); err != nil {
		return err
	}
	crowd := load.Crowd{Target: g.target, History: g.history, Senders: g.opt.senders, Sessions: g.opt.sessions, Watchers: g.opt.watchers,
		Sizes: load.Sizes(g.opt.sizes), Pause: 50 * time.Millisecond,
		Submitters: g.opt.outside, SubmitPause: g.opt.outPause, Domains: load.Domains(), Groups: g.groups,
		Settle: func() { g.settle(ctx) }}
	begun := time.Now()
	stop := crowd.Start(ctx)
	err = g.rounds(ctx)
	stop()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil && !errors.Is(err, errFailed) {
		g.broke("%v", err)
	}
	g.summary(time.Since(begun))
	return g.verdict(ctx)
}

// rounds does all faults in turn.
func (g *game) rounds(ctx context.Context) error {
	if err := load.Rest(ctx, 3*time.Second); err != nil {
		return err
	}
	kinds := []func(context.Context) error{}
	add := func(n int, f func(context.Context) error) {
		for range n {
			kinds = append(kinds, f)
		}
	}
	victims := []func(context.Context) (string, string, error){g.lab.MostActive, g.lab.Primary, g.lab.Leader}
	turn := 0
	kill := func(ctx context.Context) error {
		pick := victims[turn%len(victims)]
		turn++
		return g.kill(ctx, pick)
	}
	if g.opt.duration > 0 {
		return g.mix(ctx, kill)
	}
	add(g.opt.rounds, kill)
	add(g.opt.pauses, g.pauseServer)
	add(g.opt.partitions, g.partition)
	add(g.opt.fills, g.fill)
	add(g.opt.corrupts, g.corrupt)
	add(g.opt.queueFills, g.fillQueue)
	add(g.opt.moves, g.move)
	for _, f := range kinds {
		if err := f(ctx); err != nil {
			return err
		}
	}
	return nil
}

// mix does everything in turn until the time is over, mostly kills.
func (g *game) mix(ctx context.Context, kill func(context.Context) error) error {
	others := []func(context.Context) error{g.corrupt, g.pauseServer, g.fill}
	if canPartition() {
		others = append(others, g.partition)
	}
	if g.disks != nil {
		others = append(others, g.fillQueue)
	}
	end := time.Now().Add(g.opt.duration)
	for n := 0; time.Now().Before(end); n++ {
		f := kill
		if n%3 == 2 {
			f = others[n/3%len(others)]
		}
		if err := f(ctx); err != nil {
			return err
		}
		for range 3 {
			if err := g.move(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// canPartition tells whether a server can be cut off here.
func canPartition() bool {
	_, err := exec.LookPath("nft")
	return err == nil && os.Geteuid() == 0
}

func (g *game) broke(format string, args ...any) {
	g.broken = append(g.broken, fmt.Sprintf(format, args...))
	fmt.Printf("  BROKEN: "+format+"\n", args...)
}

// begin notes a fault that takes the server from its clients.
func (g *game) begin(kind, server, what string) time.Time {
	now := time.Now()
	if n := len(g.faults); n > 0 {
		g.faults[n-1].EndBefore(now) // what happens now is this fault's
	}
	fmt.Printf("%s  %-9s %s  %s\n", now.Format("15:04:05"), kind, server, what)
	g.faults = append(g.faults, load.Fault{At: now, Kind: kind, Server: server, What: what})
	return now
}

// kill ends a server with SIGKILL and lets it come back.
func (g *game) kill(ctx context.Context, pick func(context.Context) (string, string, error)) error {
	var server, why string
	err := g.lab.Wait(ctx, 30*time.Second, func() (err error) { server, why, err = pick(ctx); return err })
	if err != nil {
		return fmt.Errorf("nobody to kill: %w", err)
	}
	if held := g.lab.Holds(ctx, server); !strings.Contains(why, held) {
		why = strings.Trim(why+" "+held, " ")
	}
	g.target.SetDown(server, true)
	at := g.begin("kill -9", server, why)
	if err := g.lab.Order(ctx, "kill", server); err != nil {
		return err
	}
	if err := load.Rest(ctx, g.opt.every/2); err != nil {
		return err
	}
	if err := g.lab.Order(ctx, "start", server, "--wait"); err != nil {
		g.broke("%s does not start again: %v", server, err)
		return errFailed
	}
	g.down = append(g.down, downtime{server, at, time.Now()})
	g.target.SetDown(server, false)
	return g.wholeAgain(ctx, server)
}

// wholeAgain waits until all copies are in sync.
func (g *game) wholeAgain(ctx context.Context, server string) error {
	begun := time.Now()
	if err := g.lab.InSync(ctx, g.opt.servers, g.opt.patience); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		g.broke("%s is not in sync again: %v", server, err)
		return errFailed
	}
	fmt.Printf("          in sync again after %s\n", time.Since(begun).Round(100*time.Millisecond))
	return load.Rest(ctx, g.opt.every/2)
}

// stopFor is how long a server is paused or cut off.
const stopFor = 30 * time.Second

func (g *game) pauseServer(ctx context.Context) error {
	return g.takeAway(ctx, "pause", "resume", "SIGSTOP 30s")
}

func (g *game) partition(ctx context.Context) error {
	return g.takeAway(ctx, "partition", "heal", "cut off 30s")
}

// takeAway takes the server with the most active databases away for a while and
// gives it back as it was.
func (g *game) takeAway(ctx context.Context, verb, back, what string) error {
	server, held, err := g.lab.MostActive(ctx)
	if err != nil {
		return err
	}
	g.target.SetDown(server, true)
	at := g.begin(verb, server, what+" "+held)
	if err := g.lab.Order(ctx, verb, server); err != nil {
		return err
	}
	if err := load.Rest(ctx, stopFor); err != nil {
		return err
	}
	if err := g.lab.Order(ctx, back, server); err != nil {
		return err
	}
	if err := load.Rest(ctx, 5*time.Second); err != nil {
		return err
	}
	g.target.SetDown(server, false)
	// Its clients may have given up meanwhile, also shortly after.
	g.down = append(g.down, downtime{server, at, time.Now().Add(30 * time.Second)})
	return g.wholeAgain(ctx, server)
}

// move makes another copy of a database active, in turn.
func (g *game) move(ctx context.Context) error {
	f, err := g.lab.Move(ctx, len(g.faults))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		g.broke("%v", err)
		return errFailed
	}
	g.faults = append(g.faults, f)
	return nil
}
