package smtpc

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/postern-mail/postern/internal/mail"
)

// read is what a receiver makes of content: lines up to a lone dot, without
// stuffing (RFC 5321 section 4.5.2).
func read(t *testing.T, wire []byte) (body, rest []byte) {
	for {
		line, after, ok := bytes.Cut(wire, []byte("\r\n"))
		if !ok {
			t.Fatalf("no end: %q", wire)
		}
		if wire = after; string(line) == "." {
			return body, wire
		}
		if bytes.ContainsAny(line, "\r\n\x00") {
			t.Fatalf("a line with %q", line)
		}
		body = append(append(body, bytes.TrimPrefix(line, []byte("."))...), '\r', '\n')
	}
}

// FuzzDots: what a receiver reads is what was given, and nothing follows it.
func FuzzDots(f *testing.F) {
	for _, s := range []string{"", ".", "..", "a", ".\r\n", "a\r\n.\r\nb", "\r\n.", "a\n.\n", "a\r.\r\n", strings.Repeat("x", block-1) + "\r\n.y", strings.Repeat(".\r\n", block/3+2)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, err := inspect(body); err != nil {
			if !bytes.ContainsAny(body, "\r\n\x00") {
				t.Fatalf("%q refused: %v", body, err)
			}
			return
		}
		var wire []byte
		d := dotter{emit: func(p []byte) error {
			if len(p) > block+2 {
				t.Fatalf("a block of %d bytes", len(p))
			}
			wire = append(wire, p...)
			return nil
		}}
		if err := d.send(body); err != nil {
			t.Fatal(err)
		}
		got, rest := read(t, append(wire, ".\r\n"...))
		want := body
		if len(body) > 0 && !bytes.HasSuffix(body, []byte("\r\n")) {
			want = append(bytes.Clone(body), '\r', '\n')
		}
		if !bytes.Equal(got, want) || len(rest) > 0 {
			t.Fatalf("%q became %q and %q", body, got, rest)
		}
	})
}

// TestBlockEdges puts dots and line ends around every edge of a block.
func TestBlockEdges(t *testing.T) {
	for _, tail := range []string{"", ".", "\r\n.", "\r\n..\r\n.\r\n", "\r\n"} {
		for n := block - 5; n < block+5; n++ {
			body := []byte(strings.Repeat("x", n) + tail)
			var wire []byte
			d := dotter{emit: func(p []byte) error { wire = append(wire, p...); return nil }}
			if err := d.send(body); err != nil {
				t.Fatal(err)
			}
			got, _ := read(t, append(wire, ".\r\n"...))
			if !bytes.Equal(bytes.TrimSuffix(got, []byte("\r\n")), bytes.TrimSuffix(body, []byte("\r\n"))) {
				t.Fatalf("%d x and %q did not come through", n, tail)
			}
		}
	}
}

func FuzzReply(f *testing.F) {
	for _, s := range []string{"250 ok\r\n", "250-a\r\n250 b\r\n", "250\r\n", "550 5.1.1 no\n", "550-5.1.1 a\r\n550 5.1.1 b\r\n", "250-a\r\n251 b\r\n", "999 x\r\n", "25", "220 \xff\x00\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r, lines, err := readReply(bufio.NewReaderSize(bytes.NewReader(in), maxLine))
		if err != nil {
			if r.Code != 0 || lines != nil {
				t.Fatalf("%v and %v", r, err)
			}
			return
		}
		if r.Code < 200 || r.Code > 599 || len(lines) == 0 || len(lines) > maxLines || len(r.Text) > maxText || !utf8.ValidString(r.Text) || strings.ContainsAny(r.String(), "\r\n\x00") {
			t.Fatalf("%q became %+v", in, r)
		}
		if r.Status != "" && (!isStatus(r.Status) || r.Status[0] != byte('0'+r.Code/100)) {
			t.Fatalf("status %q of %q", r.Status, in)
		}
	})
}

func TestReply(t *testing.T) {
	for in, want := range map[string]string{
		"250 ok\r\n":     "250 ok",
		"250\r\n":        "250",
		"550 5.1.1 no\n": "550 5.1.1 no",
		"550-5.1.1 a\r\n550-5.1.1\r\n550 5.1.1 b\n": "550 5.1.1 a b",
		"550-5.1.1 a\r\n550 5.7.1 b\n":              "550 5.1.1 a 5.7.1 b",
		"550 4.1.1 odd class\r\n":                   "550 4.1.1 odd class",
		"550 5.1 short\r\n":                         "550 5.1 short",
		"250 bell\x07\u2028\xff\r\n":                "250 bell???",
	} {
		r, _, err := readReply(bufio.NewReaderSize(strings.NewReader(in), maxLine))
		if err != nil || r.String() != want {
			t.Errorf("%q: %q, %v; want %q", in, r, err, want)
		}
	}
	for _, in := range []string{"", "2", "250", "250-a\r\n", "abc\r\n", "150 x\r\n", "600 x\r\n", "250+x\r\n", "250-a\r\n251 b\r\n", "\r\n",
		strings.Repeat("250-a\r\n", 101) + "250 b\r\n", "250 " + strings.Repeat("x", maxLine) + "\r\n", strings.Repeat("250-"+strings.Repeat("x", 2000)+"\r\n", 40) + "250 b\r\n"} {
		if r, _, err := readReply(bufio.NewReaderSize(strings.NewReader(in), maxLine)); err == nil {
			t.Errorf("%.40q: %v", in, r)
		}
	}
}

// FuzzCommands: nothing in an envelope adds a line or a parameter.
func FuzzCommands(f *testing.F) {
	f.Add("ann@a.test", "bob@b.test", "id", "NEVER", "rfc822;x", true)
	f.Add("a@a.test> SIZE=1 <b", "\"a b\"@b.test", "x\r\ny", "SUCCESS,x", "utf-8;ä\\", false)
	f.Add("ä@a.test", "\"a>\\\"\"@b.test", "", "SUCCESS,SUCCESS,DELAY", "x y;z", true)
	f.Fuzz(func(t *testing.T, from, to, id, notify, orcpt string, utf8 bool) {
		c := &Conn{ext: map[string]string{"SIZE": "", "8BITMIME": "", "SMTPUTF8": "", "DSN": ""}}
		e := mail.Envelope{From: from, EnvID: id, Ret: notify, UTF8: utf8, Recipients: []mail.EnvelopeRecipient{{Address: to, Notify: notify, ORcpt: orcpt}}}
		p, r := c.prepare(e, []byte(letter), make([]Result, 1))
		if r.Code != 0 {
			return
		}
		for _, line := range append(p.rcpt, p.mail) {
			for i := range len(line) {
				if line[i] < ' ' || line[i] == 0x7f {
					t.Fatalf("%q", line)
				}
			}
			_, rest, _ := strings.Cut(line, ":<")
			end := strings.LastIndexByte(rest, '>')
			if line == "" {
				continue
			}
			if end > 0 {
				if _, err := mail.ParseAddress(rest[:end]); err != nil {
					// A > in a parameter: the path ends at an earlier one.
					end = strings.Index(rest, "> ")
				}
			}
			for _, param := range strings.Fields(rest[end+1:]) {
				word, _, _ := strings.Cut(param, "=")
				if !strings.Contains(" SIZE BODY SMTPUTF8 RET ENVID NOTIFY ORCPT ", " "+word+" ") {
					t.Fatalf("parameter %q in %q", param, line)
				}
			}
		}
	})
}
