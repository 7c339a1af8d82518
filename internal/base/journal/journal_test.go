package journal

import (
	"bytes"
	"testing"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/org"
)

const testID = "5d0c6a6e-test"

func opts(fs fsx.FS) Options {
	return Options{FS: fs, Identity: testID, SegmentSize: 16 << 10, Rest: -1, foreground: true}
}

func mustOpen(t testing.TB, fs fsx.FS) *Log {
	t.Helper()
	l, err := Open("log", opts(fs))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// mustWrite writes n records of the term with bodies of size bytes.
func mustWrite(t testing.TB, l *Log, term org.Term, n, size int) []byte {
	t.Helper()
	at := l.End()
	var b []byte
	end := at
	for i := range n {
		b, end = AppendRecord(b, end, KindChange, term, int64(i), []byte{byte(i), 1, 2}, bytes.Repeat([]byte{byte(i + 1)}, size))
	}
	if err := l.Write(b, at, end); err != nil {
		t.Fatal(err)
	}
	return b
}

// stream reads everything of a log as its stream.
func stream(t testing.TB, l *Log) []byte {
	t.Helper()
	var b []byte
	for at := l.Start(); at < l.End().LSN; {
		c, err := l.Chunk(at, 1<<20, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Elided) > 0 {
			t.Fatal("holes")
		}
		b = append(b, c.Data...)
		at = c.End.LSN
	}
	return b
}

func TestWriteReadReopen(t *testing.T) {
	fs := fsx.NewMem()
	l := mustOpen(t, fs)
	var want []byte
	for i := range 20 {
		want = append(want, mustWrite(t, l, 1, i%5+1, i*333)...)
	}
	if got := stream(t, l); !bytes.Equal(got, want) {
		t.Fatal("stream differs")
	}
	if end, err := Verify(want, Position{}); err != nil || end != l.End() {
		t.Fatal(end, err)
	}
	end := l.End()
	for range 3 {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = mustOpen(t, fs)
		if l.End() != end || !bytes.Equal(stream(t, l), want) {
			t.Fatal("stream differs after it was opened again")
		}
		want = append(want, mustWrite(t, l, 2, 2, 5000)...)
		end = l.End()
	}
	n := 0
	for r, err := range l.RecordsWithBodies(0, end.LSN) {
		if err != nil {
			t.Fatal(err)
		}
		b, err := l.Body(r.LSN, 0, 0)
		if err != nil || !bytes.Equal(b, r.Body) {
			t.Fatal(err)
		}
		if !l.Contains(r.Next()) {
			t.Fatal("does not contain", r.Next())
		}
		n++
	}
	if n != 66 {
		t.Fatal(n)
	}
}
