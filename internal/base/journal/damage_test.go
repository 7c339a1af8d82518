package journal

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// TestFlipEverywhere flips a bit of every 17th byte of a log that was closed
// and opens it: nothing is lost without a word (promise 4).
func TestFlipEverywhere(t *testing.T) {
	base := fsx.NewMem()
	l := mustOpen(t, base)
	var want []byte
	for i := range 12 {
		want = append(want, mustWrite(t, l, 1, 2, 100+i*150)...)
	}
	if len(l.segs) < 2 {
		t.Fatal("want two segments")
	}
	end := l.End()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	names, _ := base.List("log")
	for _, name := range names {
		in, _ := base.Stat(filepath.Join("log", name))
		for off := int64(0); off < in.Size; off += 17 {
			fs := base.CrashImage(1)
			if err := fs.Flip(filepath.Join("log", name), off, 0x10); err != nil {
				t.Fatal(err)
			}
			if bad := afterFlip(fs, want, end); bad != "" {
				t.Fatalf("%s byte %d: %s", name, off, bad)
			}
		}
	}
}

// afterFlip opens a damaged log and mends it from what was written.
func afterFlip(fs *fsx.Mem, want []byte, end Position) string {
	l, err := Open("log", opts(fs))
	if err != nil {
		return err.Error()
	}
	defer l.Close()
	if l.End() != end {
		return "log was shortened to " + l.End().String()
	}
	bad := map[org.LSN]bool{}
	n, err := l.Scrub(context.Background(), 0, nil, func(lsn org.LSN, err error) { bad[lsn] = true })
	if err != nil {
		return err.Error()
	}
	if n != int64(len(want)) {
		return "not all of it was scrubbed"
	}
	for lsn := range bad {
		h, err := parseHeader(want[lsn:], 0)
		if err != nil {
			return err.Error()
		}
		if err := l.Repair(lsn, want[lsn:h.end()]); err != nil {
			return err.Error()
		}
	}
	if d := l.Damaged(); len(d) > 0 {
		return "still damaged after repair"
	}
	for at := org.LSN(0); at < end.LSN; {
		c, err := l.Chunk(at, 1<<20, nil)
		if err != nil {
			return err.Error()
		}
		if !bytes.Equal(c.Data, want[at:c.End.LSN]) {
			return "differs after repair"
		}
		at = c.End.LSN
	}
	return ""
}

// TestTornOrDamaged: the same broken record is cut off where a crash explains
// it and kept where it does not.
func TestTornOrDamaged(t *testing.T) {
	build := func(after func(l *Log)) (fs *fsx.Mem, path string, lsn org.LSN, end Position) {
		fs = fsx.NewMem()
		l := mustOpen(t, fs)
		mustWrite(t, l, 1, 3, 100)
		lsn = l.End().LSN
		mustWrite(t, l, 1, 3, 100) // one write: its records prove nothing of each other
		after(l)
		return fs.CrashImage(1), l.segs[0].path, lsn, l.End()
	}
	flip := func(fs *fsx.Mem, path string, lsn org.LSN) *Log {
		if err := fs.Flip(path, BlockSize+int64(lsn)+HeaderSize+40, 1); err != nil {
			t.Fatal(err)
		}
		return mustOpen(t, fs)
	}

	fs, path, lsn, _ := build(func(*Log) {})
	if l := flip(fs, path, lsn); l.End().LSN != lsn || len(l.Damaged()) > 0 {
		t.Error("torn write was not cut off:", l.End(), l.Damaged())
	}
	fs, path, lsn, end := build(func(l *Log) { mustWrite(t, l, 1, 1, 10) })
	if l := flip(fs, path, lsn); l.End() != end || len(l.Damaged()) != 1 || l.Damaged()[0].From != lsn {
		t.Error("damage before a later write:", l.End(), l.Damaged())
	}
	fs, path, lsn, end = build(func(l *Log) { l.Settle() })
	if l := flip(fs, path, lsn); l.End() != end || len(l.Damaged()) != 1 {
		t.Error("damage before an end mark:", l.End(), l.Damaged())
	}
	fs, path, lsn, end = build(func(*Log) {})
	fs.Flip(path, BlockSize+int64(lsn)+HeaderSize+40, 1)
	o := opts(fs)
	o.Known = end.LSN
	l, err := Open("log", o)
	if err != nil || l.End() != end || len(l.Damaged()) != 1 {
		t.Error("damage before a position known to be durable:", err)
	}
	o.Known += 8
	if _, err := Open("log", o); !kind.Is(err, kind.Corrupt) {
		t.Error("log that ends before a position known to be durable:", err)
	}
}

