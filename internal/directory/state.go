package directory

import (
	"context"
	"iter"

	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// The words of the agreed state.
type (
	// Item is a value with the revision of its last change.
	Item = cluster.Item
	// Cond must hold for a transaction.
	Cond = cluster.Cond
	// Op puts or deletes a key.
	Op = cluster.Op
)

// View is one moment of the agreed state, in memory. It never changes.
type View interface {
	Get(key string) (Item, bool)
	// Prefix yields the keys that begin with p, in order.
	Prefix(p string) iter.Seq2[string, Item]
	Databases() []org.Database
}

// State is the agreed state as the directory needs it; Agreed makes it from a
// cluster.
type State interface {
	View() View
	// Changed is closed at the next change of the view.
	Changed() <-chan struct{}
	// Commit returns after the local view has the change. Errors: Conflict
	// where a condition did not hold, Busy without quorum.
	Commit(ctx context.Context, t cluster.Txn) (revision int64, err error)
	// Sync waits until the local view is as new as a linearizable read.
	Sync(ctx context.Context) error
}

// Agreed is the agreed state of a group.
func Agreed(c *cluster.Cluster) State { return agreed{c} }

type agreed struct{ *cluster.Cluster }

func (a agreed) View() View { return a.Cluster.View() }

// txn is a transaction under construction.
type txn struct {
	If   []Cond
	Then []Op
}

// put adds a row that was read at a revision (0: a new one).
func (t *txn) put(key string, revision int64, row any) {
	t.If = append(t.If, Cond{Key: key, Revision: revision})
	t.Then = append(t.Then, Op{Key: key, Value: encode(row)})
}

// drop adds the deletion of a row read at a revision.
func (t *txn) drop(key string, revision int64) {
	t.If = append(t.If, Cond{Key: key, Revision: revision})
	t.Then = append(t.Then, Op{Key: key, Delete: true})
}
