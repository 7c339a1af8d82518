package deliver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/schedule"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// boxes is a store that remembers deliveries, and can be away.
type boxes struct {
	mu   sync.Mutex
	got  map[org.MailboxID]map[[32]byte]int
	err  error
	full map[org.MailboxID]bool
	news chan struct{}
}

func newBoxes() *boxes {
	return &boxes{got: map[org.MailboxID]map[[32]byte]int{}, full: map[org.MailboxID]bool{}, news: make(chan struct{}, 1)}
}

func (b *boxes) Deliver(_ context.Context, d mail.Delivery) ([]mail.Delivered, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer func() {
		select {
		case b.news <- struct{}{}:
		default:
		}
	}()
	if b.err != nil {
		return nil, b.err
	}
	var out []mail.Delivered
	for _, r := range d.Recipients {
		a := mail.Delivered{Mailbox: r.Mailbox}
		if b.full[r.Mailbox.ID] {
			a.Refused, a.RefusedKind = "over its quota", uint8(kind.Full)
			out = append(out, a)
			continue
		}
		if b.got[r.Mailbox.ID] == nil {
			b.got[r.Mailbox.ID] = map[[32]byte]int{}
		}
		b.got[r.Mailbox.ID][d.Identity]++
		a.Duplicate = b.got[r.Mailbox.ID][d.Identity] > 1
		out = append(out, a)
	}
	return out, nil
}

func (b *boxes) set(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

func (b *boxes) count(id org.MailboxID) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.got[id])
}

// door routes every address to the mailbox of its first byte in DB01.
type door struct {
	q     *queue.Queue
	mine  error
	route error
	late  chan queue.Message
}

func box(address string) org.MailboxRef {
	return org.MailboxRef{ID: org.MailboxID{address[0]}, Database: "DB01"}
}

func (d *door) Route(_ context.Context, m queue.Message, rows []queue.RecipientRow) ([]Way, error) {
	if d.route != nil {
		return nil, d.route
	}
	var out []Way
	for _, r := range rows {
		if r.State == queue.StateNew {
			w := Way{Row: r.N, Dest: "db:DB01", Mailbox: box(r.Address), Organization: "o"}
			if r.Address[0] == 'x' {
				w = Way{Row: r.N, Dest: "mx:x.test", Organization: "o"}
			}
			out = append(out, w)
		}
	}
	return out, nil
}
func (d *door) Mine(queue.Message) error                                  { return d.mine }
func (d *door) Begun(context.Context, queue.Message) (bool, error)        { return false, nil }
func (d *door) Notice(queue.Message) time.Time                            { return time.Time{} }
func (d *door) Body(ctx context.Context, id mail.TraceID) ([]byte, error) { return d.q.Body(ctx, id) }

func (d *door) Finish(ctx context.Context, m queue.Message, _ []queue.RecipientRow, cs []queue.RowChange) error {
	return d.q.Apply(ctx, []queue.Change{{ID: m.ID, At: time.Now().UnixNano(), Rows: cs}}, queue.Wait)
}

func (d *door) Overdue(ctx context.Context, m queue.Message, rows []queue.RecipientRow) (time.Time, bool, error) {
	var cs []queue.RowChange
	for _, r := range rows {
		cs = append(cs, queue.RowChange{N: r.N, State: queue.StateReturned, Dest: r.Dest, Status: "5.4.7"})
	}
	d.late <- m
	return time.Time{}, true, d.Finish(ctx, m, rows, cs)
}

type bench struct {
	t    *testing.T
	q    *queue.Queue
	d    *Dispatcher
	door *door
	box  *boxes
	dead atomic.Int64
	stop func()
}

