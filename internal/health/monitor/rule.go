package monitor

import (
	"fmt"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// Outcome is the result of one run of a probe, with Exchange's numbers.
type Outcome uint8

// Outcomes.
const (
	TimedOut Outcome = 1
	Passed   Outcome = 3
	Failed   Outcome = 4
)

func (o Outcome) String() string {
	switch o {
	case TimedOut:
		return "timed out"
	case Passed:
		return "passed"
	}
	return "failed"
}

// RuleType says how a monitor judges results.
type RuleType string

// Rule types; what Threshold means depends on them.
const (
	// TypeConsecutive is red when the last Threshold results are all bad.
	TypeConsecutive RuleType = "ConsecutiveFailures"
	// TypeFailures is red when at least Threshold results within Window are bad.
	TypeFailures RuleType = "Failures"
	// TypePercent is red when less than Threshold percent of the results within
	// Window are good, judged from Samples results on.
	TypePercent RuleType = "PercentSuccess"
	// TypeAbove and TypeBelow are red when the value of the last Samples results
	// is above (below) Threshold, or of all results for at least Window.
	TypeAbove RuleType = "Above"
	TypeBelow RuleType = "Below"
	// TypeNotified is red after a bad result and green after a good one; red ends
	// by itself when it is not repeated within Window (0: it does not).
	TypeNotified RuleType = "Notified"
)

// Rule says when results mean that something is wrong.
type Rule struct {
	Type      RuleType      `json:"type"`
	Threshold float64       `json:"threshold"`
	Unit      string        `json:"unit,omitempty"` // of Threshold, for people
	Window    time.Duration `json:"window,omitempty"`
	Samples   int           `json:"samples,omitempty"`
}

// ConsecutiveFailures is red when the last n results are all bad.
func ConsecutiveFailures(n int) Rule {
	return Rule{Type: TypeConsecutive, Threshold: float64(n), Unit: "results"}
}

// Failures is red when at least x results within window are bad.
func Failures(x int, window time.Duration) Rule {
	return Rule{Type: TypeFailures, Threshold: float64(x), Unit: "results", Window: window}
}

// PercentSuccess is red when less than percent of the results within window are
// good; fewer than least results are not judged.
func PercentSuccess(percent float64, window time.Duration, least int) Rule {
	return Rule{Type: TypePercent, Threshold: percent, Unit: "%", Window: window, Samples: least}
}

// Above is red when the last samples values are above value.
func Above(value float64, unit string, samples int) Rule {
	return Rule{Type: TypeAbove, Threshold: value, Unit: unit, Samples: samples}
}

// AboveFor is red when all values of the last d, and two at least, are above
// value.
func AboveFor(value float64, unit string, d time.Duration) Rule {
	return Rule{Type: TypeAbove, Threshold: value, Unit: unit, Window: d}
}

// Below is red when the last samples values are below value.
func Below(value float64, unit string, samples int) Rule {
	return Rule{Type: TypeBelow, Threshold: value, Unit: unit, Samples: samples}
}

// BelowFor is red when all values of the last d, and two at least, are below
// value.
func BelowFor(value float64, unit string, d time.Duration) Rule {
	return Rule{Type: TypeBelow, Threshold: value, Unit: unit, Window: d}
}

// Notified is red after a bad notification until a good one, or until window
// has passed without a repetition (0: no end by itself).
func Notified(window time.Duration) Rule {
	return Rule{Type: TypeNotified, Window: window}
}

// Check says what is wrong with a rule, empty for nothing.
func (r Rule) Check() string {
	switch r.Type {
	case TypeConsecutive, TypeFailures:
		if r.Threshold < 1 || r.Threshold > maxSamples || r.Threshold != float64(int(r.Threshold)) {
			return fmt.Sprintf("threshold %v is no number of results from 1 to %d", r.Threshold, maxSamples)
		}
	case TypePercent:
		if r.Threshold <= 0 || r.Threshold > 100 {
			return fmt.Sprintf("threshold %v is no percentage", r.Threshold)
		}
	case TypeAbove, TypeBelow:
		if r.Samples <= 0 && r.Window <= 0 {
			return "neither a number of samples nor a window"
		}
	case TypeNotified:
	default:
		return fmt.Sprintf("rule %q is not known", r.Type)
	}
	switch {
	case (r.Type == TypeFailures || r.Type == TypePercent) && r.Window <= 0:
		return "the window is missing"
	case r.Window < 0 || r.Window > maxWindow:
		return fmt.Sprintf("window %v is not from 0 to %v", r.Window, maxWindow)
	case r.Samples < 0 || r.Samples > maxSamples:
		return fmt.Sprintf("%d samples are not from 0 to %d", r.Samples, maxSamples)
	}
	return ""
}

// Limits of what a monitor keeps.
const (
	maxSamples = 256
	maxWindow  = 24 * time.Hour
)

// Step is an entry of a timeline: after that much red time the monitor is in
// State.
type Step struct {
	After time.Duration   `json:"after"`
	State org.HealthState `json:"state"`
}

// DefaultTimeline is the ladder of monitors that bring none: 60 s until
// Unhealthy is documented for Exchange, the rest is ours.
func DefaultTimeline() []Step {
	return []Step{{0, org.Degraded}, {time.Minute, org.Unhealthy}, {5 * time.Minute, org.Unhealthy1}, {15 * time.Minute, org.Unrecoverable}}
}

// CheckTimeline says what is wrong with a timeline, empty for nothing.
func CheckTimeline(steps []Step) string {
	if len(steps) > 10 {
		return fmt.Sprintf("a timeline of %d steps is longer than the ladder", len(steps))
	}
	for i, s := range steps {
		switch {
		case !s.State.Red():
			return fmt.Sprintf("timeline: %s is no state of the ladder", s.State)
		case i == 0 && s.After != 0:
			return "timeline: the first state begins with red, after 0"
		case i > 0 && (s.After <= steps[i-1].After || s.State.Badness() <= steps[i-1].State.Badness()):
			return fmt.Sprintf("timeline: %s after %v does not come after %s", s.State, s.After, steps[i-1].State)
		case s.After > maxWindow:
			return fmt.Sprintf("timeline: %v is more than %v", s.After, maxWindow)
		}
	}
	return ""
}
