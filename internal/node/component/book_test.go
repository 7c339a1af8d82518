package component

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// group is an agreed state in memory.
type group struct {
	mu        sync.Mutex // guards the rest
	rows      map[string]cluster.Item
	revision  int64
	changed   chan struct{}
	published map[string][]byte
	quiet     time.Duration // since when nothing was heard
	meanwhile func()        // nil, or called once at the begin of a Commit
}

func newGroup(t *testing.T, servers ...org.ServerName) *group {
	g := &group{rows: map[string]cluster.Item{}, changed: make(chan struct{}), published: map[string][]byte{}}
	for _, s := range servers {
		b, err := json.Marshal(org.Server{Name: s})
		if err != nil {
			t.Fatal(err)
		}
		g.rows["servers/"+string(s)] = cluster.Item{Value: b, Revision: 1}
	}
	return g
}

func (g *group) Name() org.ServerName { return "MBX1" }

func (g *group) View() *cluster.View {
	g.mu.Lock()
	defer g.mu.Unlock()
	return cluster.NewView(g.revision, maps.Clone(g.rows))
}

func (g *group) Changed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changed
}

func (g *group) Commit(_ context.Context, t cluster.Txn) (int64, error) {
	g.mu.Lock()
	f := g.meanwhile
	g.meanwhile = nil
	g.mu.Unlock()
	if f != nil {
		f()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range t.If {
		if g.rows[c.Key].Revision != c.Revision {
			return 0, kind.Errorf(kind.Conflict, "%s has changed", c.Key)
		}
	}
	g.revision++
	for _, op := range t.Then {
		if op.Delete {
			delete(g.rows, op.Key)
		} else {
			g.rows[op.Key] = cluster.Item{Value: op.Value, Revision: g.revision}
		}
	}
	close(g.changed)
	g.changed = make(chan struct{})
	return g.revision, nil
}

func (g *group) Publish(section string, v []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.published[section] = v
}

func (g *group) Published(_ org.ServerName, section string) ([]byte, time.Time, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	b, ok := g.published[section]
	return b, time.Now().Add(-g.quiet), ok
}

// inBubble runs a test of a Book at a time of its own.
func inBubble(t *testing.T, f func(t *testing.T, b *Book, g *group)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, "MBX1", "MBX2")
		b := New(Deps{Group: g, Primary: func() bool { return true }, Events: event.NewLog(slog.New(slog.NewTextHandler(io.Discard, nil)))})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.Run(ctx) }()
		synctest.Wait()
		f(t, b, g)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// TestRequesters: promise 3.
func TestRequesters(t *testing.T) {
	inBubble(t, func(t *testing.T, b *Book, _ *group) {
		set := func(r org.Requester, c org.Component, s org.ComponentState) Row {
			t.Helper()
			row, err := b.set(t.Context(), setIn{Server: "MBX1", Component: c, State: s, Requester: r, Why: "a test"})
			if err != nil {
				t.Fatal(err)
			}
			return row
		}
		_, changed := b.State(org.IMAPComponent)
		set(org.Sidelined, org.IMAPComponent, org.Draining)
		synctest.Wait()
		select {
		case <-changed:
		default:
			t.Error("nobody was told")
		}
		set(org.Maintenance, org.ServerOffline, org.Inactive)
		if s, _ := b.State(org.IMAPComponent); s != org.Inactive {
			t.Errorf("IMAP is %s", s)
		}
		if s, _ := b.State(org.Monitoring); s != org.Active {
			t.Errorf("Monitoring is %s", s)
		}
		row := set(org.Sidelined, org.IMAPComponent, org.Active)
		if row.State != org.Inactive || row.Who != "Maintenance wants Inactive for the whole server (a test)" {
			t.Errorf("%+v", row)
		}
		row = set(org.Maintenance, org.ServerOffline, org.Active)
		if row.State != org.Active || len(row.Holds) != 0 {
			t.Errorf("%+v", row)
		}
		if s := b.Of("MBX2", org.SMTPComponent); s != org.Active {
			t.Errorf("the other server's is %s", s)
		}
	})
}

func TestRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, b *Book, _ *group) {
		for _, c := range []struct {
			in   setIn
			want kind.Kind
			says string
		}{
			{setIn{Server: "MBX9", Component: org.SMTPComponent, State: org.Draining, Requester: org.Sidelined}, kind.NotFound, "MBX9"},
			{setIn{Server: "MBX1", Component: org.SMTPComponent, State: org.Draining, Requester: org.HealthAPI}, kind.Denied, "recovery actions"},
			{setIn{Server: "MBX1", Component: org.SMTPComponent, State: org.Draining, Requester: org.Sidelined, For: -time.Second}, kind.Invalid, "end"},
			{setIn{Server: "MBX1", Component: org.SMTPComponent, State: org.Draining, Requester: org.Sidelined, Why: strings.Repeat("x", 1000)}, kind.Invalid, "reason"},
		} {
			_, err := b.set(t.Context(), c.in)
			if !kind.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%+v: %v", c.in, err)
			}
		}
		if _, err := b.List("MBX9"); !kind.Is(err, kind.NotFound) {
			t.Error(err)
		}
	})
}

