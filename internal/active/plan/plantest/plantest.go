// Package plantest is an agreed state in memory, with servers that die at any
// of its writes, for tests of plans.
package plantest

import (
	"context"
	"encoding/json"
	"maps"
	"sync"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// RoleKey is the row of the primary role; its value is the server's name.
const RoleKey = "active/primary"

// State is an agreed state. Its methods may be called from any goroutine.
type State struct {
	mu      sync.Mutex // guards all
	rows    map[string]cluster.Item
	rev     int64
	view    *cluster.View // of rev, nil where it was not asked for yet
	changed chan struct{}
	hook    func(by org.ServerName, done bool) bool
	obey    func(*State)
}

// New returns an empty state.
func New() *State { return &State{rows: map[string]cluster.Item{}, changed: make(chan struct{})} }

// Hook is asked before and, with done, after each write of a server; where it
// returns false, the server gets an error, and what was not yet written is not.
func (s *State) Hook(f func(by org.ServerName, done bool) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = f
}

// Obey is called after each write, with the state locked: it may Set and Drop
// what servers that obey their wishes would.
func (s *State) Obey(f func(*State)) { s.obey = f }

// Put writes a row.
func (s *State) Put(key string, v any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Set(key, v)
	s.wake()
}

// Remove drops a row.
func (s *State) Remove(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Drop(key)
	s.wake()
}

// Snapshot is the state now, from Obey.
func (s *State) Snapshot() *cluster.View {
	if s.view == nil || s.view.Revision() != s.rev {
		s.view = cluster.NewView(s.rev, maps.Clone(s.rows))
	}
	return s.view
}

// Set writes a row from Obey.
func (s *State) Set(key string, v any) {
	b, ok := v.(string)
	raw := []byte(b)
	if !ok {
		var err error
		if raw, err = json.Marshal(v); err != nil {
			panic(err) // of the test's own making
		}
	}
	s.rev++
	s.rows[key] = cluster.Item{Value: raw, Revision: s.rev}
}

// Drop removes a row from Obey.
func (s *State) Drop(key string) { s.rev++; delete(s.rows, key) }

// Has tells from Obey whether a row is there.
func (s *State) Has(key string) bool { _, ok := s.rows[key]; return ok }

// wake has servers obey what was written, and those who wait look again.
func (s *State) wake() {
	if s.obey != nil {
		s.obey(s)
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// View is the state now.
func (s *State) View() *cluster.View {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Snapshot()
}

// Primary is who has the role.
func (s *State) Primary() org.ServerName {
	it, _ := s.View().Get(RoleKey)
	return org.ServerName(it.Value)
}

// Server is the state as one server has it.
func (s *State) Server(name org.ServerName) *Server { return &Server{s, name} }

// Server is a member; it is a plan.Group.
type Server struct {
	*State
	name org.ServerName
}

// Name is the server's name.
func (s *Server) Name() org.ServerName { return s.name }

// Changed is closed at the next change.
func (s *Server) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Sync does nothing: the view is always new.
func (s *Server) Sync(context.Context) error { return nil }

// Commit writes where all conditions hold.
func (s *Server) Commit(ctx context.Context, t cluster.Txn) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if s.hook != nil && !s.hook(s.name, false) {
		return 0, kind.Errorf(kind.Busy, "%s dies before it writes", s.name)
	}
	for _, c := range t.If {
		it, ok := s.rows[c.Key]
		if c.Revision == -1 && !ok || c.Revision >= 0 && it.Revision != c.Revision {
			return 0, kind.Errorf(kind.Conflict, "commit: %s has changed", c.Key)
		}
	}
	s.rev++
	for _, o := range t.Then {
		if o.Delete {
			delete(s.rows, o.Key)
		} else {
			s.rows[o.Key] = cluster.Item{Value: o.Value, Revision: s.rev}
		}
	}
	rev := s.rev
	s.wake()
	if s.hook != nil && !s.hook(s.name, true) {
		return 0, kind.Errorf(kind.Busy, "%s dies after it wrote", s.name)
	}
	return rev, nil
}
