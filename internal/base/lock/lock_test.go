package lock

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestExcludes has many goroutines count under the lock.
func TestExcludes(t *testing.T) {
	var m Mutex
	var wg sync.WaitGroup
	n := 0
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				m.Lock()
				n++
				m.Unlock()
			}
		})
	}
	wg.Wait()
	if n != 8000 {
		t.Errorf("%d, want 8000", n)
	}
}

// TestTimeGoesOn shows why it is there: time in a bubble goes on while
// somebody waits for a lock whose holder waits.
func TestTimeGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m Mutex
		begin := time.Now()
		m.Lock()
		go func() {
			time.Sleep(time.Minute)
			m.Unlock()
		}()
		m.Lock()
		if d := time.Since(begin); d != time.Minute {
			t.Errorf("waited %s", d)
		}
		m.Unlock()
	})
}

// TestUnlockOfFree panics.
func TestUnlockOfFree(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	var m Mutex
	m.Unlock()
}