// TestForgedRecords: a body that is itself a piece of log fools nobody.
func TestForgedRecords(t *testing.T) {
	fs := fsx.NewMem()
	l := mustOpen(t, fs)
	mustWrite(t, l, 1, 1, 100)
	at := l.End()
	inner := Position{LSN: at.LSN + HeaderSize + 8}
	var forged []byte
	for range 5 {
		forged, inner = AppendRecord(forged, inner, KindChange, 1, 1, []byte("drop everything"), nil)
	}
	for off := 0; off < len(forged); off += 80 { // marks as another database would make them
		stamp(forged[off:], 0, 0, false)
	}
	b, end := AppendRecord(nil, at, KindChange, 1, 1, []byte("8 bytes "), forged)
	if err := l.Write(b, at, end); err != nil {
		t.Fatal(err)
	}
	torn := fs.CrashImage(1)
	if err := torn.Flip(l.segs[0].path, BlockSize+int64(at.LSN)+3, 1); err != nil { // the header
		t.Fatal(err)
	}
	if r := mustOpen(t, torn); r.End() != at {
		t.Fatal("forged records were believed:", r.End())
	}
	mustWrite(t, l, 1, 1, 100)
	damaged := fs.CrashImage(1)
	damaged.Flip(l.segs[0].path, BlockSize+int64(at.LSN)+3, 1)
	r := mustOpen(t, damaged)
	if d := r.Damaged(); r.End() != l.End() || len(d) != 1 || d[0].From != at.LSN || d[0].To != end.LSN {
		t.Fatal(r.End(), d)
	}
	for rec, err := range r.Records(0, end.LSN) {
		if err == nil && rec.LSN >= at.LSN {
			t.Fatal("read", rec)
		}
	}
	if err := r.Repair(at.LSN, b); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Body(at.LSN, 0, 0); err != nil || !bytes.Equal(got, forged) {
		t.Fatal(err)
	}
}

