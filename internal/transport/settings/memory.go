package settings

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
)

// Memory is an agreed state that lives in this process only, for tests of what
// is built on these rows. It keeps what Commit promises.
type Memory struct {
	mu       sync.Mutex // guards all below
	revision int64
	rows     map[string]cluster.Item
	view     *cluster.View
	changed  chan struct{}
	down     error
}

// NewMemory returns an empty state.
func NewMemory() *Memory {
	return &Memory{rows: map[string]cluster.Item{}, view: cluster.NewView(0, nil), changed: make(chan struct{})}
}

// View implements State.
func (m *Memory) View() *cluster.View {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.view
}

// Changed implements State.
func (m *Memory) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// Fail makes changes answer with err from now on, as without quorum; nil ends that.
func (m *Memory) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down = err
}

// Sync implements Agreed.
func (m *Memory) Sync(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.down
}

// Commit implements Agreed.
func (m *Memory) Commit(ctx context.Context, t cluster.Txn) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down != nil {
		return 0, m.down
	}
	for _, c := range t.If {
		it, ok := m.rows[c.Key]
		if c.Revision == -1 && !ok || c.Revision != -1 && it.Revision != c.Revision {
			return 0, kind.Errorf(kind.Conflict, "commit: %s is at revision %d, want %d", c.Key, it.Revision, c.Revision)
		}
	}
	next := maps.Clone(m.rows)
	m.revision++
	written := map[string]bool{}
	for _, op := range t.Then {
		if written[op.Key] {
			return 0, kind.Errorf(kind.Invalid, "commit: %s is written twice", op.Key)
		}
		written[op.Key] = true
		if op.Delete {
			delete(next, op.Key)
			continue
		}
		next[op.Key] = cluster.Item{Value: slices.Clone(op.Value), Revision: m.revision}
	}
	m.rows, m.view = next, cluster.NewView(m.revision, next)
	close(m.changed)
	m.changed = make(chan struct{})
	return m.revision, nil
}
