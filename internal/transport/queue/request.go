package queue

import (
	"context"

	"github.com/postern-mail/postern/internal/mail"
)

// Progress is how far this server is with a Safety Net request.
type Progress struct {
	Done   mail.TraceID // the last message that was dealt with
	Counts [4]uint32    // found, delivered, duplicates, failed
}

// NoteRequest notes the progress of a request. It is Lazy: what is lost in a
// crash is done twice, and identity drops the second copy.
func (q *Queue) NoteRequest(ctx context.Context, id string, p Progress) error {
	r := &requestRec{V: recordVersion, ID: id, Done: p.Done, Counts: p.Counts}
	return q.do(ctx, Lazy, 0, func() error { return q.add(KindRequest, r, nil) })
}

// Request returns the progress that was noted last, false where there is none
// (also when the log with it was dropped and the ledger had to be made anew).
func (q *Queue) Request(id string) (Progress, bool, error) {
	var r requestRec
	found, err := q.book.led.read(append([]byte{kRequest}, id...), &r)
	return Progress{r.Done, r.Counts}, found, err
}
