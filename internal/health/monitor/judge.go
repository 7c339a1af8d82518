package monitor

import (
	"fmt"
	"time"
)

// Moment is a time on the monotonic clock, counted from any fixed point that all
// moments of one engine share.
type Moment = time.Duration

// Sample is a result as a monitor sees it.
type Sample struct {
	At      Moment
	Outcome Outcome
	Value   float64
	Target  string
	Text    string
}

func (s Sample) bad() bool { return s.Outcome != Passed }

// verdict is what a rule says of the results there are.
type verdict uint8

const (
	unknown verdict = iota // too little to judge
	green
	red
)

// judge applies a rule to the samples, oldest first. from is the moment at which
// what is wrong began, where the rule can tell; why is the reason in words.
func (r Rule) judge(samples []Sample, now Moment, notified bool) (v verdict, from Moment, why string) {
	if len(samples) == 0 {
		return unknown, now, ""
	}
	last := samples[len(samples)-1]
	switch r.Type {
	case TypeConsecutive:
		return r.consecutive(samples)
	case TypeFailures:
		bad, seen := 0, 0
		for _, s := range within(samples, now, r.Window) {
			if seen++; s.bad() {
				bad++
			}
		}
		if seen == 0 && !notified {
			return unknown, now, ""
		}
		return pick(float64(bad) >= r.Threshold), now, fmt.Sprintf("%d of %d results in %v are bad", bad, seen, r.Window)
	case TypePercent:
		good, seen := 0, 0
		for _, s := range within(samples, now, r.Window) {
			if seen++; !s.bad() {
				good++
			}
		}
		if seen == 0 || seen < r.Samples {
			return unknown, now, ""
		}
		percent := 100 * float64(good) / float64(seen)
		return pick(percent < r.Threshold), now, fmt.Sprintf("%.0f %% of %d results in %v are good, want %v %%", percent, seen, r.Window, r.Threshold)
	case TypeAbove, TypeBelow:
		return r.values(samples, now)
	}
	if last.bad() && (r.Window == 0 || now-last.At < r.Window) { // TypeNotified
		return red, last.At, last.Text
	}
	return green, now, ""
}

func pick(bad bool) verdict {
	if bad {
		return red
	}
	return green
}

// within returns the samples of the last window.
func within(samples []Sample, now Moment, window time.Duration) []Sample {
	for i, s := range samples {
		if now-s.At < window {
			return samples[i:]
		}
	}
	return nil
}

// consecutive tells whether the last Threshold results are all bad. Fewer are
// green as soon as one of them is good.
func (r Rule) consecutive(samples []Sample) (verdict, Moment, string) {
	streak := 0
	for streak < len(samples) && samples[len(samples)-1-streak].bad() {
		streak++
	}
	last := samples[len(samples)-1]
	switch {
	case streak >= int(r.Threshold):
		return red, samples[len(samples)-streak].At, fmt.Sprintf("the last %d results are bad: %s", int(r.Threshold), last.Text)
	case streak == len(samples):
		return unknown, last.At, "" // a beginning: not enough to say anything
	}
	return green, last.At, ""
}

// values tells whether the last values are all beyond the threshold. A result
// without a value (the probe failed) is not judged.
func (r Rule) values(samples []Sample, now Moment) (verdict, Moment, string) {
	n, from := 0, now
	seen := 0
	for i := len(samples) - 1; i >= 0; i-- {
		s := samples[i]
		if s.bad() {
			continue
		}
		seen++
		if (r.Type == TypeAbove && s.Value <= r.Threshold) || (r.Type == TypeBelow && s.Value >= r.Threshold) {
			break
		}
		n, from = n+1, s.At
	}
	if seen == 0 {
		return unknown, now, ""
	}
	long := n >= max(r.Samples, 1)
	if r.Window > 0 {
		long = n >= 2 && now-from >= r.Window
	}
	if !long {
		return green, now, ""
	}
	last := 0.0
	for i := len(samples) - 1; i >= 0; i-- {
		if !samples[i].bad() {
			last = samples[i].Value
			break
		}
	}
	beyond := "above"
	if r.Type == TypeBelow {
		beyond = "below"
	}
	return red, now, fmt.Sprintf("%.6g %s is %s %.6g for %d results", last, r.Unit, beyond, r.Threshold, n)
}

// keep is how many samples the rule can need.
func (r Rule) keep() int {
	switch r.Type {
	case TypeConsecutive:
		return min(int(r.Threshold)+1, maxSamples)
	case TypeNotified:
		return 1
	case TypeAbove, TypeBelow:
		if r.Window == 0 {
			return min(max(r.Samples, 1)+1, maxSamples)
		}
	}
	return maxSamples
}
