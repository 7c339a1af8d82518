package shadow

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/postern-mail/postern/internal/base/codec"
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

// world is an agreed state with servers whose links and leases tests cut.
type world struct {
	t testing.TB

	mu       sync.Mutex // guards the rest
	settings settings.Group
	rows     map[string]cluster.Item
	revision int64
	changed  chan struct{}
	nodes    map[org.ServerName]*node
	now      time.Time
}

// node is a server: its disk outlives its process.
type node struct {
	w    *world
	name org.ServerName
	fs   *fsx.Mem
	ix   *vfs.MemFS

	*Keeper
	q          *queue.Queue
	stop       func() // the process
	closeQueue func()
	log        *event.Log

	// guarded by world.mu
	up        bool
	cut       bool // reaches nobody, and not the agreed state
	boot      int
	view      *cluster.View // as of when it was cut
	published map[string][]byte
	refuse    map[string]error // answers of its calls by method
	lose      map[string]bool  // calls whose answer is lost
	before    func(from org.ServerName, method string)
	taken     []mail.TraceID
	gone      []mail.TraceID
	notes     []org.Note // for the recovery log
}

// noted tells whether an action is for the recovery log, with its evidence.
func (n *node) noted(action string, about org.ServerName) bool {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return slices.ContainsFunc(n.notes, func(x org.Note) bool {
		return x.Action == action && x.Target == string(about) && x.Cause != "" && x.Result != "" && len(x.Evidence) == 1
	})
}

func (n *node) note(x org.Note) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	n.notes = append(n.notes, x)
}

func newWorld(t testing.TB, names ...org.ServerName) *world {
	d := func(d time.Duration) conf.Duration { return conf.Duration(d) }
	w := &world{t: t, rows: map[string]cluster.Item{}, changed: make(chan struct{}), nodes: map[org.ServerName]*node{}, revision: 10,
		now: time.Unix(1_700_000_000, 0),
		settings: settings.Group{RejectOnShadowFailure: "auto", ShadowPreference: "prefer_remote", RetriesLocalSite: 2, RetriesRemoteSite: 4,
			ShadowTimeout: d(300 * time.Millisecond), AcceptTimeout: d(5 * time.Second), ShadowHeartbeat: d(time.Hour), TakeoverAfter: d(50 * time.Millisecond),
			InDoubtWait: d(5 * time.Minute), AutoDiscardInterval: d(48 * time.Hour)}}
	for _, n := range names {
		w.add(n)
	}
	for _, n := range names {
		w.start(n)
	}
	return w
}

func (w *world) add(name org.ServerName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes[name] = &node{w: w, name: name, fs: fsx.NewMem(), ix: vfs.NewCrashableMem()}
	w.put("servers/"+string(name), org.Server{Name: name, Site: "A"})
}

// put writes a row; w.mu is held.
func (w *world) put(key string, v any) {
	b, _ := json.Marshal(v)
	w.revision++
	w.rows[key] = cluster.Item{Value: b, Revision: w.revision}
	w.tell()
}

func (w *world) tell() {
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *world) remove(name org.ServerName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.revision++
	delete(w.rows, "servers/"+string(name))
	w.tell()
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(time.Microsecond)
	return w.now
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// open opens the queue on a server's disk and runs it.
func (w *world) open(name org.ServerName) *node {
	w.t.Helper()
	n := w.nodes[name]
	q, err := queue.Open(queue.Options{Dir: "queue", FS: n.fs, IndexFS: n.ix, SegmentSize: 1 << 20, Reserve: 1, Now: w.clock})
	if err != nil {
		w.t.Fatal(err)
	}
	n.q, n.log = q, event.NewLog(slog.New(slog.DiscardHandler))
	qctx, qcancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { q.Run(qctx) })
	w.eventually(func() bool { // it runs
		return q.NoteRequest(qctx, "x", queue.Progress{}) == nil
	})
	n.closeQueue = func() {
		qcancel()
		wg.Wait()
		q.Close()
	}
	return n
}

