package deliver

import (
	"context"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/schedule"
)

// Suspend keeps the jobs that match from being tried.
func (d *Dispatcher) Suspend(ctx context.Context, l schedule.Selector) (int, error) {
	d.mu.Lock()
	n, err := d.sched.Suspend(l, d.now())
	d.mu.Unlock()
	if err == nil && l.ID == (mail.TraceID{}) {
		d.writeWaiting(ctx, l.Dest)
	}
	return n, err
}

// Resume ends a suspension.
func (d *Dispatcher) Resume(l schedule.Selector) int {
	defer d.wake()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sched.Resume(l, d.now())
}

// RetryNow forgets the waits of the jobs that match and of their destinations.
func (d *Dispatcher) RetryNow(l schedule.Selector) int {
	defer d.wake()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sched.RetryNow(l, d.now())
}

// Pause begins no attempt any more, and returns when none is under way.
func (d *Dispatcher) Pause(ctx context.Context) error {
	d.mu.Lock()
	if d.paused == nil {
		d.paused = make(chan struct{})
		if d.underWay == 0 {
			close(d.paused)
		}
	}
	idle := d.paused
	d.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Unpause ends Pause.
func (d *Dispatcher) Unpause() {
	defer d.wake()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.paused = nil
}

// Remove forgets messages that are no longer this server's.
func (d *Dispatcher) Remove(ids ...mail.TraceID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range ids {
		d.sched.Remove(id, "")
		d.forget(id)
	}
}

// SetRules changes limits.
func (d *Dispatcher) SetRules(r schedule.Rules) {
	defer d.wake()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rules = withRoute(r)
	d.sched.SetRules(d.rules, d.now())
}

// Stats tells of each destination that has jobs.
func (d *Dispatcher) Stats() []schedule.DestStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sched.Stats()
}

// Len counts the jobs that are not over.
func (d *Dispatcher) Len() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sched.Len()
}

// Suspensions are those that hold for jobs to come.
func (d *Dispatcher) Suspensions() []schedule.Selector {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sched.Suspensions()
}
