package queue

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// hold stores the n-th message as a copy for MBX1.
func (r *running) hold(t testing.TB, n int, try uint8, rcpts ...string) (mail.TraceID, []byte) {
	t.Helper()
	a, body := message(n, r.clock, rcpts...)
	b, err := r.Encode(a, int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.StoreShadow(t.Context(), ShadowCopy{Primary: "MBX1", Queue: "q1", Try: try, Accept: b, Body: body}); err != nil {
		t.Fatal(err)
	}
	return a.ID, body
}

func (r *running) held(t testing.TB, behind mail.TraceID) (ids []mail.TraceID) {
	t.Helper()
	for h, err := range r.Held("MBX1", behind) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, h.ID)
	}
	return ids
}

func (r *running) owed(t testing.TB, holder org.ServerName, behind org.LSN) (out []Owing) {
	t.Helper()
	for o, err := range r.Owed(holder, behind) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, o)
	}
	return out
}

// TestCopies shows copies from their coming to their end.
func TestCopies(t *testing.T) {
	d, c := newDisks(), newClock()
	q := start(t, d, c)
	a, body := q.hold(t, 1, 1)
	q.hold(t, 1, 1) // once more
	b, _ := q.hold(t, 2, 1)
	q.hold(t, 2, 3) // a later try
	if got := q.held(t, mail.TraceID{}); !slices.Equal(got, []mail.TraceID{a, b}) {
		t.Fatal(got)
	}
	if got := q.held(t, a); !slices.Equal(got, []mail.TraceID{b}) {
		t.Fatal(got)
	}
	if got := q.states(t, a); got != "held " {
		t.Fatal(got)
	}
	if got, err := q.Body(t.Context(), a); err != nil || !bytes.Equal(got, body) {
		t.Fatal(err)
	}
	own, _ := q.accept(t, 3)
	acc, body3 := message(3, c)
	enc, err := q.Encode(acc, int64(len(body3)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []ShadowCopy{{"MBX1", "q1", 1, enc, body3}, {"MBX9", "q1", 1, enc, body3}} {
		if err := q.StoreShadow(t.Context(), c); !kind.Is(err, kind.Conflict) {
			t.Fatalf("a copy of the own message %s: %v", own, err)
		}
	}
	if err := q.StoreShadow(t.Context(), ShadowCopy{"MBX1", "q1", 1, enc, body3[:3]}); !kind.Is(err, kind.Invalid) {
		t.Fatal(err)
	}
	at := c.Now().UnixNano()
	q.apply(t, Wait, Change{ID: a, At: at, Fate: FateFinished, By: "MBX1", Rows: []RowChange{{N: 0, State: StateDelivered, Mailbox: box, At: at - 5}}})
	q.apply(t, Wait, Change{ID: b, At: at, Fate: FateSuperseded})
	if err := q.Apply(t.Context(), []Change{{ID: a, Fate: FateVoid}}, Wait); !kind.Is(err, kind.Conflict) {
		t.Fatal(err)
	}
	q.stop()
	q = start(t, d, c)
	if got := q.held(t, mail.TraceID{}); len(got) != 0 || q.states(t, a) != "delivered " || q.states(t, b) != "elsewhere " {
		t.Fatal(got, q.states(t, a), q.states(t, b))
	}
	n := 0
	for k, err := range q.KeptShadow("MBX1", "DB01", c.Now().Add(-time.Second), c.Now()) {
		if n++; err != nil || k.ID != a || k.Mailbox != box.ID || k.At.UnixNano() != at-5 {
			t.Fatalf("%+v %v", k, err)
		}
	}
	if n != 1 {
		t.Fatalf("%d kept", n)
	}
	q.hold(t, 1, 2) // what is over may come again
	if got := q.held(t, mail.TraceID{}); len(got) != 1 {
		t.Fatal(got)
	}
	q.verify(t)
}

// TestTake makes copies own messages, as far as they were.
func TestTake(t *testing.T) {
	d, c := newDisks(), newClock()
	q := start(t, d, c)
	a, body := q.hold(t, 1, 1, "a@x.test", "b@x.test", "c@x.test", "d@x.test")
	q.apply(t, Wait, Change{ID: a, Rows: []RowChange{
		{N: 0, State: StateDelivered, Mailbox: box}, {N: 1, State: StateAttempt, Host: "mx"}, {N: 2, State: StateDeferred, Dest: "mx:x.test"}}})
	q.apply(t, Wait, Change{ID: a, Rows: []RowChange{{N: 0, State: StateDeferred}}}) // late; ignored
	b, _ := q.hold(t, 2, 1)
	q.apply(t, Wait, Change{ID: b, Fate: FateVoid})
	if err := q.Begin(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	ids := []mail.TraceID{a, b, {99}}
	for range 2 {
		if err := q.Take(t.Context(), "MBX1", "q1", 6, ids); err != nil {
			t.Fatal(err)
		}
	}
	q.stop()
	q = start(t, d, c)
	if got := q.states(t, a); got != "delivered doubtful ready new " {
		t.Fatal(got)
	}
	m, _, err := q.Message(a)
	if err != nil || m.Primary != "" || m.TakenFrom != "MBX1" || m.Epoch != 7 || m.Shadow != "" {
		t.Fatalf("%+v %v", m, err)
	}
	if got := q.states(t, b); got != "void " {
		t.Fatal(got)
	}
	if got, err := q.Body(t.Context(), a); err != nil || !bytes.Equal(got, body) {
		t.Fatal(err)
	}
	if q.Stats().Open != 1 || len(q.held(t, mail.TraceID{})) != 0 {
		t.Fatal("not taken")
	}
	q.verify(t)
}

// TestOwed shows what holders of copies are told, and until when.
func TestOwed(t *testing.T) {
	d, c := newDisks(), newClock()
	q := start(t, d, c)
	a, _ := q.accept(t, 1, "one@x.test", "two@remote.test")
	b, _ := q.accept(t, 2)
	said := q.OwedChanged()
	q.apply(t, Wait, Change{ID: a, Rows: []RowChange{
		{N: 0, State: StateExpanded}, {N: 1, State: StateReady, Dest: "mx:remote.test"},
		{N: 2, New: &RowNew{Parent: 0, Address: "member@x.test", Dest: "db:DB01", Why: WhyGroup}}}})
	<-said
	q.apply(t, Wait, Change{ID: a, Rows: []RowChange{{N: 1, State: StateAttempt}}}, Change{ID: b, Rows: []RowChange{{N: 0, State: StateVoid}}})
	q.apply(t, Wait, delivered(a, 2))
	q.apply(t, Wait, Change{ID: a, Rows: []RowChange{{N: 1, State: StateRelayed}}})
	got := q.owed(t, "MBX2", 0)
	var fates []Fate
	for _, o := range got {
		fates = append(fates, o.Notice.Fate)
	}
	if !slices.Equal(fates, []Fate{FateProgress, FateAttempt, FateVoid, FateProgress, FateFinished}) {
		t.Fatal(fates)
	}
	rows := got[0].Notice.Rows
	if len(rows) != 3 || rows[2].New == nil || rows[2].State != StateDelivered || rows[2].Mailbox != box {
		t.Fatalf("%+v", rows)
	}
	// A holder can apply them.
	s := start(t, newDisks(), c)
	s.hold(t, 1, 1, "one@x.test", "two@remote.test")
	s.apply(t, Wait, Change{ID: a, At: got[0].Notice.At, Rows: rows})
	s.apply(t, Wait, Change{ID: a, At: got[4].Notice.At, Rows: got[4].Notice.Rows, Fate: FateFinished})
	if s.states(t, a) != "expanded relayed delivered " {
		t.Fatal(s.states(t, a))
	}
	q.stop()
	q = start(t, d, c)
	if err := q.Noticed(t.Context(), "MBX2", "q2", got[2].At); err != nil {
		t.Fatal(err)
	}
	q.stop()
	q = start(t, d, c)
	if left := q.owed(t, "MBX2", 0); len(left) != 2 || left[0].At != got[3].At {
		t.Fatalf("%+v", left)
	}
	if left := q.owed(t, "MBX2", got[3].At); len(left) != 1 {
		t.Fatalf("%+v", left)
	}
	to := org.ServerName("MBX3")
	e, _ := q.accept(t, 3)
	q.apply(t, Wait, Change{ID: e, Shadow: &to})
	if left := q.owed(t, "MBX2", got[4].At); len(left) != 1 || left[0].Notice.Fate != FateSuperseded {
		t.Fatalf("%+v", left)
	}
	q.verify(t)
}

// TestRequest shows that the progress of a request outlives a restart.
func TestRequest(t *testing.T) {
	d, c := newDisks(), newClock()
	q := start(t, d, c)
	want := Progress{mail.TraceID{5}, [4]uint32{4, 3, 2, 1}}
	for _, p := range []Progress{{}, want} {
		if err := q.NoteRequest(t.Context(), "r1", p); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.NoteRequest(t.Context(), "", want); !kind.Is(err, kind.Invalid) {
		t.Fatal(err)
	}
	q.stop()
	q = start(t, d, c)
	if got, ok, err := q.Request("r1"); err != nil || !ok || got != want {
		t.Fatalf("%+v %v %v", got, ok, err)
	}
	if _, ok, err := q.Request("r2"); err != nil || ok {
		t.Fatal(ok, err)
	}
	q.verify(t)
}
