package settings

import (
	"context"
	"encoding/json"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
)

// Agreed is the agreed state for those who change it; *cluster.Cluster is one.
type Agreed interface {
	State
	// Commit returns after the local view has the change. Errors: Conflict
	// where a condition did not hold, Busy without quorum.
	Commit(ctx context.Context, t cluster.Txn) (revision int64, err error)
	// Sync waits until the local view is as new as a linearizable read.
	Sync(ctx context.Context) error
}

// changeTries is how often a change that lost a race is computed again.
const changeTries = 8

// Txn is a transaction under construction.
type Txn struct{ cluster.Txn }

// Put adds a row that was read at a revision (0: a new one).
func (t *Txn) Put(key string, revision int64, row any) error {
	b, err := json.Marshal(row)
	if err != nil {
		return kind.Errorf(kind.Invalid, "write %s: %w", key, err)
	}
	t.If = append(t.If, cluster.Cond{Key: key, Revision: revision})
	t.Then = append(t.Then, cluster.Op{Key: key, Value: b})
	return nil
}

// Drop adds the deletion of a row read at a revision.
func (t *Txn) Drop(key string, revision int64) {
	t.If = append(t.If, cluster.Cond{Key: key, Revision: revision})
	t.Then = append(t.Then, cluster.Op{Key: key, Delete: true})
}

// Keep makes the transaction depend on a row being as it was read.
func (t *Txn) Keep(key string, revision int64) {
	t.If = append(t.If, cluster.Cond{Key: key, Revision: revision})
}

// Change computes a transaction from the view and commits it, again where it
// lost a race. An error computed from a view that may be old is computed once
// more from a fresh one. A transaction that changes nothing is not committed.
func Change(ctx context.Context, a Agreed, f func(v *cluster.View, t *Txn) error) error {
	synced := false
	var err error
	for range changeTries {
		var t Txn
		if err = f(a.View(), &t); err == nil {
			if len(t.Then) == 0 {
				return nil
			}
			if _, err = a.Commit(ctx, t.Txn); !kind.Is(err, kind.Conflict) {
				return err
			}
		} else if synced {
			return err
		}
		if e := a.Sync(ctx); e != nil {
			return e
		}
		synced = true
	}
	return err
}

// Read decodes the row under a key as it is stored, without defaults. The
// revision is 0 where there is none. A row that does not decode is Corrupt.
func Read[T any](v *cluster.View, key string) (row T, revision int64, err error) {
	it, ok := v.Get(key)
	if !ok {
		return row, 0, nil
	}
	if err := json.Unmarshal(it.Value, &row); err != nil {
		return row, it.Revision, kind.Errorf(kind.Corrupt, "read %s: %w", key, err)
	}
	return row, it.Revision, nil
}
