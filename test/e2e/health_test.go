package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/lab"
	"github.com/postern-mail/postern/test/load"
)

// TestHealth breaks parts of a server from inside and from outside. Each ends by
// itself, clients' pauses are printed, and what was done is in the recovery log.
// HEALTH_FAULTS=all adds those that take long (make e2e-health).
func TestHealth(t *testing.T) {
	t.Parallel()
	g := startLab(t, 13000, "--users", "3")
	c := g.load()
	c.goesOn(20 * time.Second)
	g.healthy(2 * time.Minute)
	victim := g.database("DB01").Active
	other := g.others(victim)[0]

	t.Run("dry run", func(t *testing.T) { c.dryRun(t, other) })
	t.Run("mail worker killed", func(t *testing.T) { c.mailWorker(t, other, syscall.SIGKILL, 15*time.Second) })
	c.inSync(time.Minute)
	t.Run("IMAP listener", func(t *testing.T) { c.brokenListener(t, victim) })
	t.Run("disk gives errors", func(t *testing.T) { c.failingDisk(t, c.database("DB01").Active) })
	c.inSync(time.Minute)
	t.Run("mail worker stopped", func(t *testing.T) { c.mailWorker(t, victim, syscall.SIGSTOP, 30*time.Second) })
	c.inSync(time.Minute)
	t.Run("health worker killed", func(t *testing.T) {
		c.healthWorker(t, victim, 15*time.Second, "signal: killed", func(s lab.Server) error { return syscall.Kill(s.WorkerPIDs.Health, syscall.SIGKILL) })
	})
	if os.Getenv("HEALTH_FAULTS") == "all" {
		t.Run("health worker spins", func(t *testing.T) {
			c.healthWorker(t, victim, time.Minute, "computed without a pause", func(s lab.Server) error { return g.fault(s, "health-spin") })
		})
		t.Run("disk is slow", func(t *testing.T) { c.slowDisk(t, c.database("DB01").Active) })
	}
	c.goesOn(20 * time.Second)
	c.nothingLost()
	g.inSync(time.Minute)
	g.identical()
}

// volumeOf is the volume on which a server has the copy of a database.
func (g *group) volumeOf(server, db string) string {
	g.t.Helper()
	var rows []volumeRow
	must(g.t, g.command(g.t.Context(), &rows, "volume", "list", server))
	i := slices.IndexFunc(rows, func(v volumeRow) bool { return slices.Contains(v.Databases, db) })
	if i < 0 {
		g.t.Fatalf("%s is on no volume of %s: %+v", db, server, rows)
	}
	return rows[i].Volume
}

// offVolume waits until no database is active on a volume of a server.
func (g *group) offVolume(server, volume string, patience time.Duration) {
	g.t.Helper()
	v, err := g.volume(server, volume)
	must(g.t, err)
	eventually(g.t, patience, "no database is active on "+volume, func() error {
		list, err := g.databases()
		for _, d := range list {
			if slices.Contains(v.Databases, d.Name) && (d.Active == server || d.Active == "") {
				return fmt.Errorf("%s is active at %q", d.Name, d.Active)
			}
		}
		return err
	})
}

// failingDisk has every access to a volume end with an input/output error: its
// databases are active elsewhere at once, and its copies come back when the disk
// works again.
func (c *crowd) failingDisk(t *testing.T, victim string) {
	s, vol := c.server(victim), c.volumeOf(victim, "DB01")
	m := c.changes(c.others(victim)[0], "DB01")
	begun := time.Now()
	must(t, c.fault(s, "disk-eio?volume="+vol))
	c.offVolume(victim, vol, 20*time.Second)
	t.Logf("databases of %s of %s are active elsewhere after %s", vol, victim, time.Since(begun).Round(10*time.Millisecond))
	c.goesOn(20 * time.Second)
	m.report(t, "changes in DB01")
	c.pauses(t, begun, victim)
	c.recovered(t, "", begun, "Failover", "DB01", 20*time.Second)
	must(t, c.fault(s, "disk-well?volume="+vol))
}

