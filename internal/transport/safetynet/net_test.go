package safetynet

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/conf"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// TestPrimaryAnswers shows that a server delivers again what it delivered in
// the interval, reaching as far beyond it as clocks may differ, and nothing else.
func TestPrimaryAnswers(t *testing.T) {
	w := newWorld(t)
	p := w.join("MBX1")
	for n := range 600 { // more than two batches
		p.delivered(n, start.Add(time.Duration(n)*time.Second), "DB01")
	}
	p.delivered(600, start.Add(10*time.Second), "DB02")
	p.delivered(601, start.Add(-9*time.Minute), "DB01")
	p.delivered(602, start.Add(-11*time.Minute), "DB01")
	w.pass(10 * time.Minute)
	p.delivered(603, w.Now().Add(9*time.Minute), "DB01") // by a clock that is ahead
	p.run()
	id := p.ask(start)
	if st, err := p.net.Show(id); err != nil || st.State != StateNew || p.net.Completed(id) {
		t.Fatalf("%+v %v", st, err)
	}
	st := p.reaches(id, StateCompleted)
	if st.Found != 602 || st.Delivered != 602 || st.Duplicates != 0 || st.Failed != 0 || !p.net.Completed(id) {
		t.Fatalf("%+v", st)
	}
	if m, times := w.have(); m != 602 || times != 602 {
		t.Fatalf("%d messages, delivered %d times", m, times)
	}
	// A part that was begun by an old view leaves things as they are.
	before, _ := w.view().Get(partKey(id, "MBX1", ""))
	(&part{n: p.net, t: task{id: id}, r: st.Request}).run(t.Context())
	if now, _ := w.view().Get(partKey(id, "MBX1", "")); now.Revision != before.Revision {
		t.Fatal("a part that is over was done again")
	}
	// Nothing is done again by itself, and all of it is known when it is.
	id2 := p.ask(start.Add(9 * time.Minute))
	if st := p.reaches(id2, StateCompleted); st.Duplicates != 602 || !st.Request.From.Equal(start) {
		t.Fatalf("what the first request brought may be lost as well: %+v", st)
	}
	if all := p.net.Requests(); len(all) != 2 || all[0].Request.ID != id {
		t.Fatalf("%+v", all)
	}
}

// TestShadowAnswers shows that the holders of copies answer for a server that
// is gone, and that its coming back changes nothing but counts.
func TestShadowAnswers(t *testing.T) {
	w := newWorld(t)
	p, s, third := w.join("MBX1"), w.join("MBX2"), w.join("MBX3")
	for n := range 40 {
		a := p.delivered(n, start.Add(time.Duration(n)*time.Second), "DB01")
		if n%2 == 0 {
			s.holds(p, a, "DB01")
		} else {
			third.holds(p, a, "DB01")
		}
	}
	s.delivered(100, start.Add(time.Second), "DB01")
	p.crash()
	s.run()
	third.run()
	id := s.ask(start)
	st := s.reaches(id, StateRunning)
	s.eventually(func() bool {
		w.pass(10 * time.Millisecond)
		st, _ = s.net.Show(id)
		return st.Delivered == 1 && len(st.Parts) == 2
	}, func() string { return "own parts" })
	if st.State != StateRunning {
		t.Fatalf("nobody answered for MBX1 yet: %+v", st)
	}
	w.pass(time.Minute)
	st = third.reaches(id, StateCompleted)
	if st.Delivered != 41 || st.Duplicates != 0 || len(st.Parts) != 4 {
		t.Fatalf("%+v", st)
	}
	p.open()
	w.live("MBX1", true)
	p.run()
	s.eventually(func() bool {
		w.pass(10 * time.Millisecond)
		st, _ = s.net.Show(id)
		return st.Duplicates == 40
	}, func() string { return "the server that came back does its part" })
	if st = s.reaches(id, StateCompleted); st.Found != 81 || st.Delivered != 41 {
		t.Fatalf("%+v", st)
	}
	if m, _ := w.have(); m != 41 {
		t.Fatalf("%d messages", m)
	}
}

