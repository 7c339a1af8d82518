package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// picture is what can be seen of a queue, bodies of what is needed included.
// An attempt that was cut short is doubtful, so the two look the same.
func picture(t testing.TB, q *Queue) string {
	t.Helper()
	var b strings.Builder
	f := Filter{}
	for more := true; more; more = f.Cursor != "" {
		rows, cursor, err := q.Find(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			s := r.State
			if s == StateAttempt {
				s = StateDoubtful
			}
			fmt.Fprintf(&b, "%s %d %s %s %d %q %s %s\n", r.ID, r.N, r.Address, s, r.Attempts, r.Dest, r.Server, r.Shadow)
			if s.Finished() {
				continue
			}
			body, err := q.Body(context.Background(), r.ID)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, " %d %.20q\n", len(body), body)
		}
		f.Cursor = cursor
	}
	fmt.Fprintln(&b, "epoch", q.Epoch())
	return b.String()
}

// work is a random user of a queue that knows what it did.
type work struct {
	q    *Queue
	c    *clock
	rnd  *rand.Rand
	n    int
	ids  []mail.TraceID
	tidy bool // forget and drop as well
}

// step does one thing and tells whether it was confirmed as durable.
func (w *work) step() (name string, durable bool, err error) {
	ctx := context.Background()
	w.c.add(time.Duration(w.rnd.IntN(3)) * time.Hour)
	switch k := w.rnd.IntN(20); {
	case k < 6:
		a, body := message(w.n, w.c, []string{"a@x.test", "b@y.test", "c@x.test"}[:1+w.rnd.IntN(3)]...)
		w.n++
		w.ids = append(w.ids, a.ID)
		return "accept", true, w.q.Accept(ctx, a, body)
	case k < 8:
		a, body := message(w.n, w.c)
		w.n++
		w.ids = append(w.ids, a.ID)
		b, err := w.q.Encode(a, int64(len(body)))
		if err != nil {
			return "", false, err
		}
		return "copy", true, w.q.StoreShadow(ctx, ShadowCopy{Primary: "MBX1", Queue: "q1", Try: 1, Accept: b, Body: body})
	case k == 8:
		return "epoch", true, w.q.Begin(ctx, w.q.Epoch()+1)
	case k == 9:
		var ids []mail.TraceID
		for h := range w.q.Held("MBX1", mail.TraceID{}) {
			ids = append(ids, h.ID)
		}
		return "take", true, w.q.Take(ctx, "MBX1", "q1", w.q.Epoch(), ids)
	case k == 10:
		for o := range w.q.Owed("MBX2", 0) {
			return "noticed", false, w.q.Noticed(ctx, "MBX2", "q2", o.At)
		}
	case k == 11 && w.tidy:
		return "tidy", false, w.q.Tidy(ctx)
	case len(w.ids) > 0:
		d := Durability(w.rnd.IntN(3))
		c, ok := w.change(w.ids[w.rnd.IntN(len(w.ids))])
		if ok {
			return "change", d == Wait, w.q.Apply(ctx, []Change{c}, d)
		}
	}
	return "nothing", false, nil
}

// change makes one that is allowed.
func (w *work) change(id mail.TraceID) (Change, bool) {
	m, rows, err := w.q.Message(id)
	if err != nil || !m.Finished.IsZero() {
		return Change{}, false
	}
	c := Change{ID: id, At: w.c.Now().UnixNano()}
	if m.Primary != "" {
		c.Fate = []Fate{FateOpen, FateAttempt, FateFinished, FateVoid, FateSuperseded}[w.rnd.IntN(5)]
		c.Rows = []RowChange{{N: 0, State: StateDelivered, Mailbox: box}}
		return c, true
	}
	n := w.rnd.IntN(len(rows))
	states := slices.Clone(moves[rows[n].State])
	if len(states) == 0 {
		return c, false
	}
	to := append(states, StateSuspended, StateRemoved)[w.rnd.IntN(len(states)+2)]
	rc := RowChange{N: uint16(n), State: to, Attempts: rows[n].Attempts + 1, Mailbox: box, Text: "reply"}
	if rows[n].Dest == "" && to == StateReady {
		rc.Dest = []string{"db:DB01", "mx:x.test"}[w.rnd.IntN(2)]
	}
	if to == rows[n].State {
		return c, false
	}
	c.Rows = []RowChange{rc}
	if to == StateExpanded {
		c.Rows = append(c.Rows, RowChange{N: uint16(len(rows)), New: &RowNew{Parent: uint16(n), Address: "m@x.test", Dest: "db:DB01", Why: WhyGroup}})
	}
	if w.rnd.IntN(10) == 0 {
		to := org.ServerName("MBX3")
		c.Shadow = &to
	}
	return c, true
}