// start starts a server's process on its disk.
func (w *world) start(name org.ServerName) *node {
	w.t.Helper()
	n := w.open(name)
	k := New(Deps{Group: n, Queue: n.q, Fast: true, Now: w.clock, Events: n.log, Version: "test",
		Settings: w.group,
		Taken:    n.tookOver, Gone: n.gaveUp, Answer: n.answer, Noted: n.note})
	k.peers = n.call
	w.mu.Lock()
	n.Keeper = k
	n.up, n.boot, n.published = true, n.boot+1, map[string][]byte{}
	n.taken, n.gone = nil, nil
	w.tell()
	w.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	n.runKeeper(ctx, cancel)
	return n
}

// runKeeper runs the keeper of a server until its stop.
func (n *node) runKeeper(ctx context.Context, cancel func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.Keeper.Run(ctx)
	}()
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			n.w.mu.Lock()
			n.up = false
			n.w.tell()
			n.w.mu.Unlock()
			cancel()
			<-done
			n.closeQueue()
		})
	}
	n.w.t.Cleanup(n.stop)
}

func (n *node) tookOver(_ context.Context, ids []mail.TraceID) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	n.taken = append(n.taken, ids...)
}

func (n *node) gaveUp(ids []mail.TraceID) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	n.gone = append(n.gone, ids...)
}

func (n *node) answer(_ context.Context, peer org.ServerName, method string, request []byte) ([]byte, error) {
	return fmt.Appendf(nil, "%s %s %s %s", n.name, peer, method, request), nil
}

// kill ends a server as the loss of power does: it says nothing more, and what
// it did not bring to its disk is lost.
func (w *world) kill(name org.ServerName) {
	n := w.nodes[name]
	w.mu.Lock()
	n.up = false
	w.tell()
	w.mu.Unlock()
	ix := n.ix.CrashClone(vfs.CrashCloneCfg{})
	fs := n.fs.CrashImage(1)
	n.stop()
	n.fs, n.ix = fs, ix
}

// restart starts a server again and waits until its epoch has begun.
func (w *world) restart(name org.ServerName) *node {
	n := w.start(name)
	<-n.Ready()
	return n
}

// setCut cuts a server off from all others, or lets it in again.
func (w *world) setCut(name org.ServerName, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.nodes[name]
	n.view = nil
	if cut {
		n.view = w.viewNow()
	}
	n.cut = cut
	w.tell()
}

// stale stops the view of a server, which goes on to be reached.
func (w *world) stale(name org.ServerName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes[name].view = w.viewNow()
}

// fence takes the messages of a server, by hand.
func (w *world) fence(name org.ServerName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var r org.QueueRow
	json.Unmarshal(w.rows[org.QueueKey(name)].Value, &r)
	r.TakenUpTo, r.TakenBy, r.Why = r.Epoch, "X", "by hand"
	w.put(org.QueueKey(name), r)
}

// with changes something of a server that calls see.
func (w *world) with(name org.ServerName, f func(*node)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w.nodes[name])
}

func refuse(methods ...string) func(*node) {
	return func(n *node) {
		n.refuse = map[string]error{}
		for _, m := range methods {
			n.refuse[m] = kind.Errorf(kind.Busy, "%s is refused", m)
		}
	}
}

func (w *world) viewNow() *cluster.View { return cluster.NewView(w.revision, maps.Clone(w.rows)) }

func (w *world) eventually(ok func() bool) {
	w.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			w.t.Fatal("it did not come true")
		}
	}
}

// Group

func (n *node) Name() org.ServerName { return n.name }
func (n *node) Site() org.SiteName   { return "A" }
func (n *node) View() *cluster.View {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	if n.view != nil {
		return n.view
	}
	return n.w.viewNow()
}

func (n *node) Changed() <-chan struct{} {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.w.changed
}
func (n *node) PeersChanged() <-chan struct{} { return n.Changed() }

