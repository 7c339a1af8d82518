package message

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func crlf(s string) []byte { return []byte(strings.ReplaceAll(s, "\n", "\r\n")) }

func TestFields(t *testing.T) {
	for _, c := range []struct {
		in, names string
		end       Ending
	}{
		{"A: 1\nb : 2\n 3\n\nbody", "A b-", Ending{At: 19, Empty: true}},
		{"A: 1\nno field\n\nbody", "A", Ending{At: 6, Junk: true}},
		{"A: 1", "A", Ending{At: 4}},
		{"\nbody", "", Ending{At: 2, Empty: true}},
		{"", "", Ending{}},
		{" folded: 1\n\n", "", Ending{Junk: true}},
		{": 1\n\n", "", Ending{Junk: true}},
	} {
		msg := crlf(c.in)
		var got []string
		var end Ending
		for f := range Fields(msg, &end) {
			n := f.Name
			if f.Odd {
				n += "-"
			}
			got = append(got, n)
		}
		if strings.Join(got, " ") != c.names || end != c.end {
			t.Errorf("%q: %v %+v", c.in, got, end)
		}
	}
}

func TestLimits(t *testing.T) {
	long := strings.Repeat("A: 1\r\n", MaxHeaderLines)
	for _, c := range []struct {
		msg string
		n   int
		cut bool
	}{
		{long + "\r\n", MaxHeaderLines, false},
		{long + "A: 1\r\n\r\n", MaxHeaderLines, true},
		{"A: 1\r\nB:" + strings.Repeat(" x\r\n", MaxHeaderLines+1), 1, true},
		{"A: 1\r\nB: " + strings.Repeat("x", MaxHeader) + "\r\n\r\n", 1, true},
	} {
		n := 0
		var end Ending
		for range Fields([]byte(c.msg), &end) {
			n++
		}
		if n != c.n || end.Cut != c.cut {
			t.Errorf("%.10q: %d fields, %+v", c.msg, n, end)
		}
	}
}

func TestLook(t *testing.T) {
	s := Look(crlf(`Received: from a.example (by evil.example [192.0.2.1])
	by MX1.Example.Test (Postern) with ESMTPS; Mon, 1 Jan 2024 00:00:00 +0000
Received: by two.example; Mon
Received: nothing
Return-Path: <x@y>
Delivered-To: Team@Example.test
X-Loop: other@example.test
From: Ann
 <ann@example.test>
From : two@example.test
Subject: one
Subject: two
Auto-Submitted: no
Authentication-Results: "MX1.example.test" 1; spf=pass
Bcc: hidden@example.test

body`))
	if s.Received != 3 || !slices.Equal(s.ReceivedBy, []string{"mx1.example.test", "two.example", ""}) {
		t.Errorf("received %d %q", s.Received, s.ReceivedBy)
	}
	if !slices.Equal(s.From, []string{"Ann <ann@example.test>", "two@example.test"}) || !s.OddFrom || s.Subject != "one" || s.Automatic {
		t.Errorf("%+v", s)
	}
	if !slices.Equal(s.DeliveredTo, []string{"team@example.test", "other@example.test"}) || len(s.ReturnPath) != 1 || len(s.Blind) != 1 {
		t.Errorf("%+v", s)
	}
	if len(s.AuthResults) != 1 || s.AuthResults[0].Server != "mx1.example.test" {
		t.Errorf("%+v", s.AuthResults)
	}
}

func TestField(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"X-A", "b", "X-A: b\r\n"},
		{"X-A", "", "X-A: \r\n"},
		{"X-A", "  b  ", "X-A: b\r\n"},
		{"X-A", strings.Repeat("word ", 20), "X-A: " + strings.TrimSpace(strings.Repeat("word ", 14)) + "\r\n word word word word word word\r\n"},
		{"X-A", "b\r\nBcc: c", ""},
		{"X-A", "b\nc", ""},
		{"X-A", "b\x00", ""},
		{"X-A", "\xff", ""},
		{"X A", "b", ""},
		{"X:", "b", ""},
		{"", "b", ""},
		{"X-A", strings.Repeat("x", 999), ""},
	} {
		got, err := Field(c.name, c.value)
		if string(got) != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s %q: %q %v", c.name, c.value, got, err)
		}
	}
	if b, err := TextField("Subject", "Grüße"); err != nil || string(b) != "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n" {
		t.Errorf("%q %v", b, err)
	}
}

func TestWithout(t *testing.T) {
	if got := Without([]byte("0123456789"), []Span{{0, 2}, {2, 3}, {8, 10}}); string(got) != "34567" {
		t.Errorf("%s", got)
	}
}

// tell writes parts in few words.
func tell(msg []byte) string {
	parts, whole := Parts(msg)
	var out []string
	for _, p := range parts {
		s := fmt.Sprintf("%d %s", p.Depth, p.Type)
		if len(p.Names) > 0 {
			s += fmt.Sprintf(" %q", p.Names)
		}
		if !strings.HasPrefix(p.Type, "multipart/") && !strings.HasPrefix(p.Type, "message/") {
			s += fmt.Sprintf(" <%s>", strings.ReplaceAll(string(msg[p.Start:p.End]), "\r\n", "|"))
		}
		out = append(out, s)
	}
	if !whole {
		out = append(out, "more")
	}
	return strings.Join(out, "; ")
}

