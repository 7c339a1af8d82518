package queue

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// verify compares log and ledger.
func (r *running) verify(t testing.TB) VerifyReport {
	t.Helper()
	rep, err := r.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Differences) > 0 {
		t.Fatalf("ledger and log differ: %+v", rep.Differences)
	}
	return rep
}

// TestForget shows how long bodies and rows stay, and that the log gets
// shorter.
func TestForget(t *testing.T) {
	d, c := newDisks(), newClock()
	q := start(t, d, c)
	var ids []mail.TraceID
	for n := range 400 {
		id, _ := q.accept(t, n)
		ids = append(ids, id)
		if n != 0 {
			q.apply(t, Lazy, delivered(id, 0))
		}
	}
	if rep := q.verify(t); rep.Keys < 400*8 {
		t.Fatalf("compared only %d keys", rep.Keys)
	}
	used := q.log.Used()
	kept := func() (n int) {
		for _, err := range q.Kept("DB01", c.Now().Add(-100*time.Hour), c.Now()) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		return n
	}
	if n := kept(); n != 399 {
		t.Fatalf("%d kept", n)
	}
	tidy := func() {
		t.Helper()
		if err := q.Tidy(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	c.add(47 * time.Hour)
	tidy()
	if _, err := q.Body(t.Context(), ids[9]); err != nil || kept() != 399 {
		t.Fatalf("given up too early: %v", err)
	}
	c.add(2 * time.Hour)
	tidy()
	if _, err := q.Body(t.Context(), ids[9]); !kind.Is(err, kind.NotFound) || kept() != 0 {
		t.Fatalf("not given up: %v, %d", err, kept())
	}
	if q.log.Start() != 0 {
		t.Fatal("the first message is needed, and not there")
	}
	c.add(48 * time.Hour) // it is in the way now
	tidy()
	_, body := message(0, c)
	if got, err := q.Body(t.Context(), ids[0]); err != nil || !bytes.Equal(got, body) {
		t.Fatalf("carried: %v", err)
	}
	tidy()
	if q.log.Start() == 0 || q.log.Used() >= used/2 {
		t.Fatalf("the log begins at %d and takes %d of %d bytes", q.log.Start(), q.log.Used(), used)
	}
	if q.states(t, ids[9]) != "delivered " {
		t.Fatal("rows are gone")
	}
	if rep := q.verify(t); rep.Older == 0 {
		t.Fatalf("%+v", rep)
	}
	q.stop()
	q = start(t, d, c)
	q.hot.drop(ids[0])
	if got, err := q.Body(t.Context(), ids[0]); err != nil || !bytes.Equal(got, body) || q.states(t, ids[0]) != "new " {
		t.Fatalf("carried, after a restart: %v", err)
	}
	c.add(14 * 24 * time.Hour)
	tidy()
	if _, _, err := q.Message(ids[9]); !kind.Is(err, kind.NotFound) {
		t.Fatalf("rows stay: %v", err)
	}
	if q.Stats().Open != 1 {
		t.Fatal("the unfinished message is gone")
	}
	q.verify(t)
}

// TestPressed shows that a queue on a full volume refuses messages, shortens
// Safety Net, goes on with states and recovers.
func TestPressed(t *testing.T) {
	d, c := newDisks(), newClock()
	var notes []org.Note // of Tidy, which this test calls
	q := start(t, d, c, func(o *Options) {
		o.MaxSize, o.Noted = 2<<20, func(n org.Note) { notes = append(notes, n) }
	})
	var err error
	var last mail.TraceID
	for n := 0; err == nil; n++ {
		a, body := message(n, c)
		c.add(time.Second)
		if err = q.Accept(t.Context(), a, bytes.Repeat(body, 3)); err == nil {
			last = a.ID
			ch := delivered(a.ID, 0)
			ch.At = c.Now().UnixNano()
			q.apply(t, Lazy, ch)
		}
		q.judge()
	}
	if !kind.Is(err, kind.Full) || q.Level() != LevelHigh {
		t.Fatalf("%v at %s", err, q.Level())
	}
	q.apply(t, Wait, Change{ID: last, Flags: 1})
	c.add(time.Hour)
	if err := q.Tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if q.Level() != LevelNormal {
		t.Fatalf("still %s with %d bytes", q.Level(), q.log.Used())
	}
	if len(notes) == 0 || notes[0].Action != "ShortenSafetyNet" || notes[0].Cause != "the volume of the queue is under high pressure" || len(notes[0].Evidence) != 1 {
		t.Errorf("the recovery log does not tell: %+v", notes)
	}
	q.accept(t, 1_000_000)
	q.verify(t)
}

// TestFind shows searches by each criterion, and answers in pieces.
func TestFind(t *testing.T) {
	d, c := newDisks(), newClock()
	q := start(t, d, c)
	for n := range 60 {
		c.add(time.Minute)
		id, _ := q.accept(t, n, fmt.Sprintf("User%d@example.test", n%3), "all@example.test")
		if n%2 == 0 {
			q.apply(t, Wait, Change{ID: id, Rows: []RowChange{{N: 0, State: StateDelivered, Dest: "db:DB01", Org: "acme", Mailbox: box}}})
		}
	}
	now := c.Now()
	for _, s := range []struct {
		name string
		f    Filter
		want int
	}{
		{"all", Filter{}, 120},
		{"sender", Filter{Sender: "FROM@example.test"}, 120},
		{"nobody", Filter{Sender: "nobody@example.test"}, 0},
		{"recipient", Filter{Recipient: "user1@example.test"}, 20},
		{"message", Filter{MessageID: "<7@example.test>"}, 2},
		{"organization", Filter{Organization: "acme"}, 30},
		{"state", Filter{State: StateDelivered}, 30},
		{"unfinished", Filter{Unfinished: true}, 90},
		{"destination", Filter{Dest: "db:DB01"}, 30},
		{"since", Filter{From: now.Add(-9 * time.Minute)}, 20},
		{"until", Filter{Recipient: "all@example.test", To: now.Add(-10 * time.Minute)}, 50},
		{"both", Filter{Recipient: "user1@example.test", State: StateDelivered, From: now.Add(-29 * time.Minute)}, 5},
	} {
		for _, limit := range []int{0, 7, 1} {
			s.f.Limit, s.f.Cursor = limit, ""
			seen := map[string]bool{}
			for more := true; more; {
				rows, cursor, err := q.Find(s.f)
				if err != nil {
					t.Fatalf("%s: %v", s.name, err)
				}
				if limit > 0 && len(rows) > limit {
					t.Fatalf("%s: %d rows of %d", s.name, len(rows), limit)
				}
				for _, r := range rows {
					seen[fmt.Sprint(r.ID, r.N)] = true
				}
				s.f.Cursor, more = cursor, cursor != ""
			}
			if len(seen) != s.want {
				t.Errorf("%s by %d: %d rows, want %d", s.name, limit, len(seen), s.want)
			}
		}
	}
	for _, cur := range []string{"zz", "00", "0123456789abcdef0123456789abcdef0123"} {
		if _, _, err := q.Find(Filter{Sender: "x", Cursor: cur}); !kind.Is(err, kind.Invalid) {
			t.Errorf("cursor %q: %v", cur, err)
		}
	}
}

// FuzzCursor gives Find any cursor.
func FuzzCursor(f *testing.F) {
	q := start(f, newDisks(), newClock())
	q.accept(f, 1)
	f.Add("0000000000000002000000000000000000000", true)
	f.Fuzz(func(t *testing.T, cursor string, sender bool) {
		s := Filter{Cursor: cursor}
		if sender {
			s.Sender = "from@example.test"
		}
		if rows, _, err := q.Find(s); len(rows) > 1 || err != nil && !kind.Is(err, kind.Invalid) {
			t.Fatalf("%d rows, %v", len(rows), err)
		}
	})
}

// TestVerifyFinds shows that a ledger that was changed is not believed.
func TestVerifyFinds(t *testing.T) {
	q := start(t, newDisks(), newClock())
	id, _ := q.accept(t, 1)
	for what, change := range map[string]func() error{
		"missing":  func() error { return q.book.led.db.Delete(rowKey(id, 0), pebble.NoSync) },
		"other":    func() error { return q.book.led.db.Set(rowKey(id, 0), []byte{0xa0}, pebble.NoSync) },
		"too much": func() error { return q.book.led.db.Set(rowKey(id, 1), []byte{0xa0}, pebble.NoSync) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		rep, err := q.Verify(t.Context())
		found := false
		for _, d := range rep.Differences {
			found = found || d.What == what && d.ID == id
		}
		if err != nil || !found {
			t.Errorf("%s: %+v, %v", what, rep, err)
		}
	}
}

// TestDamage shows a damaged body: reported, mended, and read again.
func TestDamage(t *testing.T) {
	d, c := newDisks(), newClock()
	ev := event.NewLog(discard)
	q := start(t, d, c, func(o *Options) { o.HotMemory = 1; o.Events = ev })
	id, body := q.accept(t, 600)
	names, err := d.fs.List("queue/log")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.fs.Flip("queue/log/"+names[0], 8192, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Body(t.Context(), id); !kind.Is(err, kind.Corrupt) {
		t.Fatalf("a damaged body: %v", err)
	}
	if es := ev.Recent(1); len(es) != 1 || es[0].Code != EventDamaged.Code {
		t.Fatalf("%+v", es)
	}
	if err := q.scrubOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if es := ev.Recent(2); len(es) != 2 || es[1].Code != EventDamaged.Code || es[0].Code != EventDamaged.Code {
		t.Fatalf("%+v", es)
	}
	if err := q.Mend(t.Context(), id, body[1:]); !kind.Is(err, kind.Invalid) {
		t.Fatal(err)
	}
	if err := q.Mend(t.Context(), id, body); err != nil {
		t.Fatal(err)
	}
	if got, err := q.Body(t.Context(), id); err != nil || !bytes.Equal(got, body) {
		t.Fatalf("mended: %v", err)
	}
}

// TestFolder refuses folders that are not what they were.
func TestFolder(t *testing.T) {
	for name, spoil := range map[string]func(*fsx.Mem) error{
		"no manifest": func(fs *fsx.Mem) error { return fs.Remove("queue/queue.json") },
		"no log": func(fs *fsx.Mem) error {
			names, err := fs.List("queue/log")
			for _, n := range names {
				err = fs.Remove("queue/log/" + n)
			}
			return err
		},
		"newer": func(fs *fsx.Mem) error {
			return fsx.WriteFile(fs, "queue/queue.json", []byte(`{"format":2,"identity":"x"}`))
		},
	} {
		d, c := newDisks(), newClock()
		q := start(t, d, c)
		q.accept(t, 1)
		q.stop()
		if err := spoil(d.fs); err != nil {
			t.Fatal(err)
		}
		if q, err := Open(options(d, c)); err == nil {
			q.Close()
			t.Errorf("%s: opened", name)
		} else if !kind.Is(err, kind.Invalid) && !kind.Is(err, kind.Corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
