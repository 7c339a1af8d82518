package shadow

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// The tests of this file are the crash windows of the design: nothing is lost,
// nothing is owned twice, and the server that returns gives way.

// TestW1 loses the primary before anything is durable: there is nothing.
func TestW1(t *testing.T) {
	w := newWorld(t, "A", "B", "C")
	first := w.accept("A", "B")
	a, body := w.message(2)
	w.nodes["A"].fs.Inject(func(op fsx.Op) error {
		if op.Kind == fsx.OpWrite || op.Kind == fsx.OpSync {
			return errors.New("input/output error") // nothing is written any more
		}
		return nil
	})
	if _, err := w.nodes["A"].Accept(t.Context(), a, body, "B"); err == nil {
		t.Fatal("confirmed")
	}
	w.owner(first, "B") // a server whose disk failed has others go on
	// B may take over what it holds before it hears that this was never
	// confirmed: then it delivers it, and a repetition has the same identity.
	switch s := w.nodes["B"].state(a.ID); s {
	case claimVoid, claimNone:
	case claimOwned:
		w.owner(a.ID, "B")
	default:
		t.Fatal(s)
	}
}

// TestW2 loses the primary when the message is in its log only.
func TestW2(t *testing.T) {
	w := newWorld(t, "A", "B")
	w.accept("A", "B")
	w.with("B", refuse("Copy"))
	a, body := w.message(2)
	if err := w.nodes["A"].q.Accept(t.Context(), a, body); err != nil {
		t.Fatal(err)
	}
	w.kill("A")
	w.restart("A")
	w.owner(a.ID, "A")
}

// TestW3 loses the primary when only the copy is durable, and then not.
func TestW3(t *testing.T) {
	w := newWorld(t, "A", "B", "C")
	w.accept("A", "B")
	offer := func(n int) queue.Accepted {
		a, body := w.message(n)
		if _, err := w.nodes["A"].offer(t.Context(), "B", a, body, 1, time.Second); err != nil {
			t.Fatal(err)
		}
		return a
	}
	a := offer(2)
	w.kill("A")
	w.owner(a.ID, "B")
	w.eventually(func() bool { return w.nodes["B"].noted("TakeOverQueue", "A") })
	w.restart("A")
	w.owner(a.ID, "B")
	w.eventually(func() bool { return w.nodes["A"].noted("GiveUpMessages", "A") })

	orphan := offer(3)
	w.until("B", orphan.ID, claimHeld)
	if err := w.nodes["B"].compare(t.Context(), "A"); err != nil {
		t.Fatal(err)
	}
	w.until("B", orphan.ID, claimHeld) // it may just be coming
	w.advance(unknownAfter + time.Minute)
	if err := w.nodes["B"].compare(t.Context(), "A"); err != nil {
		t.Fatal(err)
	}
	w.until("B", orphan.ID, claimVoid)
}

// TestW4 has two holders, as the answer of the first was lost.
func TestW4(t *testing.T) {
	for _, dead := range []bool{false, true} {
		w := newWorld(t, "A", "B", "C", "D", "E")
		w.accept("A", "B")
		w.with("B", func(n *node) { n.lose = map[string]bool{"Copy": true} })
		w.with("C", refuse())
		for _, s := range []org.ServerName{"D", "E"} {
			w.with(s, refuse("Copy"))
		}
		w.eventually(func() bool { return len(w.nodes["A"].Status().Candidates) == 4 })
		if dead {
			w.with("B", func(n *node) { refuse("Notify")(n) })
		}
		w.set(func(g *settings.Group) { g.RetriesLocalSite = 4 })
		a, body := w.message(2)
		got, err := w.nodes["A"].Accept(t.Context(), a, body, "B")
		if err != nil || got != "C" {
			t.Fatal(got, err)
		}
		if !dead {
			w.until("B", a.ID, claimNone)
			w.until("C", a.ID, claimHeld)
			w.owner(a.ID, "A")
			continue
		}
		if w.nodes["B"].state(a.ID) != claimHeld || w.nodes["C"].state(a.ID) != claimHeld {
			t.Fatal("not held twice")
		}
		w.kill("A")
		w.owner(a.ID, "C")
		w.until("B", a.ID, claimNone)
		w.restart("A")
		w.owner(a.ID, "C")
	}
}

