package cluster

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster/joining"
	"github.com/postern-mail/postern/internal/org"
)

// kill ends a server as a killed process does: no farewell to anybody.
func (n *node) kill() {
	n.t.Helper()
	n.abrupt.Store(true)
	n.halt()
}

// again starts a stopped server on its folder.
func (n *node) again() {
	n.t.Helper()
	n.start()
	n.run()
}

func leads(g []*node) *node {
	for _, n := range g {
		if b, _ := n.currentBackend(); b != nil && b.member != nil && b.member.Leader() == b.member.ID() {
			return n
		}
	}
	return nil
}

func without(g []*node, n *node) (rest []*node) {
	for _, m := range g {
		if m != n {
			rest = append(rest, m)
		}
	}
	return rest
}

// TestLeaderIsKilled: a Commit that is under way when the leader dies goes on
// under the next one, and the dead server is judged dead at once.
func TestLeaderIsKilled(t *testing.T) {
	all := three(t)
	g := all[:]
	for _, n := range g {
		eventually(t, "all are heard", func() bool {
			return len(n.Peers()) == 2 && n.Peers()[0].State == PeerUp && n.Peers()[1].State == PeerUp
		})
	}
	dead := leads(g)
	rest := without(g, dead)
	began := time.Now()
	dead.abrupt.Store(true)
	go dead.stop()
	eventually(t, "judged dead by both", func() bool {
		_, a := rest[0].Dead(dead.Name())
		_, b := rest[1].Dead(dead.Name())
		return a && b
	})
	judged := time.Since(began)
	rev, err := rest[0].Commit(t.Context(), put("domains/after", "1"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("judged dead after %s, committed after %s", judged, time.Since(began))
	if judged > 2*time.Second {
		t.Errorf("judged dead after %s", judged)
	}
	if it, _ := rest[0].View().Get("domains/after"); it.Revision != rev {
		t.Errorf("view has %v, want revision %d", it, rev)
	}
	eventually(t, "its lease ends", func() bool { return !rest[1].Alive(dead.Name()) })
	dead.halt()
	dead.again()
	dead.ready()
	eventually(t, "it has caught up", func() bool { return dead.View().Revision() >= rev })
	eventually(t, "it is heard again", func() bool { _, d := rest[0].Dead(dead.Name()); return !d && rest[0].Alive(dead.Name()) })
}

// TestCommitsRace: of many Commits under one condition one wins (C2).
func TestCommitsRace(t *testing.T) {
	g := three(t)
	for round := range 5 {
		rev := int64(0)
		if it, ok := g[0].View().Get("active/primary"); ok {
			rev = it.Revision
		}
		won := make(chan bool, len(g))
		for _, n := range g {
			go func() {
				_, err := n.Commit(t.Context(), Txn{If: []Cond{{"active/primary", rev}}, Then: []Op{{Key: "active/primary", Value: []byte(n.Name())}}})
				if err != nil && !kind.Is(err, kind.Conflict) {
					t.Error(err)
				}
				won <- err == nil
			}()
		}
		wins := 0
		for range g {
			if <-won {
				wins++
			}
		}
		if wins != 1 {
			t.Fatalf("round %d: %d winners", round, wins)
		}
		if err := g[0].Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []Cond{{"none", -1}, {"active/primary", 0}, {"active/primary", 1}} {
		if _, err := g[1].Commit(t.Context(), Txn{If: []Cond{c}, Then: []Op{{Key: "x"}}}); !kind.Is(err, kind.Conflict) {
			t.Errorf("condition %v: %v, want conflict", c, err)
		}
	}
}

// TestQuorumLost: without quorum changes answer Busy, and a server that
// starts then still has its view (C3).
func TestQuorumLost(t *testing.T) {
	quick := func(c *Config) { c.CommitTimeout = 700 * time.Millisecond }
	g := three(t, quick)
	if _, err := g[0].Commit(t.Context(), put("domains/kept", "1")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all have it", func() bool { _, ok := g[2].View().Get("domains/kept"); return ok })
	g[0].kill()
	g[1].kill()
	eventually(t, "quorum is lost", func() bool { return !g[2].Quorum() })
	eventually(t, "the lease is not valid", func() bool { return !g[2].LeaseValid() })
	if _, err := g[2].Commit(t.Context(), put("domains/late", "1")); !kind.Is(err, kind.Busy) {
		t.Errorf("commit: %v, want busy", err)
	}
	if err := g[2].Sync(t.Context()); !kind.Is(err, kind.Busy) {
		t.Errorf("sync: %v, want busy", err)
	}
	g[2].halt()
	g[2].again()
	if _, ok := g[2].View().Get("domains/kept"); !ok {
		t.Error("the view of the last run is not there at once")
	}
	g[2].ready()
	if g[2].Quorum() {
		t.Error("quorum with one of three")
	}
	var late bytes.Buffer
	if info, err := g[2].Backup(t.Context(), &late); err != nil || !info.Stale {
		t.Errorf("backup without quorum: %+v %v", info, err)
	}
	g[0].again()
	eventually(t, "quorum is back", func() bool { _, err := g[2].Commit(t.Context(), put("domains/back", "1")); return err == nil })
}

// TestMemberIsReplaced: a voting server is lost with its disk, another takes
// its place, and the lost one's certificate is refused (C5).
func TestMemberIsReplaced(t *testing.T) {
	g := three(t)
	lost := g[2]
	lost.kill()
	eventually(t, "its lease ends", func() bool { return !g[0].Alive("MBX3") })
	if err := Join(t.Context(), joinAs(t, g[0], "MBX3", "127.0.0.13")); !kind.Is(err, kind.Exists) {
		t.Errorf("join under a name that is taken: %v", err)
	}
	n := g[0].join(3, func(o *JoinOptions) { o.Replace = true; o.Addr = lost.addr })
	n.addr = lost.addr
	eventually(t, "the new one votes", n.votes)
	if _, err := n.Commit(t.Context(), put("domains/new", "1")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "three members", func() bool { return len(g[0].Status(t.Context()).Members) == 3 })
	n.halt()
	lost.again() // the old disk comes back
	defer lost.halt()
	eventually(t, "its own picture is the old one", func() bool { return len(lost.Peers()) == 2 })
	eventually(t, "the lost server is not heard", func() bool {
		for _, p := range g[0].Peers() {
			if p.Server == "MBX3" {
				return p.State == PeerSilent
			}
		}
		return false
	})
	if lost.LeaseValid() || lost.Quorum() {
		t.Error("the lost server believes to be a member")
	}
	if _, err := g[0].Commit(t.Context(), put("domains/later", "1")); err != nil {
		t.Error(err)
	}
}

func joinAs(t *testing.T, n *node, name org.ServerName, host string) JoinOptions {
	t.Helper()
	token, _, err := n.CreateToken(t.Context(), TokenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return JoinOptions{Dir: filepath.Join(t.TempDir(), "x"), Token: token, Name: name, Addr: freeAddr(t, host)}
}

// TestServerIsRemoved: a living server that is removed is refused at once and
// ends; the last one cannot be removed.
func TestServerIsRemoved(t *testing.T) {
	a := first(t)
	b := a.join(2)
	eventually(t, "MBX2 votes", b.votes)
	b.Handle2(t)
	if err := a.RemoveServer(t.Context(), "MBX2", false); !kind.Is(err, kind.Invalid) {
		t.Errorf("remove a living server without force: %v", err)
	}
	if err := a.RemoveServer(t.Context(), "MBX2", true); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Dial(t.Context(), "MBX2", protoMesh); !kind.Is(err, kind.NotFound) {
		t.Errorf("dial a removed server: %v", err)
	}
	select {
	case err := <-b.ended:
		if !errors.Is(err, ErrRemoved) {
			t.Errorf("removed server ended with %v", err)
		}
		b.stop = nil
	case <-time.After(20 * time.Second):
		t.Fatal("the removed server goes on")
	}
	c, err := b.port.Dial(t.Context(), "MBX1", a.addr, protoMesh)
	if err == nil {
		c.SetDeadline(time.Now().Add(5 * time.Second))
		_, err = c.Read(make([]byte, 1))
		c.Close()
	}
	if err == nil || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a removed server's certificate is let in: %v", err)
	}
	eventually(t, "one member left", func() bool { return len(a.Status(t.Context()).Members) == 1 })
	if _, err := a.Commit(t.Context(), put("x", "1")); err != nil {
		t.Fatal(err)
	}
	if err := a.RemoveServer(t.Context(), "MBX1", true); !kind.Is(err, kind.Invalid) {
		t.Errorf("remove the last server: %v", err)
	}
}

// Handle2 waits until both hear each other, so that both hold connections.
func (n *node) Handle2(t *testing.T) {
	t.Helper()
	eventually(t, "they hear each other", func() bool { p := n.Peers(); return len(p) == 1 && p[0].State == PeerUp })
}

// TestWitness: two servers and a witness survive the loss of either server.
func TestWitness(t *testing.T) {
	a := first(t)
	b := a.join(2)
	w := a.join(3, func(o *JoinOptions) { o.Witness = true })
	for _, n := range []*node{b, w} {
		eventually(t, "votes", n.votes)
	}
	if s, _ := a.View().Server("MBX3"); !s.Witness || !s.Voter {
		t.Errorf("witness row %+v", s)
	}
	a.kill()
	if _, err := b.Commit(t.Context(), put("x", "1")); err != nil {
		t.Errorf("after the loss of the first: %v", err)
	}
	a.again()
	a.ready()
	eventually(t, "first is back", func() bool { return a.Quorum() && a.LeaseValid() })
	b.kill()
	if _, err := a.Commit(t.Context(), put("x", "2")); err != nil {
		t.Errorf("after the loss of the second: %v", err)
	}
}

// TestTokens: one use, short life, bound to group and name.
func TestTokens(t *testing.T) {
	a := first(t)
	good := joinAs(t, a, "MBX2", "127.0.0.12")
	refused := func(what string, want kind.Kind, o JoinOptions) {
		t.Helper()
		o.Dir = filepath.Join(t.TempDir(), "y")
		if err := Join(t.Context(), o); !kind.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
		if Exists(o.Dir) {
			t.Errorf("%s left a data folder", what)
		}
	}
	token, err := joining.ParseToken(good.Token)
	if err != nil {
		t.Fatal(err)
	}
	other := token
	other.Fingerprint[0] ^= 1
	o := good
	o.Token = other.String()
	refused("another group's fingerprint", kind.Denied, o)
	other = token
	other.Secret = bytes.Repeat([]byte{7}, 20)
	o.Token = other.String()
	refused("a wrong secret", kind.Denied, o)
	o.Token = good.Token[:len(good.Token)-3]
	refused("half a token", kind.Invalid, o)
	o = good
	o.Addr = a.addr
	refused("an address that is taken", kind.Exists, o)
	bound, _, err := a.CreateToken(t.Context(), TokenOptions{For: "MBX7"})
	if err != nil {
		t.Fatal(err)
	}
	o = good
	o.Token = bound
	refused("a token for another server", kind.Denied, o)
	short, _, err := a.CreateToken(t.Context(), TokenOptions{TTL: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := Join(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	o = good
	o.Name, o.Addr = "MBX3", freeAddr(t, "127.0.0.13")
	refused("a token that was used", kind.Denied, o)
	tok, _ := joining.ParseToken(short)
	eventually(t, "the short token ends", func() bool { _, ok := a.View().Get(dirTokens + joining.Hash(tok.Secret)); return !ok })
	o.Token = short
	refused("a token that has expired", kind.Denied, o)
}

// TestCertificateRenewal: certificates of seconds are replaced while all goes on.
func TestCertificateRenewal(t *testing.T) {
	a := first(t)
	b := a.join(2)
	for _, n := range []*node{a, b} {
		n.cfg.CertificateLife = 6 * time.Second
		if err := n.renew(); err != nil {
			t.Fatal(err)
		}
		n.halt()
		n.tweak = func(c *Config) { c.CertificateLife = 6 * time.Second }
		n.start()
	}
	a.run()
	b.run()
	a.ready()
	b.ready()
	old := [2]string{a.Certificate().Leaf.SerialNumber.String(), b.Certificate().Leaf.SerialNumber.String()}
	eventually(t, "both have new ones", func() bool {
		return a.Certificate().Leaf.SerialNumber.String() != old[0] && b.Certificate().Leaf.SerialNumber.String() != old[1]
	})
	c, err := a.Dial(t.Context(), "MBX2", protoMesh)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := b.Commit(t.Context(), put("x", "1")); err != nil {
		t.Error(err)
	}
}

// TestBackupAndRestore: a group of one from a backup has the rows, and not
// the servers, of the group.
func TestBackupAndRestore(t *testing.T) {
	a := first(t)
	for _, k := range []string{"domains/example.test", "recipients/o/1"} {
		if _, err := a.Commit(t.Context(), put(k, "{}")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.Commit(t.Context(), put("mounts/DB1", `{"database":"DB1","term":5,"active":"MBX1"}`)); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	info, err := a.Backup(t.Context(), &b)
	if err != nil || info.Stale || info.Keys == 0 {
		t.Fatalf("backup: %+v %v", info, err)
	}
	a.halt()
	n := &node{t: t, dir: filepath.Join(t.TempDir(), "new"), addr: freeAddr(t, "127.0.0.14")}
	if _, err := Restore(t.Context(), RestoreOptions{Dir: n.dir, Name: "MBX9", Site: "B", Addr: n.addr}, bytes.NewReader(b.Bytes())); err != nil {
		t.Fatal(err)
	}
	n.start()
	t.Cleanup(n.halt)
	n.run()
	n.ready()
	v := n.View()
	if s := v.Servers(); len(s) != 1 || s[0].Name != "MBX9" {
		t.Errorf("servers %v", s)
	}
	if _, ok := v.Get("recipients/o/1"); !ok {
		t.Error("rows are missing")
	}
	if m, _ := v.Mount("DB1"); m.Term != 5+termStep || m.Active != "" {
		t.Errorf("mount %+v", m)
	}
	m := n.join(1, func(o *JoinOptions) { o.Addr = freeAddr(t, "127.0.0.11") })
	eventually(t, "the first one is back as another", m.votes)

	bad := bytes.Clone(b.Bytes())
	bad[len(bad)/2] ^= 1
	if _, err := InspectBackup(bytes.NewReader(bad)); !kind.Is(err, kind.Corrupt) {
		t.Errorf("a flipped bit: %v", err)
	}
	if _, err := InspectBackup(strings.NewReader("nonsense")); !kind.Is(err, kind.Invalid) {
		t.Errorf("nonsense: %v", err)
	}
}

// TestForceNew: one of three goes on alone with all it knew.
func TestForceNew(t *testing.T) {
	g := three(t)
	if _, err := g[1].Commit(t.Context(), put("x", "1")); err != nil {
		t.Fatal(err)
	}
	for _, n := range g {
		n.kill()
	}
	if err := ForceNew(g[1].dir); err != nil {
		t.Fatal(err)
	}
	g[1].again()
	g[1].ready()
	eventually(t, "it is alone and works", func() bool { _, err := g[1].Commit(t.Context(), put("x", "2")); return err == nil })
	eventually(t, "one server", func() bool { return len(g[1].View().Servers()) == 1 && len(g[1].Status(t.Context()).Members) == 1 })
	n := g[1].join(4)
	eventually(t, "another joins", n.votes)
}

func TestFolderIsLocked(t *testing.T) {
	a := first(t)
	if _, err := Open(testConfig(a.dir), nil, nil); !kind.Is(err, kind.Busy) {
		t.Errorf("a second process on the folder: %v", err)
	}
	if err := Init(t.Context(), InitOptions{Dir: a.dir, Name: "MBX1", Addr: a.addr}); !kind.Is(err, kind.Busy) {
		t.Errorf("init over a running server: %v", err)
	}
	a.halt()
	if err := Init(t.Context(), InitOptions{Dir: a.dir, Name: "MBX1", Addr: a.addr}); !kind.Is(err, kind.Exists) {
		t.Errorf("init over a server: %v", err)
	}
	if _, err := Open(testConfig(t.TempDir()), nil, nil); !kind.Is(err, kind.NotFound) {
		t.Errorf("open an empty folder: %v", err)
	}
	l, err := net.Listen("tcp", a.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a.start()
	if err := a.Run(t.Context()); !kind.Is(err, kind.Busy) {
		t.Errorf("the port is taken: %v", err)
	}
}
