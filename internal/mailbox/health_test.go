package mailbox

import (
	"testing"
	"time"
)

// TestRelativeLatency: a volume is compared with the others that work, and none is
// called slow that is quick.
func TestRelativeLatency(t *testing.T) {
	ms := func(all ...int) (out []time.Duration) {
		for _, n := range all {
			out = append(out, time.Duration(n)*time.Millisecond)
		}
		return out
	}
	for _, c := range []struct {
		recent int
		others []time.Duration
		want   float64
	}{
		{900, nil, 0}, {900, ms(10), 90}, {900, ms(10, 30, 50), 30}, {40, ms(1, 1), 0},
	} {
		if got := relative(VolumeStatus{Recent: time.Duration(c.recent) * time.Millisecond}, c.others); got.Value != c.want {
			t.Errorf("%d ms beside %v: %v, want %v", c.recent, c.others, got.Value, c.want)
		}
	}
	if err := Health(nil).Check(); err != nil {
		t.Error(err)
	}
}
