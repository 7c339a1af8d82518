package imapd

import (
	"strings"
	"testing"
)

const hello = "From: Bob <bob@example.org>\nTo: ann@example.org\nSubject: Hello\nDate: Mon, 2 Jan 2006 15:04:05 +0000\nMessage-ID: <1@example.org>\n\nHello, Ann!\n"

func TestFetchBasics(t *testing.T) {
	w := newWorld(t, nil)
	w.append("INBOX", hello, hello)
	c := w.selected()
	c.want("FETCH 1:* (UID FLAGS RFC822.SIZE INTERNALDATE)", "OK",
		`* 1 FETCH (UID 1 FLAGS () INTERNALDATE " 9-Sep-2001 01:46:40 +0000" RFC822.SIZE 148)`,
		`* 2 FETCH (UID 2 FLAGS () INTERNALDATE " 9-Sep-2001 01:46:40 +0000" RFC822.SIZE 148)`)
	c.want("UID FETCH 2 (BODY.PEEK[HEADER.FIELDS (Subject)] BODY.PEEK[TEXT]<0.5>)", "OK",
		"* 2 FETCH (UID 2 BODY[HEADER.FIELDS (\"Subject\")] {18}\r\nSubject: Hello\r\n\r\n BODY[TEXT]<0> {5}\r\nHello)")
	c.want("FETCH 2 BODY[]", "OK",
		"* 2 FETCH (BODY[] {148}\r\n"+crlf(hello)+")", `* 2 FETCH (UID 2 FLAGS (\Seen))`)
	c.want("FETCH 1 (ENVELOPE BODY)", "OK",
		`* 1 FETCH (ENVELOPE ("Mon, 2 Jan 2006 15:04:05 +0000" "Hello" (("Bob" NIL "bob" "example.org")) (("Bob" NIL "bob" "example.org")) (("Bob" NIL "bob" "example.org")) ((NIL NIL "ann" "example.org")) NIL NIL NIL "<1@example.org>") BODY ("text" "plain" NIL NIL NIL "7bit" 13 1))`)
}

func TestTwoSessions(t *testing.T) {
	w := newWorld(t, nil)
	w.append("INBOX", hello, hello, hello)
	a, b := w.selected(), w.selected()
	a.want(`STORE 2 +FLAGS (\Deleted $Work)`, "OK", `* 2 FETCH (UID 2 FLAGS (\Deleted $Work))`)
	b.want("NOOP", "OK", `* 2 FETCH (UID 2 FLAGS (\Deleted $Work))`)
	b.want("NOOP", "OK")
	a.want("NOOP", "OK")
	a.want(`STORE 1 +FLAGS.SILENT (\Flagged)`, "OK")
	a.want("EXPUNGE", "OK", "* 2 EXPUNGE")
	w.append("INBOX", hello)
	// No EXPUNGE during FETCH (RFC 9051 section 7.5.1); numbers stay.
	b.want("FETCH 3 UID", "OK", "* 3 FETCH (UID 3)", "* 4 EXISTS", `* 1 FETCH (UID 1 FLAGS (\Flagged))`)
	b.want("NOOP", "OK", "* 2 EXPUNGE")
	b.want("FETCH 2:3 UID", "OK", "* 2 FETCH (UID 3)", "* 3 FETCH (UID 4)")
	a.want("NOOP", "OK", "* 3 EXISTS")
	a.want("NOOP", "OK")
}

func TestIdle(t *testing.T) {
	w := newWorld(t, nil)
	w.append("INBOX", hello)
	a, b := w.selected(), w.selected()
	b.send("i IDLE\r\n")
	if got := b.line(); got != "+ idling" {
		t.Fatal(got)
	}
	w.append("INBOX", hello)
	if got := b.line(); got != "* 2 EXISTS" {
		t.Fatal(got)
	}
	a.ok(`UID STORE 1 +FLAGS.SILENT (\Seen \Deleted)`)
	if got := b.line(); got != `* 1 FETCH (UID 1 FLAGS (\Deleted \Seen))` {
		t.Fatal(got)
	}
	a.ok("UID EXPUNGE 1")
	if got := b.line(); got != "* 1 EXPUNGE" {
		t.Fatal(got)
	}
	b.send("DONE\r\n")
	if u, s := b.until("i"); len(u) > 0 || !strings.HasPrefix(s, "OK") {
		t.Fatal(u, s)
	}
}
