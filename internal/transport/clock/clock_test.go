package clock

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// jumping is a wall clock that can be set, beside the monotonic one of the bubble.
type jumping struct{ by time.Duration }

// Now moves the wall part only, as setting the system's clock does.
func (j *jumping) now() time.Time { return shift(time.Now(), j.by) }

// shift moves the wall clock and keeps the monotonic reading: the difference to
// another reading is that of the monotonic clock.
func shift(t time.Time, by time.Duration) time.Time {
	if by == 0 {
		return t
	}
	return t.Add(by).Round(0)
}

func TestFollowsAndNeverGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &jumping{}
		c := newClock(j.now, time.Time{}, func() []time.Duration { return nil })
		first := c.Now()
		j.by = -5 * time.Minute
		if got := c.Now(); got.Before(first) {
			t.Errorf("went back by %v", first.Sub(got))
		}
		if ok, why := c.Trusted(); !ok {
			t.Error(why)
		}
		j.by = 0
		time.Sleep(time.Hour)
		if got := c.Now().Sub(first); got < time.Hour-time.Minute || got > time.Hour+time.Minute {
			t.Errorf("an hour took %v", got)
		}
	})
}

func TestLogIsAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		last := time.Now().Add(24 * time.Hour)
		c := New(last, func() []time.Duration { return nil })
		if got := c.Now(); got.Before(last.Round(0)) {
			t.Errorf("now %v is before what was written at %v", got, last)
		}
		ok, why := c.Trusted()
		if ok || !strings.Contains(why, "behind") {
			t.Errorf("trusted %v, %q", ok, why)
		}
		begin := c.Now()
		time.Sleep(time.Minute)
		if got := c.Now().Sub(begin); got != time.Minute {
			t.Errorf("a minute took %v", got)
		}
	})
}

func TestPeers(t *testing.T) {
	for _, c := range []struct {
		offs []time.Duration
		want bool
	}{
		{nil, true}, {[]time.Duration{time.Second, -time.Second}, true},
		{[]time.Duration{time.Hour, time.Hour}, false}, {[]time.Duration{time.Second, time.Hour, 2 * time.Second}, true},
	} {
		k := New(time.Time{}, func() []time.Duration { return c.offs })
		if ok, why := k.Trusted(); ok != c.want {
			t.Errorf("%v: trusted %v (%s)", c.offs, ok, why)
		}
	}
}
