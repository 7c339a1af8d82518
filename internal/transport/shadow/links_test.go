package shadow

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"log/slog"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// TestLinks has two servers speak over the links of a real group.
func TestLinks(t *testing.T) {
	w := newWorld(t)
	log := slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	dirA, dirB := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b") // go after all that uses them has ended
	t.Cleanup(func() { cancel(); wg.Wait() })
	open := func(dir string, name org.ServerName) (*cluster.Cluster, *node) {
		c, err := cluster.Open(cluster.Config{Dir: dir, Heartbeat: 20 * time.Millisecond, Election: 200 * time.Millisecond,
			MeshInterval: 20 * time.Millisecond, SilentAfter: time.Second, LeaseTTL: 2 * time.Second, NoSync: true}, log, event.NewLog(log))
		if err != nil {
			t.Fatal(err)
		}
		w.add(name)
		n := w.open(name)
		n.Keeper = New(Deps{Group: c, Queue: n.q, Fast: true, Now: w.clock, Settings: w.group,
			Taken: n.tookOver, Gone: n.gaveUp, Answer: n.answer})
		stop, done := context.WithCancel(ctx)
		wg.Go(func() {
			if err := c.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		select {
		case <-c.Ready():
		case <-time.After(30 * time.Second):
			t.Fatal("the group does not begin")
		}
		n.runKeeper(stop, done)
		return c, n
	}
	addr := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	if err := cluster.Init(ctx, cluster.InitOptions{Dir: dirA, Name: "A", Site: "A", Addr: addr()}); err != nil {
		t.Fatal(err)
	}
	first, _ := open(dirA, "A")
	token, _, err := first.CreateToken(ctx, cluster.TokenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := cluster.Join(ctx, cluster.JoinOptions{Dir: dirB, Token: token, Name: "B", Site: "A", Addr: addr()}); err != nil {
		t.Fatal(err)
	}
	open(dirB, "B")
	for up := time.Now().Add(30 * time.Second); ; {
		if _, err := w.nodes["A"].Ask(ctx, "B", "list", nil); err == nil {
			break
		} else if time.Now().After(up) {
			t.Fatal(err)
		}
	}
	id := w.accept("A", "B")
	w.nodes["A"].deliver(t, id)
	w.until("B", id, claimFinished)
	if got, err := w.nodes["A"].Ask(ctx, "B", "list", []byte("x")); err != nil || string(got) != "B A list x" {
		t.Fatalf("%q %v", got, err)
	}
	var a heldAnswer
	if err := w.nodes["A"].remote(ctx, "B", "Held", &heldRequest{IDs: []byte("x")}, &a); !kind.Is(err, kind.Invalid) {
		t.Fatalf("%v, want invalid", err)
	}
}