func TestParts(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"A: 1\n\nhello", "0 text/plain <hello>"},
		{"Content-Type: multipart/mixed; boundary=x\n\npre\n--x\n\none\n--x\nContent-Type: application/zip; name=\"a.zip\"\nContent-Disposition: attachment; filename=b.exe\n\ntwo\n--x--\nend",
			`0 multipart/mixed; 1 text/plain <one|>; 1 application/zip ["a.zip" "b.exe"] <two|>`},
		{"Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: message/rfc822\n\nContent-Type: multipart/mixed; boundary=y\n\n--y\nContent-Disposition: attachment; filename*=utf-8''%65vil%2Eexe\n\nz\n--x\n\nlast",
			`0 multipart/mixed; 1 message/rfc822; 2 multipart/mixed; 3 text/plain ["evil.exe"] <z|>; 1 text/plain <last>`},
		{"Content-Type: a/b; name*0=\"ev\"; name*1*=%69; name*2=l.exe\n\n", `0 a/b ["evil.exe"] <>`},
		{"Content-Type: a/b; name=\"=?utf-8?q?evil=2Eexe?=\"\n\n", `0 a/b ["evil.exe"] <>`},
		{"Content-Type: a/b (comment; name=x.txt); name=(c)y.exe\n\n", `0 a/b ["y.exe"] <>`},
		{"Content-Type: a/b; name=y( .exe\n\n", `0 a/b ["y( .exe"] <>`},
		{"Content-Type: multipart/digest; boundary=x\n\n--x\n\nSubject: one\n\nbody\n--x--\n", "0 multipart/digest; 1 message/rfc822; 2 text/plain <body|>"},
		{"Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: multipart/mixed; boundary=x\n\n--x\n\none\n--x--", "0 multipart/mixed; 1 multipart/mixed; 1 text/plain <one|>; more"},
		{"Content-Type: multipart/mixed\n\n--x\n\none", "0 multipart/mixed; more"},
		{"A: 1\njunk\nContent-Type: a/b\n\n", "0 text/plain <>; more"},
		{"Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\nQQ==", "0 message/rfc822; more"},
		{"", "0 text/plain <>"},
	} {
		if got := tell(crlf(c.in)); got != c.want {
			t.Errorf("%q:\n %s\n %s", c.in, got, c.want)
		}
	}
}

// TestPartsLimits: what is too deep or too much is said to be there, in time.
func TestPartsLimits(t *testing.T) {
	var deep, wide, nested bytes.Buffer
	for i := range 5000 {
		fmt.Fprintf(&deep, "Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i)
		nested.WriteString("Content-Type: message/rfc822\r\n\r\n")
	}
	wide.WriteString("Content-Type: multipart/mixed; boundary=x\r\n\r\n")
	for range 3 * MaxParts {
		wide.WriteString("--x\r\n\r\n")
	}
	for name, b := range map[string][]byte{"deep": deep.Bytes(), "wide": wide.Bytes(), "nested": nested.Bytes()} {
		at := time.Now()
		parts, whole := Parts(b)
		if whole || len(parts) > MaxParts || len(parts) < MaxDepth || time.Since(at) > 5*time.Second {
			t.Errorf("%s: %d parts, whole %v, %s", name, len(parts), whole, time.Since(at))
		}
		for _, p := range parts {
			if p.Depth > MaxDepth {
				t.Fatalf("%s: depth %d", name, p.Depth)
			}
		}
	}
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte("Received: from a by b; c\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: message/rfc822\r\n\r\nA: 1\r\n\r\n--x--"))
	f.Add([]byte("A: 1\n 2\n\n"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		var end Ending
		at := 0
		for hf := range Fields(msg, &end) {
			if hf.Start != at || hf.Colon <= hf.Start || hf.End <= hf.Colon || hf.End > len(msg) {
				t.Fatalf("%+v after %d", hf, at)
			}
			at = hf.End
			if !isName([]byte(hf.Name)) || strings.ContainsAny(hf.Value(msg), "\r\n") {
				t.Fatalf("%q: %q", hf.Name, hf.Value(msg))
			}
			v := strings.ToValidUTF8(strings.ReplaceAll(hf.Value(msg), "\x00", ""), "")
			if b, err := Field(hf.Name, v); err == nil {
				again := func() (n int) {
					var e Ending
					for g := range Fields(b, &e) {
						if g.Value(b) != strings.Trim(v, " \t") {
							t.Fatalf("%q became %q", v, g.Value(b))
						}
						n++
					}
					return n
				}()
				if again != 1 {
					t.Fatalf("%q is %d fields", b, again)
				}
			}
		}
		if end.At < at || end.At > len(msg) {
			t.Fatalf("%+v after %d", end, at)
		}
		Look(msg)
		parts, _ := Parts(msg)
		for _, p := range parts {
			if p.Start < 0 || p.End < p.Start || p.End > len(msg) || p.Depth > MaxDepth {
				t.Fatalf("%+v of %d", p, len(msg))
			}
		}
	})
}
