package health

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/health/respond"
	"github.com/postern-mail/postern/internal/org"
)

// due is a step of a chain that wants to be done.
type due struct {
	w    *watched
	step Responder
}

// turn judges every monitor and begins at most one deed.
func (e *Engine) turn(ctx context.Context) {
	now := e.now()
	e.countStalled(now)
	var all []due
	for k, w := range e.machines {
		d, on := e.definition(w)
		held := !on || e.repairs(k)
		if w.held && !held {
			w.machine.Anew(now)
			w.progress.Red = false
		}
		w.held = held
		w.machine.Turn(d, now)
		state, since := w.machine.State()
		shown := w.machine.Shown(d, now, !on, e.repairs(k))
		e.show(w, shown, now)
		if state == org.HealthOK && d.Interval == 0 && k.target != "" && now-w.machine.Heard() > forgetAfter {
			delete(e.machines, k) // nobody speaks of that target any more
			continue
		}
		if shown != state { // disabled, in repair or unknown: nothing is done
			continue
		}
		if w.progress.Cleared(state) {
			e.say(evWell, "%s is Healthy again", monitorID(k))
		}
		r, ok := respond.Next(e.chain(w), &w.progress, respond.Standing{State: state, Since: since, Now: now, Stretch: e.pace.stretch})
		switch {
		case !ok:
		case r.Action == Escalate:
			w.progress.Did(r, respond.Tried{At: now}, e.standing(now))
			if len(e.tells) < maxTold {
				e.tells = append(e.tells, e.order(k, w, r))
			}
		case e.outdated(w):
		default:
			all = append(all, due{w, r})
		}
	}
	if e.deed == nil && len(all) > 0 {
		e.begin(ctx, slices.MinFunc(all, e.moreUrgent))
	}
}

func (e *Engine) standing(now time.Duration) respond.Standing {
	return respond.Standing{Now: now, Stretch: e.pace.stretch}
}

// chain is a monitor's chain without the steps that an override switched off.
func (e *Engine) chain(w *watched) Chain {
	e.rulesMu.Lock()
	defer e.rulesMu.Unlock()
	if len(e.rules.Overrides) == 0 {
		return w.monitor.Chain
	}
	c := Chain{Name: w.monitor.Chain.Name}
	for _, r := range w.monitor.Chain.Steps {
		if r, on := e.rules.responder(w.monitor, w.key.target, r); on {
			c.Steps = append(c.Steps, r)
		}
	}
	return c
}

func (e *Engine) repairs(k itemKey) bool {
	e.rulesMu.Lock()
	defer e.rulesMu.Unlock()
	return e.rules.repairs(k.set, k.probe, k.target)
}

// show notes what people see of a monitor, and tells of a change.
func (e *Engine) show(w *watched, shown org.HealthState, now time.Duration) {
	if shown == w.shown {
		return
	}
	first := w.shown == org.UnInitialized && shown == org.HealthOK
	// Who switches watching off or on is in the audit; all monitors need not repeat it.
	off := shown == org.HealthDisabled || w.shown == org.HealthDisabled && !shown.Red()
	if !first && !off {
		e.say(evChanged, "%s: %s, was %s for %v%s", monitorID(w.key), shown, w.shown, (now - w.since).Round(time.Second), because(w.machine.Why()))
	}
	w.shown, w.since, e.dirty = shown, now, true
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}

// say keeps an event until the mail worker has it; where that does not answer the
// oldest go to this process's own log.
func (e *Engine) say(d event.Definition, format string, args ...any) {
	e.dirty = true
	if len(e.events) >= maxEvents {
		old := e.events[0]
		e.events, e.sent = slices.Delete(e.events, 0, 1), max(e.sent-1, 0)
		e.deps.Log.Warn(old.Sentence, "event", old.Code)
	}
	e.events = append(e.events, wireEvent{d.Code, fmt.Sprintf(format, args...)})
}

// countStalled tells now and then how many monitors have had no results for long.
func (e *Engine) countStalled(now time.Duration) {
	if time.Since(e.stalled) < stalledEvery/e.pace.stretch {
		return
	}
	e.stalled = time.Now()
	var names []string
	for k, w := range e.machines {
		if w.shown == org.Unavailable && now-w.since >= stalledAfter/e.pace.stretch {
			names = append(names, monitorID(k))
		}
	}
	slices.Sort(names)
	r := Result{Set: setMonitoring, Probe: probeStalled, Outcome: Passed, Value: float64(len(names)), At: e.stalled}
	if len(names) > 0 {
		r.Text = "no results for " + strings.Join(names[:min(len(names), 3)], ", ")
	}
	e.result(r, e.stalled)
}