// image is the disk as a crash might have left it.
type image struct {
	disks
	confirmed int // pictures before this one are over
	during    string
}

// camera takes crash images at operations of a disk.
type camera struct {
	d         disks
	mu        sync.Mutex // guards the rest
	rnd       *rand.Rand
	confirmed int
	step      string
	images    []image
}

func (c *camera) shoot(op fsx.Op) {
	c.mu.Lock()
	defer c.mu.Unlock()
	seed := c.rnd.Uint64()
	ix := c.d.ix.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: c.rnd.IntN(101), RNG: rand.New(rand.NewPCG(seed, 2))})
	c.images = append(c.images, image{disks{c.d.fs.CrashImage(seed), ix}, c.confirmed, fmt.Sprintf("%s, %v", c.step, op)})
}

// TestCrashAtEveryWrite works on a queue, takes a crash image at every
// operation of the disk and starts from each: what is there is what was there
// after some step, none before the last one that was confirmed, and log and
// ledger agree (faults P1, P2; windows W2, W14, W15).
func TestCrashAtEveryWrite(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	d, c := newDisks(), newClock()
	q := start(t, d, c)
	cam := &camera{d: d, rnd: rand.New(rand.NewPCG(seed, 1))}
	w := &work{q: q.Queue, c: c, rnd: rand.New(rand.NewPCG(seed, 2)), tidy: true}
	pictures := []string{picture(t, q.Queue)}
	d.fs.Hook(cam.shoot)
	for range 150 {
		name, durable, err := w.step()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := q.settled(t.Context(), func() error { return nil }); err != nil {
			t.Fatal(err)
		}
		p := picture(t, q.Queue)
		cam.mu.Lock()
		pictures = append(pictures, p)
		cam.step = name
		if durable {
			cam.confirmed = len(pictures) - 1
		}
		cam.mu.Unlock()
	}
	d.fs.Hook(nil)
	q.stop()
	t.Logf("%d images", len(cam.images))
	if len(cam.images) < 100 {
		t.Fatal("the camera does not see the disk")
	}
	for i, im := range cam.images {
		recovers(t, im, c, pictures, i%10 == 0)
	}
}

// recovers starts from an image and compares.
func recovers(t *testing.T, im image, c *clock, pictures []string, verify bool) {
	t.Helper()
	q := start(t, im.disks, c)
	defer q.stop()
	if got := picture(t, q.Queue); !slices.Contains(pictures[im.confirmed:], got) {
		t.Fatalf("crash during %s: there is\n%s\nwant\n%s", im.during, got, pictures[im.confirmed])
	}
	if verify {
		q.verify(t)
	}
	q.accept(t, 9999)
}

var errBroken = errors.New("broken disk")

