package netns

import (
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/test/rig"
)

const (
	user     = "ann@example.test"
	password = "correct horse battery"
	// moveWithin is what the way to another network may take.
	moveWithin = 2 * time.Second
	// backWithin covers failback with fast timers.
	backWithin = 12 * time.Second
)

// group is three servers with two networks.
type group struct {
	t     *testing.T
	c     *cables
	hosts [4]*rig.Host // from 1
}

func start(t *testing.T) *group {
	t.Helper()
	g := &group{t: t, c: lay(t, 3)}
	dir := t.TempDir()
	p, err := rig.Build("../..", dir)
	rig.Must(t, err)
	for i := 1; i <= 3; i++ {
		h := rig.NewHost(t, p, dir, fmt.Sprintf("MBX%d", i), 10000, i, rig.Extra{})
		h.Under = []string{"ip", "netns", "exec", g.c.ns(i)}
		rig.Must(t, os.WriteFile(h.Conf, fmt.Appendf(nil, `name = %q
address = "%s:7443"
timers = "fast"
drain = "5s"
[mailbox]
reserve = 67108864
# As by default, not the times of tests: no copy may leave the set meanwhile.
grace = "1001ms"
lost_grace = "300ms"
[smtp]
hostname = %q
[smtp.receive]
listen = ["%[2]s:25"]
[smtp.submission]
listen = []
[smtp.submissions]
listen = []
[imap.starttls]
listen = []
[imap.tls]
listen = ["%[2]s:993"]
[admin]
closed = true
[transport]
reserve = 67108864
private = true
`, h.Name, addr(i, client), h.Hostname()), 0o600))
		g.hosts[i] = h
	}
	one := g.hosts[1]
	one.Start()
	one.Whole(1)
	one.Do("organization", "create", "example")
	one.Do("domain", "add", "example.test", "--organization", "example")
	one.Do("mailbox", "create", user, "--database", "DB01", "--password", password)
	one.Join(g.hosts[2])
	one.Join(g.hosts[3])
	one.Do("copy", "add", "DB01", "MBX2")
	one.Do("copy", "add", "DB01", "MBX3")
	one.Whole(3)
	return g
}

// ask runs a command at a server.
func (g *group) ask(at int, out any, args ...string) error {
	return g.hosts[at].Command(g.t.Context(), out, args...)
}

// networks are the states by name.
func (g *group) networks(at int) (map[string]string, error) {
	var rows []struct{ Name, State string }
	if err := g.ask(at, &rows, "network", "list"); err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, r := range rows {
		out[r.Name] = r.State
	}
	return out, nil
}

// streams are the networks by which the passive copies get their log, when all
// of them are healthy and in sync.
func (g *group) streams(at int) (map[string]string, error) {
	var rows []struct {
		Server, State, Network string
		InSync                 bool `json:"in_sync"`
	}
	if err := g.ask(at, &rows, "copy", "status"); err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, r := range rows {
		if r.State != "Mounted" {
			out[r.Server] = r.Network
		}
		if !r.InSync || r.State != "Mounted" && r.State != "Healthy" {
			return nil, fmt.Errorf("%s is %s, in sync %t", r.Server, r.State, r.InSync)
		}
	}
	return out, nil
}

func (g *group) by(at int, want map[string]string) func() error {
	return func() error {
		got, err := g.streams(at)
		if err != nil {
			return err
		}
		for s, n := range want {
			if got[s] != n {
				return fmt.Errorf("log comes to %s by %q", s, got[s])
			}
		}
		return nil
	}
}

// seeds is the seed that is under way: by which network, and how far it is.
func (g *group) seeds(at int) (network string, done int64, err error) {
	var rows []struct {
		Network string
		Done    int64
	}
	if err := g.ask(at, &rows, "copy", "seeds"); err != nil {
		return "", 0, err
	}
	if len(rows) != 1 {
		return "", 0, fmt.Errorf("%d seeds are under way", len(rows))
	}
	return rows[0].Network, rows[0].Done, nil
}

// seedMoves seeds a copy by a network that is asked for, and cuts that network.
func (g *group) seedMoves(load *sender) {
	t := g.t
	t.Helper()
	for n := range 20 {
		subject := fmt.Sprintf("large %d", n)
		rig.Must(t, load.send(addr(2, client)+":25", subject, 1<<20))
		load.answered(subject)
	}
	rig.Must(t, g.ask(1, nil, "copy", "update", "DB01", "MBX3", "--network", "Client", "--rate", "2000000", "--begin", "--yes"))
	var before int64
	within(t, 10*time.Second, "a seed by the network that was asked for", func() (err error) {
		network, done, err := g.seeds(1)
		if before = done; err == nil && (network != "Client" || done == 0) {
			err = fmt.Errorf("%d bytes by %q", done, network)
		}
		return err
	})
	g.c.cut(1, 3, client)
	g.c.cut(3, 1, client)
	within(t, moveWithin, "client network cut between the two: the seed goes on by the replication network", func() error {
		network, done, err := g.seeds(1)
		if err == nil && (network != "Replication01" || done <= before) {
			err = fmt.Errorf("%d bytes by %q, were %d", done, network, before)
		}
		return err
	})
	g.c.mend(1, 3, client)
	g.c.mend(3, 1, client)
	within(t, 30*time.Second, "the copy is seeded", g.by(1, map[string]string{"MBX3": "Replication01"}))
}

