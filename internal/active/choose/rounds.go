package choose

import (
	"fmt"

	"github.com/postern-mail/postern/internal/org"
)

// Rounds are ten as in Exchange, and one of our own at the end: without an
// active copy to follow, a copy stays in the states in which it opens or waits.
const (
	firstLongReplay = 6 // rounds from here on take any replay queue
	lastRound       = 10
	openingRound    = 11
)

// round is the first of the rounds that a copy meets, 0 for none.
//
//	round           1  2  3  4  5  6  7  8  9 10
//	content index   H  C  H  C  *  H  C  H  C  *    H Healthy, C Crawling, * any
//	copy queue <10  x  x  .  .  .  x  x  .  .  .
//	replay <50      x  x  x  x  x  .  .  .  .  .
func (q Question) round(c Candidate) int {
	if !settled(c.State) {
		return openingRound
	}
	first, any := 1, 5
	if !q.Skip.Lag && c.longReplay() {
		first, any = firstLongReplay, lastRound
	}
	index := c.ContentIndex
	if q.Skip.ClientExperience {
		index = ""
	}
	short := q.Skip.Lag || c.queue() < copyQueueLimit
	switch index {
	case "", org.IndexHealthy:
		if short {
			return first
		}
		return first + 2
	case org.IndexCrawling:
		if short {
			return first + 1
		}
		return first + 3
	}
	return any
}

// queue is the copy queue that counts: a copy in sync lacks nothing, whatever a
// report says that is a moment old.
func (c Candidate) queue() uint64 {
	if c.InSync {
		return 0
	}
	return c.Missing
}

func (c Candidate) longReplay() bool { return c.Lagged || c.ReplayQueue >= replayQueueLimit }

// settled tells that a copy is in a state in which it follows, or did until its
// source went.
func settled(s org.CopyState) bool {
	switch s {
	case org.CopyHealthy, org.CopyDisconnectedAndHealthy, org.CopyDisconnectedAndResynchronizing, org.CopyMounted, org.CopyMounting:
		return true
	}
	return false
}

// opening tells that a copy opens, catches up or waits for somebody to follow.
// What it lacks is counted, and the dial decides.
func opening(s org.CopyState) bool {
	switch s {
	case org.CopyInitializing, org.CopyResynchronizing, org.CopySinglePageRestore, org.CopyDismounted:
		return true
	}
	return false
}

// describe tells what of a copy made its round.
func (c Candidate) describe() string {
	s := fmt.Sprintf("%s, replay queue %d", c.State, c.ReplayQueue)
	if c.Lagged {
		s += ", lagged"
	}
	if c.ContentIndex != "" && c.ContentIndex != org.IndexHealthy {
		s += fmt.Sprintf(", content index %s", c.ContentIndex)
	}
	return s
}