// TestFailing has each call to the disk fail in turn: what was confirmed is
// there afterwards, and nothing is confirmed by a queue that failed.
func TestFailing(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for n := 1; n < 120; n += 1 + n/20 {
		d, c := newDisks(), newClock()
		d.fs.Inject(func(op fsx.Op) error {
			if op.Kind != fsx.OpRead && op.N == n {
				return errBroken
			}
			return nil
		})
		confirmed := map[mail.TraceID][]byte{}
		if q, err := Open(options(d, c)); err == nil {
			r := run(t, q, c)
			for i := range 30 {
				a, body := message(i, c)
				err := r.Accept(t.Context(), a, body)
				if err == nil {
					confirmed[a.ID] = body
				}
				if failed := r.Failed(); failed != nil && err == nil {
					if err := r.Accept(t.Context(), a, body); err == nil {
						t.Fatalf("call %d: accepted after %v", n, failed)
					}
				}
			}
			r.stop()
		}
		d.fs.Inject(nil)
		d.fs, d.ix = d.fs.CrashImage(uint64(n)), d.ix.CrashClone(vfs.CrashCloneCfg{})
		q := start(t, d, c)
		for id, body := range confirmed {
			if got, err := q.Body(t.Context(), id); err != nil || !bytes.Equal(got, body) {
				t.Fatalf("call %d: %s: %v", n, id, err)
			}
		}
		q.verify(t)
		q.stop()
	}
}

// TestFullDisk fills the disk: messages are refused with Full, the queue does
// not fail, and goes on when there is space.
func TestFullDisk(t *testing.T) {
	d, c := newDisks(), newClock()
	q := start(t, d, c)
	d.fs.SetLimit(1 << 20)
	var err error
	var ids []mail.TraceID
	n := 0
	for ; err == nil; n++ {
		a, body := message(n, c)
		if err = q.Accept(t.Context(), a, body); err == nil {
			ids = append(ids, a.ID)
		}
	}
	if !kind.Is(err, kind.Full) || q.Failed() != nil {
		t.Fatalf("%v, %v", err, q.Failed())
	}
	d.fs.SetLimit(1 << 30)
	q.judge()
	for _, id := range ids {
		q.apply(t, Soon, delivered(id, 0))
	}
	q.accept(t, n+1)
	q.verify(t)
}

// dump is all that is in the ledger but what is of one copy of it only.
func dump(t testing.TB, q *Queue) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := scan(q.book.led.db, []byte{kLocal + 1}, []byte{0xff}, func(k, v []byte) (bool, error) {
		all[string(k)] = string(v)
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestRebuild takes the ledger away, damages it, and takes away its last part:
// the log makes it anew, equal key by key.
func TestRebuild(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	d, c := newDisks(), newClock()
	q := start(t, d, c)
	w := &work{q: q.Queue, c: c, rnd: rand.New(rand.NewPCG(seed, 2))}
	for range 500 {
		if name, _, err := w.step(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	if err := q.do(t.Context(), Wait, 0, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	want, unflushed := dump(t, q.Queue), d.ix.CrashClone(vfs.CrashCloneCfg{})
	if len(want) < 200 {
		t.Fatalf("only %d keys", len(want))
	}
	q.verify(t)
	q.stop()
	damaged := d.ix.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
	names, err := damaged.List("queue/ledger")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if strings.HasPrefix(n, "MANIFEST") || strings.HasSuffix(n, ".sst") {
			f, err := damaged.Create("queue/ledger/"+n, vfs.WriteCategoryUnspecified)
			if err != nil {
				t.Fatal(err)
			}
			f.Write([]byte("damaged"))
			f.Close()
		}
	}
	for name, ix := range map[string]*vfs.MemFS{"gone": vfs.NewCrashableMem(), "behind": unflushed, "damaged": damaged} {
		rebuilt := 0
		q := start(t, disks{d.fs, ix}, c, func(o *Options) {
			o.Noted = func(n org.Note) {
				if n.Action == "RebuildLedger" && n.Cause != "" && len(n.Evidence) == 1 {
					rebuilt++
				}
			}
		})
		if name == "damaged" && rebuilt != 1 {
			t.Errorf("the recovery log tells %d times", rebuilt)
		}
		got := dump(t, q.Queue)
		for k, v := range want {
			if got[k] != v {
				t.Errorf("%s: key %q is %x, want %x", name, k, got[k], v)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %d keys, want %d", name, len(got), len(want))
		}
		n := int64(0)
		last := mail.TraceID{}
		for j := range q.Unfinished() {
			if j.ID != last || n == 0 {
				n++
			}
			last = j.ID
		}
		if n != q.Stats().Open {
			t.Errorf("%s: %d unfinished, counted %d", name, n, q.Stats().Open)
		}
		q.stop()
	}
}