// slowDisk makes every access to a volume take twenty times as long: its
// databases are moved to where disks are faster, without loss.
func (c *crowd) slowDisk(t *testing.T, victim string) {
	s, vol := c.server(victim), c.volumeOf(victim, "DB01")
	m := c.changes(c.others(victim)[0], "DB01")
	begun := time.Now()
	must(t, c.fault(s, "disk-slow?volume="+vol))
	c.offVolume(victim, vol, time.Minute)
	t.Logf("databases of %s of %s are active elsewhere after %s", vol, victim, time.Since(begun).Round(10*time.Millisecond))
	m.report(t, "changes in DB01")
	c.pauses(t, begun, victim)
	c.recovered(t, victim, begun, "MoveDatabases", vol, 20*time.Second)
	must(t, c.fault(s, "disk-well?volume="+vol))
}

// changes has a user of a database change a message at a server each 20 ms.
func (c *crowd) changes(server, db string) meter {
	c.t.Helper()
	users := c.file().Users
	n := slices.IndexFunc(users, func(u lab.User) bool { return u.Database == db })
	if n < 0 {
		c.t.Fatalf("no user has a mailbox in %s", db)
	}
	u, at, folder := users[n], c.server(server).IMAPS, fmt.Sprintf("Meter%d", time.Now().UnixNano())
	open := func() (reader, error) {
		r, err := login(c.t.Context(), at, c.tls, u.Address, u.Password)
		if err == nil {
			_, err = r.Select(folder, nil).Wait()
		}
		return r, err
	}
	var first reader
	eventually(c.t, 40*time.Second, "the door of "+server+" lets users in", func() (err error) {
		first, err = login(c.t.Context(), at, c.tls, u.Address, u.Password) // a fault before may have taken it out for a while
		return err
	})
	defer first.Close()
	must(c.t, first.Create(folder, nil).Wait())
	_, err := first.store(folder, letter("to be changed", u.Address))
	must(c.t, err)
	r, err := open()
	must(c.t, err)
	op := imap.StoreFlagsAdd
	return c.meter(func() error {
		if op == imap.StoreFlagsAdd {
			op = imap.StoreFlagsDel
		} else {
			op = imap.StoreFlagsAdd
		}
		err := r.Store(imap.SeqSetNum(1), &imap.StoreFlags{Op: op, Flags: []imap.Flag{imap.FlagFlagged}}, nil).Close()
		if err == nil || saidNo(err) {
			return err
		}
		r.Close()
		if again, e := open(); e == nil {
			r = again
		}
		return err
	})
}

// brokenListener closes the IMAP listeners behind the server's back: probes find it
// and the service is built anew; sessions that are there are told BYE.
func (c *crowd) brokenListener(t *testing.T, victim string) {
	s := c.server(victim)
	m := c.measure(s.IMAP, "* OK")
	begun := time.Now()
	must(t, c.fault(s, "imap-listener"))
	c.recovered(t, victim, begun, "RestartService", "imap", 40*time.Second)
	eventually(t, 20*time.Second, "the door answers", func() error { return greets(s.IMAP, "* OK") })
	m.report(t, "IMAP at "+victim)
	c.pauses(t, begun, victim)
}

// mailWorker sends a signal to the mail worker: the host starts it again, its
// databases are active elsewhere meanwhile.
func (c *crowd) mailWorker(t *testing.T, victim string, sig syscall.Signal, patience time.Duration) {
	s := c.server(victim)
	m := c.measure(s.IMAP, "* OK")
	c.target.SetDown(victim, true)
	begun := time.Now()
	must(t, syscall.Kill(s.WorkerPIDs.Mail, sig))
	eventually(t, patience+20*time.Second, "another mail worker serves", func() error {
		now := c.server(victim)
		if now.WorkerPIDs.Mail == 0 || now.WorkerPIDs.Mail == s.WorkerPIDs.Mail {
			return fmt.Errorf("the mail worker is process %d", now.WorkerPIDs.Mail)
		}
		return greets(s.IMAP, "* OK")
	})
	if d := time.Since(begun); d > patience {
		t.Errorf("it took %s", d)
	}
	m.report(t, "IMAP at "+victim)
	c.pauses(t, begun, victim)
	c.target.SetDown(victim, false)
	c.recovered(t, victim, begun, "RestartWorker", "mail", 30*time.Second)
	c.recovered(t, "", begun, "Evict", victim, 30*time.Second)
	c.goesOn(20 * time.Second)
}

