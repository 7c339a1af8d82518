package dsn

import (
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/mail"
)

// FuzzBuild holds promise 3 against hostile addresses, replies and messages.
func FuzzBuild(f *testing.F) {
	f.Add("alice@example.org", "bob@example.net", "rfc822;bob@example.net", "5.1.1 no\r\nsuch user", "mx.example.net", "env", []byte(original1), uint8(0), "de")
	f.Add("jürgen@example.org", "用户@example.net", "utf-8;用户@example.net", "nö", "h", "ü", []byte("Subject: ü\r\n\r\n\xff\r\n"), uint8(0x3c), "en")
	f.Add(`"a\"  b"@example.org`, "x@y\r\nStatus: 2.0.0", "a;b\r\n\r\nc", "\x00\r", "\n", "\r\n\r\n", []byte("A: b\r\rC: d\n\n\r\n"), uint8(4), "")
	f.Add("a@[192.0.2.1]", strings.Repeat("x", 3000), strings.Repeat(" ", 3000), strings.Repeat("y ", 3000), strings.Repeat("z", 3000), strings.Repeat("=", 3000),
		[]byte("Subject: =?utf-8?q?=0D=0AX:_y?=\r\nMessage-ID: <a@b>\r\n"+strings.Repeat("l", 2000)), uint8(8), "de")
	f.Fuzz(func(t *testing.T, from, rcpt, orcpt, text, host, envid string, msg []byte, bits uint8, language string) {
		r := simple()
		r.Kind = Kind(bits & 3)
		r.Language = language
		r.Parent.Full = msg
		e := &r.Parent.Envelope
		e.From, e.EnvID, e.UTF8, e.EightBit = from, envid, bits&8 != 0, bits&16 != 0
		if bits&4 != 0 {
			e.Ret = "FULL"
		}
		if bits&32 != 0 {
			r.ReportingMTA = host
		}
		r.Recipients = []Recipient{
			{Address: rcpt, ORcpt: orcpt, Text: text, Host: host, Notify: "FAILURE,DELAY,SUCCESS", Status: text, Code: int(bits) * 3},
			{Row: 1, Address: orcpt, ORcpt: rcpt, Text: host, Host: text, Notify: "FAILURE,DELAY,SUCCESS", Status: "5.1.1"},
		}
		s, ok := Build(r)
		if !ok {
			if a, err := mail.ParseAddress(from); err == nil && !headerOf(r.Parent).notification() {
				t.Fatalf("%s is not told", a)
			}
			return
		}
		d := parse(t, s)
		if len(d.groups) != 3 {
			t.Fatalf("%d groups for two recipients: %q", len(d.groups), d.bodies[1])
		}
		for _, g := range d.groups[1:] {
			if g.Get("Action") != r.Kind.String() || len(g) > 10 {
				t.Fatalf("group %v", g)
			}
		}
	})
}
