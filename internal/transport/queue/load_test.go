package queue

import (
	"bytes"
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
)

// TestTogether has many clients at once: all messages are there, and writes
// are shared.
func TestTogether(t *testing.T) {
	d, c := newDisks(), newClock()
	// A sync that takes its time lets others come together.
	d.fs.Hook(func(op fsx.Op) {
		if op.Kind == fsx.OpSync {
			tick := time.NewTimer(time.Millisecond)
			<-tick.C
		}
	})
	q := start(t, d, c)
	var wg sync.WaitGroup
	before := q.Stats().Syncs
	for g := range 32 {
		wg.Go(func() {
			for i := range 10 {
				a, body := message(g*10+i, c)
				if err := q.Accept(t.Context(), a, body); err != nil {
					t.Error(err)
					return
				}
				if got, err := q.Body(t.Context(), a.ID); err != nil || !bytes.Equal(got, body) {
					t.Error(err)
				}
				if err := q.Apply(t.Context(), cs(delivered(a.ID, 0)), Lazy); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := q.Stats().Syncs - before; n > 160 {
		t.Errorf("%d syncs for 320 messages", n)
	}
	if s := q.Stats(); s.Open != 0 || s.HotBytes != 0 {
		t.Errorf("%+v", s)
	}
	q.verify(t)
}

func cs(c ...Change) []Change { return c }

// TestGivenUp shows a caller that does not wait any longer, and a queue that
// ended.
func TestGivenUp(t *testing.T) {
	d, c := newDisks(), newClock()
	hang := make(chan struct{})
	var hung atomic.Bool
	q := start(t, d, c)
	d.fs.Hook(func(op fsx.Op) {
		if op.Kind == fsx.OpSync && !hung.Swap(true) {
			<-hang
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	a, body := message(1, c)
	said := make(chan error, 1)
	go func() { said <- q.Accept(ctx, a, body) }()
	waitFor(t, hung.Load)
	cancel()
	if err := <-said; !kind.Is(err, kind.Busy) {
		t.Fatalf("%v", err)
	}
	close(hang)
	q.apply(t, Wait, Change{ID: a.ID, Rows: []RowChange{{N: 0, State: StateVoid}}})
	if m, _, err := q.Message(a.ID); err != nil || m.Fate != FateVoid {
		t.Fatalf("%+v %v", m, err)
	}
	q.stop()
	if err := q.Accept(t.Context(), a, body); !kind.Is(err, kind.Busy) {
		t.Fatalf("after the end: %v", err)
	}
}

// TestLarge takes messages larger than a segment.
func TestLarge(t *testing.T) {
	d, c := newDisks(), newClock()
	q := start(t, d, c, func(o *Options) { o.HotMemory = 1 })
	for n := range 3 {
		a, _ := message(n, c)
		body := bytes.Repeat([]byte{byte(n)}, 300_000)
		if err := q.Accept(t.Context(), a, body); err != nil {
			t.Fatal(err)
		}
		if got, err := q.Body(t.Context(), a.ID); err != nil || !bytes.Equal(got, body) {
			t.Fatal(err)
		}
	}
	a, _ := message(9, c)
	if err := q.Accept(t.Context(), a, make([]byte, MaxBody+1)); !kind.Is(err, kind.Invalid) {
		t.Fatal(err)
	}
	empty, _ := message(10, c)
	if err := q.Accept(t.Context(), empty, nil); err != nil {
		t.Fatal(err)
	}
	if b, err := q.Body(t.Context(), empty.ID); err != nil || len(b) != 0 {
		t.Fatal(err)
	}
	q.verify(t)
}

// BenchmarkOpen measures how long a queue of b.N unfinished messages takes to
// open, and what it holds in memory; use -benchtime 1000000x.
func BenchmarkOpen(b *testing.B) {
	o := Options{Dir: b.TempDir() + "/queue", Reserve: 1, HotMemory: 1}
	q, err := Open(o)
	if err != nil {
		b.Fatal(err)
	}
	c := newClock()
	r := run(b, q, c)
	var wg sync.WaitGroup
	var next atomic.Int64
	for range 256 {
		wg.Go(func() {
			for n := int(next.Add(1)); n <= b.N; n = int(next.Add(1)) {
				a, _ := message(n, c)
				if err := r.Accept(context.Background(), a, make([]byte, 1000)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	rate := float64(b.N) / b.Elapsed().Seconds()
	r.stop()
	q, r = nil, nil
	runtime.GC()
	b.ResetTimer()
	q, err = Open(o)
	if err != nil {
		b.Fatal(err)
	}
	n := 0
	for range q.Unfinished() {
		n++
	}
	b.StopTimer()
	if n != b.N {
		b.Fatalf("%d jobs of %d", n, b.N)
	}
	runtime.GC()
	var m runtime.MemStats
	b.ReportMetric(rate, "accepts/s")
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.HeapAlloc)/1e6, "heap-MB")
	if err := q.Close(); err != nil {
		b.Fatal(err)
	}
}
