package queue

import (
	"context"
	"time"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// Limits and times of the writer.
const (
	maxRequests     = 4096
	maxRequestBytes = 8 << 20
	maxBatch        = 8 << 20
	soonDelay       = 5 * time.Millisecond
	lazyDelay       = 100 * time.Millisecond
	fullPause       = time.Second // before a batch that found no space is tried again
)

// request is something for the writer to plan.
type request struct {
	ctx  context.Context
	plan func() error // calls Queue.add; an error means that nothing was planned
	d    Durability
	done chan error
}

// writer is the state of the goroutine that writes.
type writer struct {
	batch   []byte
	from    journal.Position // where the batch goes: the end of the log
	at      journal.Position // behind the batch
	waiters []*request
	due     time.Time // when the batch is to be written; zero: there is nothing
	room    bool      // the log has room for the accepts of the batch
	full    bool      // the batch found no space
}

// do has the writer plan something and waits for what d says. size is how many
// bytes wait with it.
func (q *Queue) do(ctx context.Context, d Durability, size int64, plan func() error) error {
	if !q.running.Load() {
		return kind.Errorf(kind.Busy, "queue %s is not running", q.o.Dir)
	}
	size = min(size, maxRequestBytes)
	if err := q.bytes.Acquire(ctx, size); err != nil {
		return kind.Errorf(kind.Busy, "queue has too much to write: %w", err)
	}
	defer q.bytes.Release(size)
	r := &request{ctx: ctx, plan: plan, d: d, done: make(chan error, 1)}
	select {
	case q.requests <- r:
	case <-ctx.Done():
		return kind.Errorf(kind.Busy, "queue has too much to write: %w", ctx.Err())
	case <-q.stopped:
		return kind.Errorf(kind.Busy, "queue is closed")
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return kind.Errorf(kind.Busy, "not known whether the queue wrote it: %w", ctx.Err())
	case <-q.stopped:
	}
	select {
	case err := <-r.done:
		return err
	default:
		return kind.Errorf(kind.Busy, "queue is closed")
	}
}

// write is the goroutine that plans and writes, until ctx ends.
func (q *Queue) write(ctx context.Context) {
	defer close(q.stopped)
	q.w.from = q.log.End()
	q.w.at = q.w.from
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case r := <-q.requests:
			q.take(r)
		case <-timer.C:
		case <-ctx.Done():
			q.gather()
			q.flush()
			q.answer(kind.Errorf(kind.Busy, "queue is closed"))
			return
		}
		q.gather()
		if len(q.w.waiters) > 0 && !q.w.full || !q.w.due.IsZero() && !time.Now().Before(q.w.due) {
			q.flush()
		}
		wait := time.Hour
		if !q.w.due.IsZero() {
			wait = max(time.Until(q.w.due), 0)
		}
		timer.Reset(wait)
	}
}

// gather takes the requests that are there.
func (q *Queue) gather() {
	for len(q.w.batch) < maxBatch {
		select {
		case r := <-q.requests:
			q.take(r)
		default:
			return
		}
	}
}

// take plans a request. It answers at once what is not to be waited for, and
// what was refused.
func (q *Queue) take(r *request) {
	err := q.Failed()
	if err == nil && r.ctx.Err() != nil {
		err = kind.Errorf(kind.Busy, "queue: %w", r.ctx.Err())
	}
	if err == nil && q.w.full && len(q.w.batch) >= maxBatch {
		err = kind.Errorf(kind.Full, "queue: no space to write")
	}
	if err == nil {
		err = r.plan()
	}
	if err != nil {
		q.book.trim() // what it looked at does not wait for a batch
	}
	if err != nil || r.d != Wait {
		r.done <- err
		if err != nil {
			return
		}
		delay := soonDelay
		if r.d == Lazy {
			delay = lazyDelay
		}
		q.dueAt(time.Now().Add(delay))
		return
	}
	q.w.waiters = append(q.w.waiters, r)
	if q.w.full { // what waits is told when the batch is tried again
		return
	}
	q.dueAt(time.Now())
}

