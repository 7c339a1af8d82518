package store

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// waitingDB is an index with compactions that wait; begun counts those granted.
type waitingDB struct{ allowed, waiting, begun atomic.Int32 }

func (d *waitingDB) GetAllowedWithoutPermission() int { return int(d.allowed.Load()) }
func (d *waitingDB) GetWaitingCompaction() (bool, pebble.WaitingCompaction) {
	return d.waiting.Load() > 0, pebble.WaitingCompaction{}
}
func (d *waitingDB) Schedule(pebble.CompactionGrantHandle) bool {
	d.waiting.Add(-1)
	d.begun.Add(1)
	return true
}

// No more run than are allowed; what waits begins when one is done, when more are
// allowed, or a moment after that became so without a word; and nobody is awake
// while nothing runs.
func TestCompactions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &waitingDB{}
		d.allowed.Store(1)
		s := newCompactions()
		s.Register(1, d)
		if ok, _ := s.TrySchedule(); !ok {
			t.Fatal("the first is refused")
		}
		if ok, _ := s.TrySchedule(); ok {
			t.Fatal("a second is granted")
		}
		d.waiting.Store(3)
		s.Done()
		if d.begun.Load() != 1 {
			t.Fatalf("%d began when one was done", d.begun.Load())
		}
		d.allowed.Store(2)
		s.UpdateGetAllowedWithoutPermission()
		synctest.Wait()
		if d.begun.Load() != 2 {
			t.Fatalf("%d began when two are allowed", d.begun.Load())
		}
		d.allowed.Store(3)
		time.Sleep(lookAgain) // in simulated time
		synctest.Wait()
		if d.begun.Load() != 3 {
			t.Fatalf("%d began a moment after three were allowed", d.begun.Load())
		}
		for range d.begun.Load() {
			s.Done()
		}
		time.Sleep(lookAgain)
		synctest.Wait()
		s.mu.Lock()
		if s.running != 0 || s.watching {
			t.Errorf("%d run, somebody looks on: %v", s.running, s.watching)
		}
		s.mu.Unlock()
		d.waiting.Store(2)
		if ok, _ := s.TrySchedule(); !ok {
			t.Fatal("refused after a pause")
		}
		s.Unregister()
		s.Done()
		if ok, _ := s.TrySchedule(); ok || d.begun.Load() != 3 {
			t.Fatalf("an index that closes is called: %v, %d", ok, d.begun.Load())
		}
	})
}