// healthWorker breaks the health worker: no client may feel it.
func (c *crowd) healthWorker(t *testing.T, victim string, patience time.Duration, evidence string, brk func(lab.Server) error) {
	s := c.server(victim)
	m := c.measure(s.IMAP, "* OK")
	begun := time.Now()
	must(t, brk(s))
	eventually(t, patience, "another health worker runs", func() error {
		now := c.server(victim).WorkerPIDs
		if now.Mail != s.WorkerPIDs.Mail {
			t.Fatalf("the mail worker was process %d and is %d", s.WorkerPIDs.Mail, now.Mail)
		}
		if now.Health == 0 || now.Health == s.WorkerPIDs.Health {
			return fmt.Errorf("the health worker is process %d", now.Health)
		}
		return nil
	})
	t.Logf("another health worker after %s", time.Since(begun).Round(time.Millisecond))
	r := c.recovered(t, victim, begun, "RestartWorker", "health", 30*time.Second)
	if !strings.Contains(fmt.Sprint(r.Evidence), evidence) {
		t.Errorf("the evidence is %+v, want %q", r.Evidence, evidence)
	}
	if gap := m.report(t, "IMAP at "+victim); gap > 2*time.Second {
		t.Errorf("clients felt it for %s", gap)
	}
}

// movesAlone are the rows that change while nothing is repaired: the recovery log
// itself, the record of the commands that this test runs, the lease by which a
// server is known to live, and what people are told of.
var movesAlone = []string{"recovery/log/", "audit/", "lease/", "notify/"}

// agreed is every row of the agreed state that only a deed changes.
func (g *group) agreed(t *testing.T) map[string]string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "rows")
	must(t, g.command(t.Context(), nil, "cluster", "backup", name))
	f, err := os.Open(name)
	must(t, err)
	defer f.Close()
	v, err := cluster.ReadBackup(f)
	must(t, err)
	rows := map[string]string{}
	for key, it := range v.Prefix("") {
		if !slices.ContainsFunc(movesAlone, func(p string) bool { return strings.HasPrefix(key, p) }) {
			rows[key] = string(it.Value)
		}
	}
	if len(rows) < 20 {
		t.Fatalf("only %d rows: the test does not see the agreed state", len(rows))
	}
	return rows
}

// dryRun breaks a listener while repairs are only written down: nothing is done and
// no row changes but the log. The listener stays broken.
func (c *crowd) dryRun(t *testing.T, victim string) {
	s := c.server(victim)
	must(t, c.command(t.Context(), nil, "health", "recovery", "mode", "dry-run"))
	before := c.agreed(t)
	c.target.SetDown(victim, true)
	begun := time.Now()
	must(t, c.fault(s, "imap-listener"))
	row := c.recovered(t, victim, begun, "RestartService", "imap", 40*time.Second)
	if !row.DryRun {
		t.Errorf("it was done: %+v", row)
	}
	if greets(s.IMAP, "* OK") == nil {
		t.Error("the door was repaired in dry-run mode")
	}
	after := c.agreed(t)
	for key, was := range before {
		if now, ok := after[key]; !ok || now != was {
			t.Errorf("row %s was %q and is %q", key, was, now)
		}
	}
	for key, now := range after {
		if _, ok := before[key]; !ok {
			t.Errorf("row %s is new: %q", key, now)
		}
	}
	t.Logf("%d rows of the agreed state are what they were", len(before))
	must(t, c.command(t.Context(), nil, "health", "recovery", "mode", "default"))
}

// recovery is a row of `health recovery log`.
type recovery struct {
	ID       string    `json:"id"`
	Begun    time.Time `json:"begun"`
	Server   string    `json:"server"`
	Action   string    `json:"action"`
	Target   string    `json:"target"`
	Result   string    `json:"result"`
	Cause    string    `json:"cause"`
	DryRun   bool      `json:"dry_run"`
	Evidence []any     `json:"evidence"`
}

