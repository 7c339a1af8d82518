package journal

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// TestFollower copies a log in chunks to a copy that cuts its segments
// elsewhere: the same bytes at the same position.
func TestFollower(t *testing.T) {
	a := mustOpen(t, fsx.NewMem())
	o := opts(fsx.NewMem())
	o.SegmentSize = 40 << 10
	b, err := Open("log", o)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var want []byte
	for i := range 40 {
		want = append(want, mustWrite(t, a, org.Term(i/10), 3, 2000*(i%7))...)
	}
	var first org.LSN
	for r := range a.Records(a.Start(), a.End().LSN) {
		if r.BodyLen > 9000 {
			first = r.LSN
			break
		}
	}
	if err := a.Punch(first); err != nil {
		t.Fatal(err)
	}
	dead := func(lsn org.LSN) bool { return lsn%3 == 0 }
	holes := 0
	for b.End() != a.End() {
		c, err := a.Chunk(b.End().LSN, 10000, dead)
		if err != nil {
			t.Fatal(err)
		}
		holes += len(c.Elided)
		if err := b.WriteChunk(c); err != nil {
			t.Fatal(err)
		}
	}
	if holes < 10 {
		t.Fatal(holes)
	}
	n := 0
	for r, err := range b.RecordsWithBodies(0, b.End().LSN) {
		if err != nil {
			t.Fatal(err)
		}
		full := want[r.LSN:][:r.Next().LSN-r.LSN]
		isHole := r.BodyLen > 0 && (dead(r.LSN) || r.LSN == first)
		if r.BodyHole != isHole || !isHole && !bytes.Equal(r.Body, full[HeaderSize+len(r.Ops):][:r.BodyLen]) {
			t.Fatalf("record at %#x: %v", r.LSN, r.BodyHole)
		}
		_, err := b.Body(r.LSN, 0, 0)
		if isHole != kind.Is(err, kind.NotFound) {
			t.Fatal(err)
		}
		n++
	}
	if n != 120 {
		t.Fatal(n)
	}
	if b.Used() >= a.Used() {
		t.Error("holes take space:", b.Used(), a.Used())
	}
	if got, want := b.GenerationSums(0, b.End().LSN), a.GenerationSums(0, a.End().LSN); !slices.Equal(got, want) {
		t.Error(got, want)
	}
	checked, err := b.Scrub(context.Background(), 0, nil, func(lsn org.LSN, err error) { t.Error(lsn, err) })
	if err != nil || checked != int64(len(want)) {
		t.Error(checked, err)
	}
}

