package shadow

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/conf"
	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// TestRejectSettings shows what becomes of a message that nobody can hold.
func TestRejectSettings(t *testing.T) {
	w := newWorld(t, "A", "B", "C")
	w.accept("A", "B")
	for _, c := range []struct {
		setting string
		others  string // "up": they say that they can store, "full": that they cannot, "cut": nothing is heard of them
		refused bool
	}{{"auto", "up", true}, {"always", "up", true}, {"never", "up", false},
		{"auto", "full", false}, {"always", "full", true}, {"never", "full", false},
		{"auto", "cut", true}, {"always", "cut", true}, {"never", "cut", false}} {
		w.set(func(g *settings.Group) { g.RejectOnShadowFailure = c.setting })
		for _, s := range []org.ServerName{"B", "C"} {
			w.with(s, refuse("Copy"))
			w.setCut(s, c.others == "cut")
			w.nodes[s].draining.Store(c.others == "full")
			w.nodes[s].publish()
		}
		a, body := w.message(2)
		holder, err := w.nodes["A"].Accept(t.Context(), a, body, "")
		if refused := errors.Is(err, mail.ErrNoSecondCopy); refused != c.refused || holder != "" || err == nil == refused {
			t.Errorf("%+v: %q %v", c, holder, err)
		}
	}
	off := false
	w.set(func(g *settings.Group) { g.ShadowEnabled = &off })
	w.set(func(g *settings.Group) { g.RejectOnShadowFailure = "always" })
	w.accept("A", "")
}

// TestAlso never refuses a message that comes with changes of others.
func TestAlso(t *testing.T) {
	w := newWorld(t, "A", "B")
	id := w.accept("A", "B")
	w.with("B", refuse("Copy"))
	a, body := w.message(2)
	a.Parent = id
	a.Also = []queue.Change{{ID: id, At: w.clock().UnixNano(), Rows: []queue.RowChange{{N: 0, State: queue.StateReturned, Child: a.ID}}}}
	if holder, err := w.nodes["A"].Accept(t.Context(), a, body, "B"); err != nil || holder != "" {
		t.Fatal(holder, err)
	}
	w.until("A", id, claimFinished)
	w.owner(a.ID, "A")
	w.with("B", refuse())
	w.until("B", a.ID, claimHeld) // later
}

// TestRemoved takes the messages of a server that was removed.
func TestRemoved(t *testing.T) {
	w := newWorld(t, "A", "B", "C")
	id := w.accept("A", "B")
	w.kill("A")
	w.remove("A")
	w.owner(id, "B")
}

// TestNewDisk lets a server return with an empty queue.
func TestNewDisk(t *testing.T) {
	w := newWorld(t, "A", "B", "C", "D", "E")
	id := w.accept("A", "B")
	w.set(func(g *settings.Group) { g.TakeoverAfter = conf.Duration(time.Hour) }) // nobody takes it meanwhile
	w.kill("A")
	w.with("A", func(n *node) { n.fs, n.ix = fsx.NewMem(), vfs.NewCrashableMem() })
	w.restart("A")
	w.owner(id, "B")
	next := w.accept("A", "C")
	w.owner(next, "A")
}

// TestDrain gives the messages of a server away while it runs.
func TestDrain(t *testing.T) {
	w := newWorld(t, "A", "B", "C")
	id := w.accept("A", "B")
	a, body := w.message(2)
	A := w.nodes["A"]
	if err := A.q.Accept(t.Context(), a, body); err != nil { // has no copy
		t.Fatal(err)
	}
	if err := A.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.owner(id, "B")
	if w.nodes["B"].state(a.ID) != claimOwned && w.nodes["C"].state(a.ID) != claimOwned {
		t.Fatal("not given away")
	}
	if _, err := A.Accept(t.Context(), a, body, ""); !kind.Is(err, kind.Busy) {
		t.Fatal(err)
	}
	A.Resume()
	w.owner(w.accept("A", "C"), "A")
}

// TestDrainAlone says what stays.
func TestDrainAlone(t *testing.T) {
	w := newWorld(t, "A", "B")
	w.accept("A", "B")
	w.kill("B")
	id := w.accept("A", "")
	if err := w.nodes["A"].Drain(t.Context()); !kind.Is(err, kind.Busy) {
		t.Fatal(err)
	}
	w.owner(id, "A")
}

