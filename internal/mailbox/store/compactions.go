package store

import (
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// lookAgain is how often a compaction that waits is tried again while others run.
const lookAgain = 100 * time.Millisecond

// compactions lets an index run as many compactions at a time as it asks for, as
// pebble's own scheduler does. That one wakes up ten times a second for each
// index, idle or not; this one only while a compaction runs, as nothing can wait
// for its turn else.
type compactions struct {
	db   pebble.DBForCompaction // set by Register, before any other call
	stop chan struct{}          // closed by Unregister

	mu       sync.Mutex // guards the rest; never held while db is called, but for what is allowed
	over     bool
	running  int
	watching bool // a goroutine looks again
	granting bool
	granted  *sync.Cond // granting has become false
}

func newCompactions() *compactions {
	s := &compactions{stop: make(chan struct{})}
	s.granted = sync.NewCond(&s.mu)
	return s
}

// Register is part of pebble.CompactionScheduler.
func (s *compactions) Register(_ int, db pebble.DBForCompaction) { s.db = db }

// Unregister waits until the index is not called any more.
func (s *compactions) Unregister() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	close(s.stop)
	for s.granting {
		s.granted.Wait()
	}
}

// TrySchedule is part of pebble.CompactionScheduler.
func (s *compactions) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.db.GetAllowedWithoutPermission() <= s.running {
		return false, nil
	}
	s.began()
	return true, s
}

// began counts a compaction and has somebody look for others while it runs.
// s.mu is held.
func (s *compactions) began() {
	s.running++
	if !s.watching {
		s.watching = true
		go s.watch()
	}
}

// watch grants what waits, as long as something runs.
func (s *compactions) watch() {
	t := time.NewTicker(lookAgain)
	defer t.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-t.C:
		}
		s.mu.Lock()
		if s.running == 0 {
			s.watching = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		s.grant()
	}
}

// UpdateGetAllowedWithoutPermission is part of pebble.CompactionScheduler. The
// caller holds locks of the index.
func (s *compactions) UpdateGetAllowedWithoutPermission() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over && s.running > 0 {
		go s.grant()
	}
}

// grant lets compactions that wait begin, as many as are allowed.
func (s *compactions) grant() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.granting && !s.over {
		s.granted.Wait()
	}
	if s.over {
		return
	}
	s.granting = true
	for free := s.db.GetAllowedWithoutPermission() - s.running; free > 0; free-- {
		s.mu.Unlock()
		waiting, _ := s.db.GetWaitingCompaction()
		accepted := waiting && s.db.Schedule(s)
		s.mu.Lock()
		if !accepted {
			break
		}
		s.began()
	}
	s.granting = false
	s.granted.Broadcast()
}

// Started is part of pebble.CompactionGrantHandle.
func (s *compactions) Started() {}

// MeasureCPU is part of pebble.CompactionGrantHandle.
func (s *compactions) MeasureCPU(pebble.CompactionGoroutineKind) {}

// CumulativeStats is part of pebble.CompactionGrantHandle.
func (s *compactions) CumulativeStats(pebble.CompactionGrantHandleStats) {}

// Done ends a compaction; another may begin.
func (s *compactions) Done() {
	s.mu.Lock()
	s.running--
	s.mu.Unlock()
	s.grant()
}
