package summary

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/mail"
)

func crlf(s string) []byte { return []byte(strings.ReplaceAll(s, "\n", "\r\n")) }

const nested = `Return-Path: <x@example.test>
Date: Fri, 21 Nov 1997 09:55:06 -0600
From: "Doe, John" <john@example.test>, jane@example.test (Jane)
To: Friends: a@example.test, "b c"@example.test; , root
Subject: =?utf-8?q?Caf=C3=A9?=
 folded
Message-ID: <1@example.test>
In-Reply-To: <0@example.test>
References: <r@example.test> <0@example.test>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="outer" (a comment)

preamble
--outer
Content-Type: multipart/alternative; boundary=outer2

--outer2

plain text
--outer2
Content-Type: text/html; charset=iso-8859-1
Content-Transfer-Encoding: Quoted-Printable

<p>caf=E9</p>

--outer2--
epilogue
--outer
Content-Type: message/rfc822
Content-Disposition: attachment; filename="in.eml"

Subject: inner
From: i@example.test

inner body
--outer
Content-Type: application/pdf; name="x.pdf"
Content-Transfer-Encoding: base64

AAAA
--outer--
`

func section(body []byte, p *mail.Part) string { return string(body[p.BodyStart:p.BodyEnd]) }

func TestNested(t *testing.T) {
	body := crlf(nested)
	s := Parse(body)
	e := s.Envelope
	if e.Subject != "=?utf-8?q?Caf=C3=A9?= folded" || e.Date != 880127706 || e.MessageID != "1@example.test" {
		t.Errorf("envelope %+v", e)
	}
	from := []mail.HeaderAddress{{Name: "Doe, John", Mailbox: "john", Host: "example.test"}, {Name: "Jane", Mailbox: "jane", Host: "example.test"}}
	if !reflect.DeepEqual(e.From, from) {
		t.Errorf("from %+v", e.From)
	}
	to := []mail.HeaderAddress{
		{Mailbox: "Friends"}, {Mailbox: "a", Host: "example.test"}, {Mailbox: "b c", Host: "example.test"}, {},
		{Mailbox: "root", Host: noHost},
	}
	if !reflect.DeepEqual(e.To, to) {
		t.Errorf("to %+v", e.To)
	}
	if !reflect.DeepEqual(e.References, []string{"r@example.test", "0@example.test"}) {
		t.Errorf("references %q", e.References)
	}
	root := s.Structure
	if root.Type != "multipart" || len(root.Children) != 3 || root.Params["boundary"] != "outer" {
		t.Fatalf("root %+v", root)
	}
	alt := root.Children[0]
	if len(alt.Children) != 2 || section(body, alt.Children[0]) != "plain text" || alt.Children[0].Lines != 1 {
		t.Fatalf("alternative %+v", alt)
	}
	if html := alt.Children[1]; section(body, html) != "<p>caf=E9</p>\r\n" || html.Lines != 1 || Text(html, body, 0) != "<p>café</p>\r\n" {
		t.Errorf("html %+v", html)
	}
	if got := section(body, alt); !strings.HasPrefix(got, "--outer2\r\n") || !strings.HasSuffix(got, "epilogue") {
		t.Errorf("alternative body %q", got)
	}
	in := root.Children[1]
	if in.Message == nil || in.Envelope.Subject != "inner" || section(body, in.Message) != "inner body" || in.DispParams["filename"] != "in.eml" {
		t.Fatalf("inner %+v", in)
	}
	if in.Lines != 4 || section(body, in) != "Subject: inner\r\nFrom: i@example.test\r\n\r\ninner body" {
		t.Errorf("inner lines %d body %q", in.Lines, section(body, in))
	}
	if pdf := root.Children[2]; pdf.Encoding != "base64" || string(Decode(pdf.Encoding, []byte(section(body, pdf)))) != "\x00\x00\x00" {
		t.Errorf("pdf %+v", pdf)
	}
	if s.Preview != "plain text" {
		t.Errorf("preview %q", s.Preview)
	}
}