// TestW4c has the later holder return while the earlier one, which did not ask
// it, is about to take over.
func TestW4c(t *testing.T) {
	w := newWorld(t, "A", "B", "C", "D", "E")
	w.accept("A", "B")
	w.with("B", func(n *node) { refuse("Notify")(n); n.lose = map[string]bool{"Copy": true} })
	w.with("D", refuse("Copy"))
	w.with("E", refuse("Copy"))
	w.set(func(g *settings.Group) { g.RetriesLocalSite = 4 })
	w.eventually(func() bool { return len(w.nodes["A"].Status().Candidates) == 4 })
	a, body := w.message(2)
	if got, err := w.nodes["A"].Accept(t.Context(), a, body, "B"); err != nil || got != "C" {
		t.Fatal(got, err)
	}
	w.with("A", func(n *node) { n.cut = true; n.view = w.viewNow() }) // it is to make no other copy
	w.kill("C")
	var once sync.Once
	w.with("D", func(n *node) {
		n.before = func(from org.ServerName, method string) {
			if from != "B" || method != "Claims" {
				return
			}
			once.Do(func() {
				w.start("C")
				w.until("C", a.ID, claimOwned)
			})
		}
	})
	w.kill("A")
	w.owner(a.ID, "C")
	w.until("B", a.ID, claimNone)
}

// TestW4b lets the holder return when its primary has gone on without it.
func TestW4b(t *testing.T) {
	w := newWorld(t, "A", "B")
	id := w.accept("A", "B", "one@x.test", "two@x.test")
	w.nodes["A"].apply(t, id, queue.RowChange{N: 0, State: queue.StateReady, Dest: "mx:x.test"}, queue.RowChange{N: 1, State: queue.StateReady, Dest: "db:DB01"})
	w.kill("B")
	w.fence("A")
	w.owner(id, "A") // nobody else has it
	_, rows, err := w.nodes["A"].q.Message(id)
	if err != nil || !rows[0].RepeatPossible || rows[0].Next.IsZero() || rows[1].RepeatPossible || !rows[1].Next.IsZero() {
		t.Fatalf("B may have sent it before it was lost: %+v %v", rows, err)
	}
	w.restart("B")
	w.owner(id, "A")
	w.until("B", id, claimHeld) // once more, under the new epoch
	w.kill("A")
	w.owner(id, "B")
}

// TestW5 kills the primary right after its confirmation, for good.
func TestW5(t *testing.T) {
	w := newWorld(t, "A", "B", "C")
	id := w.accept("A", "B")
	w.kill("A")
	w.owner(id, "B")
	w.eventually(func() bool { b := w.nodes["B"]; return b.was(&b.taken, id) }) // the front door is told
	w.until("C", id, claimHeld)                                                 // the only other server has a second copy
	w.restart("A")
	w.owner(id, "B")
	w.until("A", id, claimNone)
	w.eventually(func() bool { a := w.nodes["A"]; return a.was(&a.gone, id) }) // the front door is told
	w.nodes["B"].deliver(t, id)
	w.until("C", id, claimFinished)
}

// attempt begins a remote attempt whose holder knows of it.
func (n *node) attempt(t testing.TB, id [16]byte, holder org.ServerName) {
	t.Helper()
	n.apply(t, id, queue.RowChange{N: 0, State: queue.StateAttempt, Dest: "mx:x.test", Host: "mx.x.test"})
	if repeat, err := n.Begun(t.Context(), id, holder); err != nil || repeat {
		t.Fatal(repeat, err)
	}
}

// TestW7 loses the primary when a remote host has the message and nobody knows.
func TestW7(t *testing.T) {
	w := newWorld(t, "A", "B", "C")
	id := w.accept("A", "B")
	w.nodes["A"].attempt(t, id, "B")
	w.kill("A")
	w.owner(id, "B")
	doubtful := func() (r queue.RecipientRow) {
		_, rows, err := w.nodes["B"].q.Message(id)
		if err != nil {
			t.Fatal(err)
		}
		return rows[0]
	}
	w.eventually(func() bool { return doubtful().RepeatPossible })
	if r := doubtful(); r.State != queue.StateDoubtful || r.Next.Sub(w.clock()) < 4*time.Minute {
		t.Fatalf("%+v", r)
	}
}

// TestW8 is W7 with a primary that knows, and comes back in time.
func TestW8(t *testing.T) {
	w := newWorld(t, "A", "B", "C")
	id := w.accept("A", "B", "one@x.test", "two@x.test")
	w.nodes["A"].attempt(t, id, "B")
	w.with("B", refuse("Notify"))
	w.nodes["A"].apply(t, id, queue.RowChange{N: 0, State: queue.StateRelayed})
	w.kill("A")
	w.owner(id, "B")
	w.with("B", refuse())
	w.restart("A")
	w.eventually(func() bool {
		_, rows, err := w.nodes["B"].q.Message(id)
		return err == nil && rows[0].State == queue.StateRelayed
	})
	w.owner(id, "B")
	w.until("A", id, claimNone)
}

