package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// maxDifferences limits what a report lists.
const maxDifferences = 100

// VerifyReport is what a comparison of log and ledger found.
type VerifyReport struct {
	Upto        org.LSN // position of the log that was compared
	Keys        int64
	Older       int64 // keys of finished messages that only the ledger knows, as the log has dropped them
	Differences []Difference
	More        int64 // differences that are not listed
}

// Difference is a key that is not what the log says.
type Difference struct {
	Key  string // in hex, behind its kind
	ID   mail.TraceID
	What string // missing, too much, other
}

// Verify makes another ledger from the log and compares the two key by key. It
// reads the whole log; the queue goes on meanwhile.
func (q *Queue) Verify(ctx context.Context) (rep VerifyReport, err error) {
	dir := q.path("verify")
	if err := q.o.IndexFS.RemoveAll(dir); err != nil {
		return rep, err
	}
	led, err := openLedger(dir, q.identity, q.o.IndexFS, q.o.Log)
	if err != nil {
		return rep, err
	}
	defer func() { err = errors.Join(err, led.closeDB(), q.o.IndexFS.RemoveAll(dir)) }()
	var snap *pebble.Snapshot
	var at journal.Position
	var m marks
	// Everything planned is written and forgotten up to the same time in
	// both; a pass that is under way ends first.
	if err := q.settled(ctx, func() error {
		m = q.book.marks
		snap, at = q.book.led.db.NewSnapshot(), *q.book.led.applied.Load()
		return nil
	}); err != nil {
		return rep, err
	}
	defer func() { err = errors.Join(err, snap.Close()) }()
	again := newBook(led, q.book.began)
	if err := replayInto(ctx, q.log, again, at.LSN); err != nil {
		return rep, err
	}
	for more := true; more; {
		if more, err = again.forget(m, forgetAtOnce); err == nil {
			err = again.commit(at)
		}
		if err != nil {
			return rep, err
		}
	}
	rep.Upto = at.LSN
	return rep, rep.compare(ctx, snap, led.db, q.log.Start())
}

// settled has the writer do something when the ledger has all that was
// planned and is forgotten up to its marks.
func (q *Queue) settled(ctx context.Context, do func() error) error {
	for more := true; more; {
		err := q.do(ctx, Wait, 0, func() error {
			q.flush()
			if err := q.Failed(); err != nil {
				return err
			}
			if q.w.full {
				return kind.Errorf(kind.Full, "queue: no space to write")
			}
			var err error
			if more, err = q.book.forget(q.book.marks, forgetAtOnce); err != nil || more {
				return err
			}
			if q.flush(); q.Failed() != nil {
				return q.Failed()
			}
			return do()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// compare walks through both.
func (rep *VerifyReport) compare(ctx context.Context, have, want pebble.Reader, start org.LSN) (err error) {
	o := &pebble.IterOptions{LowerBound: []byte{kLocal + 1}}
	a, err := have.NewIter(o)
	if err != nil {
		return wrap(err, "read")
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	b, err := want.NewIter(o)
	if err != nil {
		return wrap(err, "read")
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	a.First()
	for b.First(); a.Valid() || b.Valid(); {
		if rep.Keys++; rep.Keys%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		c := -1 // the ledger has a key more
		if !a.Valid() {
			c = 1
		} else if b.Valid() {
			c = bytes.Compare(a.Key(), b.Key())
		}
		switch {
		case c < 0:
			old, err := older(have, a.Key(), start)
			if err != nil {
				return err
			}
			if old {
				rep.Older++
			} else {
				rep.differ(a.Key(), "too much")
			}
		case c > 0:
			rep.differ(b.Key(), "missing")
		case !bytes.Equal(a.Value(), b.Value()):
			rep.differ(a.Key(), "other")
		}
		if c <= 0 {
			a.Next()
		}
		if c >= 0 {
			b.Next()
		}
	}
	return wrap(errors.Join(a.Error(), b.Error()), "read")
}

func (rep *VerifyReport) differ(key []byte, what string) {
	if len(rep.Differences) == maxDifferences {
		rep.More++
		return
	}
	id, _ := keyID(key)
	rep.Differences = append(rep.Differences, Difference{Key: fmt.Sprintf("%c %x", key[0], key[1:]), ID: id, What: what})
}

// keyID finds the message a key is about.
func keyID(k []byte) (id mail.TraceID, ok bool) {
	at := -1
	switch k[0] {
	case kMessage, kRow, kJob:
		at = 1
	case kFinished, kHistory, kCopy, kOwed, kSearch:
		at = len(k) - 16
	case kKept, kCopyKept:
		at = len(k) - 18
	}
	if at < 1 || at+16 > len(k) {
		return id, false
	}
	return mail.TraceID(k[at:]), true
}

// older tells whether a key is about a message whose record the log dropped,
// which it may do when the message is over.
func older(from pebble.Reader, key []byte, start org.LSN) (bool, error) {
	if key[0] == kRequest {
		return true, nil
	}
	id, ok := keyID(key)
	if !ok {
		return false, nil
	}
	if key[0] == kOwed && org.LSN(be.Uint64(key[len(key)-24:])) < start {
		return true, nil // its message may have been carried
	}
	var m messageRow
	found, err := read(from, idKey(kMessage, id), &m)
	if err != nil || !found {
		return false, err
	}
	return m.LSN < start && m.Forgotten, nil
}
