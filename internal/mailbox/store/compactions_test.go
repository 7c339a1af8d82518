package store

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// waitingDB is an index with compactions that wait; begun counts those granted.
type waitingDB struct{ allowed, waiting, begun int }

func (d *waitingDB) GetAllowedWithoutPermission() int { return d.allowed }
func (d *waitingDB) GetWaitingCompaction() (bool, pebble.WaitingCompaction) {
	return d.waiting > 0, pebble.WaitingCompaction{}
}
func (d *waitingDB) Schedule(pebble.CompactionGrantHandle) bool {
	d.waiting--
	d.begun++
	return true
}

// No more run than are allowed; what waits begins when one is done, when more are
// allowed, or a moment after that became so without a word; and nobody is awake
// while nothing runs.
func TestCompactions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &waitingDB{allowed: 1}
		s := newCompactions()
		s.Register(1, d)
		if ok, _ := s.TrySchedule(); !ok {
			t.Fatal("the first is refused")
		}
		if ok, _ := s.TrySchedule(); ok {
			t.Fatal("a second is granted")
		}
		d.waiting = 3
		s.Done()
		if d.begun != 1 {
			t.Fatalf("%d began when one was done", d.begun)
		}
		d.allowed = 2
		s.UpdateGetAllowedWithoutPermission()
		synctest.Wait()
		if d.begun != 2 {
			t.Fatalf("%d began when two are allowed", d.begun)
		}
		d.allowed = 3
		time.Sleep(lookAgain) // in simulated time
		synctest.Wait()
		if d.begun != 3 {
			t.Fatalf("%d began a moment after three were allowed", d.begun)
		}
		for range d.begun {
			s.Done()
		}
		time.Sleep(lookAgain)
		synctest.Wait()
		if s.running != 0 || s.watching {
			t.Fatalf("%d run, somebody looks on: %v", s.running, s.watching)
		}
		d.waiting = 2
		if ok, _ := s.TrySchedule(); !ok {
			t.Fatal("refused after a pause")
		}
		s.Unregister()
		s.Done()
		if ok, _ := s.TrySchedule(); ok || d.begun != 3 {
			t.Fatalf("an index that closes is called: %v, %d", ok, d.begun)
		}
	})
}