// moreUrgent puts critical sets first, then what is worse, then the name.
func (e *Engine) moreUrgent(a, b due) int {
	sa, _ := a.w.machine.State()
	sb, _ := b.w.machine.State()
	return cmp.Or(cmp.Compare(e.rank(a.w.key.set), e.rank(b.w.key.set)), cmp.Compare(sb.Badness(), sa.Badness()),
		cmp.Compare(monitorID(a.w.key), monitorID(b.w.key)), cmp.Compare(a.step.Name, b.step.Name))
}

func (e *Engine) rank(set string) int {
	for _, s := range e.items.Sets {
		if s.Name == set {
			return slices.Index([]org.HealthPriority{org.PriorityCritical, org.PriorityNormal, org.PriorityLow}, s.Priority)
		}
	}
	return 3
}

// begin starts a deed. One at a time: two repairs at once cannot be told apart.
func (e *Engine) begin(ctx context.Context, x due) {
	o := e.order(x.w.key, x.w, x.step)
	e.deed = &deed{key: x.w.key, step: x.step, done: make(chan answer, 1)}
	go func(done chan answer) { done <- e.do(ctx, o) }(e.deed.done)
}

// acted takes what became of a deed.
func (e *Engine) acted(a answer) {
	d := e.deed
	e.deed = nil
	w := e.machines[d.key]
	if w == nil {
		return
	}
	now := e.now()
	if a.Row.ID == "" { // it was not even judged: the Desk is busy, or does not answer
		if !a.Busy {
			e.deps.Log.Warn("a repair could not be asked for", "monitor", monitorID(d.key), "action", string(d.step.Action), "error", a.Error)
		}
		w.progress.Pause = now + max(10*time.Second/e.pace.stretch, turnEvery)
		return
	}
	w.progress.Did(d.step, respond.Tried{At: now, Refused: !a.Row.Allowed, Failed: a.Row.Failed}, e.standing(now))
	e.dirty = true
}

// tell passes an escalation on: to the mail worker, or, where that does not
// answer, to this process's own log and journal.
func (e *Engine) tell(ctx context.Context) {
	if e.telling || len(e.tells) == 0 {
		return
	}
	e.telling = true
	o := e.tells[0]
	go func() {
		a, err := e.desk.act(ctx, o)
		if err == nil && a.Row.ID != "" {
			e.told <- true
			return
		}
		if ctx.Err() != nil {
			e.told <- false
			return
		}
		_, err = e.gate.Do(ctx, o)
		if err != nil {
			e.deps.Log.Warn("an escalation was not written down", "monitor", o.Monitor, "error", err)
		}
		e.told <- true
	}()
}

func (e *Engine) wasTold(ok bool) {
	e.telling = false
	if ok {
		e.tells = e.tells[1:]
	}
}

// send reports to the Desk, at once after a change and else at its pace, and
// hands over what was written down while the Desk did not answer.
func (e *Engine) send(ctx context.Context) {
	if e.sending || !e.dirty && time.Since(e.reported) < e.pace.report {
		return
	}
	e.sending, e.dirty, e.reported, e.sent = true, false, time.Now(), len(e.events)
	rep := e.report()
	go func() {
		err := e.desk.state(ctx, rep)
		if err == nil {
			e.handOver(ctx)
		}
		e.arrived <- err == nil
	}()
}

func (e *Engine) hasArrived(ok bool) {
	e.sending = false
	if ok {
		e.events = e.events[e.sent:]
	}
}

// handOver gives the Desk the rows of the Engine's own journal.
func (e *Engine) handOver(ctx context.Context) {
	for _, row := range e.journal.Waiting() {
		if row.Allowed && row.Ended.IsZero() && row.Action != string(Escalate) && time.Since(row.Begun) < 5*time.Minute {
			continue // it goes on
		}
		if err := e.desk.log(ctx, row); err != nil {
			return
		}
		if err := e.journal.Written(row); err != nil {
			e.deps.Log.Warn("the recovery journal was not written", "error", err)
			return
		}
	}
}

// report is how the server is, as the Engine judges.
func (e *Engine) report() report {
	now := e.now()
	rep := report{Events: slices.Clone(e.events)}
	for k, w := range e.machines {
		m := wireMonitor{Set: k.set, Name: k.probe, Target: k.target, State: w.shown, Age: now - w.since}
		if w.shown != org.HealthOK {
			m.Why = w.machine.Why()
		}
		rep.Monitors = append(rep.Monitors, m)
	}
	slices.SortFunc(rep.Monitors, func(a, b wireMonitor) int {
		return cmp.Or(cmp.Compare(a.Set, b.Set), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Target, b.Target))
	})
	for k, s := range e.seen {
		if age := time.Since(s.at); age <= 2*e.pace.fresh {
			rep.Seen = append(rep.Seen, sight{Server: k.server, Component: k.component, OK: s.ok, Age: age, Text: s.text})
		} else {
			delete(e.seen, k)
		}
	}
	for _, h := range e.sched.Hung() {
		rep.Hung = append(rep.Hung, h.Item)
	}
	return rep
}

// cutLast cuts a target at its last slash.
func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '/')
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}
