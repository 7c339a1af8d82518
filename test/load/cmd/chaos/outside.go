package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/test/load"
)

// limitless is more than people of a chaos run write to the outside in a day.
const limitless = "100000000"

// prepare makes the groups and lifts what is meant for stolen passwords.
func (g *game) prepare(ctx context.Context) (err error) {
	if g.opt.groups > 0 {
		if g.groups, err = g.lab.MakeGroups(ctx, g.target, g.opt.groups, 3); err != nil {
			return err
		}
	}
	if g.world == nil {
		return nil
	}
	for _, s := range []string{"outbound_account_per_day", "outbound_account_per_hour"} {
		if err := g.lab.Command(ctx, nil, "transport", "set", s, limitless); err != nil {
			return err
		}
	}
	return nil
}

// settle lets the rest of the world come back and waits until all mail is
// where it belongs.
func (g *game) settle(ctx context.Context) {
	var dests []string
	if g.world != nil {
		if err := g.world.Return(); err != nil {
			g.broke("%v", err)
		}
		for _, d := range load.Domains() {
			dests = append(dests, "mx:"+d)
		}
	}
	begun := time.Now()
	if err := g.lab.Settled(ctx, g.opt.patience+time.Minute, dests...); err != nil {
		if ctx.Err() == nil {
			g.broke("mail is stuck: %v", err)
			fmt.Println(g.lab.Waiting(ctx, 20))
		}
		return
	}
	fmt.Printf("\nthe queues are empty %s after the end of the load\n", time.Since(begun).Round(100*time.Millisecond))
}

// verifyQueue compares the ledgers with everything they name.
func (g *game) verifyQueue(ctx context.Context) {
	lines, err := g.lab.VerifyQueue(ctx)
	for i, l := range lines {
		if i == 40 {
			fmt.Printf("  and %d lines more\n", len(lines)-i)
			break
		}
		fmt.Println("  " + l)
	}
	if err != nil {
		g.broke("ledger and reality differ: %v", err)
		return
	}
	fmt.Println("ledger and reality agree row by row (postern queue verify)")
}

// outside is what the checker needs to know of it.
func (g *game) outside(ctx context.Context) *load.Outside {
	if g.world == nil {
		return nil
	}
	return &load.Outside{Sink: g.world.Sink, Repeatable: g.lab.Repeatable(ctx), Away: g.away}
}

// queueDisks gives the queue of each server a disk of its own, which can be
// full: a file with ext4 in it.
type queueDisks struct{ mounts map[string]string }

// canMount tells whether a disk can be made here.
func canMount() bool {
	for _, f := range []string{"mkfs.ext4", "mount", "umount"} {
		if _, err := exec.LookPath(f); err != nil {
			return false
		}
	}
	return os.Geteuid() == 0
}

// makeQueueDisks mounts them where a lab in dir will have its queues.
func makeQueueDisks(dir string, servers int, size int64) (*queueDisks, error) {
	q := &queueDisks{mounts: map[string]string{}}
	for i := range servers {
		name := fmt.Sprintf("MBX%d", i+1)
		image, at := filepath.Join(dir, name+".ext4"), filepath.Join(dir, name, "queue")
		err := os.MkdirAll(at, 0o755)
		if err == nil {
			err = os.WriteFile(image, nil, 0o600)
		}
		if err == nil {
			err = os.Truncate(image, size)
		}
		for _, cmd := range [][]string{{"mkfs.ext4", "-q", "-m", "0", image}, {"mount", "-o", "loop", image, at}} {
			if err == nil {
				var out []byte
				if out, err = exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
					err = fmt.Errorf("%s: %w: %s", strings.Join(cmd, " "), err, out)
				}
			}
		}
		if err == nil {
			q.mounts[name] = at
			err = os.Remove(filepath.Join(at, "lost+found"))
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("disk for the queue of %s: %w", name, err), q.unmount())
		}
	}
	return q, nil
}

// unmount gives them back; nothing may use them any more.
func (q *queueDisks) unmount() error {
	if q == nil {
		return nil
	}
	var errs []error
	for name, at := range q.mounts {
		if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("umount %s: %w: %s", at, err, out))
			continue
		}
		delete(q.mounts, name)
	}
	return errors.Join(errs...)
}

// fillQueue fills the disk of a server's queue, another one each time. The
// server may refuse mail; the others have to find room for all.
func (g *game) fillQueue(ctx context.Context) error {
	server := g.target.Servers[g.turn("fill-queue")%len(g.target.Servers)].Name
	at, ok := g.disks.mounts[server]
	if !ok {
		return fmt.Errorf("the queue of %s has no disk of its own", server)
	}
	g.target.SetDown(server, true)
	from := g.begin("fill-queue", server, "no space left for its queue")
	filler := filepath.Join(at, "filler")
	if err := fillUp(filler); err != nil {
		return err
	}
	err := load.Rest(ctx, g.opt.every)
	if rerr := os.Remove(filler); rerr != nil {
		return rerr
	}
	if err != nil {
		return err
	}
	if err := load.Rest(ctx, 5*time.Second); err != nil { // the level is looked at once a second
		return err
	}
	g.down = append(g.down, downtime{server, from, time.Now()})
	g.target.SetDown(server, false)
	return g.wholeAgain(ctx, server)
}

// fillUp makes a file of all the space there is.
func fillUp(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	at := int64(0)
	for step := int64(1 << 30); step >= 4096; {
		err := unix.Fallocate(int(f.Fd()), 0, at, step)
		switch {
		case err == nil:
			at += step
		case errors.Is(err, unix.ENOSPC):
			step /= 2
		default:
			return fmt.Errorf("fill %s: %w", path, err)
		}
	}
	return nil
}