func newBench(t *testing.T, fs *fsx.Mem, ix *vfs.MemFS, b *boxes) *bench {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	q, err := queue.Open(queue.Options{Dir: "queue", FS: fs, IndexFS: ix, SegmentSize: 1 << 20, Reserve: 1, Log: log, Events: event.NewLog(log)})
	if err != nil {
		t.Fatal(err)
	}
	dr := &door{q: q, late: make(chan queue.Message, 100)}
	h := &bench{t: t, q: q, door: dr, box: b}
	d := New(Deps{Queue: q, Rules: schedule.DefaultRules(), Door: dr, Now: time.Now, Log: log, InDoubt: func() time.Duration { return time.Minute },
		Organization: func(uint64) org.OrganizationID { return "o" }, Observe: func(Observed) {},
		Agents: map[string]Agent{"db": NewLocal(b, time.Now, func() time.Duration { return time.Hour }), "mx": dead{&h.dead}}})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := q.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	<-q.Running()
	inner, end := context.WithCancel(ctx)
	var first sync.WaitGroup
	first.Go(func() {
		if err := d.Run(inner, time.Second); err != nil {
			t.Error(err)
		}
	})
	h.d = d
	h.stop = sync.OnceFunc(func() {
		end()
		first.Wait()
		cancel()
		wg.Wait()
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(h.stop)
	return h
}

func (h *bench) accept(n byte, expires time.Time, to ...string) mail.TraceID {
	h.t.Helper()
	a := queue.Accepted{ID: mail.NewTraceID(time.Now()), Identity: [32]byte{n}, Received: time.Now().UnixNano(), Expires: expires.UnixNano(), Envelope: mail.Envelope{From: "s@x.test"}}
	for _, r := range to {
		a.Envelope.Recipients = append(a.Envelope.Recipients, mail.EnvelopeRecipient{Address: r})
	}
	if err := h.q.Accept(h.t.Context(), a, fmt.Appendf(nil, "Subject: %d\r\n\r\nhi\r\n", n)); err != nil {
		h.t.Fatal(err)
	}
	h.d.Submit(h.t.Context(), a.ID)
	return a.ID
}

// until waits for a condition that deliveries bring about.
func (h *bench) until(what string, ok func() bool) {
	h.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	end := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			h.t.Fatalf("%s: never; destinations %+v", what, h.d.Stats())
		}
	}
}

func (h *bench) states(id mail.TraceID) (out []queue.State) {
	h.t.Helper()
	_, rows, err := h.q.Message(id)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, r := range rows {
		out = append(out, r.State)
	}
	return out
}

func TestDelivers(t *testing.T) {
	h := newBench(t, fsx.NewMem(), vfs.NewCrashableMem(), newBoxes())
	id := h.accept(1, time.Now().Add(time.Hour), "a@o.test", "b@o.test")
	h.until("delivered", func() bool {
		s := h.states(id)
		return s[0] == queue.StateDelivered && s[1] == queue.StateDelivered
	})
	if h.box.count(org.MailboxID{'a'}) != 1 || h.box.count(org.MailboxID{'b'}) != 1 {
		t.Error("not each mailbox has it")
	}
	h.until("nothing is left", func() bool { return h.d.Len() == 0 })
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if len(h.d.plans) != 0 {
		t.Errorf("%d plans are kept", len(h.d.plans))
	}
}

// TestStoreAway: the store is away, the server restarts meanwhile, the store is
// back: all is there once.
func TestStoreAway(t *testing.T) {
	fs, ix, b := fsx.NewMem(), vfs.NewCrashableMem(), newBoxes()
	b.err = kind.Errorf(kind.Busy, "no active copy")
	h := newBench(t, fs, ix, b)
	var ids []mail.TraceID
	for n := range byte(50) {
		ids = append(ids, h.accept(n, time.Now().Add(time.Hour), "a@o.test", "b@o.test"))
	}
	h.until("one probe at a time tries", func() bool { f := h.d.Stats()[0]; return f.Fails > 1 && f.InFlight <= 1 })
	h.stop()
	h = newBench(t, fs, ix, b)
	b.set(func() { b.err = nil })
	h.d.RetryNow(schedule.Selector{Dest: "db:DB01"})
	for _, id := range ids {
		h.until("delivered", func() bool { s := h.states(id); return s[0] == queue.StateDelivered && s[1] == queue.StateDelivered })
	}
	if n := h.box.count(org.MailboxID{'a'}); n != 50 {
		t.Errorf("%d messages, want 50", n)
	}
}

func TestFullAndExpired(t *testing.T) {
	b := newBoxes()
	b.full[org.MailboxID{'f'}] = true
	h := newBench(t, fsx.NewMem(), vfs.NewCrashableMem(), b)
	id := h.accept(1, time.Now().Add(300*time.Millisecond), "a@o.test", "f@o.test")
	h.until("one is deferred", func() bool {
		s := h.states(id)
		return s[0] == queue.StateDelivered && s[1] == queue.StateDeferred
	})
	_, rows, _ := h.q.Message(id)
	if r := rows[1]; r.Status != "4.2.2" || r.Next.Before(time.Now().Add(4*time.Minute)) || r.Text == "" {
		t.Errorf("row of the full mailbox: %+v", r)
	}
	<-h.door.late
	h.until("returned when it is too old, although its time had not come", func() bool { return h.states(id)[1] == queue.StateReturned })
}

