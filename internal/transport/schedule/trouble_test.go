package schedule

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/mail"
)

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
		// A host that defers a message is as alive as one that takes it.
		done(t, s, flying[0], Outcome{Result: []Result{OK, Defer}[want%2]}, t0)
		flying = append(flying[1:], take(s, t0)...)
		if len(flying) != min(want, 20) {
			t.Fatalf("after %d answers %d at a time", want-2, len(flying))
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
	done(t, s, flying[2], Outcome{Result: DeferDest, Reason: "no route"}, t0)
	if limit() != 10 {
		t.Errorf("an attempt from before the judgment judged again: limit %d", limit())
	}
	for _, j := range flying[3:] {
		done(t, s, j, Outcome{Result: OK}, t0)
	}
	fresh := take(s, t0)
	next := done(t, s, fresh[0], Outcome{Result: DeferDest, Reason: "no route"}, t0)
	if limit() != 1 {
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