func TestRepairRefuses(t *testing.T) {
	fs := fsx.NewMem()
	l := mustOpen(t, fs)
	mustWrite(t, l, 1, 1, 100)
	at := l.End()
	b := mustWrite(t, l, 1, 1, 100)
	mustWrite(t, l, 1, 1, 100)
	other, _ := AppendRecord(nil, at, KindChange, 1, 99, []byte{0, 1, 2}, bytes.Repeat([]byte{9}, 100))
	for name, raw := range map[string][]byte{
		"other record": other, "half": b[:len(b)-8], "twice": append(bytes.Clone(b), b...), "noise": make([]byte, len(b)),
	} {
		if err := l.Repair(at.LSN, raw); !kind.Is(err, kind.Conflict) {
			t.Error(name, err)
		}
	}
	if err := l.Repair(at.LSN, b); err != nil {
		t.Error("sound record:", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	base := fsx.NewMem()
	l := mustOpen(t, base)
	for range 30 {
		mustWrite(t, l, 1, 2, 1000)
	}
	l.Close()
	if len(l.segs) < 4 {
		t.Fatal("want four segments")
	}
	for _, c := range []struct {
		name string
		do   func(fs *fsx.Mem, o *Options)
		kind kind.Kind
		says string
	}{
		{"other database", func(_ *fsx.Mem, o *Options) { o.Identity = "other" }, kind.Invalid, "belongs to database"},
		{"no identity", func(_ *fsx.Mem, o *Options) { o.Identity = "" }, kind.Invalid, "identity"},
		{"segment size", func(_ *fsx.Mem, o *Options) { o.SegmentSize = 100 }, kind.Invalid, "segment size"},
		{"missing segment", func(fs *fsx.Mem, _ *Options) { fs.Remove(l.segs[1].path) }, kind.Corrupt, "missing"},
		{"short segment", func(fs *fsx.Mem, _ *Options) {
			f, _ := fs.OpenFile(l.segs[1].path, fsx.Write)
			f.Truncate(8000)
		}, kind.Corrupt, "missing or was cut"},
		{"empty", func(fs *fsx.Mem, o *Options) {
			for _, s := range l.segs {
				fs.Remove(s.path)
			}
			o.Known = 8
		}, kind.Corrupt, "reseed"},
		{"newer version", func(fs *fsx.Mem, _ *Options) { newer(fs, l.segs[len(l.segs)-1].path) }, kind.Invalid, "upgrade"},
		{"newer version of the first", func(fs *fsx.Mem, _ *Options) { newer(fs, l.segs[0].path) }, kind.Invalid, "upgrade"},
	} {
		fs := base.CrashImage(1)
		o := opts(fs)
		c.do(fs, &o)
		_, err := Open("log", o)
		if !kind.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// newer makes a segment header that of the next format version.
func newer(fs *fsx.Mem, path string) {
	f, _ := fs.OpenFile(path, fsx.Write)
	b := make([]byte, BlockSize)
	f.ReadAt(b, 0)
	b[8]++
	clear(b[12:16])
	crc := checksum(b)
	b[12], b[13], b[14], b[15] = byte(crc), byte(crc>>8), byte(crc>>16), byte(crc>>24)
	f.WriteAt(b, 0)
}

// TestFull: a full disk is an answer, not a broken log, and passes by itself.
func TestFull(t *testing.T) {
	fs := fsx.NewMem()
	fs.SetLimit(200 << 10)
	o := opts(fs)
	o.Reserve = 30 << 10
	l, err := Open("log", o)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; l.Room() == nil; n++ {
		mustWrite(t, l, 1, 4, 900)
	}
	if err := l.Room(); !kind.Is(err, kind.Full) {
		t.Fatal(err)
	}
	o.Reserve = 0
	l.Close()
	if l, err = Open("log", o); err != nil {
		t.Fatal(err)
	}
	for ; l.Room() == nil; n++ {
		mustWrite(t, l, 1, 4, 900)
	}
	// Whoever does not ask, or has more than a segment, loses nothing either.
	at := l.End()
	for i := range 100 {
		b, end := AppendRecord(nil, at, KindChange, 1, 1, nil, make([]byte, 5000+i*2000))
		if err = l.Write(b, at, end); err != nil {
			break
		}
		at = end
	}
	if !kind.Is(err, kind.Full) || l.Failed() != nil || l.End() != at {
		t.Fatal(err, l.Failed())
	}
	if err := l.DropBefore(at.LSN); err != nil {
		t.Fatal(err)
	}
	if err := l.Room(); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, l, 1, 4, 900)
	l.Close()
	if n < 10 {
		t.Fatal(n)
	}
}

// TestSyncFails: the first failed sync ends it (promise 3).
func TestSyncFails(t *testing.T) {
	fs := fsx.NewMem()
	l := mustOpen(t, fs)
	want := mustWrite(t, l, 1, 3, 1000)
	end := l.End()
	boom := errors.New("boom")
	fs.FailNth(fsx.OpSync, 1, boom)
	b, next := AppendRecord(nil, end, KindChange, 1, 1, nil, nil)
	if err := l.Write(b, end, next); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if err := l.Write(b, end, next); !errors.Is(err, boom) {
		t.Fatal("a second try:", err)
	}
	if !errors.Is(l.Failed(), boom) || !errors.Is(l.Room(), boom) || !errors.Is(l.Settle(), boom) {
		t.Fatal(l.Failed())
	}
	if l.End() != end || !bytes.Equal(stream(t, l), want) {
		t.Fatal("reading ended")
	}
	if err := l.Close(); !errors.Is(err, boom) {
		t.Fatal(err)
	}
}

func TestScrubMendsHeader(t *testing.T) {
	fs := fsx.NewMem()
	l := mustOpen(t, fs)
	for range 30 {
		mustWrite(t, l, 1, 2, 1000)
	}
	for _, i := range []int{1, len(l.segs) - 1} {
		if err := fs.Flip(l.segs[i].path, 50, 1); err != nil {
			t.Fatal(err)
		}
	}
	found := 0
	if _, err := l.Scrub(context.Background(), 0, nil, func(org.LSN, error) { found++ }); err != nil || found > 0 {
		t.Fatal(err, found)
	}
	l.Close()
	mustOpen(t, fs)
	fs.Flip(l.segs[len(l.segs)-1].path, 50, 1) // also when it is opened
	if r := mustOpen(t, fs); r.End() != l.End() {
		t.Fatal(r.End())
	}
}

// TestScrubRepairsBeginOfSegment: the header of a segment and its first record
// are damaged, and whoever is told repairs the record at once.
func TestScrubRepairsBeginOfSegment(t *testing.T) {
	fs := fsx.NewMem()
	l := mustOpen(t, fs)
	for range 30 {
		mustWrite(t, l, 1, 2, 1000)
	}
	want := stream(t, l)
	s := l.segs[1]
	for _, at := range []int64{50, BlockSize + 50} {
		if err := fs.Flip(s.path, at, 1); err != nil {
			t.Fatal(err)
		}
	}
	repaired := 0
	told := func(lsn org.LSN, _ error) {
		h, err := parseHeader(want[lsn:], 0)
		if err != nil {
			t.Fatal(err)
		}
		if l.Repair(lsn, want[lsn:h.end()]) == nil {
			repaired++
		}
	}
	if _, err := l.Scrub(t.Context(), 0, nil, told); err != nil || repaired == 0 {
		t.Fatal(err, repaired)
	}
	again := 0
	if _, err := l.Scrub(t.Context(), 0, nil, func(org.LSN, error) { again++ }); err != nil || again > 0 {
		t.Fatal(err, again)
	}
	if !bytes.Equal(stream(t, l), want) {
		t.Error("the log is not what it was")
	}
}

func TestScrubEnds(t *testing.T) {
	l := mustOpen(t, fsx.NewMem())
	mustWrite(t, l, 1, 30, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Scrub(ctx, 1, nil, func(org.LSN, error) {}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}
