package mailbox

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// agreed is a group's state that needs no servers: rows with revisions,
// compare and swap. It answers Busy to whoever is cut off.
type agreed struct {
	mu      sync.Mutex // guards the rest
	rows    map[string]cluster.Item
	rev     int64
	changed chan struct{}
	servers map[org.ServerName]*alone
	heard   bool // servers hear of each other
}

func newAgreed() *agreed {
	return &agreed{rows: map[string]cluster.Item{}, changed: make(chan struct{}), servers: map[org.ServerName]*alone{}}
}

func (a *agreed) put(t *testing.T, key string, v any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.set(key, b)
}

func (a *agreed) set(key string, b []byte) {
	a.rev++
	a.rows[key] = cluster.Item{Value: b, Revision: a.rev}
	close(a.changed)
	a.changed = make(chan struct{})
}

// alone is one server's part of an agreed: it implements Group with pipes for
// a network that can be cut.
type alone struct {
	a    *agreed
	name org.ServerName

	mu        sync.Mutex // guards the rest
	cut       bool
	frozen    *cluster.View // what it sees while cut off
	handlers  map[string]func(context.Context, org.ServerName, net.Conn)
	published map[string][]byte
	conns     []net.Conn
	turned    chan struct{} // closed when what is known of the others changes

	// What others do once, after the next look and before the next change.
	afterView, beforeCommit func()
}

func (a *agreed) server(name org.ServerName) *alone {
	s := &alone{a: a, name: name, handlers: map[string]func(context.Context, org.ServerName, net.Conn){}, published: map[string][]byte{}, turned: make(chan struct{})}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.servers[name] = s
	return s
}

// partition cuts a server off from the others and from the agreed state, or
// heals it.
func (s *alone) partition(on bool) {
	s.mu.Lock()
	s.frozen = nil
	s.mu.Unlock()
	v := s.View()
	s.mu.Lock()
	s.cut = on
	if on {
		s.frozen = v
	}
	conns := s.conns
	if on {
		s.conns = nil
	}
	s.mu.Unlock()
	if on {
		for _, c := range conns {
			c.Close()
		}
		return
	}
	s.a.mu.Lock()
	close(s.a.changed)
	s.a.changed = make(chan struct{})
	s.a.mu.Unlock()
}

func (s *alone) isCut() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cut
}

func (s *alone) Name() org.ServerName { return s.name }

func (s *alone) View() *cluster.View {
	s.mu.Lock()
	f := s.frozen
	s.mu.Unlock()
	if f != nil {
		return f
	}
	defer s.meanwhile(&s.afterView)
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	return cluster.NewView(s.a.rev, s.a.rows)
}

// meanwhile does what others do at a moment.
func (s *alone) meanwhile(f *func()) {
	s.mu.Lock()
	do := *f
	*f = nil
	s.mu.Unlock()
	if do != nil {
		do()
	}
}

func (s *alone) Changed() <-chan struct{} {
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	return s.a.changed
}

func (s *alone) PeersChanged() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.turned
}

// turn tells that what is known of the others has changed.
func (s *alone) turn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.turned)
	s.turned = make(chan struct{})
}

func (s *alone) Commit(_ context.Context, t cluster.Txn) (int64, error) {
	if s.isCut() {
		return 0, kind.Errorf(kind.Busy, "no quorum")
	}
	s.meanwhile(&s.beforeCommit)
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	for _, c := range t.If {
		if s.a.rows[c.Key].Revision != c.Revision {
			return 0, kind.Errorf(kind.Conflict, "%s changed", c.Key)
		}
	}
	for _, o := range t.Then {
		s.a.set(o.Key, o.Value)
		if o.Delete {
			delete(s.a.rows, o.Key)
		}
	}
	return s.a.rev, nil
}

func (s *alone) Sync(context.Context) error {
	if s.isCut() {
		return kind.Errorf(kind.Busy, "no quorum")
	}
	return nil
}

func (s *alone) Quorum() bool                       { return true } // it does not know better for a while
func (s *alone) Dead(org.ServerName) (string, bool) { return "", false }
func (s *alone) Alive(org.ServerName) bool          { return true }

// Peers are the other servers, all up, where they are to be heard of at all.
func (s *alone) Peers() (all []cluster.Peer) {
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	for name := range s.a.servers {
		if s.a.heard && name != s.name {
			all = append(all, cluster.Peer{Server: name, State: cluster.PeerUp})
		}
	}
	return all
}

