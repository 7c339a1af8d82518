package journal

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// world is a log under test and what is known about it.
type world struct {
	t    testing.TB
	fs   *fsx.Mem
	rnd  *rand.Rand
	l    *Log
	full []byte     // the stream from position 0, with everything ever sent to it in this history
	ends []Position // boundaries, ascending, the first one zero
	acks int        // index in ends of what was confirmed
	// may tells which bodies may be holes.
	may map[org.LSN]bool
	// start is where the log may begin at the latest, and at the earliest.
	startMin, startMax org.LSN
	floor              int     // index in ends: a cut in flight may bring the end down to it
	damaged            org.LSN // of the record being repaired, 0 for none
	step               string
	asides             int
}

func newWorld(t testing.TB, seed uint64) *world {
	w := &world{t: t, fs: fsx.NewMem(), rnd: rand.New(rand.NewPCG(seed, 1)), may: map[org.LSN]bool{}, ends: []Position{{}}}
	w.reopen()
	return w
}

func (w *world) fatalf(f string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("during %s: %s", w.step, fmt.Sprintf(f, args...))
}

func (w *world) reopen() {
	w.t.Helper()
	l, err := Open("log", opts(w.fs))
	if err != nil {
		w.fatalf("%v", err)
	}
	w.l = l
}

// more makes n records behind the end of what was confirmed.
func (w *world) more(n int) (batch []byte, from, end Position) {
	from = w.ends[w.acks]
	end = from
	term := from.Term + org.Term(w.rnd.IntN(8)/7)
	for range n {
		size := []int{0, 7, 100, 600, 5000, 9000, 30000}[w.rnd.IntN(7)]
		body, ops := make([]byte, w.rnd.IntN(size+1)), make([]byte, w.rnd.IntN(200))
		for i := range body {
			body[i] = byte(w.rnd.Uint32())
		}
		batch, end = AppendRecord(batch, end, KindChange, term, w.rnd.Int64(), ops, body)
		w.ends = append(w.ends, end)
	}
	w.full = append(w.full, batch...)
	return batch, from, end
}

func (w *world) write() {
	batch, from, end := w.more(1 + w.rnd.IntN(5))
	if err := w.l.Write(batch, from, end); err != nil {
		w.fatalf("%v", err)
	}
	w.acks, w.floor = len(w.ends)-1, len(w.ends)-1
}

func (w *world) chunk() {
	batch, from, end := w.more(1 + w.rnd.IntN(5))
	c := Chunk{From: from, End: end}
	for r := range Records(batch) {
		n := r.Next().LSN - r.LSN
		raw := batch[r.LSN-from.LSN:][:n]
		if len(r.Body) == 0 || w.rnd.IntN(2) == 0 {
			c.Data = append(c.Data, raw...)
			continue
		}
		w.may[r.LSN] = true
		at := HeaderSize + len(r.Ops)
		c.Elided = append(c.Elided, Elision{int64(r.LSN-from.LSN) + int64(at), int64(len(r.Body))})
		c.Data = append(append(c.Data, raw[:at]...), raw[at+len(r.Body):]...)
	}
	if err := w.l.WriteChunk(c); err != nil {
		w.fatalf("%v", err)
	}
	w.acks, w.floor = len(w.ends)-1, len(w.ends)-1
}

// pick chooses a boundary before the end that the log still has.
func (w *world) pick() int {
	lo := 0
	for w.ends[lo].LSN < w.l.Start() {
		lo++
	}
	return lo + w.rnd.IntN(w.acks-lo+1)
}

func (w *world) cut() {
	i := w.pick()
	i = max(i, w.acks-12)
	w.floor = i
	w.asides++
	name := fmt.Sprintf("aside-%d", w.asides)
	want := w.full[w.ends[i].LSN:w.ends[w.acks].LSN]
	if err := w.l.Cut(w.ends[i], name); err != nil {
		w.fatalf("%v", err)
	}
	w.checkAside(w.fs, name, w.ends[i], want)
	for lsn := range w.may {
		if lsn >= w.ends[i].LSN {
			delete(w.may, lsn)
		}
	}
	w.acks, w.ends, w.full = i, w.ends[:i+1], w.full[:w.ends[i].LSN]
}

