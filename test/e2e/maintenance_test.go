package e2e

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/test/load"
)

// planOf is what the tests need of `plan show`.
type planOf struct {
	ID    string `json:"id"`
	State string `json:"state"`
	Held  string `json:"held"`
	Steps []struct {
		Step   string `json:"step"`
		Server string `json:"server"`
		State  string `json:"state"`
		Took   int64  `json:"took"`
		Detail string `json:"detail"`
	} `json:"steps"`
}

// begin starts a plan with a command.
func (g *group) begin(args ...string) planOf {
	g.t.Helper()
	var p planOf
	must(g.t, g.command(g.t.Context(), &p, args...))
	if p.ID == "" {
		g.t.Fatalf("%v began no plan: %+v", args, p)
	}
	return p
}

// planDone waits until a plan is done. Servers that answer may go meanwhile.
func (g *group) planDone(p planOf, patience time.Duration) planOf {
	g.t.Helper()
	eventually(g.t, patience, "plan "+p.ID+" is done", func() error {
		var now planOf
		if err := g.command(g.t.Context(), &now, "plan", "show", p.ID); err != nil {
			return err
		}
		p = now
		switch p.State {
		case "Done":
			return nil
		case "Held", "Undone", "Failed", "Aborted":
			g.t.Fatalf("plan %s is %s: %s\n%s", p.ID, p.State, p.Held, p)
		}
		return fmt.Errorf("%s: %s", p.State, p)
	})
	for _, s := range p.Steps {
		g.t.Logf("  %-28s %-5s %-8s %6.1fs  %s", s.Step, s.Server, s.State, time.Duration(s.Took).Seconds(), s.Detail)
	}
	return p
}

// String is where a plan stands.
func (p planOf) String() string {
	var out []string
	for _, s := range p.Steps {
		if s.State != "waiting" && s.State != "done" {
			out = append(out, fmt.Sprintf("%s %s %s (%s)", s.Step, s.Server, s.State, s.Detail))
		}
	}
	return strings.Join(out, "; ")
}

// nobodyNoticed tells what clients met that follow to another server. A server
// that goes may say goodbye between two commands (421, BYE); no command may fail,
// no connection break, no address of the name be missing, no message be refused.
func (c *crowd) nobodyNoticed() {
	c.t.Helper()
	seen := map[load.TroubleKind]int{}
	for _, x := range c.history.Troubles() {
		seen[x.Kind]++
		if x.Kind != load.Goodbye {
			c.t.Errorf("%s %s at %s: %s: %s", x.At.Format("15:04:05.000"), x.Client, x.Server, x.Kind, x.Text)
		}
	}
	confirmed, refused, _ := c.history.Messages()
	c.t.Logf("%d messages confirmed, %d refused; clients met %v", confirmed, refused, seen)
	if refused > 0 {
		c.t.Errorf("%d messages were refused", refused)
	}
}

// waits prints the longest that clients waited for one step in a span of time,
// from its first try to its success at whichever server.
func (c *crowd) waits(what string, from time.Time) {
	c.t.Helper()
	f := load.Fault{At: from, Until: time.Now(), Kind: what}
	for _, kind := range []string{"smtp", "imap"} {
		s := load.Summarize(c.history.Pauses(f, kind))
		c.t.Logf("%s: %d %s clients waited for one step at most %d ms (median of them %d ms)", what, s.Clients, kind, s.Worst.Milliseconds(), s.Median.Milliseconds())
	}
}

// moved prints where databases went: what was active where before and is now.
func (g *group) moved(what string, before map[string]string) {
	g.t.Helper()
	var out []string
	for db, now := range g.activeAt() {
		if now != before[db] {
			out = append(out, fmt.Sprintf("%s %s to %s", db, before[db], now))
		}
	}
	slices.Sort(out)
	g.t.Logf("%s: moves: %s", what, cmp.Or(strings.Join(out, ", "), "none"))
}

// activeAt is where each database is active.
func (g *group) activeAt() map[string]string {
	g.t.Helper()
	list, err := g.databases()
	must(g.t, err)
	out := map[string]string{}
	for _, d := range list {
		out[d.Name] = d.Active
	}
	return out
}

// TestMaintenanceCycle takes each server out and back in turn, and stops it for
// a moment while it is out. No client command fails, no mail is refused.
func TestMaintenanceCycle(t *testing.T) {
	t.Parallel()
	g := startLab(t, 11000, "--databases", "3", "--users", "3")
	c := g.load()
	c.target.Follow = true
	c.goesOn(time.Minute)
	for _, s := range []string{"MBX1", "MBX2", "MBX3"} {
		begun, before := time.Now(), g.activeAt()
		g.planDone(g.begin("server", "maintenance", "start", s, "--why", "a test"), 4*time.Minute)
		var status []struct {
			Safe  bool   `json:"safe_to_stop"`
			State string `json:"state"`
			Why   string `json:"why"`
		}
		must(t, g.command(t.Context(), &status, "server", "maintenance", "status", s))
		if len(status) != 1 || !status[0].Safe || status[0].State != "in maintenance" {
			t.Fatalf("%s: %+v", s, status)
		}
		for _, other := range g.others(s) { // one at a time
			if err := g.command(t.Context(), nil, "server", "maintenance", "start", other); err == nil || !strings.Contains(err.Error(), s+" is in maintenance") {
				t.Errorf("%s while %s is out: %v", other, s, err)
			}
		}
		out := time.Since(begun)
		c.waits(s+" goes out", begun)
		g.moved(s+" goes out", before)
		back := time.Now()
		g.order("kill", s)
		c.goesOn(time.Minute)
		g.order("start", s, "--wait")
		g.planDone(g.begin("server", "maintenance", "stop", s), 4*time.Minute)
		g.inSync(time.Minute)
		c.goesOn(time.Minute)
		c.waits(s+" is killed and comes back", back)
		t.Logf("%s: out in %.1f s, whole cycle %.1f s", s, out.Seconds(), time.Since(begun).Seconds())
	}
	c.stop()
	c.nobodyNoticed()
	c.nothingLost()
	g.identical()
}

// TestRollingRestart restarts every server, one after the other, by one command.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	g := startLab(t, 10000, "--databases", "3", "--users", "3")
	c := g.load()
	c.target.Follow = true
	c.goesOn(time.Minute)
	before := map[string][]int{}
	for _, s := range g.file().Servers {
		before[s.Name] = append([]int{s.PID}, s.WorkerPIDs.Mail)
	}
	begun := time.Now()
	p := g.planDone(g.begin("upgrade", "run", "--restart-only", "--pause", "3s"), 10*time.Minute)
	took := time.Since(begun)
	ran := 0
	for _, s := range p.Steps {
		if s.Step == "start the installed program" && s.State == "done" {
			ran++
		}
	}
	if ran != 3 {
		t.Errorf("%d servers were restarted, want 3", ran)
	}
	for _, s := range g.file().Servers {
		if was := before[s.Name]; s.PID != was[0] || s.WorkerPIDs.Mail == was[1] {
			t.Errorf("%s: host %d, mail worker %d; before %v: want the same host and another worker", s.Name, s.PID, s.WorkerPIDs.Mail, was)
		}
	}
	g.inSync(time.Minute)
	c.goesOn(time.Minute)
	c.waits("rolling restart", begun)
	t.Logf("rolling restart of %d servers: %.1f s", ran, took.Seconds())
	c.stop()
	c.nobodyNoticed()
	c.nothingLost()
	g.identical()
}
