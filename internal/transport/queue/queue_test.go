package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

var discard = slog.New(slog.DiscardHandler)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// disks outlive the queues that use them.
type disks struct {
	fs *fsx.Mem
	ix *vfs.MemFS
}

func newDisks() disks { return disks{fsx.NewMem(), vfs.NewCrashableMem()} }

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newClock() *clock { return &clock{now: time.Unix(1_700_000_000, 0)} }

// running is a queue that runs until stop.
type running struct {
	*Queue
	clock *clock
	stop  func()
}

func options(d disks, c *clock) Options {
	return Options{Dir: "queue", FS: d.fs, IndexFS: d.ix, SegmentSize: 64 << 10, Reserve: 1, Now: c.Now}
}

func start(t testing.TB, d disks, c *clock, tune ...func(*Options)) *running {
	t.Helper()
	o := options(d, c)
	for _, f := range tune {
		f(&o)
	}
	q, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return run(t, q, c)
}

// run runs a queue that was opened.
func run(t testing.TB, q *Queue, c *clock) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := q.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	waitFor(t, q.running.Load)
	var once sync.Once
	r := &running{Queue: q, clock: c}
	r.stop = func() {
		once.Do(func() {
			cancel()
			<-done
			if err := q.Close(); err != nil && q.Failed() == nil && !errors.Is(err, errBroken) {
				t.Error(err)
			}
		})
	}
	t.Cleanup(r.stop)
	return r
}

// waitFor polls a condition that comes true without anybody saying so.
func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatal("it did not come true")
		}
	}
}

// message makes the n-th message, to the recipients given.
func message(n int, c *clock, rcpts ...string) (Accepted, []byte) {
	if len(rcpts) == 0 {
		rcpts = []string{"to@example.test"}
	}
	a := Accepted{Received: c.Now().UnixNano(), Expires: c.Now().Add(48 * time.Hour).UnixNano(),
		Origin: mail.Origin{Door: "receive", Helo: "client"}, Envelope: mail.Envelope{From: "From@example.test"},
		Shadow: "MBX2", Priority: mail.PriorityNormal, Subject: fmt.Sprint("subject ", n), MessageID: fmt.Sprintf("<%d@example.test>", n)}
	be.PutUint64(a.ID[:], uint64(n)+1)
	a.Identity[0] = byte(n)
	for _, r := range rcpts {
		a.Envelope.Recipients = append(a.Envelope.Recipients, mail.EnvelopeRecipient{Address: r})
	}
	return a, bytes.Repeat(fmt.Appendf(nil, "body of %d\r\n", n), 1+n%700)
}

func (r *running) accept(t testing.TB, n int, rcpts ...string) (mail.TraceID, []byte) {
	t.Helper()
	a, body := message(n, r.clock, rcpts...)
	if err := r.Accept(t.Context(), a, body); err != nil {
		t.Fatal(err)
	}
	return a.ID, body
}

func (r *running) apply(t testing.TB, d Durability, cs ...Change) {
	t.Helper()
	if err := r.Apply(t.Context(), cs, d); err != nil {
		t.Fatal(err)
	}
}

func (r *running) states(t testing.TB, id mail.TraceID) string {
	t.Helper()
	_, rows, err := r.Message(id)
	if err != nil {
		t.Fatal(err)
	}
	s := ""
	for _, row := range rows {
		s += row.State.String() + " "
	}
	return s
}

var box = org.MailboxRef{ID: org.MailboxID{7}, Database: "DB01"}

func delivered(id mail.TraceID, n uint16) Change {
	return Change{ID: id, Rows: []RowChange{{N: n, State: StateDelivered, Dest: "db:DB01", Mailbox: box}}}
}