// TestLastServer: the last server that serves a component keeps it.
func TestLastServer(t *testing.T) {
	for _, c := range []struct {
		name   string
		in     setIn
		before []setIn // of the other server, or of this one
		quiet  time.Duration
		taken  bool
	}{
		{"another serves it", setIn{Component: org.IMAPComponent, State: org.Inactive}, nil, 0, true},
		{"the other is Inactive", setIn{Component: org.IMAPComponent, State: org.Draining}, []setIn{{Server: "MBX2", Component: org.IMAPComponent, State: org.Inactive}}, 0, false},
		{"the other is out of service", setIn{Component: org.IMAPComponent, State: org.Draining}, []setIn{{Server: "MBX2", Component: org.ServerOffline, State: org.Draining}}, 0, false},
		{"the other lacks something else", setIn{Component: org.IMAPComponent, State: org.Inactive}, []setIn{{Server: "MBX2", Component: org.SMTPComponent, State: org.Inactive}}, 0, true},
		{"the other is not heard", setIn{Component: org.ServerOffline, State: org.Inactive}, nil, time.Minute, false},
		{"by force", setIn{Component: org.ServerOffline, State: org.Inactive, Force: true}, nil, time.Minute, true},
		{"back into service", setIn{Component: org.SMTPComponent, State: org.Active}, nil, time.Minute, true},
		{"it does not serve it anyway", setIn{Component: org.SMTPComponent, State: org.Inactive}, []setIn{{Server: "MBX1", Component: org.SMTPComponent, State: org.Draining}}, time.Minute, true},
		{"nobody is served by it", setIn{Component: org.Monitoring, State: org.Inactive}, nil, time.Minute, true},
	} {
		inBubble(t, func(t *testing.T, b *Book, g *group) {
			for _, x := range c.before {
				x.Requester, x.Force = org.Maintenance, true
				if _, err := b.set(t.Context(), x); err != nil {
					t.Fatal(err)
				}
			}
			g.mu.Lock()
			g.quiet = c.quiet
			g.mu.Unlock()
			c.in.Server, c.in.Requester = "MBX1", org.Sidelined
			if _, err := b.set(t.Context(), c.in); (err == nil) != c.taken || err != nil && !kind.Is(err, kind.Denied) {
				t.Errorf("%s: %v", c.name, err)
			}
		})
	}
}

// TestTheLastOfTwo: of two servers that are both taken out of service in the same
// moment one stays, whoever asks for it.
func TestTheLastOfTwo(t *testing.T) {
	for _, by := range []org.Requester{org.Sidelined, org.HealthAPI} {
		inBubble(t, func(t *testing.T, b *Book, g *group) {
			pass(time.Second) // what both do is known
			set := func(other, c org.Component) error {
				g.mu.Lock()
				g.meanwhile = func() {
					if _, err := b.Set(t.Context(), "MBX2", org.ComponentEntry{Component: other, Requester: by, State: org.Draining}); err != nil {
						t.Error(err)
					}
				}
				g.mu.Unlock()
				_, err := b.set(t.Context(), setIn{Server: "MBX1", Component: c, State: org.Draining, Requester: org.Sidelined})
				return err
			}
			if err := set(org.IMAPComponent, org.IMAPComponent); !kind.Is(err, kind.Denied) || b.Of("MBX1", org.IMAPComponent) != org.Active {
				t.Errorf("while %s takes the other out: %v", by, err)
			}
			if err := set(org.SMTPComponent, org.Transport); err != nil || b.Of("MBX1", org.Transport) != org.Draining {
				t.Errorf("while %s takes something else out: %v", by, err)
			}
		})
	}
}

// TestExpires: promise 2.
func TestExpires(t *testing.T) {
	inBubble(t, func(t *testing.T, b *Book, g *group) {
		if _, err := b.set(t.Context(), setIn{Server: "MBX1", Component: org.Transport, State: org.Inactive, Requester: org.Functional, For: time.Minute}); err != nil {
			t.Fatal(err)
		}
		pass(59 * time.Second)
		s, changed := b.State(org.Transport)
		if s != org.Inactive {
			t.Fatal(s)
		}
		pass(2 * time.Second)
		select {
		case <-changed:
		default:
			t.Error("nobody was told of the end")
		}
		if s, _ := b.State(org.Transport); s != org.Active {
			t.Error(s)
		}
		for key := range g.View().Prefix("components/") {
			t.Errorf("%s is left", key)
		}
	})
}

// TestPublished: what a component does follows what it says, and a row that cannot
// be read holds it back.
func TestPublished(t *testing.T) {
	inBubble(t, func(t *testing.T, b *Book, g *group) {
		var left atomic.Int64
		left.Store(3)
		b.Obeys(org.SMTPComponent, func() (org.ComponentState, int) {
			if n := int(left.Load()); n > 0 {
				return org.Draining, n
			}
			return org.Inactive, 0
		})
		if _, err := g.Commit(t.Context(), cluster.Txn{Then: []cluster.Op{{Key: org.ComponentKey("MBX1", org.SMTPComponent, "Later"), Value: []byte("{")}}}); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		rows, err := b.List("MBX1")
		if err != nil {
			t.Fatal(err)
		}
		find := func() Row {
			for _, r := range rows {
				if r.Component == org.SMTPComponent {
					return r
				}
			}
			return Row{}
		}
		if r := find(); r.State != org.Inactive || r.Now != org.Draining || r.Left != 3 {
			t.Errorf("%+v", r)
		}
		left.Store(0)
		pass(time.Second)
		p, ok := b.Published("MBX1")
		if n := p.Components[org.SMTPComponent]; !ok || !n.Reached(org.Inactive) {
			t.Errorf("%+v", p)
		}
		if rows, _ := b.List(""); len(rows) != 2*len(org.Components()) {
			t.Errorf("%d rows", len(rows))
		}
		g.mu.Lock()
		g.quiet = silence + time.Second
		g.mu.Unlock()
		for _, r := range listed(t, b) {
			if known := r.Now != ""; known != (r.Server == "MBX1") {
				t.Errorf("what a server did that is not heard any more: %+v", r)
			}
		}
	})
}

func listed(t *testing.T, b *Book) []Row {
	t.Helper()
	rows, err := b.List("")
	if err != nil {
		t.Fatal(err)
	}
	return rows
}