func TestWriteChunkRefuses(t *testing.T) {
	a, b := mustOpen(t, fsx.NewMem()), mustOpen(t, fsx.NewMem())
	mustWrite(t, a, 1, 5, 1000)
	good, err := a.Chunk(0, 1<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, do := range map[string]func(c *Chunk){
		"flip":         func(c *Chunk) { c.Data[700] ^= 1 },
		"short":        func(c *Chunk) { c.Data = c.Data[:len(c.Data)-8] },
		"end":          func(c *Chunk) { c.End.Chain++ },
		"from":         func(c *Chunk) { c.From.Chain++ },
		"elision":      func(c *Chunk) { c.Elided = []Elision{{0, 10}} },
		"marks":        func(c *Chunk) { stamp(c.Data, 0, 0, true) },
		"huge elision": func(c *Chunk) { c.Elided = []Elision{{-1 << 62, 1 << 62}} },
	} {
		c := good
		c.Data = bytes.Clone(good.Data)
		do(&c)
		if err := b.WriteChunk(c); !kind.Is(err, kind.Corrupt) {
			t.Error(name, err)
		}
	}
	if err := b.WriteChunk(good); err != nil {
		t.Fatal(err)
	}
	if err := b.WriteChunk(good); !kind.Is(err, kind.Conflict) {
		t.Error("twice:", err)
	}
	if b.End() != a.End() || b.Failed() != nil {
		t.Error(b.End(), b.Failed())
	}
}

func TestWriteRefuses(t *testing.T) {
	l := mustOpen(t, fsx.NewMem())
	mustWrite(t, l, 2, 1, 10)
	at := l.End()
	good, end := AppendRecord(nil, at, KindChange, 2, 1, nil, nil)
	old, oldEnd := AppendRecord(nil, at, KindChange, 1, 1, nil, nil)
	for name, c := range map[string]struct {
		b         []byte
		from, end Position
		kind      kind.Kind
	}{
		"elsewhere": {good, Position{}, end, kind.Conflict},
		"end":       {good, at, at, kind.Invalid},
		"half":      {good[:40], at, end, kind.Invalid},
		"old term":  {old, at, oldEnd, kind.Invalid},
	} {
		if err := l.Write(c.b, c.from, c.end); !kind.Is(err, c.kind) {
			t.Error(name, err)
		}
	}
	if err := l.Write(good, at, end); err != nil {
		t.Fatal(err)
	}
}

// TestFork finds where two histories part.
func TestFork(t *testing.T) {
	a, b := mustOpen(t, fsx.NewMem()), mustOpen(t, fsx.NewMem())
	for range 50 {
		raw := mustWrite(t, a, 1, 3, 800)
		end, err := Verify(raw, b.End())
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Write(raw, b.End(), end); err != nil {
			t.Fatal(err)
		}
	}
	fork := a.End()
	lost := mustWrite(t, a, 1, 20, 700)
	mustWrite(t, b, 2, 40, 600)
	marks := b.Landmarks(40)
	if len(marks) > 40 || marks[0] != b.End() || marks[len(marks)-1] != (Position{}) {
		t.Fatal(marks)
	}
	if !slices.IsSortedFunc(marks, func(x, y Position) int { return int(y.LSN) - int(x.LSN) }) {
		t.Fatal("not newest first")
	}
	i := slices.IndexFunc(marks, a.Contains)
	if i < 1 {
		t.Fatal(i)
	}
	// Between the last common landmark and the one before, record by record.
	common := marks[i]
	for r, err := range b.Records(common.LSN, b.End().LSN) {
		if err != nil || !a.Contains(r.Next()) {
			break
		}
		common = r.Next()
	}
	if common != fork {
		t.Fatal(common, fork)
	}
	if err := a.Cut(fork, "aside"); err != nil {
		t.Fatal(err)
	}
	n := 0
	for r, err := range OpenAside(a.fs, "aside") {
		if err != nil || !bytes.Equal(r.Body, lost[r.LSN-fork.LSN+HeaderSize+3:][:700]) {
			t.Fatal(err)
		}
		n++
	}
	if n != 20 || a.End() != fork || a.Contains(marks[0]) || !a.Contains(fork) {
		t.Fatal(n, a.End())
	}
	for a.End() != b.End() {
		c, err := b.Chunk(a.End().LSN, 5000, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.WriteChunk(c); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(stream(t, a), stream(t, b)) {
		t.Fatal("differ")
	}
	if err := a.Cut(Position{LSN: fork.LSN, Chain: 1}, "aside2"); !kind.Is(err, kind.NotFound) {
		t.Error(err)
	}
	if err := a.Cut(fork, "aside"); !kind.Is(err, kind.Exists) {
		t.Error("other content set aside under the same name:", err)
	}
}

func TestBody(t *testing.T) {
	l := mustOpen(t, fsx.NewMem())
	at := l.End()
	body := make([]byte, 3*windowSize+77)
	for i := range body {
		body[i] = byte(i * i >> 3)
	}
	b, end := AppendRecord(nil, at, KindChange, 1, 1, []byte("ops"), body)
	if err := l.Write(b, at, end); err != nil {
		t.Fatal(err)
	}
	n := int64(len(body))
	for range 2 { // not verified before, then verified
		for _, r := range [][2]int64{{0, 0}, {0, 1}, {n - 1, 1}, {n, 0}, {windowSize - 3, 10}, {100, windowSize * 2}, {n - 5, 0}} {
			l.verified.clear()
			got, err := l.Body(at.LSN, r[0], r[1])
			want := body[r[0]:]
			if r[1] > 0 {
				want = want[:r[1]]
			}
			if err != nil || !bytes.Equal(got, want) {
				t.Fatal(r, err)
			}
		}
	}
	for _, r := range [][2]int64{{-1, 1}, {0, -1}, {n, 1}, {n + 1, 0}, {1, 1<<63 - 1}} {
		if _, err := l.Body(at.LSN, r[0], r[1]); !kind.Is(err, kind.Invalid) {
			t.Error(r, err)
		}
	}
	if _, err := l.Body(end.LSN, 0, 0); !kind.Is(err, kind.NotFound) {
		t.Error(err)
	}
	if _, err := l.Body(at.LSN+8, 0, 0); !kind.Is(err, kind.Corrupt) {
		t.Error(err)
	}
}

// TestLimits: more segments than handles, more records than are remembered.
func TestLimits(t *testing.T) {
	l := mustOpen(t, fsx.NewMem())
	for range 3 * maxHandles {
		mustWrite(t, l, 1, 16, 1000)
	}
	if n := len(stream(t, l)); org.LSN(n) != l.End().LSN {
		t.Fatal(n)
	}
	if len(l.handles.open) > maxHandles || len(l.recent) > 2*maxRecent {
		t.Fatal(len(l.handles.open), len(l.recent))
	}
	for _, max := range []int{1, 2, 3, 10, 100, 1000} {
		m := l.Landmarks(max)
		if len(m) > max || max > 1 && m[len(m)-1].LSN != 0 {
			t.Fatal(max, len(m))
		}
		for _, p := range m {
			if !l.Contains(p) {
				t.Fatal(p)
			}
		}
		if max == 100 && len(m) < 40 {
			t.Error("few landmarks:", len(m))
		}
	}
	sums := l.GenerationSums(0, l.End().LSN)
	if uint64(len(sums)) != l.End().LSN.Generation() {
		t.Fatal(len(sums))
	}
	if err := l.DropBefore(sums[0].LSN); err != nil {
		t.Fatal(err)
	}
	if s := l.Start(); s == 0 || s > sums[0].LSN || !slices.Equal(sums, l.GenerationSums(0, l.End().LSN)) {
		t.Fatal(s)
	}
	if _, err := l.Chunk(0, 1, nil); !kind.Is(err, kind.NotFound) {
		t.Fatal(err)
	}
}

func TestBegin(t *testing.T) {
	fs := fsx.NewMem()
	l := mustOpen(t, fs)
	at := Position{LSN: 1 << 30, Chain: 7, Term: 9}
	if err := l.Begin(at); err != nil {
		t.Fatal(err)
	}
	if err := l.Begin(at); err != nil {
		t.Fatal("twice:", err)
	}
	l.Close()
	l = mustOpen(t, fs)
	if l.Start() != at.LSN || l.End() != at || !l.Contains(at) {
		t.Fatal(l.End())
	}
	mustWrite(t, l, 9, 1, 10)
	if err := l.Begin(at); !kind.Is(err, kind.Conflict) {
		t.Fatal(err)
	}
}

// TestDisk runs on the real disk, and on one without direct I/O if there is
// one, with readers at work while the log is written, punched and cut.
func TestDisk(t *testing.T) {
	dirs := []string{t.TempDir()}
	if d, err := os.MkdirTemp("/dev/shm", "journal"); err == nil {
		t.Cleanup(func() { os.RemoveAll(d) })
		dirs = append(dirs, d)
	}
	for _, dir := range dirs {
		t.Run("", func(t *testing.T) { onDisk(t, dir) })
	}
}

func onDisk(t *testing.T, dir string) {
	o := Options{Identity: testID, SegmentSize: 128 << 10, Rest: -1}
	l, err := Open(dir+"/log", o)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		wg.Go(func() { readUntil(t, l, stop) })
	}
	var want []byte
	for i := range 150 {
		want = append(want, mustWrite(t, l, 1, 1+i%4, i*97)...)
		if i%10 == 9 {
			if err := l.Punch(l.Start()); err != nil {
				t.Error(err)
			}
		}
		if i == 100 {
			l.Settle()
		}
	}
	close(stop)
	wg.Wait()
	end := l.End()
	l.Close()
	if l, err = Open(dir+"/log", o); err != nil {
		t.Fatal(err)
	}
	if l.End() != end || !bytes.Equal(stream(t, l), want) {
		t.Fatal("differs")
	}
	marks := l.Landmarks(20)
	mid := marks[len(marks)/2]
	if err := l.Cut(mid, dir+"/aside"); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, l, 2, 3, 100000)
	if got := stream(t, l); !bytes.Equal(got[:mid.LSN], want[:mid.LSN]) {
		t.Fatal("differs after cut")
	}
	l.Close()
	if l, err = Open(dir+"/log", o); err != nil {
		t.Fatal(err)
	}
	if n := int(l.End().LSN - mid.LSN); n != len(mustEncode(mid, 3, 100000)) {
		t.Fatal(n)
	}
	l.Close()
}

func mustEncode(at Position, n, size int) (b []byte) {
	for range n {
		b, at = AppendRecord(b, at, KindChange, 2, 0, make([]byte, 3), make([]byte, size))
	}
	return b
}

// readUntil reads what there is again and again.
func readUntil(t *testing.T, l *Log, stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		end := l.End()
		n := 0
		for r, err := range l.RecordsWithBodies(l.Start(), end.LSN) {
			if err != nil {
				t.Error(err)
				return
			}
			if n++; n%5 == 0 && !r.BodyHole {
				if _, err := l.Body(r.LSN, 0, int64(min(r.BodyLen, 10))); err != nil && !kind.Is(err, kind.NotFound) {
					t.Error(err)
				}
			}
		}
		if !l.Contains(end) {
			t.Error(fmt.Sprint("not there: ", end))
		}
	}
}