func TestOddMessages(t *testing.T) {
	for _, c := range []struct {
		name, in, want string
	}{
		{"empty", "", "text/plain 0-0"},
		{"no header", "\r\nbody", "text/plain 2-6"},
		{"no body", "Subject: x\r\n", "text/plain 12-12"},
		{"bare lf", "Subject: x\n\nbody\n", "text/plain 12-17"},
		{"no separator", "just some words\r\nand more\r\n", "text/plain 27-27"},
		{"type without slash", "Content-Type: text\r\n\r\nx", "text/plain 22-23"},
		{"first type counts", "Content-Type: text/html\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n", "text/html 70-75"},
		{"multipart without boundary", "Content-Type: multipart/mixed\r\n\r\n--a\r\n\r\nx", "multipart/mixed 33-41"},
		{"boundary never comes", "Content-Type: multipart/mixed; boundary=a\r\n\r\nx", "multipart/mixed 45-46"},
		{"prefix is no boundary", "Content-Type: multipart/mixed; boundary=a\r\n\r\n--ab\r\n", "multipart/mixed 45-51"},
		{"no end", "Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n\r\nx", "multipart/mixed 45-53(text/plain 52-53)"},
		{"header without end in part", "Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\nContent-Type: text/html\r\n--a--\r\n",
			"multipart/mixed 45-82(text/html 75-75)"},
		{"only ends", "Content-Type: multipart/mixed; boundary=a\r\n\r\n--a--\r\n--a\r\n\r\nx", "multipart/mixed 45-60"},
		{"same boundary inside", "Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n\r\nx\r\n--a--\r\n",
			"multipart/mixed 45-112(multipart/mixed 95-95)(text/plain 102-103)"},
		{"boundary in pieces", "Content-Type: multipart/mixed; boundary*0=a; boundary*1=b\r\n\r\n--ab\r\n\r\nx", "multipart/mixed 61-70(text/plain 69-70)"},
		{"base64 message is no message", "Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA", "message/rfc822 67-71"},
		{"digest", "Content-Type: multipart/digest; boundary=a\r\n\r\n--a\r\n\r\nSubject: s\r\n\r\nx\r\n--a--", "multipart/digest 46-75(message/rfc822 53-68[text/plain 67-68])"},
	} {
		if got := show(Parse([]byte(c.in)).Structure); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func show(p *mail.Part) string {
	s := fmt.Sprintf("%s/%s %d-%d", p.Type, p.Subtype, p.BodyStart, p.BodyEnd)
	for _, c := range p.Children {
		s += "(" + show(c) + ")"
	}
	if p.Message != nil {
		s += "[" + show(p.Message) + "]"
	}
	return s
}

func TestAddresses(t *testing.T) {
	type a = mail.HeaderAddress
	for in, want := range map[string][]a{
		"":                                   nil,
		",,,":                                nil,
		"a@b":                                {{Mailbox: "a", Host: "b"}},
		"<a@b>":                              {{Mailbox: "a", Host: "b"}},
		"A B <a@b>":                          {{Name: "A B", Mailbox: "a", Host: "b"}},
		`"A \"B\"" <a@b>`:                    {{Name: `A "B"`, Mailbox: "a", Host: "b"}},
		"=?utf-8?q?A?= <a@b>":                {{Name: "=?utf-8?q?A?=", Mailbox: "a", Host: "b"}},
		"<@x,@y:a@b>":                        {{Mailbox: "a", Host: "b"}},
		"A <a@b":                             {{Name: "A", Mailbox: "a", Host: "b"}},
		"(((a@b":                             {{Name: "((a@b", Host: noHost}},
		"undisclosed-recipients:;":           {{Mailbox: "undisclosed-recipients"}, {}},
		"g: a@b":                             {{Mailbox: "g"}, {Mailbox: "a", Host: "b"}, {}},
		"a@b@c":                              {{Mailbox: "a@b", Host: "c"}},
		"A\r\n\tB <a@b>":                     {{Name: "A B", Mailbox: "a", Host: "b"}},
		"\xff <a@b>":                         {{Name: "\uFFFD", Mailbox: "a", Host: "b"}},
		"a@[IPv6:::1]":                       {{Mailbox: "a", Host: "[IPv6:::1]"}},
		"Ünï <ü@exämple.test>":               {{Name: "Ünï", Mailbox: "ü", Host: "exämple.test"}},
		"a@b (c) , <d@e> (not (the) name) x": {{Name: "c", Mailbox: "a", Host: "b"}, {Name: "x", Mailbox: "d", Host: "e"}},
	} {
		p := &parser{budget: maxKept, addresses: maxAddresses}
		if got := p.addressList(nil, []byte(in)); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, want %+v", in, got, want)
		}
	}
}

func TestDecode(t *testing.T) {
	for _, c := range []struct{ enc, charset, in, want string }{
		{"quoted-printable", "", "a=3Db =\r\nc=\r\n", "a=b c"},
		{"quoted-printable", "", "50% = half =zz", "50% = half =zz"},
		{"base64", "", "aGVs\r\nbG8=", "hello"},
		{"base64", "", "!aGVsbG8", "hello"},
		{"base64", "", "a", ""},
		{"", "iso-8859-1", "caf\xe9", "café"},
		{"", "no-such", "caf\xe9", "café"},
		{"", "utf-8", "caf\xc3\xa9", "café"},
		{"", "windows-1251", "\xcf\xf0\xe8", "При"},
	} {
		n := &mail.Part{Encoding: c.enc, Params: map[string]string{"charset": c.charset}, BodyEnd: int64(len(c.in))}
		if got := Text(n, []byte(c.in), 0); got != c.want {
			t.Errorf("%s %s %q: %q, want %q", c.enc, c.charset, c.in, got, c.want)
		}
	}
	if got := DecodeHeader("=?utf-8?q?Caf=C3=A9?= =?iso-8859-1?B?6Q==?= x"); got != "Caféé x" {
		t.Errorf("header %q", got)
	}
}

func TestPreview(t *testing.T) {
	for in, want := range map[string]string{
		"\r\n  a\r\n\r\n b\x00c": "a b c",
		"Content-Type: text/html\r\n\r\n<style>x{}</style><p>a&amp;b</p><!-- > no -->c<SCRIPT>no()</SCRIPT >d": "a&b c d",
		"Content-Type: image/png\r\n\r\nxyz": "",
		"\r\n" + strings.Repeat("é", 1000):   strings.Repeat("é", 256),
	} {
		if got := Parse([]byte(in)).Preview; got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// TestStructureSurvivesCodec: the deepest structure can be stored and read.
func TestStructureSurvivesCodec(t *testing.T) {
	s := Parse(deep(2000, func(i int) string { return fmt.Sprint("b", i) }))
	var back mail.Summary
	if err := codec.Unmarshal(codec.MustMarshal(s), &back); err != nil {
		t.Fatal(err)
	}
	depth := 0
	for p := back.Structure; p != nil; depth++ {
		if len(p.Children) == 0 {
			break
		}
		p = p.Children[0]
	}
	if depth != maxDepth-1 {
		t.Errorf("depth %d, want %d", depth, maxDepth-1)
	}
}
