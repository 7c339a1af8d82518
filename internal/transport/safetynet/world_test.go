package safetynet

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/postern-mail/postern/internal/base/conf"
	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/settings"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is an agreed state, the servers that share it, and their mailboxes.
type world struct {
	t *testing.T

	mu      sync.Mutex // guards the rest
	rows    map[string]cluster.Item
	rev     int64
	changed chan struct{}
	alive   map[org.ServerName]bool
	now     time.Time
	boxes   map[string]int // mailbox and identity: how often it was delivered
	lost    map[string]bool
	deliver func(Item) error // called before each resubmission, nil for nothing
	tries   int
	group   settings.Group
	notes   []org.Note // for the recovery log
}

var start = time.Unix(1_700_000_000, 0).UTC()

func newWorld(t *testing.T) *world {
	w := &world{t: t, rows: map[string]cluster.Item{}, changed: make(chan struct{}), alive: map[org.ServerName]bool{},
		now: start, boxes: map[string]int{}, lost: map[string]bool{}, group: settings.Defaults()}
	w.group.SafetyNetShadowAfter = conf.Duration(time.Minute)
	w.put("databases/DB01", org.Database{Name: "DB01"})
	return w
}

func (w *world) set(key string, b []byte) {
	w.rev++
	w.rows[key] = cluster.Item{Value: b, Revision: w.rev}
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *world) put(key string, row any) {
	b, err := json.Marshal(row)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.set(key, b)
}

func (w *world) Now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) settings() settings.Group {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.group
}

// pass moves the time.
func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) live(s org.ServerName, on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.alive[s] = on
}

func (w *world) view() *cluster.View {
	w.mu.Lock()
	defer w.mu.Unlock()
	return cluster.NewView(w.rev, w.rows)
}

// group is one server's part of the agreed state.
type group struct {
	*world
	name org.ServerName
}

func (g group) Name() org.ServerName { return g.name }
func (g group) View() *cluster.View  { return g.view() }

func (g group) Changed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changed
}

func (g group) Alive(s org.ServerName) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.alive[s]
}

func (g group) Commit(ctx context.Context, t cluster.Txn) (int64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if ctx.Err() != nil || !g.alive[g.name] {
		return 0, kind.Errorf(kind.Busy, "no quorum")
	}
	for _, c := range t.If {
		it, ok := g.rows[c.Key]
		if c.Revision < 0 && !ok || c.Revision >= 0 && it.Revision != c.Revision {
			return 0, kind.Errorf(kind.Conflict, "%s changed", c.Key)
		}
	}
	for _, o := range t.Then {
		if o.Delete {
			delete(g.rows, o.Key)
		}
		if !o.Delete {
			g.set(o.Key, o.Value)
		}
	}
	close(g.changed)
	g.changed = make(chan struct{})
	return g.rev, nil
}

// server is a member with a queue.
type server struct {
	*world
	name  org.ServerName
	q     *queue.Queue
	net   *Net
	fs    *fsx.Mem
	ix    *vfs.MemFS
	stops []func()

	events *event.Log
}

// join makes a member and starts its queue; its Net starts with run.
func (w *world) join(name org.ServerName) *server {
	w.t.Helper()
	s := &server{world: w, name: name, fs: fsx.NewMem(), ix: vfs.NewCrashableMem()}
	s.open()
	w.live(name, true)
	w.put("servers/"+string(name), org.Server{Name: name})
	w.put(org.QueueKey(name), org.QueueRow{Server: name, Identity: s.q.Identity(), Epoch: 1})
	w.t.Cleanup(s.stop)
	return s
}

func (s *server) open() {
	s.t.Helper()
	q, err := queue.Open(queue.Options{Dir: "queue", FS: s.fs, IndexFS: s.ix, SegmentSize: 1 << 20, Reserve: 1, Now: s.Now})
	if err != nil {
		s.t.Fatal(err)
	}
	s.q = q
	stop := s.loop(q.Run)
	s.eventually(func() bool { return q.NoteRequest(s.t.Context(), "it runs", queue.Progress{}) == nil }, func() string { return "the queue runs" })
	s.stops = append(s.stops, func() {
		stop()
		if err := q.Close(); err != nil {
			s.t.Error(err)
		}
	})
}

// loop runs f until the function it returns is called.
func (s *server) loop(f func(context.Context) error) func() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := f(ctx); err != nil {
			s.t.Error(err)
		}
	}()
	return func() { cancel(); <-done }
}

func (s *server) run() {
	s.events = event.NewLog(slog.New(slog.DiscardHandler))
	s.net = New(Deps{Events: s.events, Metrics: prometheus.NewRegistry(), Group: group{s.world, s.name}, Queue: s.q, Settings: s.settings, Resubmit: s.resubmit, Now: s.Now,
		DuplicateWindow: 5 * 24 * time.Hour, Noted: func(n org.Note) {
			s.world.mu.Lock()
			defer s.world.mu.Unlock()
			s.world.notes = append(s.world.notes, n)
		}})
	s.net.t = timers{turn: 2 * time.Millisecond, settle: time.Second, report: 0, retry: time.Millisecond, poll: time.Millisecond}
	s.stops = append(s.stops, s.loop(s.net.Run))
}