func (s *alone) LeaseValid() bool { return !s.isCut() }
func (s *alone) Conn(org.ServerName) (*grpc.ClientConn, error) {
	return nil, kind.Errorf(kind.Busy, "no calls here")
}
func (s *alone) RegisterService(*grpc.ServiceDesc, any) {}
func (s *alone) Publish(section string, v []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.published[section] = v
}

func (s *alone) Published(o org.ServerName, section string) ([]byte, time.Time, bool) {
	s.a.mu.Lock()
	other := s.a.servers[o]
	s.a.mu.Unlock()
	if other == nil {
		return nil, time.Time{}, false
	}
	other.mu.Lock()
	defer other.mu.Unlock()
	v, ok := other.published[section]
	return v, time.Now(), ok
}

func (s *alone) Handle(proto string, h func(context.Context, org.ServerName, net.Conn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handlers[proto] = h
}

// Dial connects by loopback TCP, as pipes have no buffers.
func (s *alone) Dial(ctx context.Context, to org.ServerName, proto string) (net.Conn, error) {
	s.a.mu.Lock()
	other := s.a.servers[to]
	s.a.mu.Unlock()
	if other == nil || s.isCut() || other.isCut() {
		return nil, kind.Errorf(kind.Busy, "%s is not reachable", to)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	far, err := l.Accept()
	if err != nil {
		return nil, err
	}
	for _, x := range []*alone{s, other} {
		x.mu.Lock()
		x.conns = append(x.conns, near, far)
		x.mu.Unlock()
	}
	other.mu.Lock()
	h := other.handlers[proto]
	other.mu.Unlock()
	go h(context.WithoutCancel(ctx), s.name, far)
	return near, nil
}

// disks are the two views of one server's disk.
type disks struct {
	fs *fsx.Mem
	ix *vfs.MemFS
}

func newDisks() disks { return disks{fsx.NewMem(), vfs.NewCrashableMem()} }

// keeper is a running Keeper on disks in memory.
type keeper struct {
	*Keeper
	g    *alone
	stop func()
}

func testConfig() Config {
	return Config{
		Volumes: []Volume{{Name: "vol1", Path: "/vol1"}},
		Grace:   400 * time.Millisecond, LostGrace: 100 * time.Millisecond, Lease: 200 * time.Millisecond, Heartbeat: 10 * time.Millisecond,
		SegmentSize: 64 << 10, Reserve: 1,
	}
}

func startKeeper(t *testing.T, g *alone, d disks, paths ...Paths) *keeper {
	t.Helper()
	deps := Deps{FS: d.fs, IndexFS: d.ix}
	if len(paths) > 0 {
		deps.Paths = paths[0]
	}
	return startOn(t, g, testConfig(), deps)
}

// startOn starts a keeper with a configuration, and with disks and paths that
// may be the test's own.
func startOn(t *testing.T, g *alone, cfg Config, deps Deps) *keeper {
	t.Helper()
	deps.Group, deps.Log = g, slog.New(slog.DiscardHandler)
	if os.Getenv("MAILBOX_LOG") != "" {
		deps.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("server", g.name)
	}
	deps.Events = event.NewLog(deps.Log)
	k, err := New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = k.Run(ctx)
	}()
	var once sync.Once
	stop := func() { once.Do(func() { cancel(); <-done }) }
	t.Cleanup(func() {
		stop()
		if n := k.impossible.Load(); n > 0 {
			t.Errorf("%s: %d changes of a copy's state that org.CopyMay refuses", g.name, n)
		}
	})
	return &keeper{k, g, stop}
}

// define writes the rows of a database with copies on the servers, the first
// of them active.
func (a *agreed) define(t *testing.T, servers ...org.ServerName) {
	t.Helper()
	def := org.Database{Name: "DB01", Identity: "db-1", SegmentSize: 64 << 10}
	for i, s := range servers {
		def.Copies = append(def.Copies, org.Copy{Server: s, Volume: "vol1", Preference: i + 1})
	}
	a.put(t, DatabaseKey("DB01"), def)
	a.put(t, MountKey("DB01"), org.Mount{Database: "DB01", Term: 1, Active: servers[0], InSync: []org.ServerName{servers[0]}})
}

func (a *agreed) mount(t *testing.T) org.Mount {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	it := a.rows[MountKey("DB01")]
	var m org.Mount
	if err := json.Unmarshal(it.Value, &m); err != nil {
		t.Fatal(err)
	}
	m.Revision = it.Revision
	return m
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited too long: %s", what)
		}
	}
}

func body(i int) []byte {
	return fmt.Appendf(nil, "From: a@example.test\r\nSubject: %d\r\nMessage-ID: <%d@example.test>\r\n\r\n%0*d\r\n", i, i, 2000+i*37%5000, i)
}
