package smtpd

import (
	"bytes"
	"strings"
	"testing"
)

// model is the same as reader, written for people: the whole message at once.
func model(s string, dots bool) (content string, flaws flaw, used int, done bool) {
	raw, used := s, len(s)
	if dots {
		if i := strings.Index("\r\n"+s, "\r\n.\r\n"); i >= 0 {
			raw, used, done = s[:i], i+3, true
		}
	}
	for i := range len(raw) {
		switch {
		case raw[i] == 0:
			flaws |= hasNUL
		case raw[i] == '\r' && (i+1 == len(raw) || raw[i+1] != '\n'):
			flaws |= bareCR
		case raw[i] == '\n' && (i == 0 || raw[i-1] != '\r'):
			flaws |= bareLF
		}
	}
	if !dots {
		return raw, flaws, used, done
	}
	return strings.TrimPrefix(strings.ReplaceAll("\r\n"+raw, "\r\n.", "\r\n"), "\r\n"), flaws, used, done
}

// feedIn runs the reader over s in pieces of the given size.
func feedIn(s string, size int, dots bool) (content string, flaws flaw, used int, done bool) {
	r := reader{dots: dots}
	var b bytes.Buffer
	for !done && used < len(s) {
		piece := s[used:min(len(s), used+size)]
		n := 0
		n, done = r.feed([]byte(piece), func(p []byte) { b.Write(p) })
		used += n
	}
	if !dots {
		r.end()
	}
	return b.String(), r.flaws, used, done
}

func compareWithModel(t *testing.T, s string, size int, dots bool) {
	t.Helper()
	content, flaws, used, done := feedIn(s, size, dots)
	wantContent, wantFlaws, wantUsed, wantDone := model(s, dots)
	if used != wantUsed || done != wantDone {
		t.Fatalf("%q in %d: used %d done %v, want %d %v", s, size, used, done, wantUsed, wantDone)
	}
	if !done && dots {
		return // the end of what came so far says nothing yet
	}
	if flaws != wantFlaws {
		t.Fatalf("%q in %d: flaws %b, want %b", s, size, flaws, wantFlaws)
	}
	if flaws == 0 && content != wantContent {
		t.Fatalf("%q in %d: %q, want %q", s, size, content, wantContent)
	}
}

// Every string of up to eight of these bytes, behind them a proper end.
func TestContentAgainstModel(t *testing.T) {
	const alphabet = "\r\n.x"
	var all func(s string, left int)
	all = func(s string, left int) {
		compareWithModel(t, s+"\r\n.\r\nNOOP\r\n", 3, true)
		compareWithModel(t, s, 3, false)
		if left > 0 {
			for i := range len(alphabet) {
				all(s+alphabet[i:i+1], left-1)
			}
		}
	}
	all("", 8)
}

func FuzzContent(f *testing.F) {
	f.Add("a\r\n.\r\n", uint8(1), true)
	f.Add("a\n.\n\r\n..\r\n.\r\r\n.\x00\r\n.\r\n", uint8(7), true)
	f.Add("\r\n.\r\n", uint8(2), false)
	f.Fuzz(func(t *testing.T, s string, size uint8, dots bool) {
		compareWithModel(t, s, int(size)+1, dots)
	})
}

func TestBodyWithinItsBudget(t *testing.T) {
	mem := budget{max: 1 << 20}
	b := newBody(&mem, 300<<10, 1<<40) // a lie about the size
	if mem.used.Load() > largestHint+headroom+512 {
		t.Fatal("announced size allocates", mem.used.Load())
	}
	for range 300 {
		b.add(bytes.Repeat([]byte("x"), 1<<10))
		if mem.used.Load() != b.held || int64(cap(b.buf)) > b.held {
			t.Fatal("memory is not counted")
		}
	}
	if b.failed.code != 0 || len(b.message()) != 300<<10 {
		t.Fatal(b.failed, len(b.message()))
	}
	b.add([]byte("x"))
	if b.failed.code != 552 || b.buf != nil || mem.used.Load() != 0 {
		t.Fatal(b.failed, mem.used.Load())
	}
	b.release()
	// What was announced truly leaves nothing over.
	b = newBody(&mem, 900<<10, 500<<10)
	for range 500 {
		b.add(bytes.Repeat([]byte("x"), 1<<10))
	}
	if spare := cap(b.buf) - len(b.buf); b.failed.code != 0 || spare > 512 {
		t.Fatal(b.failed, spare)
	}
	b.release()
	small := budget{max: 20 << 10}
	if b := newBody(&small, 1<<20, -1); b.failed.code != 0 {
		t.Fatal(b.failed)
	} else if b.add(bytes.Repeat([]byte("x"), 16<<10)); b.failed.code != 452 || small.used.Load() != 0 {
		t.Fatal(b.failed, small.used.Load())
	}
}