// TestW8Again has the new owner be done with one of the rows that the primary
// tells of: the others count all the same.
func TestW8Again(t *testing.T) {
	w := newWorld(t, "A", "B", "C")
	id := w.accept("A", "B", "one@x.test", "two@x.test", "three@x.test")
	w.kill("A")
	w.owner(id, "B")
	b := w.nodes["B"]
	m, rows, err := b.q.Message(id)
	if err != nil {
		t.Fatal(err)
	}
	said := []queue.RowChange{
		{N: 0, State: queue.StateRelayed, Dest: "mx:x.test"},
		{N: 1, State: queue.StateRelayed, Dest: "mx:x.test"},
		{N: 2, State: queue.StateDelivered, Dest: "db:DB01", Mailbox: box},
	}
	// Between the look at the rows and the change one is delivered here.
	b.apply(t, id, queue.RowChange{N: 2, State: queue.StateDelivered, Dest: "db:DB01", Mailbox: box})
	if err := b.heardLate(t.Context(), m, rows, said); err != nil {
		t.Fatal(err)
	}
	_, rows, err = b.q.Message(id)
	if err != nil || rows[0].State != queue.StateRelayed || rows[1].State != queue.StateRelayed || rows[2].State != queue.StateDelivered {
		t.Fatalf("%+v %v", rows, err)
	}
}

// TestW9 cuts the primary off until its messages were taken over.
func TestW9(t *testing.T) {
	w := newWorld(t, "A", "B", "C")
	id := w.accept("A", "B")
	w.setCut("A", true)
	a := w.nodes["A"]
	if m, _, err := a.q.Message(id); err != nil || a.Mine(m) == nil {
		t.Fatal("a server that is cut off sends", err)
	}
	w.set(func(g *settings.Group) { g.RejectOnShadowFailure = "never" })
	alone := w.accept("A", "") // as nobody else can store it
	if !slices.ContainsFunc(a.log.Recent(100), func(e event.Event) bool { return e.Code == EventAlone.Code }) {
		t.Fatal("not told")
	}
	w.owner(id, "B")
	w.setCut("A", false)
	w.owner(id, "B")
	w.until("A", id, claimNone)
	w.owner(alone, "A")
	w.eventually(func() bool { m, _, _ := a.q.Message(alone); return m.Shadow != "" })
	if a.Reconciling() != 0 {
		t.Fatal(a.Reconciling())
	}
}

// TestW10 loses the holder, and then the primary.
func TestW10(t *testing.T) {
	w := newWorld(t, "A", "B", "C", "D", "E")
	id := w.accept("A", "B", "one@x.test", "two@x.test")
	w.nodes["A"].apply(t, id, queue.RowChange{N: 0, State: queue.StateDelivered, Dest: "db:DB01", Mailbox: box})
	w.kill("B")
	var holder org.ServerName
	w.eventually(func() bool {
		m, _, err := w.nodes["A"].q.Message(id)
		holder = m.Shadow
		return err == nil && holder != "B"
	})
	w.kill("A")
	w.owner(id, holder)
	if _, rows, err := w.nodes[holder].q.Message(id); err != nil || rows[0].State != queue.StateDelivered {
		t.Fatalf("%+v %v", rows, err)
	}
	w.restart("B")
	w.until("B", id, claimNone)
	w.owner(id, holder)
}

// TestW11 loses the holder, and then the primary before it could say another word
// about the new copies: they know how far the message is from the first moment.
func TestW11(t *testing.T) {
	w := newWorld(t, "A", "B", "C", "D", "E")
	id := w.accept("A", "B", "one@x.test", "two@x.test")
	w.nodes["A"].apply(t, id, queue.RowChange{N: 0, State: queue.StateAttempt, Dest: "mx:x.test", Host: "mx.x.test"})
	w.nodes["A"].apply(t, id, queue.RowChange{N: 0, State: queue.StateRelayed})
	for _, s := range []org.ServerName{"C", "D", "E"} {
		w.with(s, refuse("Notify"))
	}
	w.kill("B")
	some := func(want claimState) (found org.ServerName) {
		w.eventually(func() bool {
			for _, s := range []org.ServerName{"C", "D", "E"} {
				if w.nodes[s].state(id) == want {
					found = s
				}
			}
			return found != ""
		})
		return found
	}
	some(claimHeld)
	w.kill("A")
	owner := some(claimOwned)
	if _, rows, err := w.nodes[owner].q.Message(id); err != nil || rows[0].State != queue.StateRelayed || rows[1].State.Finished() {
		t.Fatalf("%s would send again what was sent: %+v %v", owner, rows, err)
	}
}

