package safetynet

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// sinceKey is under what a queue notes when Safety Net first ran on it. It is
// noted again at each start, so that it stays in the part of the log that is
// kept; where it is lost all the same, the queue counts as a new one.
const sinceKey = "since"

// begun finds out since when the queue is used. Until the queue answers
// nothing begins.
func (n *Net) begun(ctx context.Context) {
	n.mu.Lock()
	known := !n.since.IsZero()
	n.mu.Unlock()
	if known {
		return
	}
	q := n.d.Queue
	p, noted, err := q.Request(sinceKey)
	if err == nil {
		if !noted {
			p = queue.Progress{Done: mail.NewTraceID(n.d.Now())}
		}
		err = q.NoteRequest(ctx, sinceKey, p)
	}
	if err != nil && q.Failed() == nil {
		if !kind.Is(err, kind.Busy) {
			n.d.Log.Warn("Safety Net cannot use the queue", "error", err)
		}
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.since = timeOf(p.Done)
	if n.since.UnixMilli() <= 0 { // the disk failed before it was noted
		n.since = n.d.Now()
	}
}

// timeOf is when an identity was made.
func timeOf(id mail.TraceID) time.Time {
	var ms [8]byte
	copy(ms[2:], id[:6])
	return time.UnixMilli(int64(binary.BigEndian.Uint64(ms[:])))
}

// renewed tells whether this server may have had another queue since the
// interval of a request began.
func (n *Net) renewed(row *org.QueueRow, r *org.SafetyNetRequest) bool {
	margin := n.d.Settings().SafetyNetMargin.Std()
	n.mu.Lock()
	defer n.mu.Unlock()
	return taken(row, r, margin) && !n.since.Before(r.From.Add(-2*margin))
}