// drill has the group do without its replication network for a while, by a drill,
// which is refused for the network of the clients.
func (g *group) drill() {
	g.t.Helper()
	if err := g.ask(1, nil, "drill", "plan", "network", "--network", "Client"); err == nil || !strings.Contains(err.Error(), "last resort") {
		g.t.Errorf("a drill without the network of the clients: %v", err)
	}
	var p struct{ ID string }
	within(g.t, time.Minute, "a drill may begin", func() error { // it waits until nothing is red
		return g.ask(1, &p, "drill", "run", "network", "--max-unavailable", "10s")
	})
	within(g.t, moveWithin+3*time.Second, "a drill: log comes by another network", func() error {
		got, err := g.streams(2)
		if err == nil && (got["MBX2"] == "Replication01" || got["MBX3"] == "Replication01") {
			err = fmt.Errorf("log comes by %v", got)
		}
		return err
	})
	var r struct {
		Passed  bool
		Verdict string
	}
	within(g.t, time.Minute, "the drill is over", func() error { return g.ask(1, &r, "drill", "report", p.ID, "--verify") })
	if g.t.Log(r.Verdict); !r.Passed {
		g.t.Errorf("the drill: %+v", r)
	}
}

func (g *group) term() int {
	g.t.Helper()
	var rows []rig.Database
	rig.Must(g.t, g.ask(2, &rows, "database", "list"))
	return rows[0].Term
}

// lost counts how often a copy was taken out of the in-sync set, and quorum lost.
func (g *group) lost() (n int) {
	for _, h := range g.hosts[1:] {
		n += strings.Count(h.Out.String(), "was taken out of the in-sync set")
		n += strings.Count(h.Out.String(), "agreed state does not answer")
	}
	return n
}

// sender delivers a message every 50 ms at a server's door and remembers what
// was answered with 250.
type sender struct {
	g       *group
	mu      sync.Mutex // guards the rest
	sent    []string
	unsure  []string
	slowest time.Duration
	stop    chan struct{}
	wg      sync.WaitGroup
}

func (g *group) load(at int) *sender {
	s := &sender{g: g, stop: make(chan struct{})}
	s.wg.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			subject := fmt.Sprintf("message %04d", n)
			begun := time.Now()
			err := s.deliver(addr(at, client)+":25", subject)
			s.mu.Lock()
			if err == nil {
				s.sent = append(s.sent, subject)
				s.slowest = max(s.slowest, time.Since(begun))
			} else {
				s.unsure = append(s.unsure, subject)
				g.t.Logf("%s %s: %v", time.Now().Format("15:04:05.0"), subject, err)
			}
			s.mu.Unlock()
			select {
			case <-s.stop:
				return
			case <-tick.C:
			}
		}
	})
	return s
}

func (s *sender) deliver(to, subject string) error { return s.send(to, subject, 10) }

// answered remembers a message that was answered with 250.
func (s *sender) answered(subject string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, subject)
}

// send delivers a message of a size.
func (s *sender) send(to, subject string, size int) error {
	nc, err := s.g.c.dial(to)
	if err != nil {
		return err
	}
	c := smtp.NewClient(nc)
	defer c.Close()
	err = errors.Join(c.Hello("sender.invalid"), c.Mail("tester@sender.invalid", nil), c.Rcpt(user, nil))
	if err != nil {
		return err
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "From: <tester@sender.invalid>\r\nTo: <%s>\r\nSubject: %s\r\nMessage-ID: <%s@netns.invalid>\r\n\r\n",
		user, subject, strings.ReplaceAll(subject, " ", "-"))
	for n := 0; err == nil && n < size; n += 60 {
		_, err = fmt.Fprintf(w, "%s\r\n", rand.Text()+rand.Text()+" words")
	}
	if cerr := w.Close(); err != nil || cerr != nil {
		return errors.Join(err, cerr)
	}
	return nil
}

// pause returns the slowest answer since it was asked last.
func (s *sender) pause() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.slowest
	s.slowest = 0
	return d
}

