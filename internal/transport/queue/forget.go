package queue

import (
	"context"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Limits of forgetting and carrying.
const (
	forgetAtOnce  = 1000 // messages
	carryMessages = 1000 // more living bodies than that block the front of the log
	carryBytes    = 64 << 20
	shortest      = 15 * time.Minute // Safety Net is not shortened below
)

// Tidy forgets what was finished for long enough, brings the ledger to the
// disk and gives back what of the log nobody needs. Run does it every 30 s.
func (q *Queue) Tidy(ctx context.Context) error {
	now := q.o.Now()
	bodies := now.Add(-q.times.Load().Hold)
	if err := q.forget(ctx, bodies, now.Add(-q.times.Load().Retention)); err != nil {
		return err
	}
	if err := q.drop(ctx); err != nil {
		return err
	}
	if q.Level() == LevelNormal {
		return nil
	}
	return q.shorten(ctx, now, bodies)
}

// shorten gives up what is kept for Safety Net, oldest first, one tenth of
// the hold time after the other, until the pressure is gone.
func (q *Queue) shorten(ctx context.Context, now, from time.Time) error {
	step := max(q.times.Load().Hold/10, time.Minute)
	last := now.Add(-shortest)
	for t := from; q.Level() != LevelNormal && t.Before(last); {
		if t = t.Add(step); t.After(last) {
			t = last
		}
		used := q.log.Used()
		if err := q.forget(ctx, t, now.Add(-q.times.Load().Retention)); err != nil {
			return err
		}
		if err := q.drop(ctx); err != nil {
			return err
		}
		if q.log.Used() < used {
			q.note("ShortenSafetyNet", "the volume of the queue is under "+q.Level().String()+" pressure", fmt.Sprintf("%d bytes of log were given back", used-q.log.Used()),
				fmt.Sprintf("Safety Net holds messages for %v only", now.Sub(t).Round(time.Minute)))
			q.o.Events.Emit(EventShortened, "Safety Net holds messages for %v only: the volume of the queue is under %s pressure.",
				now.Sub(t).Round(time.Minute), q.Level())
		}
		q.judge()
	}
	return nil
}

// forget gives up bodies of what finished before one time, and rows of what
// finished before another.
func (q *Queue) forget(ctx context.Context, bodies, history time.Time) error {
	m := marks{Bodies: int64(nanos(bodies)), History: int64(min(nanos(bodies), nanos(history)))}
	for more := true; more; {
		err := q.do(ctx, Wait, 0, func() (err error) {
			more, err = q.book.forget(m, forgetAtOnce)
			q.open.Store(q.book.open)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// forget plans at most n messages; more tells whether some are left. The marks
// are noted first and never go back, so that what is half done can be ended.
func (k *book) forget(m marks, n int) (more bool, err error) {
	m = marks{max(m.Bodies, k.marks.Bodies), max(m.History, k.marks.History)}
	k.marks = m
	v := codec.MustMarshal(m)
	k.ops = append(k.ops, func(b *pebble.Batch) error { return b.Set(marksKey, v, nil) })
	left := n
	each := func(prefix byte, to int64, do func(*entry)) error {
		var ids []mail.TraceID
		err := scan(k.led.db, []byte{prefix}, be.AppendUint64([]byte{prefix}, uint64(to)), func(key, _ []byte) (bool, error) {
			if len(key) != 25 {
				return false, kind.Errorf(kind.Corrupt, "ledger: time key of %d bytes", len(key))
			}
			ids = append(ids, mail.TraceID(key[9:]))
			return len(ids) < left, nil
		})
		if err != nil {
			return err
		}
		left -= len(ids)
		for _, id := range ids {
			e, err := k.entry(id)
			if err != nil {
				return err
			}
			if e != nil && e.m.Finished != 0 { // it may have been replaced in this batch
				k.change(e, func() { do(e) })
			}
		}
		return nil
	}
	if err := each(kFinished, m.Bodies, func(e *entry) { e.m.Forgotten = true }); err != nil || left == 0 {
		return true, err
	}
	if err := each(kHistory, m.History, func(e *entry) { e.gone = e.m.Forgotten }); err != nil || left == 0 {
		return true, err
	}
	return false, nil
}

// drop gives back the segments in front of the oldest body that is needed.
// Before, what is in the way is carried, and the ledger is brought to the disk,
// as the log cannot say any more what it says.
func (q *Queue) drop(ctx context.Context) error {
	if err := q.carry(ctx); err != nil {
		return err
	}
	end := q.book.led.applied.Load().LSN
	if err := q.book.led.flush(nil); err != nil {
		return err
	}
	q.flushed.Store(int64(end))
	oldest := end
	err := q.book.led.view(func(from pebble.Reader) error {
		return scan(from, []byte{kBody}, []byte{kBody + 1}, func(k, _ []byte) (bool, error) {
			oldest = min(oldest, org.LSN(be.Uint64(k[1:])))
			return false, nil
		})
	})
	if err != nil {
		return err
	}
	return q.log.DropBefore(oldest)
}

// carry moves the last living bodies of the first segment to the end of the
// log, when they are few and old.
func (q *Queue) carry(ctx context.Context) error {
	start := q.log.Start()
	hi := start + org.LSN(q.o.SegmentSize)
	if hi >= q.log.End().LSN {
		return nil
	}
	old := q.o.Now().Add(-q.times.Load().Hold - q.times.Load().Expiration).UnixNano()
	var ids []mail.TraceID
	var size int64
	err := q.book.led.view(func(from pebble.Reader) error {
		return scan(from, bodyKey(start), bodyKey(hi), func(_, v []byte) (bool, error) {
			var m messageRow
			id := mail.TraceID(v)
			if found, err := read(from, idKey(kMessage, id), &m); err != nil || !found {
				return false, err
			}
			if size += m.Size; m.Received > old && q.Level() == LevelNormal || len(ids) == carryMessages || size > carryBytes {
				ids = nil
				return false, nil
			}
			ids = append(ids, id)
			return true, nil
		})
	})
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := q.carryOne(ctx, id, hi); err != nil {
			return err
		}
	}
	return q.do(ctx, Wait, 0, func() error { return nil })
}

func (q *Queue) carryOne(ctx context.Context, id mail.TraceID, hi org.LSN) error {
	at, size, err := q.bodyAt(id)
	if err != nil || at >= hi {
		return nil // it is gone or moved, both are fine
	}
	var body []byte
	if size > 0 {
		if body, err = q.log.Body(at, 0, 0); err != nil {
			return err
		}
	}
	return q.move(ctx, id, at, body, Soon)
}

// move writes a message again, with its body.
func (q *Queue) move(ctx context.Context, id mail.TraceID, at org.LSN, body []byte, d Durability) error {
	return q.do(ctx, d, int64(len(body)), func() error {
		e, err := q.book.entry(id)
		if err != nil || e == nil || e.m.Forgotten || e.m.LSN != at {
			return err
		}
		return q.add(KindCarry, e.carry(), body)
	})
}

// Mend writes a message again with a body that was fetched from where it was
// not damaged.
func (q *Queue) Mend(ctx context.Context, id mail.TraceID, body []byte) error {
	at, size, err := q.bodyAt(id)
	if err != nil {
		return err
	}
	if int64(len(body)) != size {
		return kind.Errorf(kind.Invalid, "body of message %s has %d bytes, want %d", id, len(body), size)
	}
	return q.move(ctx, id, at, body, Wait)
}
