package transport

import (
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// wish is the state of the component as a test wants it.
type wish struct {
	mu       sync.Mutex         // guards the rest
	state    org.ComponentState // of org.Transport
	delivery org.ComponentState
	changed  chan struct{}
}

func (w *wish) component(c org.Component) (org.ComponentState, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changed == nil {
		w.changed = make(chan struct{})
	}
	if c == org.Delivery {
		return org.Active.Stronger(w.delivery), w.changed
	}
	return org.Active.Stronger(w.state), w.changed
}

func (w *wish) setDelivery(s org.ComponentState) {
	w.mu.Lock()
	w.delivery = s
	state := w.state
	w.mu.Unlock()
	w.set(state)
}

func (w *wish) set(s org.ComponentState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = s
	if w.changed != nil {
		close(w.changed)
	}
	w.changed = make(chan struct{})
}

// TestComponentSurvivesRestart: a server that drains accepts nothing, also after a
// restart, tells what is left, and cannot be resumed against the wish.
func TestComponentSurvivesRestart(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.store.setAway("DB01", true)
		id := w.send("rob@red.example", rcpt("ann@red.example", ""))
		w.wish.set(org.Draining)
		w.pass(time.Second)
		refused := func() {
			t.Helper()
			if _, err := w.Accept(t.Context(), w.submission("rob@red.example", rcpt("ann@red.example", ""))); !kind.Is(err, kind.Busy) {
				t.Errorf("accepted: %v", err)
			}
			if state, left := w.Component(); state != org.Draining || left != 1 {
				t.Errorf("%s with %d left", state, left)
			}
		}
		refused()
		w.restart()
		refused()
		if _, err := w.call(t.Context(), "queue redirect", "server=s1", "resume=true"); err == nil {
			t.Error("resumed against the wish")
		}
		w.wish.set(org.Inactive)
		w.pass(time.Second)
		refused() // Inactive only when nothing is left: there is nobody who could take it
		w.wish.set(org.Active)
		w.store.setAway("DB01", false)
		w.pass(2 * time.Minute)
		w.want(id, "delivered")
		if state, left := w.Component(); state != org.Active || left != 0 {
			t.Errorf("%s with %d left", state, left)
		}
		w.send("rob@red.example", rcpt("ann@red.example", ""))
	})
}

// TestDeliveryHeldBack: while delivery is held back messages are accepted and wait,
// those for others go on, and all that waited is delivered at once afterwards.
func TestDeliveryHeldBack(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.wish.setDelivery(org.Draining)
		id := w.send("rob@red.example", rcpt("ann@red.example", ""))
		w.pass(10 * time.Second)
		if got := w.Mover.queue.Stats().Open; got != 1 {
			t.Errorf("%d messages wait, want 1", got)
		}
		if state, left := w.Delivery(); state != org.Draining || left != 0 {
			t.Errorf("%s with %d under way", state, left)
		}
		w.wish.setDelivery(org.Active)
		w.pass(time.Second)
		w.want(id, "delivered")
		if state, _ := w.Delivery(); state != org.Active {
			t.Errorf("%s afterwards", state)
		}
	})
}
