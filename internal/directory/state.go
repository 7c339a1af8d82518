package directory

import (
	"context"
	"iter"

	"github.com/postern-mail/postern/internal/org"
)

// Item is a value with the revision of its last change.
type Item struct {
	Value    []byte
	Revision int64
}

// Cond must hold for a Txn: the key is at this revision; 0 means it does not
// exist, -1 that it exists.
type Cond struct {
	Key      string
	Revision int64
}

// Op puts or deletes a key.
type Op struct {
	Key    string
	Value  []byte
	Delete bool
}

// Txn does all of Then, or nothing where a condition does not hold.
type Txn struct {
	If   []Cond
	Then []Op
}

// View is one moment of the agreed state, in memory. It never changes.
type View interface {
	Get(key string) (Item, bool)
	// Prefix yields the keys that begin with p, in order.
	Prefix(p string) iter.Seq2[string, Item]
	Databases() []org.Database
}

// State is the agreed state.
type State interface {
	View() View
	// Changed is closed at the next change of the view.
	Changed() <-chan struct{}
	// Commit returns after the local view has the change. Errors: Conflict
	// where a condition did not hold, Busy without quorum.
	Commit(ctx context.Context, t Txn) (revision int64, err error)
	// Sync waits until the local view is as new as a linearizable read.
	Sync(ctx context.Context) error
}
