package health

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// state is an agreed state in memory that works.
type state struct {
	mu       sync.Mutex // guards the rest
	rows     map[string][]byte
	revs     map[string]int64
	rev      int64
	noQuorum bool
	changed  chan struct{}
	commits  int
	before   func([]Op) // nil, or called at the begin of each Commit
}

func newState() *state {
	return &state{rows: map[string][]byte{}, revs: map[string]int64{}, changed: make(chan struct{})}
}

func (s *state) Get(key string) ([]byte, int64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.rows[key]
	return v, s.revs[key], ok
}

func (s *state) Prefix(p string) iter.Seq2[string, []byte] {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	vals := map[string][]byte{}
	for k, v := range s.rows {
		if strings.HasPrefix(k, p) {
			keys, vals[k] = append(keys, k), v
		}
	}
	slices.Sort(keys)
	return func(yield func(string, []byte) bool) {
		for _, k := range keys {
			if !yield(k, vals[k]) {
				return
			}
		}
	}
}

func (s *state) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

func (s *state) Commit(_ context.Context, ops []Op) error {
	s.mu.Lock()
	before := s.before
	s.mu.Unlock()
	if before != nil {
		before(ops)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.noQuorum {
		return kind.Errorf(kind.Busy, "no quorum")
	}
	for _, o := range ops {
		if o.If && s.revs[o.Key] != o.Revision {
			return kind.Errorf(kind.Conflict, "%s has changed", o.Key)
		}
	}
	s.rev++
	s.commits++
	for _, o := range ops {
		if o.Value == nil {
			delete(s.rows, o.Key)
			delete(s.revs, o.Key)
			continue
		}
		s.rows[o.Key], s.revs[o.Key] = o.Value, s.rev
	}
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

func (s *state) Quorum() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.noQuorum
}

// meanwhile has f run once, between what a change of a row was decided on and the
// change.
func (s *state) meanwhile(key string, f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = func(ops []Op) {
		if slices.ContainsFunc(ops, func(o Op) bool { return strings.HasPrefix(o.Key, key) }) {
			s.mu.Lock()
			s.before = nil
			s.mu.Unlock()
			f()
		}
	}
}

func (s *state) cut(off bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noQuorum = off
}

// keys are the rows without those of a prefix.
func (s *state) keys(but string) map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]string{}
	for k, v := range s.rows {
		if !strings.HasPrefix(k, but) {
			out[k] = string(v)
		}
	}
	return out
}

// mesh is what servers publish, in memory.
type mesh struct {
	mu      sync.Mutex // guards the rest
	members []org.ServerName
	down    map[org.ServerName]bool
	said    map[string][]byte
	heard   map[string]time.Time
}

func newMesh(members ...org.ServerName) *mesh {
	return &mesh{members: members, down: map[org.ServerName]bool{}, said: map[string][]byte{}, heard: map[string]time.Time{}}
}

// at is the mesh as one server has it.
type meshAt struct {
	*mesh
	me org.ServerName
}

func (m meshAt) Publish(section string, v []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := string(m.me) + "/" + section
	m.said[k], m.heard[k] = v, time.Now()
}

func (m meshAt) Published(s org.ServerName, section string) ([]byte, time.Time, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.said[string(s)+"/"+section]
	return v, m.heard[string(s)+"/"+section], ok
}

func (m meshAt) Members() []org.ServerName { return m.members }

func (m meshAt) Up(s org.ServerName) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.down[s]
}

// hands are an Actor that notes what it did.
type hands struct {
	mu    sync.Mutex // guards deeds
	deeds []string
	began time.Time
	do    func(ctx context.Context, d Deed) (string, error) // nil: it works
}

func (h *hands) Act(ctx context.Context, d Deed) (string, error) {
	h.mu.Lock()
	h.deeds = append(h.deeds, fmt.Sprintf("%v %s %s", time.Since(h.began).Round(time.Second), d.Action, d.Target))
	h.mu.Unlock()
	if h.do != nil {
		return h.do(ctx, d)
	}
	return "done", nil
}

func (h *hands) all() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.deeds)
}

type spares struct {
	databases []DatabaseSpare
	held      string
}

func (s *spares) Databases() []DatabaseSpare { return s.databases }
func (s *spares) Held() string               { return s.held }

