package mailbox

import (
	"math"
	"time"

	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/mailbox/store"
	"github.com/postern-mail/postern/internal/org"
)

// What was removed from the mailboxes is given back to the disk as soon as the
// index without it is durable, unless the copy is to show what was there some
// time ago: then it keeps all log and all bodies from a position on.

const (
	// freedMost bounds the bodies that a copy remembers as freed; what is freed
	// beyond is found in the log when its time comes.
	freedMost = 1 << 17
	// freedWalk bounds the log that is read for them at a time.
	freedWalk = 64 << 20
)

// keepsNothing is keepFrom of a copy that keeps nothing.
const keepsNothing org.LSN = math.MaxUint64

// keepFrom is the position from which on the copy keeps what was removed, that
// is: removals that the log tells behind it are not carried out on the disk.
func (c *dbCopy) keepFrom() org.LSN {
	from := keepsNothing
	if replay, truncation := c.lagSet(); truncation > 0 {
		from = min(from, c.positionBefore(c.late.now().Add(-replay-truncation)))
	}
	return min(from, c.checkpoints.oldest(), c.k.pasts.keepFrom(c))
}

// keepsRemoved tells that the copy is to show, or keep, what was removed.
func (c *dbCopy) keepsRemoved() bool {
	replay, truncation := c.lagSet()
	return replay > 0 || truncation > 0 || c.k.cfg.CheckpointEvery > 0
}

// positionBefore is a position before which nothing is newer than t, not far from
// the last such; where the log tells nothing it is its start.
func (c *dbCopy) positionBefore(t time.Time) org.LSN {
	marks := c.jn.Landmarks(256)
	best := c.jn.Start()
	lo, hi := 0, len(marks)
	for lo < hi {
		mid := (lo + hi) / 2
		at, ok := c.timeAt(marks[mid].LSN)
		if ok && at <= t.UnixNano() {
			best, lo = max(best, marks[mid].LSN), mid+1
		} else {
			hi = mid
		}
	}
	return best
}

// timeAt is when the record that begins at a boundary was made, Unix nanoseconds.
func (c *dbCopy) timeAt(at org.LSN) (int64, bool) {
	for r, err := range c.jn.Records(at, at+1) {
		return r.Time, err == nil
	}
	return 0, false
}

// noteFreed remembers bodies that the record before position after freed. c.applyMu
// is held.
func (c *dbCopy) noteFreed(freed []store.Freed, from, after org.LSN) {
	if len(freed) == 0 || c.unlisted != 0 {
		return
	}
	if len(c.freed)+len(freed) > freedMost {
		c.unlisted = from
		return
	}
	for _, f := range freed {
		c.freed = append(c.freed, freedBody{lsn: org.LSN(f), after: after})
	}
}

// takeFreed removes from the list, and returns, what may be punched: what was
// freed before limit.
func (c *dbCopy) takeFreed(limit org.LSN) []org.LSN {
	c.applyMu.Lock()
	defer c.applyMu.Unlock()
	var due []org.LSN
	n := 0
	for _, f := range c.freed {
		if f.after <= limit {
			due = append(due, f.lsn)
		} else {
			c.freed[n] = f
			n++
		}
	}
	c.freed = c.freed[:n]
	if n > 0 || c.unlisted == 0 || c.unlisted >= limit {
		return due
	}
	more, at := c.freedBetween(c.unlisted, limit)
	if c.unlisted = at; at >= c.index().Applied().LSN {
		c.unlisted = 0 // from here on they are listed again
	}
	return append(due, more...)
}

// freedBetween reads from the log which bodies were freed, and returns up to
// where it read.
func (c *dbCopy) freedBetween(from, to org.LSN) (freed []org.LSN, at org.LSN) {
	at = max(from, c.jn.Start())
	for r, err := range c.jn.Records(at, min(to, at+freedWalk)) {
		if err != nil || r.Next().LSN > to {
			return freed, at
		}
		if r.Kind == journal.KindChange {
			some, err := store.FreedBy(r.Ops)
			if err != nil {
				return freed, at
			}
			for _, f := range some {
				freed = append(freed, org.LSN(f))
			}
		}
		at = r.Next().LSN
	}
	return freed, at
}
