package monitor

import (
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// Definition is what a machine has to know of its monitor. It may change between
// two calls: an override takes effect at once.
type Definition struct {
	Rule     Rule
	Timeline []Step // nil: DefaultTimeline
	// Interval is the pause between two results; 0 where they come by
	// notification, so that silence says nothing.
	Interval time.Duration
	// Calm is how long the rule has to be green until red time and relapses are
	// forgotten.
	Calm time.Duration
	// Stretch divides the machine's own times, for tests on one machine; 0 is 1.
	Stretch time.Duration
}

// Limits of a machine's patience.
const (
	mostSettle   = 10 * time.Minute
	leastSilence = time.Minute
	settlePace   = 30 * time.Second // where results have no interval
	maxRecent    = 10
)

// Machine is one monitor about one target.
type Machine struct {
	samples []Sample
	recent  []Sample // the last ones with their words, for evidence

	state org.HealthState
	since Moment // in state

	isRed     bool
	redFrom   Moment        // valid while isRed
	redTotal  time.Duration // of red times that have ended
	redEnd    Moment        // when the rule was last red
	hadRed    bool          // redEnd is valid
	greenFrom Moment        // valid while isGreen
	isGreen   bool
	relapses  int
	why       string

	heard Moment
	anew  Moment // what was red before does not count
}

// New makes a machine that has seen nothing.
func New(now Moment) *Machine {
	return &Machine{state: org.UnInitialized, since: now, heard: now}
}

// Take gives the machine a result. Results come in the order of their times.
func (m *Machine) Take(d Definition, s Sample) {
	m.heard = max(m.heard, s.At)
	if len(m.recent) == maxRecent {
		m.recent = append(m.recent[:0], m.recent[1:]...)
	}
	m.recent = append(m.recent, s)
	if n := d.Rule.keep(); len(m.samples) >= n {
		m.samples = append(m.samples[:0], m.samples[len(m.samples)-n+1:]...)
	}
	s.Text = bounded(s.Text)
	m.samples = append(m.samples, s)
}

// bounded keeps the words of a sample short: a machine holds many.
func bounded(s string) string { return s[:min(len(s), 120)] }

// Turn judges what is there and tells whether the state below what is shown has
// changed.
func (m *Machine) Turn(d Definition, now Moment) (changed bool) {
	before := m.state
	v, from, why := d.Rule.judge(m.samples, now, d.Interval == 0)
	if d.Interval > 0 && m.silent(d, now) {
		v = unknown // the last words of a probe that fell silent are no news
	}
	switch v {
	case red:
		m.turnRed(d, from, now)
		m.why = why
	case green:
		m.turnGreen(d, now)
	case unknown:
		if m.isRed {
			m.endRed(now)
		}
		m.isGreen = false
	}
	if m.state != before {
		m.since = now
	}
	return m.state != before
}

func (m *Machine) turnRed(d Definition, from, now Moment) {
	if !m.isRed {
		from = max(from, m.anew)
		if m.hadRed && from-m.redEnd <= d.Calm {
			if !m.state.Red() {
				m.relapses++
			}
			from = max(from, m.redEnd)
		} else {
			m.redTotal, m.relapses = 0, 0
		}
		m.isRed, m.redFrom = true, from
	}
	m.isGreen = false
	m.redEnd, m.hadRed = now, true
	next := m.step(d, now)
	// Within one red period the ladder is only climbed: a shorter timeline by an
	// override does not fire steps anew.
	if !m.state.Red() || next.Badness() > m.state.Badness() {
		m.state = next
	}
}

func (m *Machine) endRed(now Moment) {
	m.redTotal += now - m.redFrom
	m.redEnd, m.hadRed, m.isRed = now, true, false
}

func (m *Machine) turnGreen(d Definition, now Moment) {
	if m.isRed {
		m.endRed(now)
	}
	if !m.isGreen {
		m.isGreen, m.greenFrom = true, now
	}
	if m.state.Red() && now-m.greenFrom < m.settle(d) {
		return
	}
	m.state, m.why = org.HealthOK, ""
}

// settle is how long the rule has to be green until the monitor is Healthy: at
// once the first time, longer after each relapse.
func (m *Machine) settle(d Definition) time.Duration {
	pace := d.Interval
	if pace == 0 {
		pace = settlePace / max(d.Stretch, 1)
	}
	most := min(mostSettle/max(d.Stretch, 1), d.Calm)
	if m.relapses > 10 {
		return most
	}
	return min(time.Duration(1<<m.relapses-1)*pace, most)
}

// step is the state that the red time has reached.
func (m *Machine) step(d Definition, now Moment) org.HealthState {
	steps := d.Timeline
	if len(steps) == 0 {
		steps = DefaultTimeline()
	}
	state := steps[0].State
	for _, s := range steps {
		if m.RedTime(now) >= s.After {
			state = s.State
		}
	}
	return state
}

// Anew begins the ladder anew, as at the end of a repair: what was red until now
// was somebody's work.
func (m *Machine) Anew(now Moment) {
	m.redTotal, m.relapses, m.redFrom, m.anew = 0, 0, now, now
	if m.state.Red() {
		m.state, m.since, m.hadRed = org.HealthOK, now, false
		m.isRed, m.isGreen = false, false
	}
}

// silent tells whether no result came for longer than can be explained. While a
// monitor was held back nothing was looked at.
func (m *Machine) silent(d Definition, now Moment) bool {
	return now-max(m.heard, m.anew) > max(3*d.Interval, leastSilence/max(d.Stretch, 1))
}

// State is the state on the ladder and since when it is so.
func (m *Machine) State() (org.HealthState, Moment) { return m.state, m.since }

// Why is what the rule said when it was red, empty while the monitor is not.
func (m *Machine) Why() string { return m.why }

// RedTime is how long the rule was red since it was calm.
func (m *Machine) RedTime(now Moment) time.Duration {
	if m.isRed {
		return m.redTotal + now - m.redFrom
	}
	return m.redTotal
}

// Relapses counts how often the monitor was red again since it was calm.
func (m *Machine) Relapses() int { return m.relapses }

// Heard is when the last result was seen.
func (m *Machine) Heard() Moment { return m.heard }

// Recent are the last results with their words, oldest first; at most ten.
func (m *Machine) Recent() []Sample { return m.recent }

// Shown is the state as people and other servers see it: what is held back or
// unknown lies over the ladder.
func (m *Machine) Shown(d Definition, now Moment, disabled, repairing bool) org.HealthState {
	switch {
	case disabled:
		return org.HealthDisabled
	case repairing:
		return org.Repairing
	case d.Interval > 0 && m.silent(d, now):
		return org.Unavailable
	}
	return m.state
}

// Bookmark is what of a machine survives a restart of its process. Times are
// ages, since the monotonic clock begins anew.
type Bookmark struct {
	State    org.HealthState `cbor:"1,keyasint"`
	Since    time.Duration   `cbor:"2,keyasint"` // how long in State
	RedTotal time.Duration   `cbor:"3,keyasint"`
	RedEnd   time.Duration   `cbor:"4,keyasint"` // how long ago the rule was red
	HadRed   bool            `cbor:"5,keyasint"`
	Relapses int             `cbor:"6,keyasint"`
	Why      string          `cbor:"7,keyasint"`
}

// Save makes a bookmark.
func (m *Machine) Save(now Moment) Bookmark {
	b := Bookmark{State: m.state, Since: now - m.since, RedTotal: m.RedTime(now), HadRed: m.hadRed, Relapses: m.relapses, Why: m.why}
	if m.hadRed && !m.isRed {
		b.RedEnd = now - m.redEnd
	}
	return b
}

// Restore makes a machine from a bookmark that is away old. The time in between
// counts as neither red nor green.
func Restore(b Bookmark, away time.Duration, now Moment) *Machine {
	m := New(now)
	if b.State.Badness() == org.Unavailable.Badness() && b.State != org.Unavailable {
		return m // a state that this version does not know
	}
	m.state, m.since, m.redTotal, m.hadRed = b.State, now-b.Since-away, max(b.RedTotal, 0), b.HadRed
	m.redEnd, m.relapses, m.why = now-b.RedEnd-away, max(b.Relapses, 0), b.Why
	return m
}