// wire is a client that calls the Desk's handlers; the mail worker can be made
// deaf or dead.
type wire struct {
	mu   sync.Mutex // guards the rest
	mux  *http.ServeMux
	dead bool
	deaf bool
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	mux, dead, deaf := w.mux, w.dead, w.deaf
	w.mu.Unlock()
	switch {
	case dead || mux == nil:
		return nil, errors.New("connection refused")
	case deaf:
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	rec := httptest.NewRecorder()
	mux.ServeHTTP(rec, r)
	return rec.Result(), nil
}

func (w *wire) set(dead, deaf bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead, w.deaf = dead, deaf
}

// server is a Desk and an Engine of one server of a group.
type server struct {
	t      *testing.T
	name   org.ServerName
	dir    string
	cfg    Config
	items  Items
	rows   *state
	mesh   *mesh
	hands  *hands // of the mail worker
	host   *hands // of the host
	spares *spares
	wire   *wire
	desk   *Desk
	engine *Engine
	events *event.Log
	clock  Clock
	ready  func() bool // nil: always

	stopDesk, stopEngine func()
}

func newServer(t *testing.T, name org.ServerName, rows *state, m *mesh, items Items) *server {
	t.Helper()
	s := &server{t: t, name: name, dir: t.TempDir(), items: items, rows: rows, mesh: m, hands: &hands{began: time.Now()},
		host: &hands{began: time.Now()}, spares: &spares{}, wire: &wire{}, events: event.NewLog(slog.New(slog.DiscardHandler))}
	return s
}

func (s *server) startDesk() {
	s.t.Helper()
	d, err := NewDesk(s.cfg, DeskDeps{Server: s.name, Version: "1", Dir: s.dir, Items: s.items, Rows: s.rows, Mesh: meshAt{s.mesh, s.name},
		Actor: s.hands, Spares: s.spares, Clock: s.clock, Log: discard(), Events: s.events})
	if err != nil {
		s.t.Fatal(err)
	}
	s.connect(d)
	s.stopDesk = s.run(d.Run)
}

// connect puts a Desk behind the wire.
func (s *server) connect(d *Desk) {
	mux := http.NewServeMux()
	for p, h := range d.Handlers() {
		mux.Handle(p, h)
	}
	s.wire.mu.Lock()
	s.wire.mux = mux
	s.wire.mu.Unlock()
	s.desk = d
}

func (s *server) client() *http.Client { return &http.Client{Transport: s.wire} }

func (s *server) startEngine() {
	s.t.Helper()
	e, err := NewEngine(s.cfg, EngineDeps{Server: s.name, Dir: s.dir, Items: s.items, Desk: s.client(), Host: s.host, Ready: s.ready,
		Log: slog.New(slog.DiscardHandler), Events: s.events})
	if err != nil {
		s.t.Fatal(err)
	}
	s.engine = e
	s.stopEngine = s.run(e.Run)
}

// run starts a part and returns what stops it.
func (s *server) run(f func(context.Context) error) func() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	}
}

func (s *server) start() {
	s.startDesk()
	s.startEngine()
}

func (s *server) stop() {
	s.stopEngine()
	s.stopDesk()
}

// wait lets simulated time pass.
func wait(d time.Duration) {
	time.Sleep(d) // in a bubble: virtual
	synctest.Wait()
}

// shown is the state of a monitor as the Desk has it.
func (s *server) shown(id string) org.HealthState {
	all, _ := s.desk.monitors()
	for _, m := range all {
		if m.ID() == id {
			return m.State
		}
	}
	return "none"
}

// log is the recovery log, without what has ended well in the same sentence.
func (s *server) log() []org.Recovery {
	var out []org.Recovery
	for _, raw := range s.rows.Prefix(org.RecoveryPrefix) {
		var r org.Recovery
		if err := jsonUnmarshal(raw, &r); err != nil {
			s.t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

// door is a probe whose answer a test sets.
type door struct {
	mu   sync.Mutex // guards err and hang
	err  error
	hang chan struct{}
	runs int
}

func (d *door) run(ctx context.Context, _ string) (Reading, error) {
	d.mu.Lock()
	err, hang := d.err, d.hang
	d.runs++
	d.mu.Unlock()
	if hang != nil {
		<-hang // it does not obey its context
	}
	return Reading{Value: 1}, err
}

func (d *door) set(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

var errBroken = errors.New("no greeting")

// imap are the items of a door with chain A.
func imap(d *door) Items {
	return Items{
		Sets: []Set{{Name: "IMAP.Protocol", Group: Services, Priority: org.PriorityCritical, Component: org.IMAPComponent, HA: true},
			{Name: "UserPath", Group: TouchPoints, Priority: org.PriorityCritical}},
		Probes: []Probe{
			{Set: "IMAP.Protocol", Name: "SelfTest", Kind: Recurrent, Where: Outside, Every: 5 * time.Second, Timeout: 5 * time.Second, Run: d.run},
			{Set: "UserPath", Name: "Path", Kind: Notification, Where: Outside},
		},
		Monitors: []Monitor{{Set: "IMAP.Protocol", Name: "SelfTest", Probe: "SelfTest", Rule: ConsecutiveFailures(3),
			Chain: DoorChain("imap", org.IMAPComponent)}},
	}
}

type eventOf = event.Event

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
