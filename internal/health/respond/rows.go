package respond

import (
	"context"
	"iter"
	"time"
)

// Op sets a row of the agreed state, or removes it where Value is nil. A row is
// changed only while its revision is Revision where If is set (0: while there is none).
type Op struct {
	Key      string
	Value    []byte
	If       bool
	Revision int64
}

// Rows is the agreed state as the room needs it; node plugs it in.
type Rows interface {
	// Get reads a row from memory.
	Get(key string) (value []byte, revision int64, ok bool)
	// Prefix yields rows whose keys begin with p, in order, from memory.
	Prefix(p string) iter.Seq2[string, []byte]
	// Changed is closed at the next change of any row.
	Changed() <-chan struct{}
	// Commit makes all changes or none and returns when Get shows them. Errors:
	// kind.Conflict where a condition did not hold, kind.Busy without quorum.
	Commit(ctx context.Context, ops []Op) error
	// Quorum tells whether a commit is likely to work.
	Quorum() bool
}

// Clock is wall time that is not believed when it jumps (transport's clock).
type Clock interface {
	Now() time.Time
	Trusted() (ok bool, why string)
}
