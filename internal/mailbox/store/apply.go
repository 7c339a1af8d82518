package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"io"

	"github.com/cockroachdb/pebble/v2"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// Freed is the position of a record whose body no blob row points to any more; its place in the log
// may become a hole. It is reported again when the log is applied again, so
// BodyDead has the last word.
type Freed org.LSN

// Apply brings records into the index, in one step with the position after
// them. They must follow each other and what was applied before (promise 3); a
// gap is Invalid and nothing is applied. An empty index takes any first record:
// the log may have lost its oldest segments. Only changes have ops for the
// index; records of other kinds just move the position.
func (ix *Index) Apply(recs []journal.Record) ([]Freed, error) {
	if len(recs) == 0 {
		return nil, ix.health()
	}
	at := ix.Applied()
	b := ix.db.NewBatch()
	defer b.Close()
	var freed []Freed
	for i := range recs {
		r := &recs[i]
		if at != (journal.Position{}) && (r.LSN != at.LSN || r.Prev != at.Chain) {
			return nil, kind.Errorf(kind.Invalid, "apply record at %d after %08x: index is at %s", r.LSN, r.Prev, at)
		}
		if r.Kind == journal.KindChange {
			var err error
			if freed, err = addOps(b, r.Ops, freed); err != nil {
				return nil, kind.Errorf(kind.Of(err), "apply record at %d: %w", r.LSN, err)
			}
		}
		at = r.Next()
	}
	return freed, ix.commit(b, at)
}

func addOps(b *pebble.Batch, ops []byte, freed []Freed) ([]Freed, error) {
	err := eachOp(ops, func(o op) error {
		switch o.code {
		case opSet:
			return b.Set(o.key, o.val, nil)
		case opDeleteRange:
			return b.DeleteRange(o.key, o.val, nil)
		}
		if o.key[0] == kBody {
			freed = append(freed, Freed(be.Uint64(o.key[1:])))
		}
		return b.Delete(o.key, nil)
	})
	return freed, err
}

// FreedBy are the bodies that the operations of a change free.
func FreedBy(ops []byte) (freed []Freed, err error) {
	err = eachOp(ops, func(o op) error {
		if o.code != opSet && o.code != opDeleteRange && o.key[0] == kBody {
			freed = append(freed, Freed(be.Uint64(o.key[1:])))
		}
		return nil
	})
	return freed, err
}

func (ix *Index) commit(b *pebble.Batch, at journal.Position) error {
	if err := ix.health(); err != nil {
		return err
	}
	row := codec.MustMarshal(appliedRow{LSN: at.LSN, Chain: at.Chain, Term: at.Term})
	if err := b.Set(appliedKey, row, nil); err != nil {
		return wrap(err, "apply to")
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return wrap(err, "apply to")
	}
	if err := ix.health(); err != nil {
		return err
	}
	ix.applied.Store(&at)
	return nil
}

// BodyDead reports whether no blob row points to a body at the position. While
// it cannot be read the body counts as living.
func (ix *Index) BodyDead(lsn org.LSN) bool {
	v, err := ix.get(bodyKey(lsn))
	return err == nil && v == nil
}

// Digest hashes all keys and values of the snapshot except the local ones, and
// counts them. Copies that applied the same log have equal digests.
func (ix *Index) Digest(ctx context.Context, r *Reader) (sum [32]byte, keys int64, err error) {
	h := sha256.New()
	var n [8]byte
	err = each(r, []byte{kLocal + 1}, []byte{0xff, 0xff}, func(k, v []byte) error {
		if keys%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		keys++
		binary.BigEndian.PutUint32(n[:4], uint32(len(k)))
		binary.BigEndian.PutUint32(n[4:], uint32(len(v)))
		h.Write(n[:])
		h.Write(k)
		h.Write(v)
		return nil
	})
	return [32]byte(h.Sum(nil)), keys, err
}

// taken copies a value that Pebble lent.
func taken(v []byte, closer io.Closer, err error) ([]byte, error) {
	if err == pebble.ErrNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, wrap(err, "read")
	}
	out := append(make([]byte, 0, len(v)), v...)
	return out, wrap(closer.Close(), "read")
}