// TestW12 loses the holder in the middle of its takeover.
func TestW12(t *testing.T) {
	w := newWorld(t, "A", "B", "C", "D", "E")
	id := w.accept("A", "B")
	w.with("C", refuse("Claims"))
	w.kill("A")
	w.until("B", id, claimFenced)
	w.kill("B")
	w.with("C", refuse())
	w.restart("B")
	w.owner(id, "B")
	w.restart("A")
	w.owner(id, "B")
}

// TestW12Again loses the new owner as well: its own holder goes on.
func TestW12Again(t *testing.T) {
	w := newWorld(t, "A", "B", "C", "D", "E")
	id := w.accept("A", "B")
	w.kill("A")
	w.owner(id, "B")
	var holder org.ServerName
	w.eventually(func() bool { m, _, _ := w.nodes["B"].q.Message(id); holder = m.Shadow; return holder != "" })
	w.kill("B")
	w.owner(id, holder)
	w.restart("A")
	w.owner(id, holder)
	w.restart("B")
	w.owner(id, holder)
	w.until("A", id, claimNone)
	w.until("B", id, claimNone)
}

// TestW13 loses both and lets them return in any order.
func TestW13(t *testing.T) {
	for _, order := range [][]org.ServerName{{"A", "B"}, {"B", "A"}} {
		w := newWorld(t, "A", "B", "C")
		id := w.accept("A", "B")
		w.kill("B")
		w.kill("A")
		w.start(order[0])
		w.start(order[1])
		<-w.nodes["A"].Ready()
		<-w.nodes["B"].Ready()
		w.eventually(func() bool {
			return w.nodes["A"].state(id) == claimOwned || w.nodes["B"].state(id) == claimOwned
		})
		owner := org.ServerName("B")
		if w.nodes["A"].state(id) == claimOwned {
			owner = "A"
		}
		w.owner(id, owner)
	}
}

// TestW16 fills the disk of the first candidate, then that of the primary.
func TestW16(t *testing.T) {
	w := newWorld(t, "A", "B", "C")
	w.accept("A", "B")
	w.with("B", func(n *node) { n.refuse = map[string]error{"Copy": kind.Errorf(kind.Full, "full")} })
	w.eventually(func() bool { return len(w.nodes["A"].Status().Candidates) == 2 })
	a, body := w.message(2)
	if got, err := w.nodes["A"].Accept(t.Context(), a, body, "B"); err != nil || got != "C" {
		t.Fatal(got, err)
	}
	w.nodes["A"].fs.SetLimit(1 << 10)
	full, body := w.message(3)
	if _, err := w.nodes["A"].Accept(t.Context(), full, body, "C"); !kind.Is(err, kind.Full) {
		t.Fatal(err)
	}
	w.until("A", full.ID, claimNone)
	if s := w.nodes["C"].state(full.ID); s != claimVoid && s != claimNone {
		t.Fatal(s)
	}
	w.owner(a.ID, "A")
}

// TestW19 stores a copy at a server that does not know yet of the fence.
func TestW19(t *testing.T) {
	w := newWorld(t, "A", "B", "C")
	w.accept("A", "B")
	a, body := w.message(2)
	A, B := w.nodes["A"], w.nodes["B"]
	epoch := A.q.Epoch()
	enc, err := A.q.Encode(a, int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	if err := A.q.Accept(t.Context(), a, body); err != nil {
		t.Fatal(err)
	}
	w.stale("B")
	w.fence("A")
	req := &copyRequest{Queue: A.q.Identity(), Epoch: epoch, Try: 1, Accept: enc, Body: body}
	ans, err := B.serveCopy(t.Context(), "A", req)
	if err != nil || ans.Fenced && B.state(a.ID) == claimNone {
		// It asked for claims in between, and its view is new.
		w.owner(a.ID, "A")
		return
	}
	w.with("B", func(n *node) { n.view = nil; w.tell() })
	w.eventually(func() bool { return A.state(a.ID) == claimOwned || B.state(a.ID) == claimOwned })
	owner := org.ServerName("A")
	if B.state(a.ID) == claimOwned {
		owner = "B"
	}
	w.owner(a.ID, owner)
	if ans, err := B.serveCopy(context.Background(), "A", req); err != nil || !ans.Fenced {
		t.Fatal(ans, err)
	}
}
