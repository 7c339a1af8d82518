package queue

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Message returns a message with its rows, as changed by what was applied last.
// NotFound where there is none.
func (q *Queue) Message(id mail.TraceID) (m Message, rows []RecipientRow, err error) {
	found := false
	err = q.book.see(id, func(e *entry) {
		if e == nil {
			return
		}
		found, m = true, e.message()
		rows = make([]RecipientRow, len(e.rows))
		for n := range e.rows {
			rows[n] = e.row(n, q.book.began)
		}
	})
	if err == nil && !found {
		err = kind.Errorf(kind.NotFound, "no message %s", id)
	}
	return m, rows, err
}

// Body returns the body of a message or copy, verified. It must not be
// changed. NotFound where there is no message or its body was given up, Corrupt
// where the disk has it no more as it was.
func (q *Queue) Body(ctx context.Context, id mail.TraceID) ([]byte, error) {
	if b := q.hot.get(id); b != nil {
		return b, nil
	}
	// A message may be carried while it is read, and its old place dropped.
	for {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("body of message %s: %w", id, err)
		}
		at, size, err := q.bodyAt(id)
		if err != nil {
			return nil, err
		}
		if size == 0 {
			return nil, nil
		}
		b, err := q.log.Body(at, 0, 0)
		if kind.Is(err, kind.NotFound) {
			if now, _, err := q.bodyAt(id); err == nil && now != at {
				continue
			}
		}
		if kind.Is(err, kind.Corrupt) {
			q.o.Events.Emit(EventDamaged, "The body of message %s is damaged: %v.", id, err)
		}
		if err == nil && int64(len(b)) != size {
			err = kind.Errorf(kind.Corrupt, "%d bytes, want %d", len(b), size)
		}
		if err != nil {
			return nil, fmt.Errorf("body of message %s: %w", id, err)
		}
		return b, nil
	}
}

func (q *Queue) bodyAt(id mail.TraceID) (at org.LSN, size int64, err error) {
	gone := true
	err = q.book.see(id, func(e *entry) {
		if e != nil && !e.m.Forgotten {
			gone, at, size = false, e.m.LSN, e.m.Size
		}
	})
	if err == nil && gone {
		err = kind.Errorf(kind.NotFound, "no body of message %s", id)
	}
	return at, size, err
}

// dead tells whether nobody needs the body at a position.
func (q *Queue) dead(at org.LSN) bool {
	_, closer, err := q.book.led.db.Get(bodyKey(at))
	if err == nil {
		closer.Close()
	}
	return err == pebble.ErrNotFound && at < q.book.led.applied.Load().LSN
}

// Job is the unfinished work of a message for one destination.
type Job struct {
	ID       mail.TraceID
	Dest     string // empty: not known yet
	Size     int64
	Priority mail.Priority
	State    State // of its first row that is not suspended
	Flags    uint32
	Attempts uint16
	Next     time.Time // zero: now
	Expires  time.Time
	Org      uint64 // hash of the organization it counts for
	Sender   uint64 // hash of the envelope's sender
	First    uint16 // its rows are among First to Last
	Last     uint16
}

// Unfinished goes through what is left to do of own messages, in the order
// they arrived. It is for the time after Open.
func (q *Queue) Unfinished() iter.Seq2[Job, error] {
	return func(yield func(Job, error) bool) {
		err := q.book.led.view(func(from pebble.Reader) error {
			return scan(from, []byte{kJob}, []byte{kJob + 1}, func(k, v []byte) (bool, error) {
				j, err := decodeJob(v)
				if err != nil {
					return false, err
				}
				if j.state == StateAttempt && j.changed < q.book.began {
					j.state = StateDoubtful
				}
				return yield(Job{ID: mail.TraceID(k[1:17]), Dest: string(k[17:]), Size: int64(j.size), Priority: j.priority,
					State: j.state, Flags: j.flags, Attempts: j.attempts, Next: when(j.next), Expires: when(j.expires),
					Org: j.org, Sender: j.sender, First: j.first, Last: j.last}, nil), nil
			})
		})
		if err != nil {
			yield(Job{}, err)
		}
	}
}

// Oldest is when the oldest unfinished message of this server was accepted,
// zero where there is none.
func (q *Queue) Oldest() (at time.Time) {
	err := q.book.led.view(func(from pebble.Reader) error {
		return scan(from, []byte{kJob}, []byte{kJob + 1}, func(k, _ []byte) (bool, error) {
			at = mail.TraceID(k[1:17]).Time()
			return false, nil
		})
	})
	if err != nil {
		q.o.Log.Warn("oldest message is not known", "error", err)
	}
	return at
}

// HeldCopy is a copy of another server's message that is not over.
type HeldCopy struct {
	ID    mail.TraceID
	Try   uint8
	Epoch uint64
}

