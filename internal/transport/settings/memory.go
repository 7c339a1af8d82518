package settings

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
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
	box      cipher.AEAD
}

// NewMemory returns an empty state with a key of its own for secrets.
func NewMemory() *Memory {
	key := make([]byte, 32)
	rand.Read(key) // never fails (crypto/rand)
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the length is right
	}
	box, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // it is AES
	}
	return &Memory{rows: map[string]cluster.Item{}, view: cluster.NewView(0, nil), changed: make(chan struct{}), box: box}
}

// SealSecret seals as a group does.
func (m *Memory) SealSecret(purpose string, plain []byte) ([]byte, error) {
	return m.box.Seal(nil, nil, plain, []byte(purpose)), nil
}

// OpenSecret opens what SealSecret sealed for the same purpose.
func (m *Memory) OpenSecret(purpose string, sealed []byte) ([]byte, error) {
	plain, err := m.box.Open(nil, nil, sealed, []byte(purpose))
	if err != nil {
		return nil, kind.Errorf(kind.Denied, "open %s: it was sealed for something else", purpose)
	}
	return plain, nil
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
