package schedule

import (
	"fmt"
	"runtime"
	"testing"
)

// shapes of a queue: how many destinations and senders the jobs have.
var shapes = []struct {
	name           string
	dests, senders int
	limit          int // bytes for a job
}{
	{"one destination, one sender", 1, 1, 250},
	{"1 in 1000 destinations and senders", 1000, 1000, 260},
	{"5 jobs each", 5, 5, 400}, // a fifth as many destinations and senders as jobs
	{"all senders differ", 1000, 1, 800},
}

func fill(t testing.TB, shape, jobs int) *Scheduler {
	s := New(DefaultRules())
	c := shapes[shape]
	dests, senders := c.dests, c.senders
	switch shape {
	case 1:
		dests, senders = max(jobs/1000, 1), max(jobs/1000, 1)
	case 2:
		dests, senders = jobs/5, jobs/5
	case 3:
		senders = jobs
	}
	names := make([]Dest, dests)
	for i := range names {
		names[i] = Dest(fmt.Sprint("mx:domain", i, ".example"))
	}
	for n := range jobs {
		j := Job{ID: id(n + 1), Dest: names[n%dests], Rows: []uint16{0}, Size: 4096, Priority: 1,
			Flow: Flow{Organization: "organization", Sender: uint64(n % senders)}, Expires: t0 + 2880*minute + int64(n), Notice: t0 + 240*minute + int64(n)}
		if err := s.Add(j, t0); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Promise 8.
func TestMemoryIsBounded(t *testing.T) {
	const jobs = 50_000
	for i, c := range shapes {
		before := heap()
		s := fill(t, i, jobs)
		each := int(heap()-before) / jobs
		runtime.KeepAlive(s)
		if each > c.limit {
			t.Errorf("%s: %d bytes for a job, want at most %d", c.name, each, c.limit)
		}
	}
}

// BenchmarkMillion fills the scheduler with a million jobs and tells what each
// takes in memory and time.
func BenchmarkMillion(b *testing.B) {
	for i, c := range shapes {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				before := heap()
				s := fill(b, i, 1_000_000)
				b.ReportMetric(float64(heap()-before)/1e6, "B/job")
				runtime.KeepAlive(s)
			}
		})
	}
}

// BenchmarkAttempt is one Next, Done and Add with a million jobs behind it.
func BenchmarkAttempt(b *testing.B) {
	for i, c := range shapes {
		b.Run(c.name, func(b *testing.B) {
			s := fill(b, i, 1_000_000)
			b.ResetTimer()
			for b.Loop() {
				j, ok := s.Next(t0)
				if !ok {
					b.Fatal("nothing")
				}
				if _, err := s.Done(j, Outcome{Result: OK}, t0); err != nil {
					b.Fatal(err)
				}
				if err := s.Add(j, t0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkDeadPass is one retry pass over a million jobs of one dead
// destination.
func BenchmarkDeadPass(b *testing.B) {
	s := fill(b, 0, 1_000_000)
	now := t0
	attempts := 0
	b.ResetTimer()
	for b.Loop() {
		for j, ok := s.Next(now); ok; j, ok = s.Next(now) {
			attempts++
			if _, err := s.Done(j, Outcome{Result: DeferDest}, now); err != nil {
				b.Fatal(err)
			}
		}
		now = s.destTimes.top().timer
	}
	b.ReportMetric(float64(attempts)/float64(b.N), "attempts/pass")
}
