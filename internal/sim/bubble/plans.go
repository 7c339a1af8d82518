package bubble

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/active"
	"github.com/postern-mail/postern/internal/org"
)

// queueTime is how long a queue takes to become empty once the doors are closed:
// time for something to happen while a plan is on its way.
const queueTime = 1500 * time.Millisecond

// planDeps are what plans need of a process that has no queue and no doors: the
// queue becomes empty by itself, and takes messages where nobody asked it not to.
func (p *process) planDeps() active.PlanDeps {
	return active.PlanDeps{
		Leader: func(context.Context) org.ServerName { return p.srv.w.agreed.leads() },
		Boot:   func(s org.ServerName) (string, string) { return "", "" },
		Queue: func(_ context.Context, s org.ServerName) (int64, bool, error) {
			left := time.Duration(0)
			for _, e := range p.group.View().ComponentEntries(s) {
				if e.Component == org.SMTPComponent && e.Requester == org.Maintenance {
					left = max(0, queueTime-time.Since(e.Since))
				}
			}
			return int64(left / time.Millisecond), p.component(s, org.Transport) == org.Active, nil
		},
	}
}

// component is what a component of a server is to do, by the wishes this process
// knows.
func (p *process) component(s org.ServerName, c org.Component) org.ComponentState {
	st, _ := p.group.View().Component(s, c, time.Now())
	return st
}

// heldBack tells whether a server is to have no roles.
func (a *agreed) heldBack(s org.ServerName, now time.Time) bool {
	st, _ := a.newest(now).Component(s, org.HighAvailability, now)
	return st != org.Active
}

// leads is who leads the agreed state.
func (a *agreed) leads() org.ServerName {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.leader
}

// maintain takes a server out of service, restarts it where it came to that,
// and brings it back; or the plan is aborted on the way. Whatever is left open
// the administrator ends when everything is mended.
func (w *world) maintain(f Fault) {
	w.give("server maintenance start", fmt.Sprintf(`{"server":%q,"accept_single_copy":%v}`, f.A, w.plan.Copies == 2), f.B)
	if !w.lasts(f) {
		return
	}
	switch p := w.running(); {
	case p != nil && f.Size > 0:
		w.give("plan abort", fmt.Sprintf(`{"id":%q}`, p.ID), f.B)
		return
	case p == nil && w.inMaintenance(f.A):
		s := w.servers[f.A]
		s.stop()
		if !rest(w.faulty, w.rnd.between(0, 3*time.Second)) {
			return
		}
		w.up(s)
	}
	w.give("server maintenance stop", fmt.Sprintf(`{"server":%q,"balance":true}`, f.A), f.B)
}

// running is a plan that has not ended, nil where there is none.
func (w *world) running() *org.Plan {
	for k, row := range w.agreed.newest(time.Now()).Prefix(org.PlanPrefix) {
		var p org.Plan
		if json.Unmarshal(row.Value, &p) != nil {
			w.violate("nobody can read the plan %s", k)
			continue
		}
		if !p.State.Ended() {
			return &p
		}
	}
	return nil
}

// inMaintenance tells whether a plan holds components of a server back.
func (w *world) inMaintenance(s org.ServerName) bool {
	for _, e := range w.agreed.newest(time.Now()).ComponentEntries(s) {
		if e.Requester == org.Maintenance {
			return true
		}
	}
	return false
}

// unplanned says which plan has not ended, or what one left behind.
func (w *world) unplanned() string {
	if p := w.running(); p != nil {
		var wait []string
		for _, s := range p.Steps {
			if s.State == org.StepRunning {
				wait = append(wait, fmt.Sprintf("%s %s: %s %s", s.Name, s.Server, s.Wait, s.Error))
			}
		}
		return fmt.Sprintf("the plan to %s is %s: %s %s", p.Title, p.State, p.Held, strings.Join(wait, "; "))
	}
	for _, s := range w.order {
		if w.inMaintenance(s.name) {
			return string(s.name) + " is in maintenance"
		}
	}
	return ""
}

// finish does what an administrator would about plans by now.
func (w *world) finish(at org.ServerName) {
	if p := w.running(); p != nil {
		if p.State == org.PlanHeld {
			w.give("plan resume", fmt.Sprintf(`{"id":%q,"skip":%v}`, p.ID, w.rnd.intN(2) == 0), at)
		}
		return
	}
	for _, s := range w.order {
		if w.inMaintenance(s.name) {
			w.give("server maintenance stop", fmt.Sprintf(`{"server":%q}`, s.name), at)
			return
		}
	}
}
