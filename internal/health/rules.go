package health

import (
	"time"

	"github.com/postern-mail/postern/internal/health/monitor"
)

// ConsecutiveFailures is red when the last n results are all bad.
func ConsecutiveFailures(n int) Rule { return monitor.ConsecutiveFailures(n) }

// Failures is red when at least x results within window are bad.
func Failures(x int, window time.Duration) Rule { return monitor.Failures(x, window) }

// PercentSuccess is red when less than percent of the results within window are
// good; fewer than least results are not judged.
func PercentSuccess(percent float64, window time.Duration, least int) Rule {
	return monitor.PercentSuccess(percent, window, least)
}

// Above is red when the values of the last samples results are above value.
func Above(value float64, unit string, samples int) Rule { return monitor.Above(value, unit, samples) }

// AboveFor is red when all values of the last d are above value.
func AboveFor(value float64, unit string, d time.Duration) Rule {
	return monitor.AboveFor(value, unit, d)
}

// Below is red when the values of the last samples results are below value.
func Below(value float64, unit string, samples int) Rule { return monitor.Below(value, unit, samples) }

// BelowFor is red when all values of the last d are below value.
func BelowFor(value float64, unit string, d time.Duration) Rule {
	return monitor.BelowFor(value, unit, d)
}

// Notified is red after a bad notification until a good one, or until window has
// passed without a repetition (0: no end by itself).
func Notified(window time.Duration) Rule { return monitor.Notified(window) }

// DefaultTimeline is the ladder of monitors that bring none.
func DefaultTimeline() []Step { return monitor.DefaultTimeline() }
