package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/org"
)

// node is one server of a group in this process.
type node struct {
	*Cluster
	t      *testing.T
	dir    string
	addr   string
	tweak  func(*Config)
	events *event.Log
	stop   context.CancelFunc
	ended  chan error
}

// freeAddr finds a port on a loopback address of its own for each server, as
// the lab does.
func freeAddr(t *testing.T, host string) string {
	t.Helper()
	l, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func testConfig(dir string) Config {
	return Config{
		Dir: dir, Heartbeat: 20 * time.Millisecond, Election: 200 * time.Millisecond,
		MeshInterval: 20 * time.Millisecond, SilentAfter: 300 * time.Millisecond, LeaseTTL: time.Second,
		SnapshotEvery: 20 * time.Millisecond, NoSync: true,
	}
}

func testLog(t *testing.T, name string) *slog.Logger {
	if os.Getenv("CLUSTER_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("server", name)
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited too long: %s", what)
		}
	}
}

func (n *node) start() {
	n.t.Helper()
	cfg := testConfig(n.dir)
	if n.tweak != nil {
		n.tweak(&cfg)
	}
	log := testLog(n.t, filepath.Base(n.dir))
	n.events = event.NewLog(log)
	c, err := Open(cfg, log, n.events)
	if err != nil {
		n.t.Fatal(err)
	}
	n.Cluster = c
}

func (n *node) run() {
	ctx, cancel := context.WithCancel(context.Background())
	n.stop, n.ended = cancel, make(chan error, 1)
	go func(c *Cluster, ended chan error) { ended <- c.Run(ctx) }(n.Cluster, n.ended)
}

func (n *node) ready() {
	n.t.Helper()
	select {
	case <-n.Ready():
	case err := <-n.ended:
		n.t.Fatalf("%s ended: %v", n.Name(), err)
	case <-time.After(30 * time.Second):
		n.t.Fatalf("%s is not ready", n.Name())
	}
}

// halt stops the server and waits for its end.
func (n *node) halt() {
	n.t.Helper()
	if n.stop == nil {
		return
	}
	n.stop()
	n.stop = nil
	select {
	case err := <-n.ended:
		if err != nil {
			n.t.Errorf("%s: %v", n.Name(), err)
		}
	case <-time.After(30 * time.Second):
		n.t.Fatalf("%s does not end", n.Name())
	}
}

// first makes and runs a group of one.
func first(t *testing.T, tweak ...func(*Config)) *node {
	t.Helper()
	n := &node{t: t, dir: filepath.Join(t.TempDir(), "MBX1"), addr: freeAddr(t, "127.0.0.11")}
	if len(tweak) > 0 {
		n.tweak = tweak[0]
	}
	if err := Init(t.Context(), InitOptions{Dir: n.dir, Name: "MBX1", Site: "A", Addr: n.addr}); err != nil {
		t.Fatal(err)
	}
	n.start()
	t.Cleanup(n.halt)
	n.run()
	n.ready()
	return n
}

// join makes and runs a further member.
func (n *node) join(i int, opts ...func(*JoinOptions)) *node {
	n.t.Helper()
	name := org.ServerName(fmt.Sprintf("MBX%d", i))
	token, _, err := n.CreateToken(n.t.Context(), TokenOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	m := &node{t: n.t, dir: filepath.Join(n.t.TempDir(), string(name)), addr: freeAddr(n.t, fmt.Sprintf("127.0.0.1%d", i)), tweak: n.tweak}
	o := JoinOptions{Dir: m.dir, Token: token, Name: name, Site: "A", Addr: m.addr}
	for _, f := range opts {
		f(&o)
	}
	if err := Join(n.t.Context(), o); err != nil {
		n.t.Fatal(err)
	}
	m.start()
	n.t.Cleanup(m.halt)
	m.run()
	m.ready()
	return m
}

func (n *node) votes() bool {
	b, _ := n.currentBackend()
	return b != nil && b.member != nil && !b.member.Learner()
}

// three makes a group of three voting servers.
func three(t *testing.T, tweak ...func(*Config)) [3]*node {
	t.Helper()
	a := first(t, tweak...)
	b := a.join(2)
	c := a.join(3)
	g := [3]*node{a, b, c}
	for _, n := range g {
		eventually(t, string(n.Name())+" votes", n.votes)
	}
	return g
}

// order runs a command at a server.
func order(t *testing.T, n *node, name string, in any) any {
	t.Helper()
	for _, c := range Commands(n.Cluster) {
		if c.Name() == name {
			out, err := c.Run(t.Context(), in)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			return out
		}
	}
	t.Fatalf("no command %s", name)
	return nil
}

func put(key, value string) Txn { return Txn{Then: []Op{{Key: key, Value: []byte(value)}}} }

func TestGroupOfOne(t *testing.T) {
	n := first(t)
	rev, err := n.Commit(t.Context(), put("domains/example.test", "1"))
	if err != nil {
		t.Fatal(err)
	}
	it, ok := n.View().Get("domains/example.test")
	if !ok || string(it.Value) != "1" || it.Revision != rev {
		t.Errorf("view has %v %v, want revision %d", it, ok, rev)
	}
	if s, ok := n.View().Server("MBX1"); !ok || !s.Voter || n.Site() != "A" {
		t.Errorf("row %v %v", s, ok)
	}
	eventually(t, "lease", func() bool { return n.LeaseValid() && n.Alive("MBX1") })
	if !n.Quorum() {
		t.Error("no quorum")
	}
}

func TestGroupOfThree(t *testing.T) {
	g := three(t)
	for i, n := range g {
		key := fmt.Sprintf("domains/d%d", i)
		rev, err := n.Commit(t.Context(), put(key, "x"))
		if err != nil {
			t.Fatal(err)
		}
		if n.View().Revision() < rev {
			t.Errorf("%s: Commit returned before its view had revision %d", n.Name(), rev)
		}
		for _, m := range g {
			eventually(t, "all see "+key, func() bool { _, ok := m.View().Get(key); return ok })
		}
	}
	for _, n := range g {
		eventually(t, "all are heard", func() bool {
			for _, p := range n.Peers() {
				if p.State != PeerUp {
					return false
				}
			}
			return len(n.Peers()) == 2
		})
	}
	list, ok := order(t, g[0], "server list", command.None{}).([]ServerInfo)
	if !ok || len(list) != 3 || list[1].Server != "MBX2" || list[1].State != string(PeerUp) || !list[1].Alive || !list[1].Votes || list[1].Role != "member" {
		t.Errorf("server list: %+v", list)
	}
	st, ok := order(t, g[1], "cluster status", command.None{}).(Status)
	if !ok || !st.Quorum || st.Leader == "" || len(st.Members) != 3 || len(st.Alarms) != 0 || st.Server != "MBX2" {
		t.Errorf("cluster status: %+v", st)
	}
	two := 2
	order(t, g[2], "server set", setServerArgs{Server: "MBX2", Policy: org.ActivationBlocked, Maximum: &two, Dial: org.DialBestAvailability})
	d, ok := order(t, g[2], "server show", serverArg{"MBX2"}).(ServerDetails)
	if !ok || d.ActivationPolicy != org.ActivationBlocked || d.MaximumActive != 2 || d.AutoDatabaseMountDial != org.DialBestAvailability || d.State != string(PeerUp) {
		t.Errorf("server show: %+v", d)
	}
}
