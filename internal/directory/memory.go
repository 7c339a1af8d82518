package directory

import (
	"context"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// Memory is an agreed state that lives in this process only, for tests of what
// is built on a directory. It keeps what Commit promises.
type Memory struct {
	mu      sync.Mutex // guards all below
	view    *memoryView
	changed chan struct{}
	down    error
}

type memoryView struct {
	revision  int64
	items     map[string]Item
	databases []org.Database // of the items
}

// NewMemory returns an empty state that has databases of the given names.
func NewMemory(databases ...org.DatabaseName) *Memory {
	v := &memoryView{revision: 1, items: map[string]Item{}}
	for _, name := range databases {
		v.items[databaseKey(name)] = Item{Value: encode(org.Database{Name: name}), Revision: v.revision}
	}
	v.readDatabases()
	return &Memory{view: v, changed: make(chan struct{})}
}

// View implements State.
func (m *Memory) View() View {
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

// Sync implements State.
func (m *Memory) Sync(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.down
}

// Commit implements State.
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
		it, ok := m.view.items[c.Key]
		if c.Revision == -1 && !ok || c.Revision != -1 && it.Revision != c.Revision {
			return 0, kind.Errorf(kind.Conflict, "commit: %s is at revision %d, want %d", c.Key, it.Revision, c.Revision)
		}
	}
	next := &memoryView{revision: m.view.revision + 1, items: maps.Clone(m.view.items), databases: m.view.databases}
	written, databases := map[string]bool{}, false
	for _, op := range t.Then {
		if written[op.Key] {
			return 0, kind.Errorf(kind.Invalid, "commit: %s is written twice", op.Key)
		}
		written[op.Key] = true
		databases = databases || strings.HasPrefix(op.Key, databaseKey(""))
		if op.Delete {
			delete(next.items, op.Key)
			continue
		}
		next.items[op.Key] = Item{Value: slices.Clone(op.Value), Revision: next.revision}
	}
	if databases {
		next.readDatabases()
	}
	m.view = next
	close(m.changed)
	m.changed = make(chan struct{})
	return next.revision, nil
}

func (v *memoryView) Get(key string) (Item, bool) {
	it, ok := v.items[key]
	return it, ok
}

func (v *memoryView) Prefix(p string) iter.Seq2[string, Item] {
	return func(yield func(string, Item) bool) {
		for _, key := range slices.Sorted(maps.Keys(v.items)) {
			if strings.HasPrefix(key, p) && !yield(key, v.items[key]) {
				return
			}
		}
	}
}

// readDatabases decodes the rows of databases.
func (v *memoryView) readDatabases() {
	v.databases = nil
	for key := range v.Prefix(databaseKey("")) {
		if db, _, ok := row[org.Database](v, key); ok {
			v.databases = append(v.databases, *db)
		}
	}
}

func (v *memoryView) Databases() []org.Database { return v.databases }
