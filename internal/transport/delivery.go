package transport

import (
	"context"
	"sync/atomic"

	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/deliver"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/schedule"
)

// deliveries is the agent of databases. While org.Delivery is held back it begins
// none; messages wait in the queue, and mail for others goes on.
type deliveries struct {
	agent    deliver.Agent
	wish     func() org.ComponentState
	underWay atomic.Int64
}

// Deliver implements deliver.Agent.
func (d *deliveries) Deliver(ctx context.Context, w deliver.Work) []deliver.Result {
	d.underWay.Add(1) // before the look: who sees none under way sees none begin
	defer d.underWay.Add(-1)
	if s := d.wish(); s != org.Active {
		out := make([]deliver.Result, len(w.Rows))
		for i := range out {
			out[i] = deliver.Result{State: queue.StateReady, Code: 451, Status: "4.3.2", Text: "local delivery of this server is " + string(s), Whole: true}
		}
		return out
	}
	return d.agent.Deliver(ctx, w)
}

// wishOf is what a component of this server may do, and a channel that is closed
// when that may have changed.
func (m *Mover) wishOf(c org.Component) (org.ComponentState, <-chan struct{}) {
	if m.deps.Component == nil {
		return org.Active, nil
	}
	return m.deps.Component(c)
}

// newLocal makes the agent of databases.
func (m *Mover) newLocal() *deliveries {
	return &deliveries{agent: deliver.NewLocal(m.deps.Store, m.now, m.fullRetry), wish: func() org.ComponentState {
		s, _ := m.wishOf(org.Delivery)
		return s
	}}
}

// obeyDelivery has what waits delivered at once when that is allowed again.
func (m *Mover) obeyDelivery(ctx context.Context) {
	state, changed := m.wishOf(org.Delivery)
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		before := state
		state, changed = m.wishOf(org.Delivery)
		if state != org.Active || before == org.Active {
			continue
		}
		for _, s := range m.dispatch.Stats() {
			if s.Dest.Kind() == "db" {
				m.dispatch.RetryNow(schedule.Selector{Dest: s.Dest})
			}
		}
	}
}

// Delivery tells what org.Delivery does: Draining while deliveries are under way,
// and how many.
func (m *Mover) Delivery() (org.ComponentState, int) {
	state, _ := m.wishOf(org.Delivery)
	n := int(m.local.underWay.Load())
	if state == org.Inactive && n > 0 {
		state = org.Draining
	}
	return state, n
}
