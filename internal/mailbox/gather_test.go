package mailbox

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// TestGather: a write waits for as many requests as there were lately, for a
// moment, and one that is alone does not wait.
func TestGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &leader{changed: make(chan struct{})}
		var end org.LSN
		come := func() {
			end += 8
			if err := l.enqueue(&pending{end: end, done: make(chan error, 1)}); err != nil {
				t.Error(err)
			}
		}
		took := func() time.Duration {
			begun := time.Now()
			l.gather(t.Context())
			return time.Since(begun)
		}
		come()
		if d := took(); d != 0 {
			t.Errorf("the first waited %s", d)
		}
		l.waiting = nil
		come()
		if d := took(); d != 0 {
			t.Errorf("one that is always alone waited %s", d)
		}
		come()
		come()
		took() // a crowd of three
		l.waiting = nil
		come()
		time.AfterFunc(time.Millisecond, func() {
			come()
			come()
		})
		if d := took(); d != time.Millisecond {
			t.Errorf("waited %s, the others came after a millisecond", d)
		}
		l.waiting = nil
		come()
		if d := took(); d != gatherMost {
			t.Errorf("waited %s for nobody, want %s", d, gatherMost)
		}
		for range 20 {
			took()
		}
		if d := took(); d != 0 {
			t.Errorf("still waits %s for those who left", d)
		}
	})
}
