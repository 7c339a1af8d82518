package schedule

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// world drives a scheduler with anything a dispatcher may do and keeps its own
// books of what is in flight and what must not be tried yet.
type world struct {
	*Scheduler
	now     int64
	rules   Rules
	flying  []Job
	looked  []Job
	blocked map[Dest]int64 // told by Done
	starts  map[string][]int64
	serial  int
}

func smallRules(t *rapid.T) Rules {
	limit := func(name string) int { return rapid.IntRange(1, 4).Draw(t, name) }
	ladder := Ladder{{2, time.Second}, {1, 10 * time.Second}}
	l := Limits{Start: limit("start"), Concurrency: limit("concurrency"), Total: limit("total") + 2, Dest: ladder, Message: ladder,
		PerOrganization: rapid.IntRange(0, 2).Draw(t, "share"), PerMinute: rapid.SampledFrom([]int{0, 0, 30}).Draw(t, "pace")}
	db := l
	db.Start, db.PerMinute = db.Concurrency, 0
	return Rules{Default: l, Kinds: map[string]Limits{"db": db},
		Organization: Share{Concurrency: limit("organization"), PerMinute: rapid.SampledFrom([]int{0, 60}).Draw(t, "rate")},
		Sender:       Share{Concurrency: rapid.IntRange(0, 3).Draw(t, "sender")}, MaxJobs: 60, MaxDests: 6}
}

func dests() *rapid.Generator[Dest] {
	return rapid.SampledFrom([]Dest{"db:1", "db:2", "mx:a", "mx:b", "mx:c", "connector:o/x", "mx:d"})
}

func (w *world) add(t *rapid.T) {
	w.serial++
	j := Job{ID: id(w.serial), Dest: dests().Draw(t, "dest"), Rows: []uint16{1}, Size: rapid.Int64Range(0, 300<<10).Draw(t, "size"),
		Flow:     Flow{Organization: org.OrganizationID(rapid.SampledFrom([]string{"o", "p"}).Draw(t, "org")), Sender: rapid.Uint64Range(1, 3).Draw(t, "sender")},
		Priority: mail.Priority(rapid.IntRange(0, 3).Draw(t, "priority"))}
	if rapid.Bool().Draw(t, "later") {
		j.Next = w.now + rapid.Int64Range(-5, 30).Draw(t, "next")*second
	}
	if rapid.Bool().Draw(t, "expires") {
		j.Expires = w.now + rapid.Int64Range(0, 200).Draw(t, "expiry")*second
	}
	if rapid.IntRange(0, 5).Draw(t, "again") == 0 {
		j.ID = id(rapid.IntRange(1, w.serial).Draw(t, "which")) // another destination of the same message, or a double
	}
	_ = w.Add(j, w.now) // Full and Exists change nothing; check looks
}

func (w *world) begin(t *rapid.T) {
	j, ok := w.Next(w.now)
	if !ok {
		w.idle(t)
		return
	}
	if j.Next > w.now || w.blocked[j.Dest] > w.now {
		t.Fatalf("%s for %s started %v early", j.ID, j.Dest, time.Duration(max(j.Next, w.blocked[j.Dest])-w.now))
	}
	w.flying = append(w.flying, j)
	for _, k := range []string{"d " + string(j.Dest), "o " + string(j.Flow.Organization)} {
		w.starts[k] = append(w.starts[k], w.now)
	}
	w.limits(t, j)
}

