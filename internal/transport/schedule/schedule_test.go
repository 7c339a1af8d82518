package schedule

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

const (
	second = int64(time.Second)
	minute = 60 * second
	t0     = int64(1_800_000_000) * second
)

func id(n int) (t mail.TraceID) {
	binary.BigEndian.PutUint64(t[8:], uint64(n))
	return t
}

func number(t mail.TraceID) int { return int(binary.BigEndian.Uint64(t[8:])) }

// job makes a small normal job of one recipient; from is "organization" or
// "organization/number of the sender".
func job(n int, to Dest, from string) Job {
	var sender uint64
	o, rest, _ := strings.Cut(from, "/")
	fmt.Sscan(rest, &sender)
	return Job{ID: id(n), Dest: to, Rows: []uint16{0}, Size: 1000, Priority: mail.PriorityNormal,
		Flow: Flow{Organization: org.OrganizationID(o), Sender: sender}, Ref: uint64(n)}
}

func add(t testing.TB, s *Scheduler, now int64, jobs ...Job) {
	t.Helper()
	for _, j := range jobs {
		if err := s.Add(j, now); err != nil {
			t.Fatal(err)
		}
	}
}

// take starts all that may be started.
func take(s *Scheduler, now int64) (out []Job) {
	for j, ok := s.Next(now); ok; j, ok = s.Next(now) {
		out = append(out, j)
	}
	return out
}

func done(t testing.TB, s *Scheduler, j Job, o Outcome, now int64) int64 {
	t.Helper()
	next, err := s.Done(j, o, now)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func numbers(jobs []Job) (out []int) {
	for _, j := range jobs {
		out = append(out, number(j.ID))
	}
	return out
}

// serve lets n attempts succeed one after the other and tells their jobs.
func serve(t testing.TB, s *Scheduler, now int64, n int) (out []int) {
	t.Helper()
	for range n {
		j, ok := s.Next(now)
		if !ok {
			break
		}
		out = append(out, number(j.ID))
		done(t, s, j, Outcome{Result: OK}, now)
	}
	return out
}

func near(t testing.TB, what string, got, want int64) {
	t.Helper()
	if got < want-want/10 || got > want+want/10 {
		t.Errorf("%s after %v, want %v within 10 %%", what, time.Duration(got), time.Duration(want))
	}
}

func one(concurrency int) Rules {
	r := DefaultRules()
	r.Default.Start, r.Default.Concurrency = concurrency, concurrency
	return r
}

func TestFlowsTakeTurns(t *testing.T) {
	s := New(one(1))
	for n := range 1000 {
		add(t, s, t0, job(n+1, "mx:a", "o/1"))
	}
	if got := serve(t, s, t0, 3); !slices.Equal(got, []int{1, 2, 3}) {
		t.Errorf("first in, first out: %v", got)
	}
	add(t, s, t0, job(2001, "mx:a", "o/2"), job(2002, "mx:a", "o/2"), job(2003, "mx:a", "p/2"))
	if got := serve(t, s, t0, 7); !slices.Equal(got, []int{4, 2001, 2003, 5, 2002, 6, 7}) {
		t.Errorf("turns: %v", got)
	}
}

func TestLargeJobsPayByTheByte(t *testing.T) {
	s := New(one(1))
	for n := range 10 {
		big := job(n+1, "mx:a", "o/1")
		big.Size = 160 << 10 // two and a half turns
		add(t, s, t0, big)
	}
	for n := range 30 {
		add(t, s, t0, job(n+101, "mx:a", "o/2"))
	}
	var order []string
	for _, n := range serve(t, s, t0, 14) {
		order = append(order, map[bool]string{true: "B", false: "s"}[n < 100])
	}
	if got := strings.Join(order, ""); got != "BsssBssBsssBss" && got != "BssBsssBssBsss" {
		t.Errorf("order %s, want two and three small ones between the big ones", got)
	}
}

// A flow that is emptied and filled again must not overtake those that wait.
func TestRefilledFlowDoesNotOvertake(t *testing.T) {
	s := New(one(1))
	for n := range 10 {
		add(t, s, t0, job(n+1, "mx:a", "o/1"))
	}
	served := 0
	for n := range 20 {
		add(t, s, t0, job(100+n, "mx:a", "o/2"))
		for _, got := range serve(t, s, t0, 1) {
			if got < 100 {
				served++
			}
		}
	}
	if served < 9 {
		t.Errorf("%d of 10 served in 20 turns beside a flow that is always filled again", served)
	}
}

func TestPrioritiesShare(t *testing.T) {
	s := New(one(1))
	for n := range 4000 {
		j := job(n+1, "mx:a", "o")
		j.Priority = mail.Priority(n % 4)
		add(t, s, t0, j)
	}
	var got [4]int
	for _, n := range serve(t, s, t0, 850) {
		got[(n-1)%4]++
	}
	for p, want := range [4]int{640, 160, 40, 10} {
		if got[p] < want-3 || got[p] > want+3 {
			t.Errorf("priority %d: %d of 850 turns, want %d", p, got[p], want)
		}
	}
}

// A priority that comes late gets its share from then on, not what it missed.
func TestLatePriority(t *testing.T) {
	s := New(one(1))
	for n := range 1000 {
		add(t, s, t0, job(n+1, "mx:a", "o"))
	}
	serve(t, s, t0, 500)
	for n := range 100 {
		j := job(n+2001, "mx:a", "o")
		j.Priority = mail.PriorityLowest
		add(t, s, t0, j)
	}
	low := 0
	for _, n := range serve(t, s, t0, 170) {
		low += count(n > 2000)
	}
	if low < 9 || low > 12 {
		t.Errorf("%d of 170 turns, want a seventeenth", low)
	}
}

func TestLowestHoldsHalfAtMost(t *testing.T) {
	s := New(one(8))
	for n := range 100 {
		j := job(n+1, "mx:a", "o")
		j.Priority = mail.PriorityLowest
		add(t, s, t0, j)
	}
	first := take(s, t0)
	if len(first) != 8 {
		t.Fatalf("%d at a time alone, want 8", len(first))
	}
	for n := range 100 {
		add(t, s, t0, job(n+1001, "mx:a", "o"))
	}
	for _, j := range first {
		done(t, s, j, Outcome{Result: OK}, t0)
	}
	low := 0
	for _, j := range take(s, t0) {
		if j.Priority == mail.PriorityLowest {
			low++
		}
	}
	if low > 4 {
		t.Errorf("%d of 8 slots for the lowest while others wait", low)
	}
}