// TestLife takes a message through its life: accepted, read, tried, delivered,
// kept, and over a restart.
func TestLife(t *testing.T) {
	d, c := newDisks(), newClock()
	q := start(t, d, c)
	if err := q.Begin(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	id, body := q.accept(t, 1, "one@example.test", "two@remote.test")
	q.apply(t, Wait, Change{ID: id, Rows: []RowChange{
		{N: 0, State: StateReady, Dest: "db:DB01", Org: "acme"}, {N: 1, State: StateReady, Dest: "mx:remote.test"}}})
	q.apply(t, Lazy, delivered(id, 0))
	q.apply(t, Wait, Change{ID: id, Rows: []RowChange{{N: 1, State: StateAttempt, Attempts: 1, Host: "mx.remote.test", TLS: 1}}})
	if got := q.states(t, id); got != "delivered attempt " {
		t.Fatal(got)
	}
	q.stop()

	q = start(t, d, c)
	if q.Epoch() != 3 || q.Stats().Open != 1 {
		t.Fatalf("epoch %d, %d open", q.Epoch(), q.Stats().Open)
	}
	var jobs []Job
	for j, err := range q.Unfinished() {
		if err != nil {
			t.Fatal(err)
		}
		jobs = append(jobs, j)
	}
	if len(jobs) != 1 || jobs[0].ID != id || jobs[0].Dest != "mx:remote.test" || jobs[0].State != StateDoubtful || jobs[0].Size != int64(len(body)) {
		t.Fatalf("%+v", jobs)
	}
	if got := q.states(t, id); got != "delivered doubtful " {
		t.Fatal(got)
	}
	got, err := q.Body(t.Context(), id)
	if err != nil || !bytes.Equal(got, body) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if err := q.Apply(t.Context(), []Change{{ID: id, Rows: []RowChange{{N: 0, State: StateReturned}}}}, Wait); !kind.Is(err, kind.Conflict) {
		t.Fatalf("a delivered row was returned: %v", err)
	}
	q.apply(t, Wait, Change{ID: id, At: c.Now().UnixNano(), Rows: []RowChange{{N: 1, State: StateRelayed, Code: 250, Repeat: true}}})
	m, rows, err := q.Message(id)
	if err != nil || m.Fate != FateFinished || !m.Finished.Equal(c.Now()) || len(m.Envelope.Recipients) != 2 || !rows[1].RepeatPossible || rows[1].Code != 250 || rows[1].Host != "mx.remote.test" {
		t.Fatalf("%+v %+v %v", m, rows, err)
	}
	if q.Stats().Open != 0 {
		t.Fatal("still open")
	}
}

// TestRefusals shows what is not accepted.
func TestRefusals(t *testing.T) {
	q := start(t, newDisks(), newClock(), func(o *Options) { o.MaxMessages = 2 })
	id, _ := q.accept(t, 1)
	a, body := message(1, q.clock)
	if err := q.Accept(t.Context(), a, body); !kind.Is(err, kind.Exists) {
		t.Fatalf("twice: %v", err)
	}
	none := a
	none.ID, none.Envelope.Recipients = mail.TraceID{9}, nil
	bad := a
	bad.ID, bad.Envelope.From = mail.TraceID{9}, "\xff@example.test"
	for _, a := range []Accepted{none, bad} {
		if err := q.Accept(t.Context(), a, body); !kind.Is(err, kind.Invalid) {
			t.Fatalf("%v", err)
		}
	}
	q.accept(t, 2)
	a, body = message(3, q.clock)
	if err := q.Accept(t.Context(), a, body); !kind.Is(err, kind.Full) {
		t.Fatalf("a third of two: %v", err)
	}
	if err := q.Begin(t.Context(), 0); !kind.Is(err, kind.Conflict) {
		t.Fatalf("epoch 0: %v", err)
	}
	if err := q.Apply(t.Context(), []Change{{ID: mail.TraceID{8}}}, Wait); !kind.Is(err, kind.NotFound) {
		t.Fatal(err)
	}
	for _, cs := range [][]Change{
		{{ID: id}, {ID: id}},
		{{ID: id, Rows: []RowChange{{N: 1, State: StateReady}}}},
		{{ID: id, Rows: []RowChange{{N: 0, State: StateHeld}}}},
		{{ID: id, Rows: []RowChange{{N: 0, State: 99}}}},
		{{ID: id, Fate: FateFinished}},
		{{ID: id, Rows: []RowChange{{N: 3, New: &RowNew{Address: "x@y.test"}}}}},
	} {
		if err := q.Apply(t.Context(), cs, Wait); !kind.Is(err, kind.Invalid) {
			t.Fatalf("%+v: %v", cs, err)
		}
	}
	if got := q.states(t, id); got != "new " {
		t.Fatal(got)
	}
}