// limits counts what is in flight by itself.
func (w *world) limits(t *rapid.T, last Job) {
	var dest, o, sender, share, total int
	_, own := w.rules.Kinds[last.Dest.Kind()]
	for _, j := range w.flying {
		_, theirs := w.rules.Kinds[j.Dest.Kind()]
		total += count(theirs == own)
		dest += count(j.Dest == last.Dest)
		o += count(j.Flow.Organization == last.Flow.Organization)
		sender += count(j.Flow == last.Flow)
		share += count(j.Dest == last.Dest && j.Flow.Organization == last.Flow.Organization)
	}
	l := w.rules.limits(last.Dest)
	for _, c := range []struct {
		what     string
		n, limit int
	}{{"destination", dest, l.concurrency()}, {"total", total, l.Total}, {"share", share, l.PerOrganization},
		{"organization", o, w.rules.Organization.Concurrency}, {"sender", sender, w.rules.Sender.Concurrency}} {
		if c.limit > 0 && c.n > c.limit {
			t.Fatalf("%s: %d in flight, limit %d", c.what, c.n, c.limit)
		}
	}
	w.pace(t, "d "+string(last.Dest), l.PerMinute)
	w.pace(t, "o "+string(last.Flow.Organization), w.rules.Organization.PerMinute)
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (w *world) pace(t *rapid.T, key string, perMinute int) {
	if perMinute == 0 {
		return
	}
	recent := slices.DeleteFunc(slices.Clone(w.starts[key]), func(at int64) bool { return at <= w.now-minute })
	if len(recent) > perMinute+perMinute/10 {
		t.Fatalf("%s: %d starts within a minute, limit %d", key, len(recent), perMinute)
	}
}

// could tells whether it may be attempted at the time, from its own state only.
func (w *world) could(it *item, at int64) bool {
	f, d := it.flow, it.flow.dest
	if it.state != ready && (it.state != waiting || it.at > at) || !d.room() || d.at() > at || d.pool.full() {
		return false
	}
	for _, g := range f.gates {
		if g != nil && !g.open(at) {
			return false
		}
	}
	return f.class != lowest || d.lowest < max(1, d.limit/2)
}

// idle checks that Next says no only when nothing can be tried, and that
// nothing can be before Wake.
func (w *world) idle(t *rapid.T) {
	wake := w.Wake()
	for it := range w.all(Selector{}) {
		if w.could(it, w.now) {
			t.Fatalf("%s for %s could be attempted", it.id, it.flow.dest.name)
		}
		if wake > w.now && w.could(it, wake-1) {
			t.Fatalf("%s for %s could be attempted before the wake", it.id, it.flow.dest.name)
		}
	}
}

func (w *world) finish(t *rapid.T) {
	if len(w.flying) == 0 {
		return
	}
	i := rapid.IntRange(0, len(w.flying)-1).Draw(t, "which")
	j := w.flying[i]
	w.flying = slices.Delete(w.flying, i, i+1)
	o := Outcome{Result: Result(rapid.IntRange(0, 5).Draw(t, "result")),
		Wait: time.Duration(rapid.IntRange(0, 2).Draw(t, "wait")) * 3 * time.Second}
	next, err := w.Done(j, o, w.now)
	if err != nil {
		t.Fatal(err)
	}
	d := w.dests[j.Dest]
	w.blocked[j.Dest] = 0
	if d != nil {
		w.blocked[j.Dest] = d.until
	}
	if o.Result == DeferDest && next != Never && d.until > next {
		t.Fatalf("told %d, destination waits until %d", next, d.until)
	}
}

func (w *world) look(t *rapid.T) {
	if len(w.looked) > 0 && rapid.Bool().Draw(t, "end") {
		j := w.looked[0]
		w.looked = w.looked[1:]
		j.Expires = w.now + rapid.Int64Range(0, 50).Draw(t, "expiry")*second
		if _, err := w.Done(j, Outcome{Result: rapid.SampledFrom([]Result{Back, Gone}).Draw(t, "result")}, w.now); err != nil {
			t.Fatal(err)
		}
		return
	}
	if j, ok := w.Overdue(w.now); ok {
		if j.Expires > w.now {
			t.Fatal("looked at early")
		}
		w.looked = append(w.looked, j)
	} else if w.due.len() > 0 && w.due.top().due() <= w.now {
		t.Fatal("not looked at")
	}
}

func (w *world) order(t *rapid.T) {
	l := Selector{}
	switch rapid.IntRange(0, 3).Draw(t, "by") {
	case 0:
		l.Dest = dests().Draw(t, "dest")
	case 1:
		l.Organization = "o"
	case 2:
		l.ID = id(rapid.IntRange(1, w.serial+1).Draw(t, "which"))
	}
	switch rapid.IntRange(0, 5).Draw(t, "order") {
	case 0:
		if _, err := w.Suspend(l, w.now); err != nil {
			t.Fatal(err)
		}
	case 1, 2:
		w.Resume(l, w.now)
	case 3:
		w.RetryNow(l, w.now)
		for d := range w.blocked {
			if w.dests[d] != nil {
				w.blocked[d] = w.dests[d].until
			}
		}
	case 4:
		w.Remove(l.ID, "")
	case 5:
		w.rules = smallRules(t)
		w.rules.Default.PerMinute, w.rules.Organization.PerMinute = 0, 0 // starts so far were under other rules
		w.SetRules(w.rules, w.now)
	}
}

// check compares every counter and list with the jobs themselves.
func (w *world) check(t *rapid.T) {
	n := 0
	type sums struct{ items, ready, waiting, suspended, running int }
	by := map[*dest]*sums{}
	refs := map[*flow]int{}
	running := map[*gate]int{}
	due := 0
	for it := range w.all(Selector{}) {
		n++
		d := it.flow.dest
		if by[d] == nil {
			by[d] = &sums{}
		}
		b := by[d]
		b.items++
		refs[it.flow]++
		b.ready += count(it.state == ready)
		b.waiting += count(it.state == waiting)
		b.suspended += count(it.state == suspended)
		b.running += count(it.state == flying)
		due += count(it.due() != Never && it.state <= waiting)
		if it.state == flying {
			for _, g := range it.flow.gates {
				running[g]++
			}
		}
	}
	if n != w.count || due != w.due.len() || len(refs) != len(w.flows) || n > w.rules.MaxJobs || len(w.Scheduler.dests) > w.rules.MaxDests {
		t.Fatalf("%d jobs of %d, %d due of %d, %d flows of %d", w.count, n, w.due.len(), due, len(w.flows), len(refs))
	}
	for d, b := range by {
		if got := (sums{int(d.items), int(d.ready), d.waiting.len(), int(d.suspended), int(d.running)}); got != *b || w.Scheduler.dests[d.name] != d {
			t.Fatalf("%s: %+v, want %+v", d.name, got, *b)
		}
	}
	for f, r := range refs {
		if int(f.refs) != r || (f.head != nil) == (f.state == flowIdle) {
			t.Fatalf("flow has %d jobs, want %d; state %d", f.refs, r, f.state)
		}
	}
	for _, g := range w.gates {
		if int(g.running) != running[g] {
			t.Fatalf("gate %+v: %d running, want %d", g.key, g.running, running[g])
		}
	}
}

func TestAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := smallRules(t)
		w := &world{Scheduler: New(r), rules: r, now: t0, blocked: map[Dest]int64{}, starts: map[string][]int64{}}
		t.Repeat(map[string]func(*rapid.T){
			"add":    w.add,
			"add2":   w.add,
			"begin":  w.begin,
			"begin2": w.begin,
			"finish": w.finish,
			"look":   w.look,
			"order":  w.order,
			"time":   func(t *rapid.T) { w.now += rapid.Int64Range(0, 20).Draw(t, "seconds") * second },
			"wake": func(t *rapid.T) {
				if at := w.Wake(); at != Never {
					w.now = max(w.now, at)
				}
			},
			"": w.check,
		})
		w.drain(t)
	})
}

