package store

import (
	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// CompactReq carries what is still true of old records to the end of the log,
// so that the oldest segment can be dropped (see the package documentation).
// Records are consecutive records of that segment; those with a living body
// have it. Result: how many of them were dealt with, as an int, at least one;
// at most one body fits a record, so the rest is for further requests.
type CompactReq struct {
	Records []journal.Record
}

func (t *txn) compact(r *CompactReq) (Planned, error) {
	var body []byte
	moved := false
	n := 0
	for i := range r.Records {
		old := &r.Records[i]
		blob, living, err := t.bodyAt(old.LSN)
		if err != nil {
			return Planned{}, err
		}
		if n > 0 && (living && moved || len(t.ops)+len(old.Ops) > MaxOps/2) {
			break
		}
		if living {
			if err := t.moveBlob(blob, old.LSN, old.Body); err != nil {
				return Planned{}, err
			}
			moved, body = true, old.Body
		}
		if err := t.recarry(old.Ops); err != nil {
			return Planned{}, err
		}
		n++
	}
	return Planned{NoOp: len(t.ops) == 0, Body: body, Result: n}, t.err
}

// recarry sets again every key that still has the value the old ops set.
func (t *txn) recarry(ops []byte) error {
	return eachOp(ops, func(o op) error {
		if o.code != opSet {
			return nil
		}
		now, err := t.get(o.key)
		if err == nil && now != nil && string(now) == string(o.val) {
			t.set(append([]byte(nil), o.key...), append([]byte{}, o.val...))
		}
		return err
	})
}

// bodyAt finds the blob whose body is at the position.
func (t *txn) bodyAt(lsn org.LSN) (mail.BlobID, bool, error) {
	v, err := t.get(bodyKey(lsn))
	if err != nil || v == nil {
		return 0, false, err
	}
	if len(v) != 8 {
		return 0, false, kind.Errorf(kind.Corrupt, "index: body row of %d bytes", len(v))
	}
	return mail.BlobID(be.Uint64(v)), true, nil
}

// moveBlob points a blob to the body of this record.
func (t *txn) moveBlob(id mail.BlobID, from org.LSN, body []byte) error {
	var row blobRow
	ok, err := load(t, blobKey(id), &row, "blob")
	if err != nil {
		return err
	}
	if !ok || row.LSN != from || row.Size != int64(len(body)) {
		return kind.Errorf(kind.Corrupt, "index: blob %d is not the body of %d bytes at %d", id, len(body), from)
	}
	row.LSN = t.at
	t.del(bodyKey(from))
	t.setRow(blobKey(id), row)
	t.set(bodyKey(t.at), be.AppendUint64(nil, uint64(id)))
	return nil
}