func (q *Queue) dueAt(t time.Time) {
	if q.w.full {
		return
	}
	if q.w.due.IsZero() || t.Before(q.w.due) {
		q.w.due = t
	}
}

// answer answers all that wait for the batch.
func (q *Queue) answer(err error) {
	for _, r := range q.w.waiters {
		r.done <- err
	}
	q.w.waiters = nil
}

// add plans a record: it goes to the end of the batch and has its effect in
// the book. What it changes was checked.
func (q *Queue) add(k journal.Kind, v any, body []byte) error {
	if err := check(v); err != nil {
		return err
	}
	ops, err := encode(v)
	if err != nil {
		return err
	}
	size := int64(len(ops)+len(body)) + journal.HeaderSize + 8
	if n := int64(len(q.w.batch)); n > 0 && n+size > q.o.SegmentSize {
		if q.flush(); q.w.full {
			return kind.Errorf(kind.Full, "queue: no space to write")
		}
		if err := q.Failed(); err != nil {
			return err
		}
	}
	lsn, term, now := q.w.at.LSN, q.epoch.Load(), q.now()
	q.w.batch, q.w.at = journal.AppendRecord(q.w.batch, q.w.at, k, org.Term(term), now, ops, body)
	if err := q.book.reduce(v, lsn, term, now); err != nil {
		return q.fail(err) // the entries were loaded before: this is a bug or a bad disk
	}
	q.open.Store(q.book.open)
	return nil
}

func encode(v any) ([]byte, error) {
	ops, err := codec.Marshal(v)
	if err == nil && len(ops) > journal.MaxOps/2 {
		err = kind.Errorf(kind.Invalid, "record of %d bytes", len(ops))
	}
	return ops, err
}

// appendRecord makes a record outside of the writer.
func appendRecord(dst []byte, at journal.Position, k journal.Kind, epoch uint64, now int64, v any, body []byte) ([]byte, journal.Position, error) {
	ops, err := encode(v)
	if err != nil {
		return nil, at, err
	}
	dst, at = journal.AppendRecord(dst, at, k, org.Term(epoch), now, ops, body)
	return dst, at, nil
}

// flush writes the batch, brings it into the ledger and answers those who
// wait. A batch that finds no space stays and is tried again: those who wait
// get the error, and what they asked for may still come true.
func (q *Queue) flush() {
	w := &q.w
	w.due, w.full = time.Time{}, false
	err := q.Failed()
	if err == nil && len(w.batch) > 0 {
		err = q.log.Write(w.batch, w.from, w.at)
		switch {
		case kind.Is(err, kind.Full) && q.log.Failed() == nil:
			w.full, w.due = true, time.Now().Add(fullPause)
			q.answer(err)
			return
		case err != nil:
			q.fail(err)
		default:
			w.from, w.room = w.at, false
			if w.batch = w.batch[:0]; cap(w.batch) > 2*maxBatch {
				w.batch = nil
			}
		}
	}
	if err == nil {
		owes := len(q.book.ops) > 0
		if err = q.book.commit(w.from); err != nil {
			q.fail(err)
		} else if owes {
			q.tell()
		}
	}
	q.answer(err)
}

// fail ends writing for good.
func (q *Queue) fail(err error) error {
	if q.failure.CompareAndSwap(nil, &err) {
		q.o.Log.Error("queue failed", "dir", q.o.Dir, "error", err)
		q.o.Events.Emit(EventFailed, "Queue %s failed: %v.", q.o.Dir, err)
	}
	return err
}

// tell wakes those who wait for notices.
func (q *Queue) tell() {
	q.mu.Lock()
	defer q.mu.Unlock()
	close(q.told)
	q.told = make(chan struct{})
}

// OwedChanged is closed when notices may be owed that were not before; take it
// before Owed.
func (q *Queue) OwedChanged() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.told
}
