package smtpd

import (
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/mail"
)

func TestParsePath(t *testing.T) {
	long := strings.Repeat("l", 64)
	for _, c := range []struct {
		in          string
		raw, domain string
		rest        string
		bad         bool
	}{
		{in: "<a@b.test>", raw: "a@b.test", domain: "b.test"},
		{in: " <a@b.test> SIZE=1", raw: "a@b.test", domain: "b.test", rest: " SIZE=1"},
		{in: "<>"},
		{in: "<@x.test,@y.test:a@b.test>", raw: "a@b.test", domain: "b.test"},
		{in: `<"a b"@b.test>`, raw: `"a b"@b.test`, domain: "b.test"},
		{in: `<"a>b"@b.test> X`, raw: `"a>b"@b.test`, domain: "b.test", rest: " X"},
		{in: `<"a\"@c"@b.test>`, raw: `"a\"@c"@b.test`, domain: "b.test"},
		{in: "<a@[192.0.2.1]>", raw: "a@[192.0.2.1]", domain: "[192.0.2.1]"},
		{in: "<PostMaster>", raw: "PostMaster"},
		{in: "<a+b!c%d@b.test>", raw: "a+b!c%d@b.test", domain: "b.test"},
		{in: "<ö@ü.test>", raw: "ö@ü.test", domain: "ü.test"},
		{in: "<a_b@c_d.test>", raw: "a_b@c_d.test", domain: "c_d.test"},
		{in: "a@b.test", bad: true},
		{in: "<a@b.test", bad: true},
		{in: "<a@b.test>>", raw: "a@b.test", domain: "b.test", rest: ">"},
		{in: "<<a@b.test>>", bad: true},
		{in: "<a@b@c.test>", bad: true},
		{in: "<@b.test>", bad: true},
		{in: "<a@>", bad: true},
		{in: "<a>", bad: true},
		{in: "<.a@b.test>", bad: true},
		{in: "<a..b@b.test>", bad: true},
		{in: "<a.@b.test>", bad: true},
		{in: "<a@.b.test>", bad: true},
		{in: "<a@b..test>", bad: true},
		{in: "<a@b.test.>", bad: true},
		{in: "<a@-b.test>", bad: true},
		{in: `<"a@b.test>`, bad: true},
		{in: `<""@b.test>`, bad: true},
		{in: `<"a"b@b.test>`, bad: true},
		{in: "<a b@b.test>", bad: true},
		{in: "<a@[]>", bad: true},
		{in: "<a@[192.0.2.1>", bad: true},
		{in: "<a@" + long + ".test>", bad: true},
		{in: "<" + long + "@" + strings.Repeat("d.", 100) + "test>", bad: true},
		{in: "<@x.test>", bad: true},
		{in: "", bad: true},
	} {
		p, rest, err := parsePath(c.in)
		if (err != nil) != c.bad {
			t.Errorf("%s: %+v %v", c.in, p, err)
			continue
		}
		if err == nil && (p.raw != c.raw || p.domain != c.domain || rest != c.rest) {
			t.Errorf("%s: %+v rest %q", c.in, p, rest)
		}
	}
}

// What a path names is what the directory is asked for: two parsers must not
// read one address in two ways.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"<a@b.test>", `<"a\"b"@b.test> X=1`, "<@a,@b:c@d.test>", "<a@[IPv6:::1]>", "<ö@ü.test>"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, _, err := parsePath(s)
		if err != nil || p.null || p.domain == "" {
			return
		}
		if len(p.raw) > 254 || strings.ContainsAny(p.raw, "\r\n\x00") {
			t.Fatalf("%q", p.raw)
		}
		a, err := mail.ParseAddress(p.raw)
		if err != nil {
			return
		}
		if a.Local != p.local {
			t.Fatalf("%q: local part %q here, %q there", s, p.local, a.Local)
		}
		if d, err := mail.NormalizeDomain(p.domain); err != nil || d != a.Domain {
			t.Fatalf("%q: domain %q here, %q there", s, p.domain, a.Domain)
		}
	})
}

