package certs

import (
	"context"
	"sort"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/postern-mail/postern/internal/base/kind"
)

// memKV is an agreed state that works, in memory.
type memKV struct {
	mu   sync.Mutex // guards all below
	rev  int64
	rows map[string]memRow
}

type memRow struct {
	value []byte
	rev   int64
}

func newKV() *memKV { return &memKV{rows: map[string]memRow{}} }

func (m *memKV) Get(_ context.Context, key string) ([]byte, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.rows[key]
	if !ok {
		return nil, 0, kind.Errorf(kind.NotFound, "no %s", key)
	}
	return r.value, r.rev, nil
}

func (m *memKV) Put(_ context.Context, key string, value []byte, revision int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if revision >= 0 && m.rows[key].rev != revision {
		return kind.Errorf(kind.Conflict, "%s has changed", key)
	}
	m.rev++
	m.rows[key] = memRow{value, m.rev}
	return nil
}

func (m *memKV) Delete(_ context.Context, key string, revision int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r, ok := m.rows[key]; ok && revision >= 0 && r.rev != revision {
		return kind.Errorf(kind.Conflict, "%s has changed", key)
	}
	delete(m.rows, key)
	return nil
}

func (m *memKV) List(_ context.Context, prefix string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for k := range m.rows {
		if strings.HasPrefix(k, prefix) {
			out = append(out, k)
		}
	}
	sort.Strings(out)
	return out, nil
}

// cutKV is the agreed state as a server sees it that does not reach it for a time.
type cutKV struct {
	*memKV
	off atomic.Bool
}

var errCut = kind.Errorf(kind.Busy, "no quorum")

func (c *cutKV) Get(ctx context.Context, key string) ([]byte, int64, error) {
	if c.off.Load() {
		return nil, 0, errCut
	}
	return c.memKV.Get(ctx, key)
}

func (c *cutKV) Put(ctx context.Context, key string, value []byte, revision int64) error {
	if c.off.Load() {
		return errCut
	}
	return c.memKV.Put(ctx, key, value, revision)
}
