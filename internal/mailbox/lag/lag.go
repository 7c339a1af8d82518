// Package lag decides when a copy that replays late has to replay what it has
// (Exchange: play down), and when it may fall behind again.
//
// It promises that Decide reads nothing but its arguments, that want of space
// is never put off, and that every decision tells its cause, its reason and,
// where something is waited for, how long that still takes. Times are those of
// a monotonic clock: a wall clock that jumps changes nothing.
//
// Exchange terms: replay lag manager, ReplayLagManagerNumAvailableCopies,
// ReplayLagLowSpacePlaydownThresholdInMB, ReplayLagMaxDelay.
package lag

import (
	"fmt"
	"time"
)

// Cause is why a copy replays without lag.
type Cause string

// The causes, the most urgent first.
const (
	None   Cause = ""
	Space  Cause = "space"  // its volume runs out of room
	Copies Cause = "copies" // too few copies without lag are available
)

// Rules are what is decided by.
type Rules struct {
	// LowSpace is the free space, in bytes, below which the log is played down.
	LowSpace int64
	// Wanted is how many copies without lag have to be available, where there
	// are so many of them.
	Wanted int
	// Few is how long they may be too few.
	Few time.Duration
	// Slow is the latency of the disk from which playing down waits, Fast the one
	// at which it goes on; MaxDelay is the most it waits, 0 for not at all.
	Slow, Fast, MaxDelay time.Duration
}

// Default are the documented figures: ten gigabytes, three copies for a day,
// 35 and 25 ms for at most a day.
func Default() Rules {
	return Rules{LowSpace: 10 << 30, Wanted: 3, Few: 24 * time.Hour, Slow: 35 * time.Millisecond, Fast: 25 * time.Millisecond, MaxDelay: 24 * time.Hour}
}

// Facts are what a copy sees.
type Facts struct {
	Now     time.Duration // since some moment, monotonic
	Lag     time.Duration // as it is set
	Free    int64         // bytes free on its volume
	Size    int64         // bytes of its volume, 0 where that is not known
	Reserve int64         // bytes that have to stay free there
	// Available copies without lag are healthy and in sync; Designed is how many
	// copies without lag the database has.
	Available, Designed int
	Latency             time.Duration // of the disk, 95 of 100
}

// State is what is kept from one decision to the next. The zero value is that
// of a copy that lags.
type State struct {
	Playing  Cause
	few      *time.Duration // since when too few copies are available
	deferred *time.Duration // since when playing down waits for the disk
	slow     bool
}

// Decision is what is to be done.
type Decision struct {
	PlayDown bool
	Cause    Cause
	Why      string
	// Deferred tells that playing down is due and waits for the disk; Left is
	// how long it waits at most.
	Deferred bool
	Left     time.Duration
}

// Decide tells whether a copy replays without its lag.
func Decide(s State, f Facts, r Rules) (State, Decision) {
	if f.Lag <= 0 {
		return State{}, Decision{Why: "no lag is set"}
	}
	s.slow = f.Latency > r.Slow || s.slow && f.Latency >= r.Fast
	if low := r.low(f); f.Free < low || s.Playing == Space && f.Free < 2*low {
		s.Playing, s.deferred = Space, nil
		s.few = r.fewSince(s, f)
		return s, Decision{PlayDown: true, Cause: Space,
			Why: fmt.Sprintf("%s are free on its volume, %s are wanted; the lag builds up again at %s", bytes(f.Free), bytes(low), bytes(2*low))}
	}
	s.few = r.fewSince(s, f)
	if s.few == nil {
		was := s.Playing
		s.Playing, s.deferred = None, nil
		why := "the lag is kept"
		if was != None {
			why = "the cause is gone; the lag builds up again"
		}
		return s, Decision{Why: why}
	}
	need := r.need(f)
	if left := r.Few - (f.Now - *s.few); left > 0 {
		s.Playing, s.deferred = None, nil
		return s, Decision{Left: left, Why: fmt.Sprintf("%d of %d copies without lag are available, %d are wanted; it is played down in %s", f.Available, f.Designed, need, round(left))}
	}
	why := fmt.Sprintf("%d of %d copies without lag are available for %s, %d are wanted", f.Available, f.Designed, round(f.Now-*s.few), need)
	if s.slow && r.MaxDelay > 0 {
		if s.deferred == nil {
			now := f.Now
			s.deferred = &now
		}
		if left := r.MaxDelay - (f.Now - *s.deferred); left > 0 {
			s.Playing = None
			return s, Decision{Cause: Copies, Deferred: true, Left: left,
				Why: fmt.Sprintf("%s; the disk takes %s, it waits for less than %s, at most %s more", why, f.Latency.Round(time.Millisecond), r.Fast, round(left))}
		}
	} else {
		s.deferred = nil
	}
	s.Playing = Copies
	return s, Decision{PlayDown: true, Cause: Copies, Why: why}
}

// low is the free space below which the log is played down: never less than
// twice the reserve, and never more than a tenth of a small disk.
func (r Rules) low(f Facts) int64 {
	low := r.LowSpace
	if f.Size > 0 {
		low = min(low, f.Size/10)
	}
	return max(low, 2*f.Reserve)
}

// need is how many copies without lag have to be available: as many as are
// wanted, or all where the database was never to have so many.
func (r Rules) need(f Facts) int { return min(r.Wanted, f.Designed) }

// fewSince is since when too few copies are available, nil when there are enough.
func (r Rules) fewSince(s State, f Facts) *time.Duration {
	switch {
	case f.Available >= r.need(f):
		return nil
	case s.few == nil:
		now := f.Now
		return &now
	}
	return s.few
}

func round(d time.Duration) time.Duration {
	if d >= time.Minute {
		return d.Round(time.Minute)
	}
	return d.Round(time.Second)
}

func bytes(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d bytes", n)
}