// verify ends the load and reads everything back at a server.
func (s *sender) verify(at int) {
	t := s.g.t
	close(s.stop)
	s.wg.Wait()
	rig.Eventually(t, 30*time.Second, fmt.Sprintf("%d messages are read", len(s.sent)), func() error {
		nc, err := s.g.c.dial(net.JoinHostPort(addr(at, client), "993"))
		if err != nil {
			return err
		}
		r := rig.Reader{Client: imapclient.New(tls.Client(nc, &tls.Config{InsecureSkipVerify: true}), nil)}
		defer r.Close()
		if err := r.Login(user, password).Wait(); err != nil {
			return err
		}
		got, err := r.Subjects("INBOX")
		if err != nil {
			return err
		}
		if len(slices.Compact(slices.Clone(got))) != len(got) {
			t.Fatalf("a message is there twice: %v", got)
		}
		for _, want := range s.sent {
			if _, ok := slices.BinarySearch(got, want); !ok {
				return fmt.Errorf("%q is missing", want)
			}
		}
		return nil
	})
}

// TestCutNetworks cuts the networks of a group one after the other, both ways
// and one way, while mail comes in: log goes on by the other network within two
// seconds, no copy leaves the in-sync set, no database moves, and the streams
// go back by themselves.
func TestCutNetworks(t *testing.T) {
	g := start(t)
	both := map[string]string{"Client": "Up", "Replication01": "Up"}
	within(t, 30*time.Second, "two networks are found", func() error {
		got, err := g.networks(1)
		if err == nil && fmt.Sprint(got) != fmt.Sprint(both) {
			err = fmt.Errorf("networks are %v", got)
		}
		return err
	})
	home := map[string]string{"MBX2": "Replication01", "MBX3": "Replication01"}
	within(t, 30*time.Second, "log comes by the replication network", g.by(1, home))
	term, load := g.term(), g.load(2)

	for _, cut := range []struct {
		name string
		ways [][2]int
	}{
		{"both ways between two", [][2]int{{1, 2}, {2, 1}}},
		{"one way, from the active", [][2]int{{1, 2}}},
		{"one way, to the active", [][2]int{{2, 1}}},
	} {
		load.pause()
		for _, w := range cut.ways {
			g.c.cut(w[0], w[1], replication)
		}
		within(t, moveWithin, "replication network cut "+cut.name+": log comes by the client network", g.by(1, map[string]string{"MBX2": "Client", "MBX3": "Replication01"}))
		for _, w := range cut.ways {
			g.c.mend(w[0], w[1], replication)
		}
		within(t, backWithin, "mended: log comes by the replication network", g.by(1, home))
		t.Logf("slowest answer: %s", load.pause())
	}

	// The client network of the active server's host, all of it: calls, and
	// the agreed state, go on by the other.
	g.c.unplug(1, client)
	within(t, moveWithin+time.Second, "client network of MBX1 unplugged: changes are agreed on", func() error {
		return g.ask(1, nil, "server", "set", "MBX1", "--maximum-active-databases", "10")
	})
	within(t, 5*time.Second, "and it is seen", func() error {
		got, err := g.networks(2)
		if err == nil && (got["Client"] != "Partitioned" || got["Replication01"] != "Up") {
			err = fmt.Errorf("networks are %v", got)
		}
		return err
	})
	g.c.plug(1, client)
	within(t, 15*time.Second, "plugged in again: both networks are up", func() error {
		got, err := g.networks(2)
		if err == nil && fmt.Sprint(got) != fmt.Sprint(both) {
			err = fmt.Errorf("networks are %v", got)
		}
		return err
	})
	t.Logf("slowest answer: %s", load.pause())

	g.drill()
	within(t, backWithin, "after a drill: log comes by the replication network", g.by(1, home))
	t.Logf("slowest answer: %s", load.pause())

	if n := g.lost(); n > 0 {
		t.Errorf("%d times a copy left the in-sync set or quorum was lost", n)
	}
	if now := g.term(); now != term {
		t.Errorf("the database is in term %d, was in %d: it moved", now, term)
	}

	g.seedMoves(load)

	// All of MBX3: now it is gone, and comes back.
	g.c.unplug(3, client)
	g.c.unplug(3, replication)
	within(t, 15*time.Second, "MBX3 is cut off and left behind", func() error {
		var rows []rig.Database
		if err := g.ask(1, &rows, "database", "list"); err != nil {
			return err
		}
		if slices.Contains(rows[0].InSync, "MBX3") {
			return errors.New("it is in the in-sync set")
		}
		return nil
	})
	g.c.plug(3, client)
	g.c.plug(3, replication)
	within(t, 30*time.Second, "MBX3 is back", g.by(1, nil))
	if now := g.term(); now != term {
		t.Errorf("the database is in term %d, was in %d: it moved", now, term)
	}
	load.verify(2)
	t.Logf("%d messages were answered with 250, %d were not", len(load.sent), len(load.unsure))
}
