package deliver

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/schedule"
)

const deferredTo = "mx:outside.test"

// counting is a destination that takes nothing: it is down, or defers each
// message for an hour.
type counting struct {
	down  atomic.Bool
	tried atomic.Int64
}

func (c *counting) Deliver(ctx context.Context, w Work) []Result {
	defer c.tried.Add(1)
	out := make([]Result, len(w.Rows))
	if c.down.Load() {
		return all(out, Result{State: queue.StateReady, Code: 451, Status: "4.4.1", Text: "connection refused", Whole: true})
	}
	if err := w.Begun(ctx, "mx.outside.test"); err != nil {
		return all(out, Result{State: queue.StateReady})
	}
	return all(out, Result{State: queue.StateDeferred, Code: 450, Status: "4.2.0", Text: "later", Wait: time.Hour})
}

func (c *counting) until(b *testing.B, n int64) {
	b.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Minute); c.tried.Load() < n; <-tick.C {
		if time.Now().After(end) {
			b.Fatalf("%d tried, want %d", c.tried.Load(), n)
		}
	}
}

// BenchmarkDeferred is a server with b.N messages in its queue that a
// destination deferred: how long until it is ready again after a restart, what
// that takes in memory, what a pass costs while the destination is down, and
// while it defers each message again. Use -benchtime 1000000x.
func BenchmarkDeferred(b *testing.B) {
	log := slog.New(slog.DiscardHandler)
	o := queue.Options{Dir: b.TempDir() + "/queue", Reserve: 1, HotMemory: 1, Log: log, Events: event.NewLog(log)}
	fillDeferred(b, o)
	runtime.GC()

	began := time.Now()
	q, err := queue.Open(o)
	if err != nil {
		b.Fatal(err)
	}
	opened := time.Since(began)
	out := &counting{}
	out.down.Store(true)
	d := New(Deps{Queue: q, Rules: schedule.DefaultRules(), Door: &door{q: q, late: make(chan queue.Message, 1)}, Now: time.Now, Log: log,
		InDoubt: func() time.Duration { return time.Minute }, Organization: func(uint64) org.OrganizationID { return "o" }, Observe: func(Observed) {},
		Agents: map[string]Agent{"mx": out}})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = q.Run(ctx) })
	<-q.Running()
	wg.Go(func() { _ = d.Run(ctx, time.Second) })
	out.until(b, 1) // loaded, and the first is tried
	b.ReportMetric(opened.Seconds(), "open-s")
	b.ReportMetric(time.Since(began).Seconds(), "ready-s")
	if d.Len() != b.N {
		b.Fatalf("%d jobs of %d", d.Len(), b.N)
	}
	runtime.GC()
	b.ReportMetric(resident(b)/1e6, "RSS-MB")

	before := out.tried.Load()
	d.RetryNow(schedule.Selector{Dest: deferredTo})
	out.until(b, before+1)
	b.ReportMetric(float64(out.tried.Load()-before), "attempts-while-down")
	out.down.Store(false)
	before = out.tried.Load()
	began = time.Now()
	d.RetryNow(schedule.Selector{Dest: deferredTo})
	out.until(b, before+int64(b.N))
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "deferrals/s")
	b.StopTimer()
	b.ReportMetric(resident(b)/1e6, "RSS-after-MB")
	cancel()
	wg.Wait()
	if err := q.Close(); err != nil {
		b.Fatal(err)
	}
}

// fillDeferred makes a queue of b.N messages of 1,000 bytes that were tried once.
func fillDeferred(b *testing.B, o queue.Options) {
	q, err := queue.Open(o)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run, fill sync.WaitGroup
	run.Go(func() { _ = q.Run(ctx) })
	<-q.Running()
	var next atomic.Int64
	for range 256 {
		fill.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				a := queue.Accepted{ID: mail.NewTraceID(time.Now()), Identity: [32]byte{byte(n), byte(n >> 8), byte(n >> 16)}, Received: time.Now().UnixNano(),
					Expires: time.Now().Add(48 * time.Hour).UnixNano(), Envelope: mail.Envelope{From: "s" + strconv.FormatInt(n%1000, 10) + "@x.test",
						Recipients: []mail.EnvelopeRecipient{{Address: "r" + strconv.FormatInt(n, 10) + "@outside.test"}}}}
				if err := q.Accept(ctx, a, make([]byte, 1000)); err != nil {
					b.Error(err)
					return
				}
				c := queue.Change{ID: a.ID, At: a.Received, Rows: []queue.RowChange{{State: queue.StateDeferred, Dest: deferredTo, Org: "o", Attempts: 1, Code: 450, Status: "4.2.0", Text: "later"}}}
				if err := q.Apply(ctx, []queue.Change{c}, queue.Lazy); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	fill.Wait()
	cancel()
	run.Wait()
	if err := q.Close(); err != nil {
		b.Fatal(err)
	}
}

// resident is the memory of this process in bytes.
func resident(b *testing.B) float64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	f := bytes.Fields(text)
	n, err := strconv.Atoi(string(f[1]))
	if err != nil {
		b.Fatal(err)
	}
	return float64(n * os.Getpagesize())
}
