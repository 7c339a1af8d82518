package mesh

import (
	"testing"
	"time"
)

// TestCame: the age of a value is that of its last change, not of the last beat,
// and a connection made anew does not make it young.
func TestCame(t *testing.T) {
	group(t, func(t *testing.T, w *wire, a, b, _ *Mesh, _ func()) {
		if _, ok := b.Came("A", "x"); ok {
			t.Error("something came that was not said")
		}
		a.Publish("x", []byte("1"))
		time.Sleep(time.Second)
		came, ok := b.Came("A", "x")
		if age := time.Since(came); !ok || age < 500*time.Millisecond || age > time.Second {
			t.Errorf("%v, %v", age, ok)
		}
		w.set(true, "A>B Client", "B>A Client")
		time.Sleep(10 * time.Second)
		w.set(false, "A>B Client", "B>A Client")
		time.Sleep(10 * time.Second)
		if again, _ := b.Came("A", "x"); !again.Equal(came) {
			t.Errorf("it came again after %v", again.Sub(came))
		}
		if _, heard, _ := b.Published("A", "x"); time.Since(heard) > time.Second {
			t.Errorf("A was heard %v ago", time.Since(heard))
		}
		a.Publish("x", []byte("2"))
		time.Sleep(time.Second)
		if again, _ := b.Came("A", "x"); !again.After(came) {
			t.Error("the second value has the age of the first")
		}
		if _, ok := a.Came("A", "x"); !ok {
			t.Error("A does not know what it said itself")
		}
	})
}
