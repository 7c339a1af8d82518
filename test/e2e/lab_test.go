package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/lab"
	"github.com/postern-mail/postern/test/load"
	"github.com/postern-mail/postern/test/rig"
)

// group runs a lab for one test.
type group struct {
	t      *testing.T
	dir    string
	copies int
	cmd    *exec.Cmd
	done   chan struct{}
	out    rig.Output
	tls    *tls.Config
}

// startLab starts a lab with short timers; it ends with the test.
func startLab(t *testing.T, basePort int, args ...string) *group {
	t.Helper()
	g := &group{t: t, dir: filepath.Join(t.TempDir(), "lab"), copies: 3, done: make(chan struct{})}
	if i := slices.Index(args, "--servers"); i >= 0 {
		n, err := strconv.Atoi(args[i+1])
		must(t, err)
		g.copies = n
	}
	g.run(append([]string{"--fast", "--base-port", strconv.Itoa(basePort)}, args...)...)
	return g
}

// resumeLab starts a lab again that was killed as a whole.
func resumeLab(t *testing.T, dead *group) *group {
	t.Helper()
	g := &group{t: t, dir: dead.dir, copies: dead.copies, done: make(chan struct{})}
	must(t, os.Remove(lab.FilePath(g.dir))) // says that it is ready
	g.run()
	return g
}

// run starts the lab's process and waits until the group is ready.
func (g *group) run(args ...string) {
	t := g.t
	t.Helper()
	g.cmd = exec.Command(postern.Exe, append([]string{"lab", "--dir", g.dir}, args...)...)
	g.cmd.Env = rig.CleanEnv()
	g.cmd.Stdout, g.cmd.Stderr = &g.out, &g.out
	must(t, postern.start(g.cmd))
	go func() {
		_ = g.cmd.Wait() // its words are in out
		close(g.done)
	}()
	t.Cleanup(g.stop)
	eventually(t, 2*time.Minute, "the lab is ready", func() error {
		select {
		case <-g.done:
			t.Fatalf("the lab ended:\n%s", g.out.String())
		default:
		}
		f, err := lab.ReadFile(g.dir)
		if err == nil && !f.Ready {
			err = errors.New("not ready")
		}
		return err
	})
	var err error
	g.tls, err = load.Trust(g.file().CA)
	must(t, err)
}

// stop ends the lab and tells what it said where the test failed.
func (g *group) stop() {
	rig.Stop(g.cmd, g.done)
	if !g.t.Failed() {
		return
	}
	g.t.Logf("the lab said:\n%s", g.out.String())
	logs, _ := filepath.Glob(filepath.Join(g.dir, "*", "serve.log"))
	for _, path := range logs {
		g.t.Logf("the end of %s:\n%s", path, tailOf(path, 6000))
	}
}

// file is lab.json of now.
func (g *group) file() lab.File {
	g.t.Helper()
	f, err := lab.ReadFile(g.dir)
	must(g.t, err)
	return f
}

// server is a server of the lab by name.
func (g *group) server(name string) lab.Server {
	g.t.Helper()
	s, ok := g.file().Server(name)
	if !ok {
		g.t.Fatalf("the lab has no server %s", name)
	}
	return s
}

// order is `postern lab <verb> <server>`.
func (g *group) order(verb, server string, args ...string) {
	g.t.Helper()
	out, err := postern.run(g.t.Context(), append([]string{"lab", verb, server, "--dir", g.dir}, args...)...)
	must(g.t, err)
	g.t.Logf("%s: %s", time.Now().Format("15:04:05.0"), bytes.TrimSpace(out))
}

// command runs a command in the group.
func (g *group) command(ctx context.Context, out any, args ...string) error {
	b, err := postern.run(ctx, append([]string{"--lab", g.dir, "--json", "--yes"}, args...)...)
	return rig.Decode(b, err, out, args)
}

// database is a row of `database list`.
type database = rig.Database

func (g *group) databases() ([]database, error) {
	var out []database
	err := g.command(g.t.Context(), &out, "database", "list")
	return out, err
}

// database is one of them.
func (g *group) database(name string) database {
	g.t.Helper()
	var d database
	must(g.t, g.command(g.t.Context(), &d, "database", "show", name))
	return d
}