// TestBegun shows when an attempt may go on.
func TestBegun(t *testing.T) {
	w := newWorld(t, "A", "B", "C")
	id := w.accept("A", "B")
	A := w.nodes["A"]
	A.attempt(t, id, "B")
	if _, rows, err := w.nodes["B"].q.Message(id); err != nil || rows[0].Host != "mx.x.test" {
		t.Fatalf("%+v %v", rows, err)
	}
	A.apply(t, id, queue.RowChange{N: 0, State: queue.StateDeferred})
	w.with("B", refuse("Notify"))
	A.apply(t, id, queue.RowChange{N: 0, State: queue.StateAttempt})
	if repeat, err := A.Begun(t.Context(), id, "B"); err != nil || !repeat {
		t.Fatal(repeat, err)
	}
	A.apply(t, id, queue.RowChange{N: 0, State: queue.StateDeferred})
	w.with("B", refuse())
	w.stale("A")
	w.fence("A") // A does not see it, B does
	A.apply(t, id, queue.RowChange{N: 0, State: queue.StateAttempt})
	if _, err := A.Begun(t.Context(), id, "B"); err == nil {
		// A was asked for claims in between, and has seen it.
		if m, _, merr := A.q.Message(id); merr != nil || A.Mine(m) == nil {
			t.Fatal("the attempt goes on", merr)
		}
	} else if !kind.Is(err, kind.Elsewhere) {
		t.Fatal(err)
	}
	w.with("A", func(n *node) { n.view = nil; w.tell() })
	w.owner(id, "B")
}

// TestHeldWhileAccepting does not give up a copy that is just being made.
func TestHeldWhileAccepting(t *testing.T) {
	w := newWorld(t, "A", "B", "C")
	w.accept("A", "B")
	a, body := w.message(2)
	A := w.nodes["A"]
	done := A.mark(a.ID)
	if err := A.q.Accept(t.Context(), a, body); err != nil {
		t.Fatal(err)
	}
	if _, err := A.offer(t.Context(), "B", a, body, 1, time.Second); err != nil {
		t.Fatal(err)
	}
	compare := func() {
		if err := w.nodes["B"].compare(t.Context(), "A"); err != nil {
			t.Fatal(err)
		}
	}
	compare()
	w.until("B", a.ID, claimHeld)
	done()
	compare()
	w.until("B", a.ID, claimNone)
}

// TestLostNotice is mended by comparing.
func TestLostNotice(t *testing.T) {
	w := newWorld(t, "A", "B")
	id := w.accept("A", "B")
	w.with("B", refuse("Notify"))
	w.nodes["A"].deliver(t, id)
	w.until("B", id, claimHeld)
	if err := w.nodes["B"].compare(t.Context(), "A"); err != nil {
		t.Fatal(err)
	}
	w.until("B", id, claimFinished)
}

// TestDiscard gives up notices of a server that is away for long.
func TestDiscard(t *testing.T) {
	w := newWorld(t, "A", "B", "C")
	id := w.accept("A", "B")
	w.with("B", refuse("Notify"))
	A := w.nodes["A"]
	A.deliver(t, id)
	owed := func() (n int) {
		for range A.q.Owed("B", 0) {
			n++
		}
		return n
	}
	w.eventually(func() bool { return owed() == 1 })
	w.advance(49 * time.Hour)
	w.eventually(func() bool { return owed() == 0 })
}

// TestFetch mends a body that is damaged with that of the copy.
func TestFetch(t *testing.T) {
	w := newWorld(t, "A", "B", "C")
	id := w.accept("A", "B")
	want, err := w.nodes["B"].q.Body(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := w.nodes["A"].Fetch(t.Context(), id); err != nil || !bytes.Equal(got, want) {
		t.Fatal(err)
	}
	if !w.nodes["A"].noted("RepairQueue", "A") {
		t.Errorf("the recovery log does not tell: %+v", w.nodes["A"].notes)
	}
	w.kill("B")
	if _, err := w.nodes["A"].Fetch(t.Context(), id); !kind.Is(err, kind.NotFound) {
		t.Fatal(err)
	}
}

func TestAsk(t *testing.T) {
	w := newWorld(t, "A", "B")
	w.accept("A", "B") // both run
	for to, want := range map[org.ServerName]string{"A": "A A list x", "B": "B A list x"} {
		if got, err := w.nodes["A"].Ask(t.Context(), to, "list", []byte("x")); err != nil || string(got) != want {
			t.Fatalf("%q %v", got, err)
		}
	}
	if _, err := w.nodes["A"].Ask(t.Context(), "B", "list", make([]byte, maxAsk+1)); !kind.Is(err, kind.Invalid) {
		t.Fatal(err)
	}
}

// FuzzServe: whatever another server sends is answered or refused.
func FuzzServe(f *testing.F) {
	w := newWorld(f, "A", "B")
	methods := []string{"Copy", "Notify", "Held", "Claims", "Fetch", "Ask"}
	a, body := w.message(1)
	enc, err := w.nodes["B"].q.Encode(a, int64(len(body)))
	if err != nil {
		f.Fatal(err)
	}
	for i, v := range []any{copyRequest{Queue: "q", Epoch: 1, Accept: enc, Body: body},
		noticeBatch{Notices: []notice{{ID: a.ID[:], Fate: queue.FateFinished, Rows: []queue.RowChange{{State: queue.StateDelivered}}}}},
		heldRequest{IDs: a.ID[:]}, claimsRequest{IDs: a.ID[:]}, fetchRequest{ID: a.ID[:]}, askRequest{Method: "m"}} {
		f.Add(i, codec.MustMarshal(v))
	}
	f.Fuzz(func(t *testing.T, method int, request []byte) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		w.nodes["A"].serve(ctx, "B", methods[uint(method)%uint(len(methods))], request)
	})
}
