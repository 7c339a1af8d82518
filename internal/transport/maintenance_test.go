package transport

import (
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// TestWaiting is what a maintenance asks of a queue.
func TestWaiting(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		look := func(messages int64, accepting bool) {
			t.Helper()
			n, a, err := w.Waiting(t.Context(), w.me)
			if err != nil || n != messages || a != accepting {
				t.Errorf("%d messages, accepting %v, %v; want %d, %v", n, a, err, messages, accepting)
			}
		}
		look(0, true)
		w.store.setAway("DB01", true)
		w.send("rob@red.example", rcpt("ann@red.example", ""))
		w.pass(time.Second)
		look(1, true)
		w.wish.set(org.Draining)
		w.pass(time.Second)
		look(1, false)
		w.wish.set(org.Active)
		w.store.setAway("DB01", false)
		w.pass(2 * time.Minute)
		look(0, true)
	})
}