// servedWithout waits until all databases are active on other servers.
func (g *group) servedWithout(away string, patience time.Duration) {
	g.t.Helper()
	eventually(g.t, patience, "all databases are active without "+away, func() error {
		list, err := g.databases()
		for _, d := range list {
			if d.Active == "" || d.Active == away {
				return fmt.Errorf("%s is active at %q", d.Name, d.Active)
			}
		}
		return err
	})
}

// inSync waits until all copies of all databases are in sync.
func (g *group) inSync(patience time.Duration) {
	g.t.Helper()
	eventually(g.t, patience, "all copies are in sync", func() error {
		list, err := g.databases()
		for _, d := range list {
			if d.Active == "" || len(d.InSync) != g.copies {
				return fmt.Errorf("%s is active at %q and in sync at %v", d.Name, d.Active, d.InSync)
			}
		}
		return err
	})
}

// identical compares all copies byte by byte.
func (g *group) identical() {
	g.t.Helper()
	must(g.t, g.command(g.t.Context(), nil, "copy", "verify"))
}

// back starts a server that was killed and waits until it is whole.
func (g *group) back(server string) {
	g.t.Helper()
	g.order("start", server, "--wait")
	g.inSync(time.Minute)
}

// login opens an IMAP session of the n-th user (from 0) at a server.
func (g *group) login(server string, n int) reader {
	g.t.Helper()
	u := g.file().Users[n]
	r, err := login(g.t.Context(), g.server(server).IMAPS, g.tls, u.Address, u.Password)
	must(g.t, err)
	g.t.Cleanup(func() { r.Close() })
	return r
}

// others are the names of all mail servers but one.
func (g *group) others(name string) []string {
	var out []string
	for _, s := range g.file().Servers {
		if s.Name != name && !s.Witness {
			out = append(out, s.Name)
		}
	}
	return out
}

// crowd is a load on the group with its memory.
type crowd struct {
	told map[string]bool // entries of the recovery log that were looked for, by identity
	*group
	target  *load.Target
	history *load.History
	stop    func()
}

// load puts a small load on the lab. It ends with the test if not before.
func (g *group) load() *crowd {
	g.t.Helper()
	target, err := load.LabTarget(lab.FilePath(g.dir))
	must(g.t, err)
	c := &crowd{group: g, target: target, history: load.NewHistory()}
	ctx, cancel := context.WithCancel(g.t.Context())
	stop := sync.OnceFunc(load.Crowd{Target: target, History: c.history, Senders: 3, Sessions: 3, Sizes: load.Size4K, Pause: 50 * time.Millisecond}.Start(ctx))
	c.stop = stop
	g.t.Cleanup(func() { cancel(); stop() })
	return c
}

// confirmed is how many messages and changes were confirmed so far.
func (c *crowd) confirmed() int64 {
	var n int64
	for _, k := range c.history.Counts() {
		n += k
	}
	return n
}

// goesOn waits until clients get on.
func (c *crowd) goesOn(patience time.Duration) {
	c.t.Helper()
	before := c.history.Counts()
	eventually(c.t, patience, "deliveries and sessions go on", func() error {
		now := c.history.Counts()
		for _, what := range []string{"smtp 250", "imap append", "imap flag"} {
			if now[what] < before[what]+3 {
				return fmt.Errorf("%s: %d confirmed since", what, now[what]-before[what])
			}
		}
		return nil
	})
}

// nothingLost takes the load off and reads every mailbox back.
func (c *crowd) nothingLost() {
	c.t.Helper()
	c.stop()
	r, err := load.Check(c.target, c.history)
	must(c.t, err)
	var text strings.Builder
	r.Print(&text)
	if !r.Good() || r.Expected == 0 {
		c.t.Errorf("%s", text.String())
	}
	for _, x := range c.history.Troubles() {
		if x.Kind == load.WrongView {
			c.t.Errorf("%s at %s: %s", x.Client, x.Server, x.Text)
		}
	}
	c.t.Logf("%s", text.String())
}

// tailOf is the end of a file, for a failed test's report.
func tailOf(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-n):])
}