func (s *server) stop() {
	for len(s.stops) > 0 {
		f := s.stops[len(s.stops)-1]
		s.stops = s.stops[:len(s.stops)-1]
		f()
	}
}

// crash takes the server off the group, as far as others can tell.
func (s *server) crash() {
	s.live(s.name, false)
	s.stop()
}

// resubmit is the mailboxes: they know what they have.
func (s *server) resubmit(ctx context.Context, it Item) (bool, error) {
	s.mu.Lock()
	f := s.deliver
	s.tries++
	s.mu.Unlock()
	if f != nil {
		if err := f(it); err != nil {
			return false, err
		}
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	b, err := it.Body(ctx)
	if err != nil {
		return false, err
	}
	if want := bodyOf(it.Message.MessageID); string(b) != want {
		return false, kind.Errorf(kind.Corrupt, "body %q, want %q", b, want)
	}
	key := fmt.Sprintf("%x %x", it.Mailbox, it.Message.Identity)
	if it.To != "" {
		key = it.To + " " + it.Message.MessageID
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.boxes[key]++
	return s.boxes[key] > 1, nil
}

// box is the n-th mailbox.
func box(n byte, db org.DatabaseName) org.MailboxRef {
	return org.MailboxRef{ID: org.MailboxID{n}, Database: db}
}

func bodyOf(messageID string) string { return "body of " + messageID + "\r\n" }

func message(n int, at time.Time) queue.Accepted {
	a := queue.Accepted{Received: at.UnixNano(), Expires: at.Add(48 * time.Hour).UnixNano(), Origin: mail.Origin{Door: "receive"},
		Envelope: mail.Envelope{From: fmt.Sprintf("from%d@example.test", n), Recipients: []mail.EnvelopeRecipient{{Address: fmt.Sprintf("to%d@example.test", n)}}},
		Priority: mail.PriorityNormal, MessageID: fmt.Sprintf("<%d@example.test>", n)}
	binary.BigEndian.PutUint64(a.ID[:], uint64(n)+1)
	binary.BigEndian.PutUint64(a.Identity[:], uint64(n)+1)
	return a
}

// delivered accepts the n-th message and delivers it into a mailbox of db.
func (s *server) delivered(n int, at time.Time, db org.DatabaseName) queue.Accepted {
	s.t.Helper()
	a := message(n, at)
	if err := s.q.Accept(s.t.Context(), a, []byte(bodyOf(a.MessageID))); err != nil {
		s.t.Fatal(err)
	}
	to := box(byte(n), db)
	err := s.q.Apply(s.t.Context(), []queue.Change{{ID: a.ID, At: at.UnixNano(), Rows: []queue.RowChange{
		{N: 0, State: queue.StateDelivered, Dest: "db:" + string(db), Mailbox: to}}}}, queue.Wait)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

// holds stores a copy of a message that another server delivered.
func (s *server) holds(primary *server, a queue.Accepted, db org.DatabaseName) {
	s.t.Helper()
	body := []byte(bodyOf(a.MessageID))
	b, err := s.q.Encode(a, int64(len(body)))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.q.StoreShadow(s.t.Context(), queue.ShadowCopy{Primary: primary.name, Queue: primary.q.Identity(), Try: 1, Accept: b, Body: body}); err != nil {
		s.t.Fatal(err)
	}
	n := byte(binary.BigEndian.Uint64(a.ID[:]) - 1)
	err = s.q.Apply(s.t.Context(), []queue.Change{{ID: a.ID, At: a.Received, Fate: queue.FateFinished, By: primary.name,
		Rows: []queue.RowChange{{N: 0, State: queue.StateDelivered, Mailbox: box(n, db), At: a.Received}}}}, queue.Wait)
	if err != nil {
		s.t.Fatal(err)
	}
}

// ask writes the request of a lossy mount.
func (s *server) ask(since time.Time) string {
	s.t.Helper()
	id, op := s.net.Ask("DB01", since, "lossy mount")
	if _, err := (group{s.world, s.name}).Commit(s.t.Context(), cluster.Txn{Then: []cluster.Op{op}}); err != nil {
		s.t.Fatal(err)
	}
	return id
}

// reaches waits until a request is in a state; time passes meanwhile.
func (s *server) reaches(id, state string) Status {
	s.t.Helper()
	var st Status
	s.eventually(func() bool {
		s.pass(10 * time.Millisecond)
		var err error
		if st, err = s.net.Show(id); err != nil {
			s.t.Fatal(err)
		}
		return st.State == state
	}, func() string { return fmt.Sprintf("want %s: %+v", state, st) })
	return st
}

func (w *world) eventually(ok func() bool, say func() string) {
	w.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(15 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			w.t.Fatal(say())
		}
	}
}

// have counts what was delivered again, and what more than once.
func (w *world) have() (messages, times int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.boxes {
		messages++
		times += n
	}
	return messages, times
}
