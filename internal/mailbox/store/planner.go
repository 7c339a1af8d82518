package store

import (
	"time"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Planner turns requests into ops. It is used by one goroutine, the sequencer
// of the active copy, which gives each planned record the next position of the
// log. Its view is the index and everything it planned that is not settled.
type Planner struct {
	ix   *Index
	over *overlay
	hot  hotRows
	seen org.LSN // DependsOn of the request at hand
	old  expiry
	// window is how long delivery identities are remembered.
	window time.Duration
}

// NewPlanner returns a planner that has nothing in flight. window is how long
// a mailbox remembers delivery identities.
func NewPlanner(ix *Index, window time.Duration) *Planner {
	return &Planner{ix: ix, over: newOverlay(), hot: hotRows{}, window: window}
}

// Planned is what is to be written for a request, or its answer when nothing is.
type Planned struct {
	Ops    []byte
	Body   []byte // to be kept in the record, nil for none
	Result any    // what the request's type says
	// NoOp: there is nothing to write and Result is the answer, for example to
	// a change with a key that was applied before.
	NoOp bool
	// DependsOn is set for answers without a record (NoOp or an error) that
	// rest on records which may be unconfirmed: the answer may be given when
	// everything below this position is confirmed.
	DependsOn org.LSN
	// Changed are the mailboxes that are different afterwards.
	Changed []Change
}

// Change tells that a mailbox changed, and its modification number since; 0
// where that is not one number.
type Change struct {
	Mailbox org.MailboxID
	ModSeq  mail.ModSeq
}

// Requests of Plan and the types of their results.
type (
	// SetupReq creates, changes or removes a mailbox. Result: nil.
	SetupReq struct {
		Mailbox org.MailboxID
		mail.MailboxSetup
	}
	// AppendReq is answered by mail.Appended.
	AppendReq struct {
		Mailbox org.MailboxID
		mail.Append
		Summary *mail.Summary // parsed outside the sequencer

		prep *prepared
	}
	// DeliverReq has only recipients of this database. Result:
	// []mail.Delivered, in the order of the recipients.
	DeliverReq struct {
		mail.Delivery
		Summary *mail.Summary // parsed outside the sequencer

		prep *prepared
	}
	// FolderReq is answered by mail.Folder, for a delete as it was before.
	FolderReq struct {
		Mailbox org.MailboxID
		mail.FolderChange
	}
	// FlagsReq is answered by mail.FlagsChanged.
	FlagsReq struct {
		Mailbox org.MailboxID
		mail.FlagsChange
	}
	// ExpungeReq is answered by mail.Expunged.
	ExpungeReq struct {
		Mailbox org.MailboxID
		mail.Expunge
	}
	// CopyReq is answered by mail.Copied.
	CopyReq struct {
		Mailbox org.MailboxID
		mail.CopyRequest
	}
)

// Plan plans a request as the record that will begin at position at. On an
// error nothing changes; on success the planner counts the record as written
// (unless NoOp), so when it cannot be written, Reset.
func (p *Planner) Plan(req any, at org.LSN, now time.Time) (Planned, error) {
	p.seen = 0
	t := &txn{p: p, at: at, now: now.UnixNano(), local: map[string][]byte{}}
	out, err := t.run(req)
	if err == nil && !out.NoOp {
		err = t.finish()
	}
	if err == nil {
		err = p.ix.health()
	}
	if err != nil {
		return Planned{DependsOn: p.seen}, err
	}
	if out.NoOp {
		out.DependsOn = p.seen
		return out, nil
	}
	out.Ops, out.Changed = t.ops, t.changed()
	t.publish()
	return out, nil
}

func (t *txn) changed() []Change {
	var out []Change
	for _, b := range t.boxes {
		switch {
		case b.gone:
			out = append(out, Change{Mailbox: b.id})
		case b.stamped:
			out = append(out, Change{b.id, b.row.ModSeq})
		}
	}
	return out
}

func (t *txn) run(req any) (Planned, error) {
	switch r := req.(type) {
	case *SetupReq:
		return t.setup(r)
	case *DeliverReq:
		return t.deliver(r)
	case *AppendReq:
		return t.append(r)
	case *FolderReq:
		return t.folder(r)
	case *FlagsReq:
		return t.flags(r)
	case *ExpungeReq:
		return t.expunge(r)
	case *CopyReq:
		return t.copy(r)
	case *ForgetReq:
		return t.forget(r)
	case *SkipReq:
		return t.skip(r)
	case *CompactReq:
		return t.compact(r)
	}
	return Planned{}, kind.Errorf(kind.Internal, "plan: request %T", req)
}

// Settled tells that every record that begins below lsn is applied to the
// index; its pending values are forgotten.
func (p *Planner) Settled(lsn org.LSN) { p.over.settle(lsn, p.hot) }

// Reset forgets everything in flight, as when the records could not be
// written. The view is the index again.
func (p *Planner) Reset() { p.over, p.hot, p.old = newOverlay(), hotRows{}, expiry{} }

// Pending tells how many planned records are not settled.
func (p *Planner) Pending() int { return len(p.over.recs) }

// get and scan make the planner a source.

func (p *Planner) get(key []byte) ([]byte, error) {
	if v, lsn, known := p.over.get(key); known {
		p.seen = max(p.seen, lsn+1)
		return v, nil
	}
	if !hot(key[0]) {
		return p.ix.get(key)
	}
	if v, ok := p.hot[string(key)]; ok {
		return v, nil
	}
	v, err := p.ix.get(key)
	if err == nil && v != nil {
		p.hot.keep(string(key), v)
	}
	return v, err
}

func (p *Planner) scan(lo, hi []byte) (*cursor, error) {
	var over *overlay
	if p.over.sorted.len > 0 || len(p.over.ranges) > 0 {
		over = p.over
	}
	return newCursor(p.ix.db, lo, hi, over, &p.seen)
}

// txn plans one request. Point reads see its own writes; scans do not, so a
// request scans before it writes what the scan would meet.
type txn struct {
	p     *Planner
	at    org.LSN
	now   int64
	ops   []byte
	local map[string][]byte // nil value: deleted
	cuts  [][2]string       // range deletes, written before any key in them
	boxes []*box
	err   error // the first failure of a write
}

// box is a mailbox that the request works on.
type box struct {
	id      org.MailboxID
	row     mailboxRow
	stamped bool
	gone    bool
	folders map[mail.FolderID]*mail.Folder
}

func (t *txn) get(key []byte) ([]byte, error) {
	if v, ok := t.local[string(key)]; ok {
		return v, nil
	}
	return t.p.get(key)
}

func (t *txn) scan(lo, hi []byte) (*cursor, error) { return t.p.scan(lo, hi) }

func (t *txn) set(key, val []byte) {
	if len(t.ops)+len(key)+len(val)+opOverhead > MaxOps {
		t.tooBig()
		return
	}
	if val == nil {
		val = []byte{}
	}
	t.local[string(key)] = val
	t.ops = appendSet(t.ops, key, val)
}

func (t *txn) setRow(key []byte, row any) {
	b, err := codec.Marshal(row)
	if err != nil {
		t.err = kind.Errorf(kind.Internal, "plan: %w", err)
		return
	}
	t.set(key, b)
}

func (t *txn) del(key []byte) {
	if len(t.ops)+len(key)+opOverhead > MaxOps {
		t.tooBig()
		return
	}
	t.local[string(key)] = nil
	t.ops = appendDelete(t.ops, key)
}

func (t *txn) delRange(lo, hi []byte) {
	t.cuts = append(t.cuts, [2]string{string(lo), string(hi)})
	t.ops = appendDeleteRange(t.ops, lo, hi)
}

func (t *txn) tooBig() {
	if t.err == nil {
		t.err = kind.Errorf(kind.Invalid, "plan: the change is too large for one record: split it by UIDs")
	}
}

// finish writes the rows that every request touches last.
func (t *txn) finish() error {
	for _, b := range t.boxes {
		if b.gone || !b.stamped {
			continue
		}
		for _, f := range sortedFolders(b) {
			t.setRow(folderKey(b.id, f.ID), f)
		}
		t.setRow(mailboxKey(b.id), b.row)
	}
	if t.err == nil && len(t.boxes) > 0 && len(t.ops) < MaxOps/2 {
		if err := t.expire(); err != nil {
			return err
		}
	}
	return t.err
}

// publish puts the writes into the overlay.
func (t *txn) publish() {
	o := t.p.over
	rec := pendingRecord{lsn: t.at, keys: make([]string, 0, len(t.local))}
	for _, c := range t.cuts {
		o.deleteRange(&rec, c[0], c[1])
	}
	for k, v := range t.local {
		o.put(&rec, k, v)
	}
	o.recs = append(o.recs, rec)
}

// replay answers a change whose key is known. The stored answer is decoded
// into result.
func (t *txn) replay(key mail.Key, id org.MailboxID, verb uint8, result any) (bool, error) {
	if key == (mail.Key{}) {
		return false, nil
	}
	var row doneRow
	ok, err := load(t, doneKey(key), &row, "key")
	if err != nil || !ok {
		return false, err
	}
	if row.Mailbox != id || row.Verb != verb {
		return false, kind.Errorf(kind.Invalid, "plan: key %x was used for another change", key[:])
	}
	return true, decode(row.Result, result, "key result")
}

// remember keeps the answer to a change with a key.
func (t *txn) remember(key mail.Key, id org.MailboxID, verb uint8, result any) {
	if key == (mail.Key{}) {
		return
	}
	t.setRow(doneKey(key), doneRow{At: t.now, Mailbox: id, Verb: verb, Result: codec.MustMarshal(result)})
	t.set(doneAtKey(t.now, key), nil)
}
