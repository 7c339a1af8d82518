package queue

import (
	"bytes"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// maxCached limits the rows of messages kept in memory that the ledger has.
const maxCached = 20_000

// book is what the records so far have made of messages: the ledger, and in
// memory what differs from it. One goroutine changes it; others read.
type book struct {
	led   *ledger
	began org.LSN // end of the log when this run began

	mu      sync.RWMutex // guards the entries below and what is in them
	entries map[mail.TraceID]*entry
	cached  int // rows in entries, about

	dirty []*entry
	ops   []func(*pebble.Batch) error // in order, what is not of one message
	fresh []owedAt                    // notices that ops write
	// told is up to where notices to a holder were taken out of the ledger in
	// this run: what is before need not be looked through again.
	told  map[org.ServerName]org.LSN
	marks marks
	open  int64 // own messages that are not finished, with what is dirty
}

func newBook(led *ledger, began org.LSN) *book {
	return &book{led: led, began: began, entries: map[mail.TraceID]*entry{}, told: map[org.ServerName]org.LSN{}}
}

// owedAt is the key of a notice.
type owedAt struct {
	holder org.ServerName
	at     org.LSN
	key    []byte
}

// noticed takes out the notices that a holder acknowledged, one by one: a
// deleted range would be one more that each look into the ledger has to put in
// order with all others, until they leave memory.
func (k *book) noticed(holder org.ServerName, upto org.LSN) {
	p := nameKey(kOwed, string(holder))
	lo, hi := be.AppendUint64(bytes.Clone(p), uint64(k.told[holder])), be.AppendUint64(bytes.Clone(p), uint64(upto)+1)
	k.told[holder] = max(k.told[holder], upto)
	var now [][]byte
	k.fresh = slices.DeleteFunc(k.fresh, func(o owedAt) bool {
		if o.holder != holder || o.at > upto {
			return false
		}
		now = append(now, o.key)
		return true
	})
	k.ops = append(k.ops, func(b *pebble.Batch) error {
		for _, key := range now {
			if err := b.Delete(key, nil); err != nil {
				return err
			}
		}
		return scan(k.led.db, lo, hi, func(key, _ []byte) (bool, error) { return true, b.Delete(key, nil) })
	})
}

// entry returns a message for the goroutine that changes the book, nil where
// there is none.
func (k *book) entry(id mail.TraceID) (*entry, error) {
	if e := k.entries[id]; e != nil {
		if e.gone {
			return nil, nil
		}
		return e, nil
	}
	e, err := loadEntry(k.led.db, id)
	if e != nil {
		k.add(e)
	}
	return e, err
}

func (k *book) add(e *entry) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.entries[e.m.ID] = e
	k.cached += len(e.rows)
}

// change lets do change an entry.
func (k *book) change(e *entry, do func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !e.dirty {
		k.dirty = append(k.dirty, e)
	}
	was := e.stored || e.dirty
	was = was && e.m.own() && e.m.Finished == 0
	e.begin()
	do()
	is := e.m.own() && e.m.Finished == 0 && !e.gone
	if was != is && is {
		k.open++
	} else if was != is {
		k.open--
	}
}

// see calls do with a message as planned, or with nil. do keeps nothing.
func (k *book) see(id mail.TraceID, do func(*entry)) error {
	k.mu.RLock()
	if e := k.entries[id]; e != nil {
		if e.gone {
			e = nil
		}
		do(e)
		k.mu.RUnlock()
		return nil
	}
	k.mu.RUnlock()
	return k.led.view(func(from pebble.Reader) error {
		e, err := loadEntry(from, id)
		if err == nil {
			do(e)
		}
		return err
	})
}

// commit brings what changed into the ledger, with the position it leads to.
func (k *book) commit(at journal.Position) error {
	if len(k.dirty) == 0 && len(k.ops) == 0 && at == *k.led.applied.Load() {
		return nil
	}
	b := k.led.db.NewBatch()
	defer b.Close()
	for _, op := range k.ops {
		if err := op(b); err != nil {
			return wrap(err, "write")
		}
	}
	if err := k.putDirty(b); err != nil {
		return err
	}
	if err := k.led.commit(b, at); err != nil {
		return err
	}
	k.leave()
	k.dirty, k.ops, k.fresh = nil, nil, nil
	k.trim()
	return nil
}

func (k *book) putDirty(b *pebble.Batch) error {
	k.mu.Lock() // put notes in the entry what the ledger has
	defer k.mu.Unlock()
	for _, e := range k.dirty {
		if err := e.put(b); err != nil {
			return err
		}
	}
	return nil
}

// leave forgets entries that left the ledger.
func (k *book) leave() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range k.dirty {
		if e.gone {
			delete(k.entries, e.m.ID)
		}
	}
}