// quorum tells whether a majority of servers is up with this one; w.mu is held.
func (n *node) quorum() bool {
	up := 0
	for _, o := range n.w.nodes {
		if o.up && !o.cut {
			up++
		}
	}
	return n.up && !n.cut && (2*up > len(n.w.nodes) || len(n.w.nodes) == 2)
}

func (n *node) Quorum() bool {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.quorum()
}
func (n *node) LeaseValid() bool { return n.Quorum() }

func (n *node) Sync(context.Context) error {
	if !n.Quorum() {
		return kind.Errorf(kind.Busy, "no quorum")
	}
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	if !n.cut {
		n.view = nil
	}
	return nil
}

func (n *node) Commit(_ context.Context, t cluster.Txn) (int64, error) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	if !n.quorum() {
		return 0, kind.Errorf(kind.Busy, "no quorum")
	}
	for _, c := range t.If {
		if n.w.rows[c.Key].Revision != c.Revision {
			return 0, kind.Errorf(kind.Conflict, "row %s changed", c.Key)
		}
	}
	n.w.revision++
	for _, o := range t.Then {
		n.w.rows[o.Key] = cluster.Item{Value: o.Value, Revision: n.w.revision}
	}
	n.w.tell()
	return n.w.revision, nil
}

func (n *node) reaches(o *node) bool { return n.up && o.up && !n.cut && !o.cut }

func (n *node) Peers() (out []cluster.Peer) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	for _, o := range n.w.nodes {
		if o == n {
			continue
		}
		p := cluster.Peer{Server: o.name, State: "silent", Boot: fmt.Sprint(o.boot)}
		if n.reaches(o) {
			p.State = cluster.PeerUp
		}
		out = append(out, p)
	}
	return out
}

func (n *node) Dead(s org.ServerName) (string, bool) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	o := n.w.nodes[s]
	return "it is not heard", o != nil && !n.reaches(o)
}

func (n *node) Alive(s org.ServerName) bool {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	o := n.w.nodes[s]
	return o != nil && o.up && !o.cut
}

func (n *node) Publish(section string, v []byte) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	n.published[section] = v
}

func (n *node) Published(s org.ServerName, section string) ([]byte, time.Time, bool) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	o := n.w.nodes[s]
	if o == nil {
		return nil, time.Time{}, false
	}
	v, ok := o.published[section]
	return v, time.Now(), ok
}

func (n *node) Conn(s org.ServerName) (*grpc.ClientConn, error) {
	return nil, kind.Errorf(kind.Internal, "calls go another way")
}
func (n *node) RegisterService(*grpc.ServiceDesc, any) {}

// call carries a call to another server, encoded as on the links.
func (n *node) call(ctx context.Context, s org.ServerName, method string, in, out any) error {
	w := n.w
	w.mu.Lock()
	o := w.nodes[s]
	if o == nil || !n.reaches(o) {
		w.mu.Unlock()
		return kind.Errorf(kind.Busy, "%s does not answer", s)
	}
	refused, lost, before, to := o.refuse[method], o.lose[method], o.before, o.Keeper
	w.mu.Unlock()
	if before != nil {
		before(n.name, method)
	}
	if refused != nil {
		return refused
	}
	a, err := to.serve(ctx, n.name, method, codec.MustMarshal(in))
	w.mu.Lock()
	reached := n.reaches(o)
	w.mu.Unlock()
	if lost || !reached {
		if lost {
			<-ctx.Done()
		}
		return kind.Errorf(kind.Busy, "the answer of %s is lost", s)
	}
	if err != nil {
		return &kind.Error{Kind: kind.Of(err), Text: err.Error()}
	}
	return codec.Unmarshal(a, out)
}

func (w *world) group() settings.Group {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.settings
}

func (w *world) set(f func(*settings.Group)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.settings)
}

