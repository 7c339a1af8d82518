package respond

import (
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// retry is after which time a deed that was refused is asked for again while the
// monitor stays in the same state. One that was done is not; for one that failed
// see Responder.Again.
const retry = 10 * time.Minute

// Progress is how far the chain of one monitor is.
type Progress struct {
	// Red is whether the monitor is in a red period, Least the mildest state it
	// was in then: steps of milder states are not made up for.
	Red   bool            `cbor:"1,keyasint"`
	Least org.HealthState `cbor:"2,keyasint"`
	// Done has the steps that were tried in this red period, by name.
	Done map[string]Tried `cbor:"3,keyasint"`
	// Out are the components that this chain has taken out and not given back.
	Out map[string]bool `cbor:"4,keyasint"`
	// Pause is until when the last deed is given time, as a moment.
	Pause time.Duration `cbor:"5,keyasint"`
	// Told says that people were told and wait for the all-clear.
	Told bool `cbor:"6,keyasint"`
}

// Tried is what became of a step.
type Tried struct {
	At      time.Duration `cbor:"1,keyasint"` // moment
	Refused bool          `cbor:"2,keyasint"` // it was not allowed
	Failed  bool          `cbor:"3,keyasint"` // it was allowed, and did not succeed
}

// again tells whether a step that was tried is due once more.
func (t Tried) again(r Responder, s Standing) bool {
	since := (s.Now - t.At) * stretch(s)
	switch {
	case t.Refused:
		return r.At == s.State && since >= retry
	case t.Failed:
		return r.Again > 0 && since >= r.Again
	}
	return false
}

// Standing is the state of a monitor as its chain sees it.
type Standing struct {
	State org.HealthState
	Since time.Duration // moment at which it entered State
	Now   time.Duration // moment
	// Stretch divides the times of steps, for tests on one machine; 0 is 1.
	Stretch time.Duration
}

// Next tells which step of the chain is due, if any. It follows the monitor in
// p; the caller does the step and says by Did what became of it.
func Next(c Chain, p *Progress, s Standing) (Responder, bool) {
	p.follow(s)
	if s.State == org.HealthOK {
		return p.well(c, s)
	}
	if !p.Red || s.Now < p.Pause {
		return Responder{}, false
	}
	var again *Responder // what was tried waits for what was not
	for i, r := range c.Steps {
		if r.At == org.HealthOK || r.At.Badness() > s.State.Badness() || r.At.Badness() < p.Least.Badness() {
			continue
		}
		if r.At == s.State && s.Now-s.Since < r.After/stretch(s) {
			continue
		}
		t, tried := p.Done[r.Name]
		if !tried {
			return r, true
		}
		if again == nil && t.again(r, s) {
			again = &c.Steps[i]
		}
	}
	if again == nil {
		return Responder{}, false
	}
	return *again, true
}

func stretch(s Standing) time.Duration { return max(s.Stretch, 1) }

func (p *Progress) follow(s Standing) {
	switch {
	case s.State.Red() && !p.Red:
		p.Red, p.Least, p.Pause = true, s.State, 0
		p.keepRefused(s)
	case s.State == org.HealthOK && p.Red:
		p.Red, p.Pause = false, 0
		p.keepRefused(s)
	}
}

// keepRefused forgets what was tried, but for what was refused a moment ago: what
// flaps is not refused again in every period.
func (p *Progress) keepRefused(s Standing) {
	done := map[string]Tried{}
	for name, t := range p.Done {
		if t.Refused && s.Now-t.At < retry/stretch(s) {
			done[name] = t
		}
	}
	p.Done = done
}

// well gives back what the chain took out once the monitor was Healthy for the
// step's time.
func (p *Progress) well(c Chain, s Standing) (Responder, bool) {
	for _, r := range c.Steps {
		if r.At != org.HealthOK || !p.Out[r.Target] || s.Now-s.Since < r.After/stretch(s) || s.Now < p.Pause {
			continue
		}
		return r, true
	}
	return Responder{}, false
}

// Did says what became of a step; a step that was neither refused nor failed
// was carried out.
func (p *Progress) Did(r Responder, t Tried, s Standing) {
	if p.Done == nil {
		p.Done = map[string]Tried{}
	}
	p.Done[r.Name] = t
	now := t.At
	if t.Refused {
		if r.At == org.HealthOK {
			p.Pause = now + retry/stretch(s)/10
		}
		return
	}
	p.Pause = now + r.Wait/stretch(s)
	switch r.Action {
	case Offline:
		if p.Out == nil {
			p.Out = map[string]bool{}
		}
		p.Out[r.Target] = true
	case Online:
		delete(p.Out, r.Target)
	case Escalate:
		p.Told = true
	}
}

// Cleared tells once that people who were told may be told that all is well.
func (p *Progress) Cleared(s org.HealthState) bool {
	if s != org.HealthOK || !p.Told {
		return false
	}
	p.Told = false
	return true
}

// Shift moves the moments of p, which were saved as moments of another process,
// so that old becomes now.
func (p *Progress) Shift(by time.Duration) {
	p.Pause += by
	for name, t := range p.Done {
		t.At += by
		p.Done[name] = t
	}
}