// trim forgets entries that the ledger has, when there are many. It is for
// between requests: a plan keeps what it looked at.
func (k *book) trim() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cached <= maxCached+len(k.dirty) {
		return
	}
	k.cached = 0
	for id, e := range k.entries {
		if k.cached += len(e.rows); k.cached > maxCached/2 && !e.dirty {
			k.cached -= len(e.rows)
			delete(k.entries, id)
		}
	}
}

// replay brings a record in that was planned before: whatever it says was
// allowed then. What it says of messages that the log has no more is ignored.
func (k *book) replay(r *journal.Record) error {
	v, err := decodeRecord(r.Kind, r.Ops)
	if err != nil {
		return kind.Errorf(kind.Of(err), "record at %#x: %w", uint64(r.LSN), err)
	}
	return k.reduce(v, r.LSN, uint64(r.Term), r.Time)
}

// reduce makes the effect of a record.
func (k *book) reduce(v any, lsn org.LSN, term uint64, at int64) error {
	switch r := v.(type) {
	case *Accepted:
		if err := k.install(newEntry(r, lsn)); err != nil {
			return err
		}
		return k.changes(r.Also, nil, lsn, at)
	case *shadowRec:
		a, err := DecodeAccepted(r.Accept)
		if err != nil {
			return err
		}
		e := newEntry(a, lsn)
		e.m.Primary, e.m.Queue, e.m.Try, e.m.Shadow = r.Primary, r.Queue, r.Try, ""
		if err := k.install(e); err != nil {
			return err
		}
		// What the message answers is of the primary; its own rows count.
		return k.changes(a.Also, &a.ID, lsn, at)
	case *stateRec:
		return k.changes(r.Changes, nil, lsn, at)
	case *noticedRec:
		k.noticed(r.Server, r.Upto)
	case *takeRec:
		for _, id := range r.IDs {
			e, err := k.entry(id)
			if err != nil {
				return err
			}
			if e != nil && e.m.Primary == r.Primary && e.m.Finished == 0 {
				k.change(e, func() { e.take(term, lsn, at) })
			}
		}
	case *carryRec:
		e, err := r.entry(lsn)
		if err != nil {
			return err
		}
		return k.install(e)
	case *requestRec:
		v := codec.MustMarshal(r)
		k.ops = append(k.ops, func(b *pebble.Batch) error { return b.Set(append([]byte{kRequest}, r.ID...), v, nil) })
	}
	return nil
}

// install puts a message in, in the place of one of the same identity.
func (k *book) install(e *entry) error {
	old, err := k.entry(e.m.ID)
	if err != nil {
		return err
	}
	if old == nil {
		if gone := k.entries[e.m.ID]; gone != nil { // left the ledger with this batch
			k.change(gone, func() { gone.gone = false; gone.replace(e) })
			return nil
		}
		k.add(e)
		k.change(e, func() {})
		return nil
	}
	k.change(old, func() { old.replace(e) })
	return nil
}

func (k *book) changes(cs []Change, only *mail.TraceID, lsn org.LSN, at int64) error {
	for i := range cs {
		c := &cs[i]
		if only != nil && c.ID != *only {
			continue
		}
		e, err := k.entry(c.ID)
		if err != nil {
			return err
		}
		if e == nil {
			continue
		}
		var out []owed
		k.change(e, func() { out = e.apply(c, lsn, at) })
		for _, o := range out {
			key, v := owedKey(o.shadow, lsn, c.ID), be.AppendUint64([]byte{byte(o.fate)}, uint64(o.at))
			k.fresh = append(k.fresh, owedAt{o.shadow, lsn, key})
			k.ops = append(k.ops, func(b *pebble.Batch) error { return b.Set(key, v, nil) })
		}
	}
	return nil
}

// carry makes the record that moves a message to the end of the log.
func (e *entry) carry() *carryRec {
	r := &carryRec{V: recordVersion, From: e.m.LSN, Message: codec.MustMarshal(&e.m), Rows: make([][]byte, len(e.rows))}
	for i := range e.rows {
		r.Rows[i] = codec.MustMarshal(&e.rows[i])
	}
	return r
}

// entry reads the message out of the record, which is at lsn.
func (r *carryRec) entry(lsn org.LSN) (*entry, error) {
	e := &entry{rows: make([]row, len(r.Rows))}
	if err := codec.Unmarshal(r.Message, &e.m); err != nil {
		return nil, kind.Errorf(kind.Corrupt, "carried message: %w", err)
	}
	for i := range r.Rows {
		if err := codec.Unmarshal(r.Rows[i], &e.rows[i]); err != nil {
			return nil, kind.Errorf(kind.Corrupt, "carried message %s: %w", e.m.ID, err)
		}
	}
	if e.m.Rows != len(e.rows) {
		return nil, kind.Errorf(kind.Corrupt, "carried message %s has %d rows of %d", e.m.ID, len(e.rows), e.m.Rows)
	}
	e.m.LSN = lsn
	return e, nil
}