// drain lets everything succeed: whatever happened before, all jobs end.
func (w *world) drain(t *rapid.T) {
	w.Resume(Selector{}, w.now)
	for range 10_000 {
		if w.Len() == 0 {
			w.Next(w.now + 20*minute)
			if len(w.Scheduler.dests)+len(w.flows)+len(w.gates)+w.gateTimes.len()+w.destTimes.len() > 0 {
				t.Fatalf("left over: %d destinations, %d flows, %d gates", len(w.Scheduler.dests), len(w.flows), len(w.gates))
			}
			return
		}
		for _, j := range append(w.flying, w.looked...) {
			if _, err := w.Done(j, Outcome{Result: OK}, w.now); err != nil {
				t.Fatal(err)
			}
		}
		w.flying, w.looked = nil, nil
		for j, ok := w.Next(w.now); ok; j, ok = w.Next(w.now) {
			w.flying = append(w.flying, j)
		}
		if len(w.flying) == 0 && w.Len() > 0 {
			at := w.Wake()
			if at == Never {
				t.Fatalf("%d jobs and no wake", w.Len())
			}
			w.now = max(w.now, at)
			if j, ok := w.Overdue(w.now); ok {
				w.looked = append(w.looked, j)
			}
		}
	}
	t.Fatalf("%d jobs do not end", w.Len())
}