// TestDeferredAgain: an answer that is the same as the one before is written too,
// and its wait is kept: what was deferred twice is not tried each second.
func TestDeferredAgain(t *testing.T) {
	b := newBoxes()
	b.full[org.MailboxID{'f'}] = true
	h := newBench(t, fsx.NewMem(), vfs.NewCrashableMem(), b)
	id := h.accept(1, time.Now().Add(time.Hour), "f@o.test")
	for n := range uint16(3) {
		h.until("deferred once more", func() bool {
			_, rows, err := h.q.Message(id)
			if err != nil {
				t.Fatal(err)
			}
			r := rows[0]
			return r.State == queue.StateDeferred && r.Attempts == n+1 && r.Next.After(time.Now().Add(4*time.Minute))
		})
		h.until("it waits", func() bool { return h.d.Stats()[0].InFlight == 0 })
		h.d.RetryNow(schedule.Selector{Dest: "db:DB01"})
	}
}

// dead is an agent whose hosts never answer; it counts how often it was asked.
type dead struct{ tried *atomic.Int64 }

func (d dead) Deliver(_ context.Context, w Work) []Result {
	defer d.tried.Add(1)
	return all(make([]Result, len(w.Rows)), Result{State: queue.StateDeferred, Code: 451, Status: "4.4.1", Text: "no answer", Whole: true})
}

// TestDeadDestination: each failure counts for the destination as a whole: one
// message at a time finds out whether it is back, also when that message was
// deferred before.
func TestDeadDestination(t *testing.T) {
	h := newBench(t, fsx.NewMem(), vfs.NewCrashableMem(), newBoxes())
	for n := range byte(5) {
		h.accept(n, time.Now().Add(time.Hour), "x@x.test")
	}
	for tries := range int64(8) {
		h.until("it failed as a whole", func() bool {
			s := h.d.Stats()[0]
			return h.dead.Load() > tries && s.InFlight == 0 && s.Fails > 0 && s.Waiting == 0
		})
		if n := h.dead.Load(); n > tries+5 {
			t.Fatalf("%d tries after %d retries of 5 messages", n, tries)
		}
		h.d.RetryNow(schedule.Selector{Dest: "mx:x.test"})
	}
}

func TestNotMine(t *testing.T) {
	h := newBench(t, fsx.NewMem(), vfs.NewCrashableMem(), newBoxes())
	h.door.mine = kind.Errorf(kind.Elsewhere, "another server took it")
	id := h.accept(1, time.Now().Add(time.Hour), "x@x.test")
	h.until("it waits", func() bool { return h.d.Len() == 1 && h.d.Stats()[0].InFlight == 0 })
	if s := h.states(id)[0]; s != queue.StateReady {
		t.Errorf("another server's message is %s", s)
	}
	h.d.Remove(id)
	h.until("it is forgotten, also where it was just being tried", func() bool { return h.d.Len() == 0 })
}

// TestSuspendedIsInTheLedger: what waits for a destination that is held back can
// be found by it, and goes on when it is resumed.
func TestSuspendedIsInTheLedger(t *testing.T) {
	h := newBench(t, fsx.NewMem(), vfs.NewCrashableMem(), newBoxes())
	if _, err := h.d.Suspend(t.Context(), schedule.Selector{Dest: "db:DB01"}); err != nil {
		t.Fatal(err)
	}
	id := h.accept(1, time.Now().Add(time.Hour), "a@o.test", "b@o.test")
	h.until("it is found", func() bool {
		rows, _, err := h.q.Find(queue.Filter{Dest: "db:DB01", Unfinished: true})
		return err == nil && len(rows) == 2
	})
	h.d.Resume(schedule.Selector{Dest: "db:DB01"})
	h.until("delivered", func() bool { s := h.states(id); return s[0] == queue.StateDelivered && s[1] == queue.StateDelivered })
}

// TestPause: while paused nothing is tried, and Pause returns when nothing is.
func TestPause(t *testing.T) {
	h := newBench(t, fsx.NewMem(), vfs.NewCrashableMem(), newBoxes())
	if err := h.d.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	id := h.accept(1, time.Now().Add(time.Hour), "a@o.test")
	if s := h.states(id)[0]; h.d.Len() != 1 || s != queue.StateNew {
		t.Errorf("%d jobs, state %s", h.d.Len(), s)
	}
	h.d.Unpause()
	h.until("delivered", func() bool { return h.states(id)[0] == queue.StateDelivered })
}

func TestRouteLater(t *testing.T) {
	h := newBench(t, fsx.NewMem(), vfs.NewCrashableMem(), newBoxes())
	h.door.route = errors.New("directory is away")
	id := h.accept(1, time.Now().Add(time.Hour), "a@o.test")
	h.until("it waits for the directory", func() bool { s := h.d.Stats(); return len(s) == 1 && s[0].Dest == routeDest })
	h.door.route = nil
	h.d.RetryNow(schedule.Selector{Dest: routeDest})
	h.until("delivered", func() bool { return h.states(id)[0] == queue.StateDelivered })
}
