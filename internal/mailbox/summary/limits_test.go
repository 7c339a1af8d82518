package summary

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/mail"
)

// deep nests multiparts, with the boundary that name gives for each level.
func deep(levels int, name func(int) string) []byte {
	var b strings.Builder
	for i := range levels {
		fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=%s\r\n\r\n--%s\r\n", name(i), name(i))
	}
	b.WriteString("\r\nend\r\n")
	return []byte(b.String())
}

func repeat(head, line string, n int) []byte { return []byte(head + strings.Repeat(line, n)) }

// hostile are inputs that cost other parsers gigabytes or minutes.
func hostile() map[string][]byte {
	multi := "Content-Type: multipart/mixed; boundary=b\r\n\r\n"
	return map[string][]byte{
		"nested, own boundaries":    deep(2000, func(i int) string { return fmt.Sprint("b", i) }),
		"nested, one boundary":      deep(2000, func(int) string { return "b" }),
		"nested, prefixes":          deep(2000, func(i int) string { return strings.Repeat("b", i%250+1) }),
		"messages in messages":      repeat("", "Content-Type: message/rfc822\r\n\r\n", 20_000),
		"parts":                     repeat(multi, "--b\r\n\r\nx\r\n", 100_000),
		"empty parts":               repeat(multi, "--b\r\n", 300_000),
		"parts with parameters":     repeat(multi, "--b\r\nContent-Type: text/plain; "+strings.Repeat("a", 100)+"="+strings.Repeat("v", 1000)+"\r\n\r\n", 9_000),
		"address lines":             repeat("From: a@b\r\n", "To: a@b.example\r\n", 100_000),
		"addresses":                 repeat("To: ", "a@b.example,\r\n ", 100_000),
		"addresses, no separators":  repeat("To: ", "a@b.example ", 100_000),
		"groups":                    repeat("To: ", "g:;", 300_000),
		"open comments":             repeat("To: ", "(", 1_000_000),
		"open quotes":               repeat("To: ", "\"a\" \"", 200_000),
		"open angles":               repeat("To: ", "<", 1_000_000),
		"comments in type":          repeat("Content-Type: ", "(", 1_000_000),
		"parameters":                repeat("Content-Type: text/plain", "; a=b", 200_000),
		"distinct parameters":       []byte("Content-Type: text/plain" + numbered("; a%d=b", 100_000)),
		"folds":                     repeat("Subject: x", "\r\n x", 300_000),
		"header lines":              repeat("", "X: y\r\n", 300_000),
		"one header line":           repeat("Subject: ", "y", 8<<20),
		"references":                repeat("References:", " <a@b>", 200_000),
		"encoded words":             repeat("Subject: ", "=?utf-8?q?a?= ", 100_000),
		"tags":                      repeat("Content-Type: text/html\r\n\r\n", "<", 1_000_000),
		"style":                     repeat("Content-Type: text/html\r\n\r\n", "<style>", 200_000),
		"dashes":                    repeat(multi, "--\r\n--b \t\r\n", 200_000),
		"long dashes":               repeat(multi, "-", 4<<20),
		"soft breaks":               repeat("Content-Transfer-Encoding: quoted-printable\r\n\r\n", "=\r\n", 500_000),
		"equal signs":               repeat("Content-Transfer-Encoding: quoted-printable\r\n\r\n", "=", 500_000),
		"unknown charset, 8 bit":    repeat("Content-Type: text/plain; charset=nope\r\n\r\n", "\xff", 1_000_000),
		"utf-16":                    repeat("Content-Type: text/plain; charset=utf-16\r\n\r\n", "\xd8\x00", 500_000),
		"header without end, parts": repeat(multi, "--b\r\nContent-Type: message/rfc822\r\n", 100_000),
	}
}

func numbered(format string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// TestHostile bounds time and memory (promise 2) and checks the limits.
func TestHostile(t *testing.T) {
	for name, in := range hostile() {
		start := time.Now()
		var s *mail.Summary
		bytes := allocated(func() { s = Parse(in) })
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("%s: %v for %d bytes", name, took, len(in))
		}
		if limit := 12<<20 + 4*uint64(len(in)); bytes > limit {
			t.Errorf("%s: allocated %d bytes for %d, limit %d", name, bytes, len(in), limit)
		}
		checkSummary(t, name, in, s)
	}
}

// allocated is how many bytes f takes from the heap in all.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// checkSummary holds what is promised for any bytes.
func checkSummary(t testing.TB, name string, in []byte, s *mail.Summary) {
	t.Helper()
	parts := 0
	var walk func(p *mail.Part, from, to int64, depth int)
	walk = func(p *mail.Part, from, to int64, depth int) {
		parts++
		if p.HeaderStart < from || p.BodyStart < p.HeaderStart || p.BodyEnd < p.BodyStart || p.BodyEnd > to || depth > maxDepth {
			t.Fatalf("%s: part %d-%d-%d at depth %d outside %d-%d", name, p.HeaderStart, p.BodyStart, p.BodyEnd, depth, from, to)
		}
		if p.Type == "" || p.Subtype == "" || p.Lines < 0 || p.Lines > p.BodyEnd-p.BodyStart {
			t.Fatalf("%s: part %+v", name, p)
		}
		for _, c := range p.Children {
			walk(c, p.BodyStart, p.BodyEnd, depth+1)
		}
		if p.Message != nil {
			walk(p.Message, p.BodyStart, p.BodyEnd, depth+1)
		}
	}
	walk(s.Structure, 0, int64(len(in)), 1)
	if parts > maxParts {
		t.Fatalf("%s: %d parts", name, parts)
	}
	e := s.Envelope
	if len(e.Subject) > maxText || len(e.To) > maxAddresses+2 || len(e.References) > maxReferences {
		t.Fatalf("%s: envelope beyond limits", name)
	}
	enc := codec.MustMarshal(s)
	if limit := maxKept + 2<<20; len(enc) > limit {
		t.Fatalf("%s: summary of %d bytes", name, len(enc))
	}
	var back mail.Summary
	if err := codec.Unmarshal(enc, &back); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(crlf(nested))
	for _, in := range hostile() {
		f.Add(in[:min(len(in), 500)])
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		s := Parse(in)
		checkSummary(t, "fuzz", in, s)
		if end, _ := HeaderEnd(in); int64(end) != s.Structure.BodyStart {
			t.Fatalf("the header ends at %d, the body begins at %d", end, s.Structure.BodyStart)
		}
		EachField(in, func(name, value string) { DecodeHeader(value) })
		Text(s.Structure, in, 0)
	})
}

func BenchmarkParse(b *testing.B) {
	body := crlf(nested)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		Parse(body)
	}
}