// TestNewQueue shows that copies answer for a queue that was lost while its
// server is there with another.
func TestNewQueue(t *testing.T) {
	w := newWorld(t)
	p, s := w.join("MBX1"), w.join("MBX2")
	old := *p
	for n := range 10 {
		s.holds(&old, p.delivered(n, start.Add(time.Duration(n)*time.Second), "DB01"), "DB01")
	}
	p.stop()
	p = w.join("MBX1") // with an empty disk
	w.put(org.QueueKey("MBX1"), org.QueueRow{Server: "MBX1", Identity: p.q.Identity(), Epoch: 2, TakenUpTo: 1, TakenAt: start.Add(time.Hour)})
	w.pass(2 * time.Hour)
	for n := range 5 {
		s.holds(p, p.delivered(20+n, start.Add(90*time.Minute), "DB01"), "DB01")
	}
	p.run()
	s.run()
	id := s.ask(start)
	st := s.reaches(id, StateCompleted)
	i := slices.IndexFunc(st.Parts, func(p org.SafetyNetPart) bool { return p.For != "" })
	if st.Delivered != 15 || st.Duplicates != 0 || len(st.Parts) != 3 || i < 0 || st.Parts[i].Except != p.q.Identity() || st.Parts[i].Found != 10 {
		t.Fatalf("%+v", st)
	}
	// Then it dies: what its present queue delivered is its own part, and done.
	p.crash()
	w.pass(time.Hour)
	if st = s.reaches(id, StateCompleted); st.Found != 15 {
		t.Fatalf("%+v", st)
	}
}

// TestTakenAndBack shows that a server whose messages were taken while it was
// away still answers for what it delivered, and one that was removed does not.
func TestTakenAndBack(t *testing.T) {
	w := newWorld(t)
	p, s, r := w.join("MBX1"), w.join("MBX2"), w.join("MBX3")
	for _, m := range []*server{p, s} {
		m.run()
		m.eventually(func() bool {
			m.net.mu.Lock()
			defer m.net.mu.Unlock()
			return !m.net.since.IsZero()
		}, func() string { return "it knows its queue" })
	}
	w.pass(24 * time.Hour)
	at := w.Now()
	for n, m := range []*server{p, s} {
		m.delivered(n, at, "DB01")
		w.put(org.QueueKey(m.name), org.QueueRow{Server: m.name, Identity: m.q.Identity(), Epoch: 2, TakenUpTo: 1, TakenAt: at})
	}
	p.holds(r, r.delivered(2, at, "DB01"), "DB01")
	r.crash()
	w.mu.Lock()
	delete(w.rows, "servers/MBX3")
	w.mu.Unlock()
	w.put(org.QueueKey("MBX3"), org.QueueRow{Server: "MBX3", Identity: r.q.Identity(), Epoch: 1, TakenUpTo: 1, TakenAt: at})
	id := p.ask(at)
	st := p.reaches(id, StateCompleted)
	if st.Found != 3 || st.Delivered != 3 || len(st.Parts) != 4 {
		t.Fatalf("%+v", st)
	}
	for _, part := range st.Parts {
		if part.Except != "" || part.For == "MBX1" || part.For == "MBX2" {
			t.Errorf("%+v", part)
		}
	}
	w.pass(12 * time.Hour) // nothing of MBX3 is in what comes now
	if st = p.reaches(p.ask(w.Now()), StateCompleted); len(st.Parts) != 2 {
		t.Fatalf("%+v", st)
	}
}

// TestNotedLate shows that a delivery counts that was confirmed before the
// request came and is noted a moment later.
func TestNotedLate(t *testing.T) {
	w := newWorld(t)
	p := w.join("MBX1")
	p.run()
	id := p.ask(start)
	p.eventually(func() bool {
		p.net.mu.Lock()
		defer p.net.mu.Unlock()
		_, ok := p.net.seen[id]
		return ok
	}, func() string { return "it is seen" })
	p.delivered(1, start, "DB01")
	if st := p.reaches(id, StateCompleted); st.Delivered != 1 {
		t.Fatalf("%+v", st)
	}
}

// TestEvents shows what is said of settings that do not fit, and of states.
func TestEvents(t *testing.T) {
	w := newWorld(t)
	w.group.HoldTime = conf.Duration(96 * time.Hour)
	p := w.join("MBX1")
	p.run()
	p.reaches(p.ask(start), StateCompleted)
	want := []int{EventShort.Code, EventRequest.Code, EventRequest.Code, EventRequest.Code} // New, Running, Completed
	p.eventually(func() bool {
		var got []int
		for _, e := range p.events.Recent(10) {
			got = append(got, e.Code)
		}
		return slices.Equal(got, want) || slices.Equal(got, want[:3]) // Running may pass unseen
	}, func() string { return fmt.Sprintf("%+v", p.events.Recent(10)) })
	var notes []org.Note
	p.eventually(func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		notes = slices.Clone(w.notes)
		return len(notes) == 1 && notes[0].Action == "Resubmit" && notes[0].Target == "DB01" && notes[0].Cause == "lossy mount" && len(notes[0].Evidence) == 1 && notes[0].Result == "Completed"
	}, func() string { return fmt.Sprintf("for the recovery log: %+v", notes) })
}

