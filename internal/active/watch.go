package active

import (
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// mountWait is how long a target may take to mount while it makes no progress
// and another copy is ready.
const mountWait = 15 * time.Second

// watch is what the loop remembers of databases between its turns.
type watch struct {
	mu      sync.Mutex // guards the rest
	waits   map[org.DatabaseName]mounting
	working map[org.DatabaseName]bool
	told    map[org.DatabaseName]time.Time
	settled map[org.DatabaseName]int64 // revision of a history in which nothing is open
}

// mounting is a copy that is to mount and has not said that it did.
type mounting struct {
	term     org.Term
	since    time.Time // of its last progress
	replayed org.LSN
}

func newWatch() *watch {
	return &watch{waits: map[org.DatabaseName]mounting{}, working: map[org.DatabaseName]bool{},
		told: map[org.DatabaseName]time.Time{}, settled: map[org.DatabaseName]int64{}}
}

func (w *watch) forget(db org.DatabaseName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.waits, db)
}

// late tells for how long the active copy has been mounting without progress,
// zero while that is not too long.
func (w *watch) late(mt org.Mount, st org.CopyStatus, now time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if st.State == org.CopyMounted && st.Term >= mt.Term {
		delete(w.waits, mt.Database)
		return 0
	}
	p, known := w.waits[mt.Database]
	if !known || p.term != mt.Term || st.Replayed > p.replayed {
		p = mounting{mt.Term, now, max(st.Replayed, p.replayed)}
		w.waits[mt.Database] = p
	}
	if d := now.Sub(p.since); d >= mountWait {
		return d
	}
	return 0
}

// busy claims a database for work beside the loop.
func (w *watch) busy(db org.DatabaseName) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.working[db] {
		return false
	}
	w.working[db] = true
	return true
}

func (w *watch) isBusy(db org.DatabaseName) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.working[db]
}

func (w *watch) idle(db org.DatabaseName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.working, db)
}

// mayTellAgain tells, at most once a minute, that a database without a target
// may be put on record.
func (w *watch) mayTellAgain(db org.DatabaseName, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t, ok := w.told[db]; ok && now.Sub(t) < time.Minute {
		return false
	}
	w.told[db] = now
	return true
}

func (w *watch) isSettled(db org.DatabaseName, revision int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.settled[db] == revision
}

func (w *watch) settle(db org.DatabaseName, revision int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settled[db] = revision
}

// drop forgets a database that is gone.
func (w *watch) drop(db org.DatabaseName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.waits, db)
	delete(w.told, db)
	delete(w.settled, db)
}