// recovered waits for an action in the recovery log, of any server where none is
// named.
func (c *crowd) recovered(t *testing.T, server string, since time.Time, action, target string, patience time.Duration) (found recovery) {
	t.Helper()
	var only []string
	if server != "" {
		only = []string{"--server", server}
	}
	eventually(t, patience, action+" of "+target+" is in the recovery log", func() error {
		var all []recovery
		if err := c.command(t.Context(), &all, append([]string{"health", "recovery", "log"}, only...)...); err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(r recovery) bool {
			return r.Action == action && r.Target == target && r.Begun.After(since.Add(-time.Second)) && !c.told[r.ID]
		})
		if i < 0 {
			return fmt.Errorf("it has %+v", all)
		}
		var one []recovery
		if err := c.command(t.Context(), &one, "health", "recovery", "log", all[i].ID); err != nil {
			return err
		}
		if len(one) != 1 || len(one[0].Evidence) == 0 || one[0].Cause == "" {
			return fmt.Errorf("no evidence: %+v", one)
		}
		found = one[0]
		return nil
	})
	if c.told == nil {
		c.told = map[string]bool{}
	}
	c.told[found.ID] = true // an entry tells of one fault
	t.Logf("recovery log: %s %s after %s: %s; %s", found.Action, found.Target, found.Begun.Sub(since).Round(100*time.Millisecond), found.Cause, found.Result)
	return found
}

// healthy waits until the doors of all servers are known to be well.
func (g *group) healthy(patience time.Duration) {
	g.t.Helper()
	eventually(g.t, patience, "all servers are healthy", func() error {
		var r struct {
			Sets []struct {
				Server string `json:"server"`
				Set    string `json:"set"`
				State  string `json:"state"`
				Worst  string `json:"worst"`
			} `json:"sets"`
		}
		if err := g.command(g.t.Context(), &r, "health", "report"); err != nil {
			return err
		}
		doors := 0
		for _, x := range r.Sets {
			if !strings.HasSuffix(x.Set, ".Protocol") {
				continue
			}
			if doors++; x.State != "Healthy" {
				return fmt.Errorf("%s of %s is %s: %s", x.Set, x.Server, x.State, x.Worst)
			}
		}
		if want := 3 * len(g.file().Servers); doors != want {
			return fmt.Errorf("%d sets of doors, want %d", doors, want)
		}
		return nil
	})
}

// fault breaks a part of a server from inside.
func (g *group) fault(s lab.Server, name string) error {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", s.Socket)
		}}}
	res, err := client.Post("http://postern/faults/"+name, "", nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusNoContent {
		return errors.New(res.Status)
	}
	return nil
}

// greets connects to a door and reads its greeting.
func greets(addr, want string) error {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && !strings.HasPrefix(line, want) {
		err = fmt.Errorf("greeting is %q", line)
	}
	return err
}

// meter measures the longest time in which a door did not answer.
type meter struct {
	stop func() time.Duration
}

// measure tries a door each 20 ms until it is reported.
func (g *group) measure(addr, want string) meter {
	return g.meter(func() error { return greets(addr, want) })
}

// meter tries something each 20 ms until it is reported.
func (g *group) meter(try func() error) meter {
	ctx, cancel := context.WithCancel(g.t.Context())
	var wg sync.WaitGroup
	var longest time.Duration
	wg.Go(func() {
		t := time.NewTicker(20 * time.Millisecond)
		defer t.Stop()
		last := time.Now()
		for ctx.Err() == nil {
			if try() == nil {
				longest = max(longest, time.Since(last))
				last = time.Now()
			}
			select {
			case <-t.C:
			case <-ctx.Done():
			}
		}
		longest = max(longest, time.Since(last))
	})
	m := meter{stop: sync.OnceValue(func() time.Duration { cancel(); wg.Wait(); return longest })}
	g.t.Cleanup(func() { m.stop() })
	return m
}

func (m meter) report(t *testing.T, what string) time.Duration {
	t.Helper()
	d := m.stop()
	t.Logf("%s did not answer for %s", what, d.Round(10*time.Millisecond))
	return d
}

// pauses prints the longest wait of clients that were not at the server.
func (c *crowd) pauses(t *testing.T, since time.Time, victim string) {
	t.Helper()
	if all := c.history.Pauses(load.Fault{At: since, Until: time.Now(), Server: victim}, ""); len(all) > 0 {
		t.Logf("longest pause of a client elsewhere: %s of %s", all[0].Length.Round(time.Millisecond), all[0].Client)
	}
}
