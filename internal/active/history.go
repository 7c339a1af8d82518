package active

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/active/choose"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// movesPrefix is what the rows of the moves of databases begin with, and
// movesKept how many moves each of them keeps.
const (
	movesPrefix = "moves/"
	movesKept   = 20
)

// Back-off of a server that failed as target, and limits of moves that nobody
// ordered and no dead server forced.
const (
	backOffFirst = time.Minute
	backOffMost  = time.Hour
	healthMoves  = 4 // a day and database
)

// Moved is one change of the active copy.
type Moved struct {
	At       time.Time      `json:"at"`
	From     org.ServerName `json:"from,omitempty"`
	To       org.ServerName `json:"to"`
	Purpose  choose.Purpose `json:"purpose"`
	Term     org.Term       `json:"term"`
	Decision int            `json:"decision,omitempty"` // number of what explains it
	Recovery string         `json:"recovery,omitempty"` // entry of the recovery log, of one that nobody ordered
	// Result is empty until it is known, "mounted" or why the target failed.
	Result string        `json:"result,omitempty"`
	Took   time.Duration `json:"took,omitempty"` // from the decision to the report that it is mounted
}

// Results of moves.
const (
	mounted    = "mounted"
	leftBefore = "left before it was mounted"
)

// history is the row of the moves of a database, oldest first.
type history struct {
	Moves []Moved `json:"moves"`
}

// historyOf reads the moves of a database.
func historyOf(v *cluster.View, db org.DatabaseName) (h history, revision int64) {
	it, ok := v.Get(movesPrefix + string(db))
	if !ok {
		return history{}, 0
	}
	if json.Unmarshal(it.Value, &h) != nil {
		h = history{} // a newer version's: begun anew, it only damps
	}
	return h, it.Revision
}

// open is the last move while its end is not known.
func (h history) open() *Moved {
	if n := len(h.Moves); n > 0 && h.Moves[n-1].Result == "" {
		return &h.Moves[n-1]
	}
	return nil
}

// add appends a move; one before it whose end is not known failed if the
// database leaves its target because of that.
func (h history) add(mv Moved, failed string) history {
	all := slices.Clone(h.Moves)
	if n := len(all); n > 0 && all[n-1].Result == "" {
		all[n-1].Result = leftBefore
		if failed != "" && all[n-1].To == mv.From {
			all[n-1].Result = "failed: " + failed
		}
	}
	all = append(all, mv)
	if n := len(all) - movesKept; n > 0 {
		all = all[n:]
	}
	return history{all}
}

// failed tells whether a move ended with its target unable to mount.
func (m Moved) failed() bool { return len(m.Result) > 6 && m.Result[:7] == "failed:" }

// backOff tells how long a server is still to be avoided as target, and how
// often in a row it failed: 1, 2, 4 minutes, at most an hour. A move in the
// future, by a clock that was wrong, counts as now.
func (h history) backOff(s org.ServerName, now time.Time) (time.Duration, int) {
	failures, last := 0, time.Time{}
	for _, m := range slices.Backward(h.Moves) {
		if m.To != s {
			continue
		}
		if !m.failed() {
			break
		}
		if failures++; failures == 1 {
			last = m.At
		}
	}
	if failures == 0 {
		return 0, 0
	}
	if last.After(now) {
		last = now
	}
	wait := min(backOffFirst<<min(failures-1, 10), backOffMost)
	return max(wait-now.Sub(last), 0), failures
}

// suppressed says why a move that nobody ordered and no dead server forces has
// to wait, empty when it need not. gap is how long a database stays after one.
func (h history) suppressed(p choose.Purpose, gap time.Duration, now time.Time) string {
	day := 0
	for _, m := range h.Moves {
		if m.Purpose != choose.Rebalance && m.Purpose != choose.HealthMove {
			continue
		}
		at := m.At
		if at.After(now) {
			at = now
		}
		if left := gap - now.Sub(at); left > 0 {
			return "it was moved a moment ago, next in " + left.Round(time.Second).String()
		}
		if m.Purpose == choose.HealthMove && now.Sub(at) < 24*time.Hour {
			day++
		}
	}
	if p == choose.HealthMove && day >= healthMoves {
		return "it was moved for its health as often as it may be in a day"
	}
	return ""
}