// message makes the n-th message.
func (w *world) message(n int, rcpts ...string) (queue.Accepted, []byte) {
	if len(rcpts) == 0 {
		rcpts = []string{"to@example.test"}
	}
	now := w.clock()
	a := queue.Accepted{ID: mail.NewTraceID(now), Received: now.UnixNano(), Expires: now.Add(48 * time.Hour).UnixNano(),
		Origin: mail.Origin{Door: "receive"}, Envelope: mail.Envelope{From: "from@example.test"}, Priority: mail.PriorityNormal}
	a.Identity[0] = byte(n)
	for _, r := range rcpts {
		a.Envelope.Recipients = append(a.Envelope.Recipients, mail.EnvelopeRecipient{Address: r})
	}
	return a, bytes.Repeat(fmt.Appendf(nil, "body of %d\r\n", n), 5)
}

// accept has a server accept a message; it is to be held by holder.
func (w *world) accept(at, holder org.ServerName, rcpts ...string) mail.TraceID {
	w.t.Helper()
	n := w.nodes[at]
	<-n.Ready()
	if holder != "" {
		w.eventually(func() bool { return slices.Contains(n.Status().Candidates, holder) })
	}
	a, body := w.message(1, rcpts...)
	got, err := n.Accept(w.t.Context(), a, body, holder)
	if err != nil || got != holder {
		w.t.Fatalf("accepted with %q, %v; want %q", got, err, holder)
	}
	return a.ID
}

func (n *node) apply(t testing.TB, id mail.TraceID, rows ...queue.RowChange) {
	t.Helper()
	if err := n.q.Apply(context.Background(), []queue.Change{{ID: id, At: n.w.clock().UnixNano(), Rows: rows}}, queue.Wait); err != nil {
		t.Fatal(err)
	}
}

var box = org.MailboxRef{ID: org.MailboxID{1}, Database: "DB01"}

func (n *node) deliver(t testing.TB, id mail.TraceID) {
	t.Helper()
	n.apply(t, id, queue.RowChange{N: 0, State: queue.StateDelivered, Dest: "db:DB01", Mailbox: box})
}

// state is the claim a server makes of a message.
func (n *node) state(id mail.TraceID) claimState {
	c, err := n.claim(id)
	if err != nil {
		n.w.t.Error(err)
	}
	return c.State
}

// owner waits until exactly that server owns the message and may send it.
func (w *world) owner(id mail.TraceID, want org.ServerName) {
	w.t.Helper()
	got := map[org.ServerName]claimState{}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(5 * time.Second); ; <-tick.C {
		clear(got)
		var mine []*node
		for name, n := range w.nodes {
			if w.isUp(n) {
				got[name] = n.state(id)
				if n.mine(id) {
					mine = append(mine, n)
				}
			}
		}
		if len(mine) > 1 { // one after the other, perhaps: then the first is not any more
			mine = slices.DeleteFunc(mine, func(n *node) bool { return !w.isUp(n) || !n.mine(id) })
		}
		if len(mine) > 1 {
			w.t.Fatalf("owned twice: %v", got)
		}
		if len(mine) == 1 && mine[0].name == want && got[want] == claimOwned {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("%s does not own it: %v", want, got)
		}
	}
}

func (w *world) isUp(n *node) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return n.up
}

// mine tells whether a server may send a message.
func (n *node) mine(id mail.TraceID) bool {
	m, _, err := n.q.Message(id)
	return err == nil && m.Finished.IsZero() && m.Primary == "" && n.Mine(m) == nil
}

func (w *world) until(at org.ServerName, id mail.TraceID, want claimState) {
	w.t.Helper()
	n := w.nodes[at]
	for end := time.Now().Add(5 * time.Second); n.state(id) != want; {
		if time.Now().After(end) {
			w.t.Fatalf("at %s it is %d, want %d", at, n.state(id), want)
		}
		tick := time.NewTimer(2 * time.Millisecond)
		<-tick.C
	}
}

func (n *node) was(list *[]mail.TraceID, id mail.TraceID) bool {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return slices.Contains(*list, id)
}
