package shadow

import (
	"errors"
	"testing"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// TestLife shows a message with its copy from its coming to its end.
func TestLife(t *testing.T) {
	w := newWorld(t, "A", "B", "C")
	id := w.accept("A", "B")
	w.owner(id, "A")
	w.until("B", id, claimHeld)
	w.nodes["A"].deliver(t, id)
	w.until("B", id, claimFinished)
	if _, rows, err := w.nodes["B"].q.Message(id); err != nil || rows[0].State != queue.StateDelivered || rows[0].Mailbox != box {
		t.Fatalf("%+v %v", rows, err)
	}
	if w.nodes["C"].state(id) != claimNone {
		t.Fatal("C has to do with it")
	}
}

// TestSingle shows a group of one server.
func TestSingle(t *testing.T) {
	w := newWorld(t, "A")
	id := w.accept("A", "")
	w.owner(id, "A")
	w.kill("A")
	w.restart("A")
	w.owner(id, "A")
}

// TestRefused refuses what nobody can hold while somebody says he could.
func TestRefused(t *testing.T) {
	w := newWorld(t, "A", "B")
	first := w.accept("A", "B")
	w.mu.Lock()
	w.nodes["B"].refuse = map[string]error{"Copy": kind.Errorf(kind.Full, "full")}
	w.mu.Unlock()
	a, body := w.message(2)
	_, err := w.nodes["A"].Accept(t.Context(), a, body, "")
	if !kind.Is(err, kind.Busy) || !errors.Is(err, mail.ErrNoSecondCopy) {
		t.Fatal(err)
	}
	w.until("A", a.ID, claimVoid)
	w.owner(first, "A")
}