// TestLagBeyondHoldTime: a copy that lags by more than the hold time is said
// once for each lag, one that is wanted so is not.
func TestLagBeyondHoldTime(t *testing.T) {
	w := newWorld(t)
	p := w.join("MBX1")
	p.run()
	lagging := func(lag time.Duration, wanted bool) {
		w.put("databases/DB01", org.Database{Name: "DB01", Copies: []org.Copy{{Server: "MBX1"}, {Server: "MBX2", ReplayLag: lag, LagBeyondHold: wanted}}})
	}
	said := func(n int, part string) {
		t.Helper()
		p.eventually(func() bool {
			all := p.events.Recent(10)
			return len(all) == n && strings.Contains(all[n-1].Sentence, part)
		}, func() string { return fmt.Sprintf("%d times, at last %q: %+v", n, part, p.events.Recent(10)) })
	}
	lagging(72*time.Hour, false)
	said(1, "hold_time 48h is shorter than the longest replay lag 72h")
	lagging(72*time.Hour, true)
	lagging(48*time.Hour, false) // as long as it may be
	lagging(168*time.Hour, false)
	said(2, "replay lag 168h")
}

// TestRestart shows that a request goes on where it was.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	p := w.join("MBX1")
	const all, limit = 900, 700
	for n := range all {
		p.delivered(n, start.Add(time.Duration(n)*time.Second), "DB01")
	}
	w.pass(time.Hour)
	stuck := make(chan struct{})
	var count atomic.Int64
	w.deliver = func(Item) error {
		if count.Add(1) > limit {
			<-stuck
		}
		return nil
	}
	p.run()
	id := p.ask(start)
	p.eventually(func() bool {
		w.pass(10 * time.Millisecond)
		return count.Load() > limit
	}, func() string { return "it begins" })
	p.live("MBX1", false)
	close(stuck)
	w.mu.Lock()
	w.deliver = func(Item) error { return kind.Errorf(kind.Busy, "the server stops") }
	w.mu.Unlock()
	p.stop()
	first, _ := w.have()
	w.mu.Lock()
	w.deliver, w.tries = nil, 0
	w.mu.Unlock()
	p.open()
	p.live("MBX1", true)
	p.run()
	st := p.reaches(id, StateCompleted)
	if m, _ := w.have(); m != all || first == all {
		t.Fatalf("%d messages, %d before the restart", m, first)
	}
	if w.tries > all-batchSize || st.Found < all || st.Found > all+batchSize+maxAtOnce {
		t.Fatalf("%d tries after the restart: %+v", w.tries, st)
	}
}

// TestCancelled shows that a cancelled request ends and stays away, and that a
// disabled one rests.
func TestCancelled(t *testing.T) {
	w := newWorld(t)
	p := w.join("MBX1")
	for n := range 50 {
		p.delivered(n, start.Add(time.Duration(n)*time.Second), "DB01")
	}
	w.pass(time.Hour)
	var busy atomic.Bool
	busy.Store(true)
	w.deliver = func(Item) error {
		if busy.Load() {
			return kind.Errorf(kind.Busy, "dismounted")
		}
		return nil
	}
	p.run()
	ctx := t.Context()
	id := p.ask(start)
	p.reaches(id, StateRunning)
	if err := p.net.Cancel(ctx, id); err != nil {
		t.Fatal(err)
	}
	idle := func() bool {
		p.net.mu.Lock()
		defer p.net.mu.Unlock()
		return len(p.net.runs) == 0
	}
	p.eventually(idle, func() string { return "it ends" })
	for key := range w.view().Prefix(Prefix) {
		t.Errorf("%s is left", key)
	}
	if _, err := p.net.Show(id); !kind.Is(err, kind.NotFound) {
		t.Fatal(err)
	}
	id = p.ask(start)
	p.reaches(id, StateRunning)
	if err := p.net.Disable(ctx, id); err != nil {
		t.Fatal(err)
	}
	if st := p.reaches(id, StateDisabled); st.Delivered != 0 {
		t.Fatalf("%+v", st)
	}
	p.eventually(idle, func() string { return "it rests" })
	busy.Store(false)
	if err := p.net.Enable(ctx, id); err != nil {
		t.Fatal(err)
	}
	if st := p.reaches(id, StateCompleted); st.Delivered != 50 {
		t.Fatalf("%+v", st)
	}
	w.pass(20 * 24 * time.Hour)
	p.eventually(func() bool { return len(p.net.Requests()) == 0 }, func() string { return "old requests go" })
}
