package queue

import (
	"context"
	"fmt"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Begin begins an epoch, which has to be greater than the one before. What is
// accepted from then on bears it.
func (q *Queue) Begin(ctx context.Context, epoch uint64) error {
	return q.do(ctx, Wait, 0, func() error {
		if now := q.epoch.Load(); epoch <= now {
			return kind.Errorf(kind.Conflict, "begin epoch %d: it is %d", epoch, now)
		}
		q.epoch.Store(epoch)
		return q.add(KindEpoch, &epochRec{V: recordVersion, Identity: q.identity, Epoch: epoch}, nil)
	})
}

// Accept takes a message; on nil it is durable and body belongs to the queue.
// A message of this identity that is here is Exists. Full and Busy say that the
// queue is pressed. After an error the message may still be there (promise 1):
// it is voided by Apply, where NotFound then means that it never was.
func (q *Queue) Accept(ctx context.Context, a Accepted, body []byte) error {
	a.V, a.Size = recordVersion, int64(len(body))
	a.trim()
	err := q.do(ctx, Wait, int64(len(body)), func() error {
		if err := q.place(len(body)); err != nil {
			return err
		}
		if q.open.Load() >= q.o.MaxMessages {
			return kind.Errorf(kind.Full, "queue has %d messages", q.open.Load())
		}
		a.Epoch = q.epoch.Load()
		if err := a.check(); err != nil {
			return err
		}
		if old, err := q.book.entry(a.ID); err != nil {
			return err
		} else if old != nil && !old.vacant() {
			return kind.Errorf(kind.Exists, "message %s is here", a.ID)
		}
		if err := q.allowed(a.Also, &a); err != nil {
			return err
		}
		return q.add(KindAccept, &a, body)
	})
	if err != nil {
		return fmt.Errorf("accept message %s: %w", a.ID, err)
	}
	q.hot.put(a.ID, body)
	return q.book.see(a.ID, func(e *entry) { // somebody may have been quick to end it
		if e == nil || !e.hot() {
			q.hot.drop(a.ID)
		}
	})
}

// Encode is the message as another server stores a copy of it, under the
// present epoch of the queue.
func (q *Queue) Encode(a Accepted, size int64) ([]byte, error) {
	a.V, a.Size, a.Epoch = recordVersion, size, q.epoch.Load()
	a.trim()
	if err := a.check(); err != nil {
		return nil, err
	}
	return encode(&a)
}

// vacant tells whether another message of the identity may take the place of
// this one: a copy that is over, or a message that is another server's.
func (e *entry) vacant() bool {
	return e.m.Finished != 0 && (!e.m.own() || e.m.Fate == FateTaken || e.m.Fate == FateVoid)
}

// place asks whether a body may be written.
func (q *Queue) place(n int) error {
	if n > MaxBody {
		return kind.Errorf(kind.Invalid, "message of %d bytes, more than %d", n, MaxBody)
	}
	if q.w.full {
		return kind.Errorf(kind.Full, "queue: no space to write")
	}
	if q.w.room {
		return nil
	}
	if err := q.Room(); err != nil {
		return err
	}
	q.w.room = true
	return nil
}

// StoreShadow holds a copy for another server; on nil it is durable. The same
// copy once more is fine; one of a later try takes its place. A message that
// is this server's own, or another server's copy, is Conflict.
func (q *Queue) StoreShadow(ctx context.Context, c ShadowCopy) error {
	a, err := DecodeAccepted(c.Accept)
	if err != nil {
		return fmt.Errorf("store copy: %w", err)
	}
	rec := &shadowRec{V: recordVersion, Primary: c.Primary, Queue: c.Queue, Try: c.Try, Accept: c.Accept}
	err = q.do(ctx, Wait, int64(len(c.Body)), func() error {
		if a.Size != int64(len(c.Body)) {
			return kind.Errorf(kind.Invalid, "body of %d bytes, want %d", len(c.Body), a.Size)
		}
		old, err := q.book.entry(a.ID)
		if err != nil {
			return err
		}
		if old != nil && !old.vacant() {
			m := &old.m
			switch {
			case m.own(), m.Primary != c.Primary, m.Queue != c.Queue, m.Identity != a.Identity, m.Size != a.Size:
				return kind.Errorf(kind.Conflict, "another message %s is here", a.ID)
			case m.Epoch == a.Epoch && m.Try == c.Try:
				return nil // the flush that follows makes it durable, if it is not yet
			}
		}
		if err := q.place(len(c.Body)); err != nil {
			return err
		}
		return q.add(KindShadow, rec, c.Body)
	})
	if err != nil {
		return fmt.Errorf("store copy %s of %s: %w", a.ID, c.Primary, err)
	}
	return nil
}

// allowed checks changes before any is made. fresh is a message that comes
// with them.
func (q *Queue) allowed(cs []Change, fresh *Accepted) error {
	if err := checkChanges(cs); err != nil {
		return err
	}
	for i := range cs {
		c := &cs[i]
		var e *entry
		var err error
		if fresh != nil && c.ID == fresh.ID {
			e = newEntry(fresh, q.w.at.LSN)
		} else if e, err = q.book.entry(c.ID); err != nil {
			return err
		}
		if e == nil {
			return kind.Errorf(kind.NotFound, "change message %s: there is none", c.ID)
		}
		if err := e.allowed(c, q.book.began); err != nil {
			return err
		}
	}
	return nil
}

// Apply changes messages, all or none, one change for each. It is the only way
// states change. What the table does not allow is Conflict, an unknown message
// NotFound. With Wait it is durable on nil.
func (q *Queue) Apply(ctx context.Context, cs []Change, d Durability) error {
	if len(cs) == 0 {
		return nil
	}
	cs = trimmed(cs)
	return q.do(ctx, d, int64(128*len(cs)), func() error {
		if err := q.allowed(cs, nil); err != nil {
			return err
		}
		if err := q.add(KindState, &stateRec{V: recordVersion, Changes: cs}, nil); err != nil {
			return err
		}
		for i := range cs {
			if e, err := q.book.entry(cs[i].ID); err == nil && e != nil && !e.hot() {
				q.hot.drop(cs[i].ID)
			}
		}
		return nil
	})
}

// hot tells whether a first attempt is still due.
func (e *entry) hot() bool {
	for i := range e.rows {
		if s := e.rows[i].State; s == StateNew || s == StateReady || s == StateAttempt {
			return e.m.own() && e.m.Finished == 0
		}
	}
	return false
}

// Take makes copies held for primary this server's own messages, in its
// present epoch; on nil that is durable. queue and epoch are those up to which
// it was taken from. Copies that are over or of a later epoch, and identities
// that are not held, are passed over, so it can be repeated.
func (q *Queue) Take(ctx context.Context, primary org.ServerName, queue string, epoch uint64, ids []mail.TraceID) error {
	return q.do(ctx, Wait, int64(16*len(ids)), func() error {
		if len(ids) > MaxTake {
			return kind.Errorf(kind.Invalid, "take of %d messages, more than %d", len(ids), MaxTake)
		}
		r := &takeRec{V: recordVersion, Primary: primary, Queue: queue, Epoch: epoch}
		for _, id := range ids {
			e, err := q.book.entry(id)
			if err != nil {
				return err
			}
			if e != nil && e.m.Primary == primary && e.m.Finished == 0 && e.m.Epoch <= epoch {
				r.IDs = append(r.IDs, id)
			}
		}
		if len(r.IDs) == 0 {
			return nil
		}
		return q.add(KindTake, r, nil)
	})
}

// Noticed notes that the holder of copies, with the queue of that identity,
// acknowledged what it was owed up to a position. It is Lazy: what is lost in
// a crash is told twice.
func (q *Queue) Noticed(ctx context.Context, holder org.ServerName, queue string, upto org.LSN) error {
	return q.do(ctx, Lazy, 0, func() error {
		return q.add(KindNoticed, &noticedRec{V: recordVersion, Server: holder, Queue: queue, Upto: upto}, nil)
	})
}
