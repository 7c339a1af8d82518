package schedule

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
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

// remoteSteps are the minutes between the probes of a dead destination.
var remoteSteps = []int64{1, 1, 1, 1, 5, 5, 5, 5, 5, 5, 10, 10}

func TestLadder(t *testing.T) {
	l := DefaultRules().Default.Dest
	for i, want := range remoteSteps {
		w := l.Wait(i+1, 42)
		near(t, fmt.Sprint("step ", i+1), int64(w), want*minute)
		if w != l.Wait(i+1, 42) {
			t.Error("not the same twice")
		}
	}
	low, high := time.Hour, time.Duration(0)
	for seed := range uint64(1000) {
		w := l.Wait(1, seed)
		low, high = min(low, w), max(high, w)
	}
	if low < 54*time.Second || low > 55*time.Second || high < 65*time.Second || high > 66*time.Second {
		t.Errorf("deviation from %v to %v", low, high)
	}
	if w := (Ladder)(nil).Wait(3, 1); w < 54*time.Second || w > 66*time.Second {
		t.Errorf("empty ladder waits %v", w)
	}
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

func TestConcurrencyGrowsAndHalves(t *testing.T) {
	s := New(DefaultRules())
	for n := range 1000 {
		add(t, s, t0, job(n+1, "mx:a", "o"))
	}
	flying := take(s, t0)
	if len(flying) != 2 {
		t.Fatalf("begins with %d", len(flying))
	}
	for want := 3; want <= 25; want++ {
		done(t, s, flying[0], Outcome{Result: OK}, t0)
		flying = append(flying[1:], take(s, t0)...)
		if len(flying) != min(want, 20) {
			t.Fatalf("after %d successes %d at a time", want-2, len(flying))
		}
	}
	limit := func() int { return s.Stats()[0].Limit }
	done(t, s, flying[0], Outcome{Result: Slow, Reason: "connection reset"}, t0)
	done(t, s, flying[1], Outcome{Result: Slow}, t0) // began before: known already
	if limit() != 10 {
		t.Errorf("limit %d after connections that failed together, want 10", limit())
	}
	if got := take(s, t0); len(got) != 0 {
		t.Errorf("%d started above the limit", len(got))
	}
	next := done(t, s, flying[2], Outcome{Result: DeferDest, Reason: "no route"}, t0)
	if limit() != 10 {
		t.Errorf("an attempt from before the judgment judged again: limit %d", limit())
	}
	for _, j := range flying[3:] {
		done(t, s, j, Outcome{Result: OK}, t0)
	}
	fresh := take(s, t0)
	if next = done(t, s, fresh[0], Outcome{Result: DeferDest, Reason: "no route"}, t0); limit() != 1 {
		t.Errorf("limit %d after the destination failed", limit())
	}
	near(t, "probe", next-t0, minute)
	if st := s.Stats()[0]; st.Fails != 1 || st.Until != next || st.Reason != "no route" {
		t.Errorf("stats %+v", st)
	}
}

// The last connection that fails says that the destination does.
func TestSlowAloneIsFailure(t *testing.T) {
	s := New(DefaultRules())
	add(t, s, t0, job(1, "mx:a", "o"), job(2, "mx:a", "o"))
	f := take(s, t0)
	if next := done(t, s, f[0], Outcome{Result: Slow}, t0); next != t0 {
		t.Errorf("beside another: next %v", time.Duration(next-t0))
	}
	if len(take(s, t0)) != 0 {
		t.Error("started above the halved limit")
	}
	done(t, s, f[1], Outcome{Result: Slow}, t0)
	j, ok := s.Next(t0)
	if !ok {
		t.Fatal("no probe at once: the attempt was from before the judgment")
	}
	near(t, "next", done(t, s, j, Outcome{Result: Slow}, t0)-t0, minute)
}

func TestPacing(t *testing.T) {
	s := New(one(8))
	for n := range 20 {
		add(t, s, t0, job(n+1, "connector:o/x", "o"))
	}
	f := take(s, t0)
	done(t, s, f[0], Outcome{Result: Slow, Wait: 15 * time.Minute, Reason: "451 4.7.500"}, t0)
	for _, j := range f[1:] {
		done(t, s, j, Outcome{Result: OK}, t0)
	}
	if got := take(s, t0+15*minute-1); len(got) != 0 {
		t.Errorf("%d started while the destination rests", len(got))
	}
	if s.Wake() != t0+15*minute {
		t.Errorf("wake %v", time.Duration(s.Wake()-t0))
	}
	if got := take(s, t0+15*minute); len(got) != 8 {
		t.Errorf("%d started after the rest", len(got))
	}
}

// Promise 6: a dead destination costs one attempt per step, whatever waits.
func TestDeadDestinationCostsOneProbePerStep(t *testing.T) {
	s := New(DefaultRules())
	for n := range 10_000 {
		add(t, s, t0, job(n+1, "mx:dead", fmt.Sprint("o/", n%7)))
	}
	now := t0
	probed := map[mail.TraceID]bool{}
	for _, j := range take(s, now) {
		done(t, s, j, Outcome{Result: DeferDest}, now)
	}
	for i, want := range remoteSteps {
		last := now
		now = s.Wake()
		near(t, fmt.Sprint("probe ", i+1), now-last, want*minute)
		f := take(s, now)
		if len(f) != 1 {
			t.Fatalf("step %d: %d attempts", i+1, len(f))
		}
		if probed[f[0].ID] {
			t.Error("the same message again")
		}
		probed[f[0].ID] = true
		done(t, s, f[0], Outcome{Result: DeferDest}, now)
	}
	now = s.Wake()
	j, _ := s.Next(now)
	done(t, s, j, Outcome{Result: OK}, now)
	if st := s.Stats()[0]; st.Fails != 0 || st.Until != 0 || st.Limit != 2 {
		t.Errorf("after a success %+v", st)
	}
}

func TestDatabases(t *testing.T) {
	s := New(DefaultRules())
	for n := range 200 {
		add(t, s, t0, job(n+1, "db:DB01", fmt.Sprint("o/", n)))
	}
	f := take(s, t0)
	if len(f) != 64 {
		t.Fatalf("%d at a time", len(f))
	}
	for _, j := range f {
		done(t, s, j, Outcome{Result: DeferDest, Reason: "not mounted"}, t0+second)
	}
	at := s.Wake()
	near(t, "first probe", at-t0-second, second/4)
	f = take(s, at)
	if len(f) != 1 {
		t.Fatalf("%d probes", len(f))
	}
	done(t, s, f[0], Outcome{Result: DeferDest}, at)
	s.RetryNow(Selector{Dest: "db:DB01"}, at+1) // mounted again
	j, ok := s.Next(at + 1)
	if !ok {
		t.Fatal("not tried at once after the mount")
	}
	done(t, s, j, Outcome{Result: OK}, at+2)
	if f = take(s, at+2); len(f) != 64 {
		t.Errorf("%d at a time after the return, want all 64", len(f))
	}
}

func TestMailboxBusy(t *testing.T) {
	s := New(DefaultRules())
	add(t, s, t0, job(1, "db:DB01", "o"))
	now := t0
	for i, want := range []int64{250, 500, 1000, 2000, 5000, 5000} {
		j, ok := s.Next(now)
		if !ok {
			t.Fatalf("no attempt %d", i+1)
		}
		next := done(t, s, j, Outcome{Result: Defer}, now)
		near(t, "local retry", next-now, want*int64(time.Millisecond))
		now = next
	}
}

func TestMessageDeferred(t *testing.T) {
	s := New(one(1))
	add(t, s, t0, job(1, "mx:a", "o"), job(2, "mx:a", "o"))
	now := t0
	for i, want := range []int64{5, 10, 15, 15} {
		j, ok := s.Next(now)
		if !ok || number(j.ID) != 1 || int(j.Attempts) != i+1 {
			t.Fatalf("attempt %d: %v %v", i+1, j, ok)
		}
		next := done(t, s, j, Outcome{Result: Defer}, now)
		near(t, "retry", next-now, want*minute)
		if i == 0 {
			if got := serve(t, s, now, 9); !slices.Equal(got, []int{2}) {
				t.Errorf("the destination works, yet got %v", got)
			}
		}
		if got := take(s, next-1); len(got) != 0 {
			t.Error("early")
		}
		now = next
	}
	j, _ := s.Next(now)
	j.Rows, j.Expires, j.Ref = []uint16{3, 9}, now+minute, 77
	if next := done(t, s, j, Outcome{Result: Defer, Wait: 2 * time.Minute}, now); next != now+2*minute {
		t.Errorf("wait given: %v", time.Duration(next-now))
	}
	j, ok := s.Overdue(now + minute)
	if !ok || !slices.Equal(j.Rows, []uint16{3, 9}) || j.Ref != 77 {
		t.Errorf("expired: %+v %v", j, ok)
	}
}

func TestOverdue(t *testing.T) {
	s := New(DefaultRules())
	for n := range 5 {
		j := job(n+1, "mx:dead", "o")
		j.Notice, j.Expires = t0+240*minute, t0+2880*minute
		add(t, s, t0, j)
	}
	for _, j := range take(s, t0) {
		done(t, s, j, Outcome{Result: DeferDest, Wait: 10_000 * time.Minute}, t0)
	}
	if _, ok := s.Overdue(t0 + 240*minute - 1); ok || s.Wake() != t0+240*minute {
		t.Error("looked at early, or no wake")
	}
	for range 5 {
		j, ok := s.Overdue(t0 + 240*minute)
		if !ok {
			t.Fatal("no delay notice")
		}
		j.Notice = 0
		done(t, s, j, Outcome{Result: Back}, t0+240*minute)
	}
	if _, ok := s.Overdue(t0 + 300*minute); ok {
		t.Error("looked at again")
	}
	s.Suspend(Selector{ID: id(5)}, t0+300*minute)
	n := 0
	for j, ok := s.Overdue(t0 + 2880*minute); ok; j, ok = s.Overdue(t0 + 2880*minute) {
		done(t, s, j, Outcome{Result: Gone}, t0+2880*minute)
		n++
	}
	if n != 4 || s.Len() != 1 {
		t.Errorf("%d expired, %d left; want all but the suspended one", n, s.Len())
	}
	s.Resume(Selector{ID: id(5)}, t0+2880*minute)
	if _, ok := s.Overdue(t0 + 2880*minute); !ok {
		t.Error("not expired when resumed")
	}
}

func TestOrganizationAndSenderLimits(t *testing.T) {
	r := one(50)
	r.Organization = Share{Concurrency: 6}
	r.Organizations = map[org.OrganizationID]Share{"big": {Concurrency: 9}}
	r.Sender = Share{Concurrency: 4}
	s := New(r)
	n := 0
	for _, from := range []string{"o/1", "o/2", "o/3", "big/1", "big/2", "big/3", "p/1"} {
		for range 30 {
			n++
			add(t, s, t0, job(n, Dest(fmt.Sprint("mx:", n%5)), from))
		}
	}
	count := func(f []Job) string {
		c := map[org.OrganizationID]int{}
		for _, j := range f {
			c[j.Flow.Organization]++
		}
		return fmt.Sprint(c)
	}
	f := take(s, t0)
	if got := count(f); got != "map[big:9 o:6 p:4]" {
		t.Fatalf("at a time %s", got)
	}
	for range 30 {
		done(t, s, f[0], Outcome{Result: OK}, t0)
		again := take(s, t0)
		if len(again) != 1 || again[0].Flow.Organization != f[0].Flow.Organization {
			t.Fatalf("a slot of %v went to %v", f[0].Flow, again)
		}
		f = append(f[1:], again...)
	}
	r.Organization.Concurrency, r.Sender.Concurrency = 8, 0
	s.SetRules(r, t0)
	if got := count(append(f, take(s, t0)...)); got != "map[big:9 o:8 p:8]" {
		t.Errorf("after the change %s", got)
	}
}

func TestShareOfDestination(t *testing.T) {
	r := one(10)
	s := New(r)
	for n := range 40 {
		add(t, s, t0, job(n+1, "mx:a", fmt.Sprint("o/", n)))
	}
	f := take(s, t0)
	r.Default.PerOrganization = 7
	s.SetRules(r, t0)
	add(t, s, t0, job(100, "mx:a", "p/1"))
	for i := range 3 {
		done(t, s, f[i], Outcome{Result: OK}, t0)
	}
	if got := numbers(take(s, t0)); !slices.Equal(got, []int{100}) {
		t.Errorf("o has 7 of 10 slots, then got %v", got)
	}
	done(t, s, f[3], Outcome{Result: OK}, t0)
	if got := take(s, t0); len(got) != 1 || got[0].Flow.Organization != "o" {
		t.Errorf("o has 6 of 10 slots, then got %v", got)
	}
}

func TestPerMinute(t *testing.T) {
	for _, c := range []struct {
		name  string
		rules func(*Rules)
	}{
		{"destination", func(r *Rules) { r.Default.PerMinute = 60 }},
		{"organization", func(r *Rules) { r.Organization.PerMinute = 60 }},
		{"sender", func(r *Rules) { r.Sender.PerMinute = 60 }},
	} {
		r := one(1000)
		c.rules(&r)
		s := New(r)
		for n := range 500 {
			add(t, s, t0, job(n+1, "mx:a", "o"))
		}
		now, started := t0, 0
		for now < t0+minute {
			for _, j := range take(s, now) {
				started++
				done(t, s, j, Outcome{Result: OK}, now)
			}
			if w := s.Wake(); w <= now || w > now+2*second {
				t.Fatalf("%s: wake %v after", c.name, time.Duration(w-now))
			} else {
				now = w
			}
		}
		if started < 64 || started > 66 {
			t.Errorf("%s: %d started in a minute, want 60 and the 6 that may come at once", c.name, started)
		}
	}
}

func TestTotals(t *testing.T) {
	s := New(DefaultRules())
	n := 0
	for d := range 2000 {
		n++
		add(t, s, t0, job(n, Dest(fmt.Sprint("mx:", d)), fmt.Sprint("o", d, "/1")))
	}
	for d := range 20 {
		for range 40 {
			n++
			add(t, s, t0, job(n, Dest(fmt.Sprint("db:", d)), fmt.Sprint("o", n, "/1")))
		}
	}
	c := map[string]int{}
	for _, j := range take(s, t0) {
		c[j.Dest.Kind()]++
	}
	if c["mx"] != 1024 || c["db"] != 512 {
		t.Errorf("at a time %v", c)
	}
}

// One sender's mailing to many destinations keeps nobody else waiting.
func TestMailingToManyDestinations(t *testing.T) {
	s := New(DefaultRules())
	for n := range 5000 {
		add(t, s, t0, job(n+1, Dest(fmt.Sprint("mx:", n)), "o/1"))
	}
	if f := take(s, t0); len(f) != 256 {
		t.Fatalf("one sender holds %d", len(f))
	}
	add(t, s, t0, job(9999, "mx:other", "o/2"))
	if got := numbers(take(s, t0)); !slices.Equal(got, []int{9999}) {
		t.Errorf("the other sender's got %v", got)
	}
}

func TestRefusals(t *testing.T) {
	r := DefaultRules()
	r.MaxJobs, r.MaxDests = 3, 2
	s := New(r)
	add(t, s, t0, job(1, "mx:a", "o"), job(1, "mx:b", "o"))
	for _, c := range []struct {
		job  Job
		want kind.Kind
	}{
		{job(1, "mx:a", "o"), kind.Exists},
		{job(2, "mx:c", "o"), kind.Full},
		{job(2, "", "o"), kind.Invalid},
		{job(0, "mx:a", "o"), kind.Invalid},
		{Job{ID: id(2), Dest: "mx:a", Priority: 4}, kind.Invalid},
	} {
		if err := s.Add(c.job, t0); !kind.Is(err, c.want) {
			t.Errorf("%v: %v, want %v", c.job, err, c.want)
		}
	}
	add(t, s, t0, job(2, "mx:a", "o"))
	if err := s.Add(job(3, "mx:a", "o"), t0); !kind.Is(err, kind.Full) {
		t.Errorf("too many jobs: %v", err)
	}
	if n := s.Remove(id(1), ""); n != 2 || s.Len() != 1 {
		t.Errorf("removed %d, %d left", n, s.Len())
	}
	add(t, s, t0, job(3, "mx:c", "o"))
	if _, err := s.Done(job(3, "mx:c", "o"), Outcome{}, t0); !kind.Is(err, kind.NotFound) {
		t.Errorf("done of what was not begun: %v", err)
	}
	j, _ := s.Next(t0)
	s.Remove(j.ID, "")
	if next := done(t, s, j, Outcome{Result: Defer}, t0); next != Never || s.Len() != 1 {
		t.Errorf("removed in flight: next %d, %d left", next, s.Len())
	}
	if s.Remove(mail.TraceID{}, "") != 0 || s.Len() != 1 {
		t.Error("no identity removed something")
	}
}

func TestSuspend(t *testing.T) {
	s := New(one(2))
	add(t, s, t0, job(1, "mx:a", "o/1"), job(2, "mx:a", "o/1"), job(3, "mx:a", "o/2"), job(4, "mx:b", "p/1"))
	f := take(s, t0)[0] // 1
	if n, err := s.Suspend(Selector{Organization: "o", Sender: 1}, t0); n != 2 || err != nil {
		t.Errorf("suspended %d %v", n, err)
	}
	add(t, s, t0, job(5, "mx:c", "o/1"), job(6, "mx:c", "o/3"))
	if next := done(t, s, f, Outcome{Result: Back}, t0); next != Never {
		t.Errorf("suspended in flight: next %v", next)
	}
	held := 0
	for _, st := range s.Stats() {
		held += st.Suspended
	}
	if held != 3 {
		t.Errorf("%d suspended, want 1, 2 and 5", held)
	}
	if n := s.Resume(Selector{Dest: "mx:c"}, t0); n != 0 || len(s.Suspensions()) != 1 {
		t.Errorf("resumed %d of what another suspension names", n)
	}
	if n := s.Resume(Selector{ID: id(5)}, t0); n != 1 {
		t.Errorf("resumed %d by name", n)
	}
	if n := s.Resume(Selector{Organization: "o"}, t0); n != 2 || len(s.Suspensions()) != 0 {
		t.Errorf("resumed %d, then %v", n, s.Suspensions())
	}
	waiting := job(7, "mx:d", "o/1")
	waiting.Next, waiting.Suspended = t0+minute, true
	add(t, s, t0, waiting)
	if n := s.Resume(Selector{}, t0); n != 1 {
		t.Errorf("resumed %d", n)
	}
	if st := s.Stats()[3]; st.Waiting != 1 {
		t.Errorf("the time of the resumed job is forgotten: %+v", st)
	}
	if n := s.RetryNow(Selector{Organization: "o"}, t0); n != 1 {
		t.Errorf("hurried %d", n)
	}
}

func TestIdleDestinationsAreRemembered(t *testing.T) {
	s := New(DefaultRules())
	for n := range 10 {
		add(t, s, t0, job(n+1, "mx:a", "o"))
	}
	serve(t, s, t0, 10)
	if len(s.flows)+len(s.gates)+len(s.jobs) != 0 || len(s.dests) != 1 {
		t.Errorf("left over: %d flows, %d gates, %d jobs, %d destinations", len(s.flows), len(s.gates), len(s.jobs), len(s.dests))
	}
	for n := range 30 {
		add(t, s, t0+minute, job(n+1, "mx:a", "o"))
	}
	if f := take(s, t0+minute); len(f) != 12 {
		t.Errorf("%d at a time, want what was learned before", len(f))
	} else {
		for _, j := range f {
			done(t, s, j, Outcome{Result: Gone}, t0+minute)
		}
	}
	s.Remove(id(1), "")
	for n := range 30 {
		s.Remove(id(n+1), "")
	}
	s.Next(t0 + 12*minute)
	if len(s.dests)+s.idles != 0 {
		t.Error("idle destination kept for ever")
	}
}