func (w *world) checkAside(fs fsx.FS, name string, at Position, want []byte) {
	if len(want) == 0 {
		return
	}
	n := 0
	for r, err := range OpenAside(fs, name) {
		if err != nil {
			w.fatalf("aside: %v", err)
		}
		if !r.BodyHole {
			got, _ := AppendRecord(nil, Position{r.LSN, r.Prev, 0}, r.Kind, r.Term, r.Time, r.Ops, r.Body)
			if !bytes.Equal(got, want[r.LSN-at.LSN:][:len(got)]) {
				w.fatalf("aside: record at %#x differs", r.LSN)
			}
		}
		n = int(r.Next().LSN - at.LSN)
	}
	if n != len(want) {
		w.fatalf("aside: %d bytes of %d", n, len(want))
	}
}

func (w *world) drop() {
	i := w.pick()
	w.startMax = w.ends[i].LSN
	if err := w.l.DropBefore(w.ends[i].LSN); err != nil {
		w.fatalf("%v", err)
	}
	w.startMin, w.startMax = w.l.Start(), w.l.Start()
}

func (w *world) punch() {
	var lsns []org.LSN
	for range 1 + w.rnd.IntN(3) {
		if i := w.pick(); i < w.acks {
			lsns = append(lsns, w.ends[i].LSN)
			w.may[w.ends[i].LSN] = true
		}
	}
	if err := w.l.Punch(lsns...); err != nil {
		w.fatalf("%v", err)
	}
}

// repair damages a record and mends it.
func (w *world) repair() {
	i := w.pick()
	if i >= w.acks || w.may[w.ends[i].LSN] {
		return
	}
	if err := w.l.Settle(); err != nil {
		w.fatalf("%v", err)
	}
	lsn, n := w.ends[i].LSN, w.ends[i+1].LSN-w.ends[i].LSN
	w.damaged = lsn + 1
	off := org.LSN(w.rnd.Uint64N(uint64(n)))
	w.flip(w.fs, lsn+off)
	found := map[org.LSN]bool{}
	_, err := w.l.Scrub(context.Background(), 0, func(l org.LSN) bool { return w.may[l] }, func(l org.LSN, err error) { found[l] = true })
	mark := off >= atMark && off < HeaderSize // is mended without help
	if err != nil || len(found) > 1 || found[lsn] == mark {
		w.fatalf("scrub of a flip at %#x+%d found %v, %v", lsn, off, found, err)
	}
	if err := w.l.Repair(lsn, w.full[lsn:lsn+n]); err != nil {
		w.fatalf("flip at %#x+%d of %d: %v", lsn, off, n, err)
	}
	w.damaged = 0
	if d := w.l.Damaged(); len(d) > 0 {
		w.fatalf("still damaged: %v", d)
	}
}

// flip inverts a bit of the byte of the stream at lsn.
func (w *world) flip(fs *fsx.Mem, lsn org.LSN) {
	w.l.mu.RLock()
	defer w.l.mu.RUnlock()
	s, _, err := w.l.find(lsn)
	if err == nil {
		err = fs.Flip(s.path, BlockSize+int64(lsn-s.start), 1<<w.rnd.IntN(8))
	}
	if err != nil {
		w.fatalf("%v", err)
	}
}

func (w *world) one() {
	ops := []struct {
		name string
		n    int
		do   func()
	}{
		{"write", 10, w.write}, {"chunk", 3, w.chunk}, {"cut", 1, w.cut}, {"drop", 1, w.drop},
		{"punch", 2, w.punch}, {"repair", 1, w.repair},
		{"settle", 1, func() { w.l.Settle() }},
		{"reopen", 1, func() { w.l.Close(); w.reopen() }},
	}
	total := 0
	for _, o := range ops {
		total += o.n
	}
	k := w.rnd.IntN(total)
	for _, o := range ops {
		if k -= o.n; k < 0 {
			w.step = o.name
			o.do()
			return
		}
	}
}

