package transport

import (
	"context"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// Pace of giving the queue away.
const (
	drainAgain = time.Second     // pause after a try that did not give all away
	drainTry   = 2 * time.Minute // one try
)

// held is how far the component is.
type held struct {
	mu    sync.Mutex // guards state
	state org.ComponentState
}

func (m *Mover) wished() (org.ComponentState, <-chan struct{}) {
	return m.wishOf(org.Transport)
}

// holdFirst accepts nothing from the start where the component is held back: a
// server that is started again in maintenance stays drained.
func (m *Mover) holdFirst() {
	state, _ := m.wished()
	m.setHeld(state)
	if state != org.Active {
		m.shadow.Hold()
	}
}

func (m *Mover) setHeld(s org.ComponentState) {
	m.held.mu.Lock()
	defer m.held.mu.Unlock()
	m.held.state = s
}

// obey gives the queue away while the component is Draining or Inactive, again
// and again until nothing is left, and accepts messages when it is Active again.
func (m *Mover) obey(ctx context.Context) {
	state, changed := m.wished()
	for {
		var again <-chan time.Time
		if state != org.Active && !m.giveAway(ctx, changed) {
			again = time.After(drainAgain)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-again:
		}
		before := state
		state, changed = m.wished()
		m.setHeld(state)
		if state == org.Active && before != org.Active {
			m.shadow.Resume()
			m.dispatch.Unpause()
		}
	}
}

// giveAway hands all messages to the holders of their copies. It reports false
// where it has to be tried again: messages are left that nobody can take yet.
func (m *Mover) giveAway(ctx context.Context, changed <-chan struct{}) bool {
	m.shadow.Hold()
	if m.queue.Stats().Open == 0 {
		return m.dispatch.Pause(ctx) == nil
	}
	ctx, cancel := context.WithTimeout(ctx, drainTry)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	watch.Go(func() { // a wish that ends ends the try
		select {
		case <-changed:
			cancel()
		case <-ctx.Done():
		}
	})
	if err := m.drain(ctx); err != nil {
		m.log.Info("the queue is not given away yet", "left", m.queue.Stats().Open, "error", err)
		return false
	}
	return true
}

// Component tells what org.Transport does: Draining while messages are left, and
// how many.
func (m *Mover) Component() (org.ComponentState, int) {
	left := int(m.queue.Stats().Open)
	m.held.mu.Lock()
	defer m.held.mu.Unlock()
	if m.held.state == org.Inactive && left > 0 {
		return org.Draining, left
	}
	return org.Active.Stronger(m.held.state), left
}
