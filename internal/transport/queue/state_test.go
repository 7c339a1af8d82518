package queue

import (
	"strings"
	"testing"
)

// TestTransitions is the table of what may follow what.
func TestTransitions(t *testing.T) {
	table := map[State]string{
		StateNew:       "ready expanded returned dropped quarantined void suspended removed taken",
		StateReady:     "attempt delivered deferred returned void suspended removed taken",
		StateAttempt:   "delivered relayed deferred returned doubtful suspended removed taken",
		StateDeferred:  "attempt delivered deferred returned suspended removed taken",
		StateDoubtful:  "attempt delivered relayed deferred returned suspended removed taken",
		StateSuspended: "new ready deferred returned removed taken",
	}
	for from := range stateNames {
		allowed := map[string]bool{}
		for _, s := range strings.Fields(table[from]) {
			allowed[s] = true
		}
		for to := range stateNames {
			if got := transition(from, to); got != allowed[to.String()] {
				t.Errorf("%s to %s: %v", from, to, got)
			}
		}
		if from.Finished() != (table[from] == "" && from != StateHeld) {
			t.Errorf("%s: finished %v", from, from.Finished())
		}
	}
}

// TestPressure shows the levels and that each is left later than it is
// reached.
func TestPressure(t *testing.T) {
	const mb = 1 << 20
	total, reserve := int64(100_000*mb), int64(1000*mb)
	for _, c := range []struct {
		free int64 // MB
		was  Level
		want Level
	}{
		{1499, LevelNormal, LevelHigh}, {1500, LevelNormal, LevelMedium}, {3499, LevelNormal, LevelMedium}, {3500, LevelNormal, LevelNormal},
		{3499, LevelHigh, LevelHigh}, {3500, LevelHigh, LevelMedium}, {5499, LevelHigh, LevelMedium}, {5500, LevelHigh, LevelNormal},
		{5499, LevelMedium, LevelMedium}, {5500, LevelMedium, LevelNormal}, {1499, LevelMedium, LevelHigh}, {2000, LevelMedium, LevelMedium},
		{0, LevelHigh, LevelHigh},
	} {
		if got := watermarks(c.free*mb, total, reserve, c.was); got != c.want {
			t.Errorf("%d MB free after %s: %s, want %s", c.free, c.was, got, c.want)
		}
	}
	for _, c := range []struct {
		n         int64
		was, want Level
	}{
		{0, LevelNormal, LevelNormal}, {979, LevelNormal, LevelNormal}, {980, LevelNormal, LevelMedium}, {1000, LevelNormal, LevelHigh},
		{980, LevelHigh, LevelHigh}, {979, LevelHigh, LevelMedium}, {960, LevelMedium, LevelMedium}, {959, LevelMedium, LevelNormal}, {959, LevelHigh, LevelNormal},
	} {
		if got := depth(c.n, 1000, c.was); got != c.want {
			t.Errorf("%d of 1000 after %s: %s, want %s", c.n, c.was, got, c.want)
		}
	}
}