// check looks at the log on a disk after a crash.
func (w *world) check(fs *fsx.Mem) {
	l, err := Open("log", opts(fs))
	if err != nil {
		w.fatalf("open after crash: %v", err)
	}
	defer l.Close()
	for _, d := range l.Damaged() {
		if d.From != w.damaged-1 {
			w.fatalf("damage after crash: %+v", d)
		}
	}
	end := l.End()
	i := 0
	for i < len(w.ends) && w.ends[i].LSN < end.LSN {
		i++
	}
	if i == len(w.ends) || w.ends[i] != end && w.damaged == 0 {
		w.fatalf("log ends at %v after crash, between records", end)
	}
	if i < min(w.floor, w.acks) {
		w.fatalf("log ends at %v after crash, %v was confirmed", end, w.ends[w.acks])
	}
	if i < w.acks { // a cut was under way: what is gone must be aside
		w.checkAside(fs, fmt.Sprintf("aside-%d", w.asides), w.ends[w.floor], w.full[w.ends[w.floor].LSN:w.ends[w.acks].LSN])
	}
	if s := l.Start(); s < w.startMin || s > max(w.startMax, w.startMin) {
		w.fatalf("log starts at %#x after crash, not in %#x..%#x", s, w.startMin, w.startMax)
	}
	if w.damaged > 0 {
		lsn := w.damaged - 1
		if _, err := l.RawRecord(lsn); err != nil {
			k := 0
			for w.ends[k].LSN != lsn {
				k++
			}
			if err := l.Repair(lsn, w.full[lsn:w.ends[k+1].LSN]); err != nil {
				w.fatalf("repair after crash: %v", err)
			}
		}
		// Its mark may be what is damaged.
		if end = l.End(); w.ends[i] != end {
			w.fatalf("log ends at %v after crash and repair, not %v", end, w.ends[i])
		}
	}
	w.compare(l)
	// It goes on as if nothing had been.
	b, next := AppendRecord(nil, end, KindMarker, end.Term, 1, []byte("ops"), bytes.Repeat([]byte("x"), w.rnd.IntN(9000)))
	if err := l.Write(b, end, next); err != nil {
		w.fatalf("write after crash: %v", err)
	}
	if got, err := l.RawRecord(end.LSN); err != nil || !bytes.Equal(got, b) {
		w.fatalf("read after crash: %v", err)
	}
}

// compare reads all of a log and compares it with what was written.
func (w *world) compare(l *Log) {
	for at := l.Start(); at < l.End().LSN; {
		c, err := l.Chunk(at, 1<<16, nil)
		if err != nil {
			w.fatalf("%v", err)
		}
		items, err := c.items()
		if err != nil {
			w.fatalf("%v", err)
		}
		for _, it := range items {
			if want := w.full[it.h.lsn:][:len(it.raw)]; !bytes.Equal(it.raw, want) {
				w.fatalf("record at %#x differs", it.h.lsn)
			}
			if it.hole && !w.may[it.h.lsn] {
				w.fatalf("record at %#x is a hole", it.h.lsn)
			}
		}
		at = c.End.LSN
	}
}

var (
	seeds     = flag.Int("seeds", 3, "random workloads that TestCrash runs")
	firstSeed = flag.Uint64("seed", 0, "the first of them")
)

// TestCrash takes a crash image before every change of the disk of a random
// workload and looks at what is left: promises 1, 2 and 4.
func TestCrash(t *testing.T) {
	for seed := *firstSeed; seed < *firstSeed+uint64(*seeds); seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, seed)
			rnd := rand.New(rand.NewPCG(seed, 2))
			w.fs.Hook(func(fsx.Op) { w.check(w.fs.CrashImage(rnd.Uint64())) })
			for range 120 {
				w.one()
				w.compare(w.l)
			}
			t.Log(w.fs.Ops(), "images,", len(w.ends), "records")
		})
	}
}

// TestFail fails each operation in turn: an error is an error, never a loss.
func TestFail(t *testing.T) {
	for n := 1; ; n++ {
		w := newWorld(t, 7)
		bad := kind.Errorf(kind.Internal, "injected")
		w.fs.FailNth("", n, bad)
		failed := false
		for range 40 {
			w.step = "write"
			batch, from, end := w.more(1 + w.rnd.IntN(3))
			if err := w.l.Write(batch, from, end); err != nil {
				failed = true
				break
			}
			w.acks, w.floor = len(w.ends)-1, len(w.ends)-1
		}
		if failed && w.l.Failed() != nil {
			if err := w.l.Write(nil, w.l.End(), w.l.End()); err == nil {
				t.Fatal("a log that failed takes writes")
			}
		}
		w.compare(w.l) // reading goes on
		w.fs.Inject(nil)
		w.check(w.fs.CrashImage(uint64(n)))
		if !failed && w.fs.Ops() < n {
			t.Log(n, "operations")
			return
		}
	}
}