// Promise 3: however much others hold, a flow that comes anew waits until each
// of them had one turn.
func TestNoStarvation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := DefaultRules()
		r.Default.Start, r.Default.Concurrency = 1, 1
		s := New(r)
		flows := rapid.IntRange(1, 8).Draw(t, "flows")
		size := rapid.Int64Range(0, quantum)
		n := 0
		put := func(from int) {
			n++
			j := job(n, "mx:a", fmt.Sprint("o/", from))
			j.Size = size.Draw(t, "size")
			if err := s.Add(j, t0); err != nil {
				t.Fatal(err)
			}
		}
		for range rapid.IntRange(20, 100).Draw(t, "jobs") {
			put(rapid.IntRange(1, flows).Draw(t, "flow"))
		}
		turn := func() uint64 {
			j, ok := s.Next(t0)
			if !ok {
				t.Fatal("nothing to do")
			}
			if _, err := s.Done(j, Outcome{Result: OK}, t0); err != nil {
				t.Fatal(err)
			}
			put(int(j.Flow.Sender)) // the others never run dry
			return j.Flow.Sender
		}
		for range rapid.IntRange(0, 30).Draw(t, "before") {
			turn()
		}
		put(99)
		for i := 1; turn() != 99; i++ {
			if i > flows {
				t.Fatalf("waited for %d turns of %d others", i, flows)
			}
		}
	})
}

// Bytes are shared: of flows that always have mail none gets less than another
// but for one message.
func TestBytesAreShared(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := DefaultRules()
		r.Default.Start, r.Default.Concurrency = 1, 1
		s := New(r)
		flows := rapid.IntRange(2, 5).Draw(t, "flows")
		sizes := make([]int64, flows+1)
		got := make([]int64, flows+1)
		n := 0
		put := func(from int) {
			n++
			j := job(n, "mx:a", fmt.Sprint("o/", from))
			j.Size = sizes[from]
			if err := s.Add(j, t0); err != nil {
				t.Fatal(err)
			}
		}
		for f := 1; f <= flows; f++ {
			sizes[f] = rapid.Int64Range(quantum, 20*quantum).Draw(t, "size")
			put(f)
			put(f)
		}
		for range 300 {
			j, _ := s.Next(t0)
			f := int(j.Flow.Sender)
			got[f] += j.Size
			put(f)
			if _, err := s.Done(j, Outcome{Result: OK}, t0); err != nil {
				t.Fatal(err)
			}
		}
		if low, high := slices.Min(got[1:]), slices.Max(got[1:]); high-low > 2*slices.Max(sizes)+2*quantum {
			t.Fatalf("shares from %d to %d bytes, sizes %v", low, high, sizes)
		}
	})
}