func TestParams(t *testing.T) {
	for in, want := range map[string]string{
		"":                                   "",
		" SIZE=10 body=8bitmime SMTPUTF8":    "",
		" AUTH=<> RET=FULL ENVID=a+20b":      "",
		" AUTH=a+3Db@c.test":                 "",
		"SIZE=1":                             "not readable",
		" SIZE=":                             "not readable",
		" SIZE=1 size=2":                     "twice",
		" SIZE=1=2":                          "not readable",
		" SIZE=9223372036854775808":          "not a number",
		" SMTPUTF8=yes":                      "no value",
		" BODY=BINARYMIME":                   "BODY must",
		" RET=ALL":                           "RET must",
		" ENVID=a+0Ab":                       "ENVID",
		" ENVID=a+4":                         "ENVID",
		" ENVID=" + strings.Repeat("x", 101): "ENVID",
		" REQUIRETLS":                        "",
		" REQUIRETLS=1":                      "no value",
		" X-FOO=1":                           "not known",
		" =1":                                "not readable",
	} {
		_, err := parseMailParams(in)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("MAIL%s: %v", in, err)
		}
	}
	for in, want := range map[string]string{
		" NOTIFY=success,delay ORCPT=rfc822;a+40b.test": "",
		" NOTIFY=NEVER":                 "",
		` ORCPT=utf-8;\x{F6}@b.test`:    "",
		" ORCPT=utf-8;ö@b.test":         "",
		" ORCPT=rfc822;+C3+B6@b.test":   "", // Postfix writes it so
		" ORCPT=rfc822;+C3@b.test":      "ORCPT",
		" ORCPT=rfc822;+C2+85@b.test":   "ORCPT", // a control character
		" ORCPT=x400;+C3+B6@b.test":     "ORCPT",
		" NOTIFY=":                      "not readable",
		" NOTIFY=NEVER,DELAY":           "alone",
		" NOTIFY=DELAY,DELAY":           "not readable",
		" NOTIFY=SOMETIMES":             "not readable",
		" ORCPT=rfc822":                 "ORCPT",
		" ORCPT=;x":                     "ORCPT",
		" ORCPT=rfc822;a+0Db":           "ORCPT",
		` ORCPT=utf-8;\x{0A}`:           "ORCPT",
		` ORCPT=utf-8;\x{D800}`:         "ORCPT",
		` ORCPT=utf-8;\x{FFFFFFFFFFFF}`: "ORCPT",
		` ORCPT=utf-8;\y`:               "ORCPT",
		" SIZE=1":                       "not known",
	} {
		_, err := parseRcptParams(in)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("RCPT%s: %v", in, err)
		}
	}
}

func FuzzParams(f *testing.F) {
	f.Add(" SIZE=10 BODY=8BITMIME ENVID=a+20b AUTH=<>")
	f.Add(` NOTIFY=SUCCESS ORCPT=utf-8;\x{F6}`)
	f.Fuzz(func(t *testing.T, s string) {
		m, err := parseMailParams(s)
		if err == nil && (m.size < -1 || strings.ContainsFunc(m.envid, control)) {
			t.Fatalf("%q: %+v", s, m)
		}
		r, err := parseRcptParams(s)
		if err == nil && strings.ContainsFunc(r.orcpt, control) {
			t.Fatalf("%q: %+v", s, r)
		}
	})
}

func control(r rune) bool { return r < ' ' || r == 0x7f }

func TestChunk(t *testing.T) {
	for in, want := range map[string]struct {
		size       int64
		last, good bool
	}{
		"10": {10, false, true}, "0 LAST": {0, true, true}, "7 last": {7, true, true},
		"9223372036854775807": {1<<63 - 1, false, true}, "9223372036854775808": {}, "-1": {}, "+1": {}, "": {}, "1 END": {}, "1 LAST x": {}, "0x10": {}, "1_0": {},
	} {
		size, last, good := parseChunk(in)
		if good != want.good || good && (size != want.size || last != want.last) {
			t.Errorf("%q: %d %v %v", in, size, last, good)
		}
	}
}

func TestRemove(t *testing.T) {
	for _, c := range []struct{ msg, want string }{
		{"A: 1\r\nBcc: x\r\n y\r\nB: 2\r\n\r\nbody", "A: 1\r\nB: 2\r\n\r\nbody"},
		{"Bcc: x\r\nBCC : y\r\nA: 1\r\nResent-Bcc:\r\n\r\n", "A: 1\r\n\r\n"},
		{"A: 1\r\n\r\nBcc: body", "A: 1\r\n\r\nBcc: body"},
		{"Bcc: all", ""},
		{"", ""},
	} {
		buf := append([]byte("room"), c.msg...)
		s := look([]byte(c.msg), "mx.test")
		if got := string(buf[remove(buf, 4, s.blind):]); got != c.want {
			t.Errorf("%q: %q", c.msg, got)
		}
	}
}

func TestInOurName(t *testing.T) {
	for in, want := range map[string]bool{
		"mx.test; spf=pass": true, "MX.test": true, " mx.test 1; none": true, "mx.test\t1; none": true, "mx.test;none": true,
		`"mx.test" 1; none`: true, `"mx\.test"; none`: true, "(a (b\\)) c) mx.test (d); none": true, "mx.test(c); none": true,
		"other.test; spf=pass": false, "mx.test.other; none": false, "x mx.test; none": false, `"mx.test; none`: false, "(mx.test; none": false, "": false, "(": false,
	} {
		if inOurName(in, "mx.test") != want {
			t.Errorf("%q: want %v", in, want)
		}
	}
}

func FuzzHeader(f *testing.F) {
	f.Add("Authentication-Results: (a\\(\r\n b) \"mx.test\"; none\r\n\r\n")
	f.Add("From: a\r\n b\r\nReceived: x\r\nBcc: y\r\nReturn-Path: <>\r\n\r\nbody")
	f.Add("From : a\r\njunk\r\n")
	f.Fuzz(func(t *testing.T, msg string) {
		s := look([]byte(msg), "mx.test")
		buf := []byte(msg)
		rest := string(buf[remove(buf, 0, s.blind):])
		size := len(msg)
		for _, x := range s.blind {
			size -= x.End - x.Start
		}
		if len(rest) != size {
			t.Fatalf("%q: %q left, want %d bytes", msg, rest, size)
		}
		if again := look([]byte(rest), "mx.test"); !s.Junk && !s.Cut && len(again.blind) > 0 {
			t.Fatalf("%q: still blind copies in %q", msg, rest)
		}
	})
}
