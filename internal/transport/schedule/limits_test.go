package schedule

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

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

// A limit that was forgotten while flows were about to go on is one limit still
// when the sender comes back.
func TestSenderComesBack(t *testing.T) {
	r := one(5)
	r.Sender.Concurrency = 1
	s := New(r)
	add(t, s, t0, job(1, "mx:a", "o/1"), job(2, "mx:b", "o/1"))
	f := take(s, t0)
	done(t, s, f[0], Outcome{Result: OK}, t0)
	s.Remove(id(2), "")
	s.Remove(id(1), "")
	n := 0
	for i := range 5 {
		add(t, s, t0, job(10+i, Dest(fmt.Sprint("mx:", i)), "o/1"))
		n += len(take(s, t0))
	}
	if n != 1 {
		t.Errorf("%d at a time, limit 1", n)
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
	for n := range 30 {
		s.Remove(id(n+1), "")
	}
	s.rules.MaxDests = 1
	add(t, s, t0+minute, job(1, "mx:b", "o")) // in place of the idle one
	if s.dests["mx:a"] != nil || s.Remove(id(1), "") != 1 {
		t.Error("an idle destination keeps others out")
	}
	s.Next(t0 + 12*minute)
	if len(s.dests)+s.idles != 0 {
		t.Error("idle destination kept for ever")
	}
}
