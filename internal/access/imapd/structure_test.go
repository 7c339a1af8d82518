package imapd

import (
	"strconv"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/mail"
)

const nested = `From: a@example.org
Subject: =?utf-8?q?nested?=
Content-Type: multipart/mixed; boundary="b1"

preamble
--b1
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

caf=C3=A9
--b1
Content-Type: application/octet-stream; name="x.bin"
Content-Transfer-Encoding: base64
Content-Disposition: attachment; filename="x.bin"

AAEC
AwQ=
--b1
Content-Type: message/rfc822

From: c@example.org
Subject: inner
Content-Type: multipart/alternative; boundary="b2"

--b2

deep
--b2
Content-Type: text/html

<p>deep</p>
--b2--
--b1
Content-Type: text/x-odd
Content-Transfer-Encoding: rot13

uryyb
--b1--
epilogue
`

func TestSections(t *testing.T) {
	w := newWorld(t, nil)
	w.append("INBOX", nested)
	c := w.selected()
	for _, x := range []struct{ item, want string }{
		{"BODY.PEEK[1]", "BODY[1] {9}\r\ncaf=C3=A9"},
		{"BODY.PEEK[2]", "BODY[2] {10}\r\nAAEC\r\nAwQ="},
		{"BODY.PEEK[2.MIME]", "BODY[2.MIME] {142}\r\nContent-Type: application/octet-stream; name=\"x.bin\"\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename=\"x.bin\"\r\n\r\n"},
		{"BODY.PEEK[3.HEADER]", "BODY[3.HEADER] {91}\r\nFrom: c@example.org\r\nSubject: inner\r\nContent-Type: multipart/alternative; boundary=\"b2\"\r\n\r\n"},
		{"BODY.PEEK[3.HEADER.FIELDS (SUBJECT)]", "BODY[3.HEADER.FIELDS (\"SUBJECT\")] {18}\r\nSubject: inner\r\n\r\n"},
		{"BODY.PEEK[3.1]", "BODY[3.1] {4}\r\ndeep"},
		{"BODY.PEEK[3.2.MIME]", "BODY[3.2.MIME] {27}\r\nContent-Type: text/html\r\n\r\n"},
		{"BODY.PEEK[3.2]<1.3>", "BODY[3.2]<1> {3}\r\np>d"},
		{"BODY.PEEK[3.3]", "BODY[3.3] NIL"},
		{"BODY.PEEK[5]", "BODY[5] NIL"},
		{"BODY.PEEK[1.HEADER]", "BODY[1.HEADER] NIL"},
		{"BODY.PEEK[HEADER.FIELDS.NOT (From Content-Type)]", "BODY[HEADER.FIELDS.NOT (\"From\" \"Content-Type\")] {31}\r\nSubject: =?utf-8?q?nested?=\r\n\r\n"},
		{"BINARY.PEEK[1]", "BINARY[1] ~{5}\r\ncaf\xc3\xa9"},
		{"BINARY.PEEK[2]", "BINARY[2] ~{5}\r\n\x00\x01\x02\x03\x04"},
		{"BINARY.PEEK[2]<1.3>", "BINARY[2]<1> ~{3}\r\n\x01\x02\x03"},
		{"BINARY.SIZE[2]", "BINARY.SIZE[2] 5"},
		{"BINARY.PEEK[9]", "BINARY[9] NIL"},
		{"BODYSTRUCTURE", `BODYSTRUCTURE (("text" "plain" ("charset" "utf-8") NIL NIL "quoted-printable" 9 0 NIL NIL NIL NIL)` +
			`("application" "octet-stream" ("name" "x.bin") NIL NIL "base64" 10 NIL ("attachment" ("filename" "x.bin")) NIL NIL)` +
			`("message" "rfc822" NIL NIL NIL "7bit" 157 (NIL "inner" ((NIL NIL "c" "example.org")) ((NIL NIL "c" "example.org")) ((NIL NIL "c" "example.org")) NIL NIL NIL NIL NIL) ` +
			`(("text" "plain" NIL NIL NIL "7bit" 4 0 NIL NIL NIL NIL)("text" "html" NIL NIL NIL "7bit" 11 0 NIL NIL NIL NIL) "alternative" ("boundary" "b2") NIL NIL NIL) 11 NIL NIL NIL NIL)` +
			`("text" "x-odd" NIL NIL NIL "rot13" 5 0 NIL NIL NIL NIL) "mixed" ("boundary" "b1") NIL NIL NIL)`},
	} {
		c.want("FETCH 1 "+x.item, "OK", "* 1 FETCH ("+x.want+")")
	}
	c.want("FETCH 1 BINARY.PEEK[4]", "NO [UNKNOWN-CTE]")
	all := crlf(nested)
	text := all[strings.Index(all, "\r\n\r\n")+4:]
	c.want("FETCH 1 BODY.PEEK[TEXT]", "OK", "* 1 FETCH (BODY[TEXT] {"+strconv.Itoa(len(text))+"}\r\n"+text+")")
	c.want("FETCH 1 RFC822", "OK", "* 1 FETCH (RFC822 {"+strconv.Itoa(len(all))+"}\r\n"+all+")", `* 1 FETCH (UID 1 FLAGS (\Seen))`)
	c.want("FETCH 1 RFC822.HEADER", "OK", "* 1 FETCH (RFC822.HEADER {"+strconv.Itoa(len(all)-len(text))+"}\r\n"+all[:len(all)-len(text)]+")")
}

// TestDamagedSummary shows that offsets which cannot be are cut to what there is.
func TestDamagedSummary(t *testing.T) {
	for _, p := range []span{{-5, 3}, {0, 1 << 40}, {7, 2}, {1 << 40, 1 << 41}} {
		if got := p.within(10); got.from < 0 || got.to > 10 || got.size() < 0 {
			t.Errorf("%v within 10 is %v", p, got)
		}
	}
	if findPart(&mail.Part{Type: "multipart", Children: []*mail.Part{nil}}, []int{1}) != nil {
		t.Error("found a part that is not there")
	}
}

// TestDeepStructure writes a structure deeper than any client would read.
func TestDeepStructure(t *testing.T) {
	w := newWorld(t, nil)
	var b strings.Builder
	for range 500 {
		b.WriteString("Content-Type: message/rfc822\n\n")
	}
	w.append("INBOX", b.String()+"x: y\n\nend\n")
	c := w.selected()
	u := c.ok("FETCH 1 (BODYSTRUCTURE BODY)")
	if len(u) != 1 || strings.Count(u[0], "(") != strings.Count(u[0], ")") {
		t.Errorf("%d responses, parentheses %d and %d", len(u), strings.Count(u[0], "("), strings.Count(u[0], ")"))
	}
}

func TestLongHeaderKeepsItsBytes(t *testing.T) {
	header := []byte("A: 1\r\n folded\r\nB : 2\nno colon\r\n\tmore\r\nA:3\r\n\r\nbody")
	if got := string(filterHeader(header, []string{"a"}, nil)); got != "A: 1\r\n folded\r\nA:3\r\n\r\n" {
		t.Errorf("%q", got)
	}
	if got := string(filterHeader(header, nil, []string{"a"})); got != "B : 2\n\r\n" {
		t.Errorf("%q", got)
	}
	if got := string(filterHeader(header, []string{"b"}, nil)); got != "B : 2\n\r\n" {
		t.Errorf("%q", got)
	}
}
