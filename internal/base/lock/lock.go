// Package lock has a lock that may be held while a disk answers.
//
// Who waits for a sync.Mutex is not at rest for testing/synctest: where its
// holder waits for a slow disk, time in a bubble would stand still. Who waits
// for a lock of this package is. Locks that are held only for moments stay
// sync.Mutex.
package lock

import "sync"

// Mutex excludes. The zero value is free; it must not be copied.
type Mutex struct {
	mu   sync.Mutex // guards held
	held bool
	free sync.Cond // L is set by Lock, under mu
}

// Lock waits until the lock is free and takes it.
func (m *Mutex) Lock() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.free.L = &m.mu
	for m.held {
		m.free.Wait()
	}
	m.held = true
}

// Unlock gives the lock back. It panics when nobody has it, as sync.Mutex does.
func (m *Mutex) Unlock() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.held {
		panic("lock: unlock of a free lock")
	}
	m.held = false
	m.free.Signal()
}

var _ sync.Locker = (*Mutex)(nil)