// Held goes through the copies held for a server that are not over, those
// behind after.
func (q *Queue) Held(primary org.ServerName, behind mail.TraceID) iter.Seq2[HeldCopy, error] {
	return func(yield func(HeldCopy, error) bool) {
		p := nameKey(kCopy, string(primary))
		lo := append(copyKey(primary, behind), 0)
		if behind == (mail.TraceID{}) {
			lo = p
		}
		err := q.book.led.view(func(from pebble.Reader) error {
			return scan(from, lo, after(p), func(k, v []byte) (bool, error) {
				if len(k) != len(p)+16 || len(v) != 17 {
					return false, kind.Errorf(kind.Corrupt, "ledger: copy with %d and %d bytes", len(k), len(v))
				}
				return yield(HeldCopy{ID: mail.TraceID(k[len(p):]), Try: v[0], Epoch: be.Uint64(v[1:])}, nil), nil
			})
		})
		if err != nil {
			yield(HeldCopy{}, err)
		}
	}
}

// Notice is what the holder of a copy has to be told. Rows are the rows as they
// are now, in the form in which the holder applies them.
type Notice struct {
	ID   mail.TraceID
	Fate Fate
	At   int64 // Unix nanoseconds
	Rows []RowChange
}

// Owed goes through the notices a holder has not acknowledged, those behind a
// position, oldest first; each with the position that Noticed is to be given
// once it and all before it were acknowledged. Several may have the same.
func (q *Queue) Owed(holder org.ServerName, behind org.LSN) iter.Seq2[Owing, error] {
	return func(yield func(Owing, error) bool) {
		p := nameKey(kOwed, string(holder))
		lo := be.AppendUint64(bytes.Clone(p), uint64(behind)+1)
		if behind == 0 {
			lo = p
		}
		err := q.book.led.view(func(from pebble.Reader) error {
			return scan(from, lo, after(p), func(k, v []byte) (bool, error) {
				if len(k) != len(p)+24 || len(v) != 9 {
					return false, kind.Errorf(kind.Corrupt, "ledger: notice with %d and %d bytes", len(k), len(v))
				}
				n := Notice{ID: mail.TraceID(k[len(p)+8:]), Fate: Fate(v[0]), At: int64(be.Uint64(v[1:]))}
				e, err := loadEntry(from, n.ID)
				if err != nil {
					return false, err
				}
				if e != nil && e.m.own() && n.Fate < FateSuperseded {
					n.Rows = e.brief()
				}
				return yield(Owing{At: org.LSN(be.Uint64(k[len(p):])), Notice: n}, nil), nil
			})
		})
		if err != nil {
			yield(Owing{}, err)
		}
	}
}

// Owing is a notice and the position of its record.
type Owing struct {
	At     org.LSN
	Notice Notice
}

// brief is what the holder of a copy has to know of the rows.
func (e *entry) brief() []RowChange {
	var out []RowChange
	for n := range e.rows {
		r := &e.rows[n]
		if r.State == StateNew && r.Why == 0 {
			continue
		}
		c := RowChange{N: uint16(n), State: r.State, Attempts: r.Attempts, Next: r.Next, Code: r.Code, Status: r.Status, Text: r.Text,
			Host: r.Host, TLS: r.TLS, Mailbox: r.Mailbox, Duplicate: r.Duplicate, Child: r.Child, At: r.Last, Repeat: r.Repeat,
			Dest: r.Dest, Org: r.Org}
		if r.Why != 0 {
			c.New = &RowNew{Parent: r.Parent, Address: r.Address, ORcpt: r.ORcpt, Notify: r.Notify, Dest: r.Dest, Org: r.Org, Why: r.Why}
		}
		out = append(out, c)
	}
	return out
}

// Kept is a delivery kept for Safety Net.
type Kept struct {
	ID      mail.TraceID
	Row     uint16
	At      time.Time
	Mailbox org.MailboxID
}

// Kept goes through the deliveries of own messages into a database between two
// times, both included, by time.
func (q *Queue) Kept(db org.DatabaseName, from, to time.Time) iter.Seq2[Kept, error] {
	return q.kept(nameKey(kKept, string(db)), from, to)
}

// KeptShadow is Kept of the copies that were held for another server.
func (q *Queue) KeptShadow(primary org.ServerName, db org.DatabaseName, from, to time.Time) iter.Seq2[Kept, error] {
	return q.kept(nameKey(kCopyKept, string(primary), string(db)), from, to)
}

func (q *Queue) kept(p []byte, from, to time.Time) iter.Seq2[Kept, error] {
	return func(yield func(Kept, error) bool) {
		lo := be.AppendUint64(bytes.Clone(p), nanos(from))
		hi := be.AppendUint64(bytes.Clone(p), nanos(to)+1)
		err := q.book.led.view(func(r pebble.Reader) error {
			return scan(r, lo, hi, func(k, v []byte) (bool, error) {
				k = k[len(p):]
				if len(k) != 26 || len(v) != 16 {
					return false, kind.Errorf(kind.Corrupt, "ledger: kept delivery with %d and %d bytes", len(k), len(v))
				}
				return yield(Kept{ID: mail.TraceID(k[8:24]), Row: be.Uint16(k[24:]), At: when(int64(be.Uint64(k))), Mailbox: org.MailboxID(v)}, nil), nil
			})
		})
		if err != nil {
			yield(Kept{}, err)
		}
	}
}

// nanos makes a time a number that sorts; before 1970 is 1970.
func nanos(t time.Time) uint64 {
	if t.Unix() < 0 {
		return 0
	}
	return uint64(t.UnixNano())
}
