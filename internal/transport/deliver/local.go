package deliver

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// localKind is the kind of destinations that are databases.
const localKind = "db"

// Store is the part of mail.Store that the local agent uses.
type Store interface {
	Deliver(ctx context.Context, d mail.Delivery) ([]mail.Delivered, error)
}

// local delivers to mailboxes.
type local struct {
	store Store
	now   func() time.Time
	full  func() time.Duration
}

// fullRetry is how long a full mailbox rests.
const fullRetry = 5 * time.Minute

// localTimeout bounds one attempt; the store waits through a failover.
const localTimeout = 30 * time.Second

// NewLocal is the agent of "db:" destinations. full is how long a mailbox over
// its quota is tried. A delivery that is repeated has the same key and identity,
// so it is applied once.
func NewLocal(s Store, now func() time.Time, full func() time.Duration) Agent {
	return local{s, now, full}
}

// Deliver implements Agent.
func (l local) Deliver(ctx context.Context, w Work) []Result {
	ctx, cancel := context.WithTimeout(ctx, localTimeout)
	defer cancel()
	out := make([]Result, len(w.Rows))
	body, err := w.Body(ctx)
	if err != nil {
		return all(out, Result{State: queue.StateReady, Code: 451, Status: "4.3.0", Text: err.Error()})
	}
	d := mail.Delivery{Key: deliveryKey(w), Body: body, Date: w.Message.Received.UnixNano(), Identity: w.Message.Identity, TraceID: w.Message.ID.String()}
	for _, r := range w.Rows {
		d.Recipients = append(d.Recipients, mail.Recipient{Mailbox: r.Mailbox})
	}
	done, err := l.store.Deliver(ctx, d)
	if err != nil {
		return all(out, failure(err))
	}
	if len(done) != len(out) {
		return all(out, Result{State: queue.StateReady, Code: 451, Status: "4.3.0", Text: "the store answered for another number of recipients"})
	}
	for i, r := range done {
		out[i] = l.result(r, w.Message)
	}
	return out
}

func all(out []Result, r Result) []Result {
	for i := range out {
		out[i] = r
	}
	return out
}

// failure is what an error of the whole delivery means.
func failure(err error) Result {
	r := Result{State: queue.StateReady, Code: 451, Status: "4.3.0", Text: err.Error()}
	switch kind.Of(err) {
	case kind.NotFound: // the database is gone
		r.State, r.Code, r.Status = queue.StateReturned, 550, "5.1.1"
	case kind.Invalid:
		r.State, r.Code, r.Status = queue.StateReturned, 554, "5.6.0"
	default:
		r.Whole = true
	}
	return r
}

func (l local) result(d mail.Delivered, m queue.Message) Result {
	if d.Refused == "" && d.RefusedKind == 0 {
		return Result{State: queue.StateDelivered, Code: 250, Status: "2.0.0", Mailbox: d.Mailbox, Duplicate: d.Duplicate}
	}
	r := Result{State: queue.StateDeferred, Code: 451, Status: "4.3.0", Text: d.Refused, Mailbox: d.Mailbox}
	switch kind.Kind(d.RefusedKind) {
	case kind.Full:
		r.Code, r.Status, r.Wait = 452, "4.2.2", fullRetry
		if l.now().Sub(m.Received) > l.full() {
			r.State, r.Code, r.Status = queue.StateReturned, 552, "5.2.2"
		}
	case kind.NotFound, kind.Denied:
		r.State, r.Code, r.Status = queue.StateReturned, 550, "5.1.1"
	case kind.Invalid:
		r.State, r.Code, r.Status = queue.StateReturned, 554, "5.6.0"
	}
	return r
}

// deliveryKey is the same for each attempt at the same mailboxes.
func deliveryKey(w Work) (k mail.Key) {
	h := sha256.New()
	h.Write([]byte("deliver"))
	h.Write(w.Message.ID[:])
	h.Write([]byte(w.Dest))
	for _, r := range w.Rows {
		var n [2]byte
		binary.BigEndian.PutUint16(n[:], r.N)
		h.Write(n[:])
	}
	copy(k[:], h.Sum(nil))
	return k
}
