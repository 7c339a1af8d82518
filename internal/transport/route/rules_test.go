package route

import (
	"bytes"
	"io"
	"mime"
	"mime/multipart"
	netmail "net/mail"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/quarantine"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/settings"
)

const attached = "From: Boss <boss@evil.example>\r\nSubject: =?utf-8?q?Your_inv=6Fice?=\r\n" +
	"Authentication-Results: mx1.example.test; spf=pass; dmarc=fail (p=none) header.from=evil.example\r\n" +
	"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\nhi\r\n--x\r\nContent-Disposition: attachment; filename=\"bill.PDF.exe\"\r\n\r\nMZ\r\n--x--\r\n"

func TestConditions(t *testing.T) {
	w := newWorld(t)
	w.boxes("ann@red.example a.smith@red.example", "bob@red.example", "ann@blue.example")
	for _, c := range []struct {
		rule  settings.Rule
		holds bool
	}{
		{settings.Rule{Recipient: "ann@red.example"}, true},
		{settings.Rule{Recipient: "A.Smith@red.example"}, true},
		{settings.Rule{Recipient: "@Red.example"}, true},
		{settings.Rule{Recipient: "bob@red.example"}, false},
		{settings.Rule{Sender: "@evil.example"}, true}, // of the From field
		{settings.Rule{Sender: "x@else.example"}, true},
		{settings.Rule{Sender: "@ls.example"}, false},
		{settings.Rule{Header: "Subject", Contains: "INVOICE"}, true},
		{settings.Rule{Header: "subject", Contains: "refund"}, false},
		{settings.Rule{Header: "Subject"}, true},
		{settings.Rule{Header: "X-None"}, false},
		{settings.Rule{LargerThan: 10}, true},
		{settings.Rule{LargerThan: 10_000}, false},
		{settings.Rule{Attachment: "exe"}, true},
		{settings.Rule{Attachment: "pdf"}, false},
		{settings.Rule{Authentication: "fail"}, true},
		{settings.Rule{Authentication: "pass"}, false},
		{settings.Rule{Outside: "from"}, true},
		{settings.Rule{Outside: "to"}, false},
		{settings.Rule{Recipient: "@red.example", Attachment: "exe", Authentication: "pass"}, false},
	} {
		c.rule.Name, c.rule.Organization, c.rule.Action = "r", "red", "reject"
		w.set.rules["red"] = []settings.Rule{c.rule}
		q := w.stranger("x@else.example", "a.smith@red.example", attached)
		w.ask(&q)
		if got := q.Rows[0].State == queue.StateReturned && q.Rows[0].Status == "5.7.1"; got != c.holds {
			t.Errorf("%+v holds: %v", c.rule, got)
		}
	}
	// A forged result of another server counts for nothing.
	w.set.rules["red"] = []settings.Rule{{Name: "r", Organization: "red", Authentication: "fail", Action: "reject"}}
	q := w.stranger("x@else.example", "ann@red.example", strings.Replace(attached, "mx1.example.test", "mx.evil.example", 1))
	if w.ask(&q); q.Rows[0].State != queue.StateReady {
		t.Error(tell(q.Rows))
	}
	// Nobody's rules decide about others' mail.
	w.set.rules["red"] = []settings.Rule{{Name: "r", Organization: "red", Sender: "@else.example", Action: "reject"}}
	q = w.stranger("x@else.example", "ann@blue.example", letter)
	if w.ask(&q); q.Rows[0].State != queue.StateReady {
		t.Error(tell(q.Rows))
	}
}

func TestActions(t *testing.T) {
	w := newWorld(t)
	w.boxes("ann@red.example", "bob@red.example", "carl@red.example")
	w.group("team@red.example", "ann@red.example bob@red.example")
	w.forward("carl@red.example", "c@else.example", false)
	for _, c := range []struct {
		name, to, want string
		rules          []settings.Rule
	}{
		{"redirect", "ann@red.example", "ann@red.example expanded\nrule of 0: bob@red.example ready db:DB01",
			[]settings.Rule{{Action: "redirect", Target: "bob@red.example"}, {Action: "reject"}}},
		{"redirect outside", "ann@red.example", "ann@red.example expanded\nrule of 0: b@else.example ready mx:else.example",
			[]settings.Rule{{Action: "redirect", Target: "b@else.example"}}},
		{"redirect to a group", "carl@red.example", "carl@red.example expanded\ngroup of 0: ann@red.example ready db:DB01\ngroup of 0: bob@red.example ready db:DB01",
			[]settings.Rule{{Action: "redirect", Target: "team@red.example"}}},
		{"redirect to nobody", "ann@red.example", "ann@red.example expanded\nrule of 0: none@red.example returned 5.1.1",
			[]settings.Rule{{Action: "redirect", Target: "none@red.example"}}},
		{"bcc, once", "ann@red.example carl@red.example", "ann@red.example ready db:DB01\ncarl@red.example expanded\nforward of 1: c@else.example ready mx:else.example\nrule of 0: bob@red.example ready db:DB01",
			[]settings.Rule{{Action: "bcc", Target: "bob@red.example"}}},
		{"bcc to who gets it", "team@red.example", "team@red.example expanded\ngroup of 0: ann@red.example ready db:DB01\ngroup of 0: bob@red.example ready db:DB01",
			[]settings.Rule{{Action: "bcc", Target: "bob@red.example"}}},
		{"quarantine", "ann@red.example", "ann@red.example quarantined", []settings.Rule{{Action: "quarantine"}}},
		{"stop", "ann@red.example", "ann@red.example ready db:DB01",
			[]settings.Rule{{Action: "disclaimer", Text: "x", Stop: true}, {Action: "reject"}}},
		{"disabled", "ann@red.example", "ann@red.example ready db:DB01", []settings.Rule{{Action: "reject", Disabled: true}}},
	} {
		for i := range c.rules {
			c.rules[i].Name, c.rules[i].Organization = "r", "red"
		}
		w.set.rules["red"] = c.rules
		q := w.stranger("x@else.example", c.to, letter)
		d := w.ask(&q)
		if got := tell(q.Rows); got != c.want || len(d.Copies) > 0 {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, got, c.want)
		}
		for _, door := range []string{"internal", quarantine.Door} {
			q = w.question(mail.Origin{Door: door}, "", c.to, letter)
			w.ask(&q)
			if got := tell(q.Rows); strings.Contains(got, "rule of") || strings.Contains(got, "returned") || strings.Contains(got, "quarantined") {
				t.Errorf("%s holds for door %s: %s", c.name, door, got)
			}
		}
	}
}

// TestHeaderRule: recipients of a message with edits get it by a copy, which is
// not asked about again.
func TestHeaderRule(t *testing.T) {
	w := newWorld(t)
	w.boxes("ann@red.example", "bob@red.example", "carl@red.example", "ann@blue.example")
	w.group("team@red.example", "ann@red.example bob@red.example")
	w.forward("carl@red.example", "c@else.example", true)
	w.set.rules["red"] = []settings.Rule{{Name: "r", Organization: "red", Action: "header", AddName: "X-From-Outside", AddValue: "ja, für uns"}}
	q := w.stranger("x@else.example", "team@red.example carl@red.example ann@blue.example", letter)
	q.Rows[0].Notify, q.Rows[0].Original = "FAILURE", "rfc822;team@red.example"
	d := w.ask(&q)
	if got := tell(q.Rows); got != "team@red.example expanded\ncarl@red.example expanded\nann@blue.example ready db:DB01\nforward of 1: c@else.example ready mx:else.example" {
		t.Error(got)
	}
	if len(d.Copies) != 1 {
		t.Fatalf("%d copies", len(d.Copies))
	}
	c := d.Copies[0]
	s := c.Submission
	if want := "X-From-Outside: =?utf-8?q?ja,_f=C3=BCr_uns?=\r\n" + letter; string(s.Body) != want {
		t.Errorf("%q", s.Body)
	}
	if c.Flags&FlagFinal == 0 || c.Parent != q.Message.ID || s.Envelope.From != "x@else.example" || len(s.Envelope.Recipients) != 3 ||
		s.Envelope.Recipients[1].Notify != "FAILURE" && s.Envelope.Recipients[2].Notify != "FAILURE" {
		t.Errorf("%+v", c)
	}
	if q.Rows[0].Child != s.Trace || q.Rows[1].Child != s.Trace || s.Identity == q.Message.Identity {
		t.Errorf("children %s %s of %s", q.Rows[0].Child, q.Rows[1].Child, s.Trace)
	}
	// The copy goes straight to the mailboxes.
	to := ""
	for _, r := range s.Envelope.Recipients {
		to += " " + r.Address
	}
	final := w.stranger(s.Envelope.From, to, string(s.Body))
	final.Message.Flags = c.Flags
	if d := w.ask(&final); len(d.Copies) > 0 || len(final.Rows) != 3 || strings.Count(tell(final.Rows), "ready db:DB01") != 3 {
		t.Errorf("%s %v", tell(final.Rows), d.Copies)
	}
}

func TestTooManyWithEdits(t *testing.T) {
	w := newWorld(t)
	w.boxes("ann@red.example", "bob@red.example", "carl@red.example")
	w.group("team@red.example", "ann@red.example bob@red.example carl@red.example")
	w.set.rules["red"] = []settings.Rule{{Name: "r", Organization: "red", Action: "header", AddName: "X-A", AddValue: "b"}}
	w.set.group.MaxRecipientsExpanded = 2
	q := w.stranger("x@else.example", "team@red.example ann@red.example", letter)
	d := w.ask(&q)
	if got := tell(q.Rows); got != "team@red.example returned 5.5.3\nann@red.example expanded" || len(d.Copies) != 1 || len(d.Copies[0].Submission.Envelope.Recipients) != 1 {
		t.Errorf("%s %+v", got, d.Copies)
	}
}

func TestDisclaimer(t *testing.T) {
	w := newWorld(t)
	w.boxes("ann@red.example", "bob@red.example", "carl@red.example", "ann@blue.example")
	w.forward("carl@red.example", "c@else.example", false)
	w.set.policy["red"] = settings.Policy{Disclaimer: "Red Ltd.\nConfidential"}
	w.set.rules["red"] = []settings.Rule{{Name: "r", Organization: "red", Action: "disclaimer", Text: "Red Ltd.\nConfidential"}}
	q := w.account("ann@red.example", "bob@red.example x@else.example ann@blue.example carl@red.example", letter)
	d := w.ask(&q)
	if got := tell(q.Rows); got != "bob@red.example ready db:DB01\nx@else.example expanded\nann@blue.example expanded\ncarl@red.example expanded\nforward of 3: c@else.example ready mx:else.example" {
		t.Error(got)
	}
	if len(d.Copies) != 1 || string(d.Copies[0].Submission.Body) != letter+"\r\nRed Ltd.\r\nConfidential\r\n" ||
		d.Copies[0].Submission.Origin.Organization != "red" {
		t.Fatalf("%+v", d.Copies)
	}
	for typ, body := range map[string]string{
		"multipart/signed; boundary=x": "--x", "application/pkcs7-mime": "x", "multipart/encrypted": "x", "multipart/report; a=b": "x",
		"text/plain": "-----BEGIN PGP MESSAGE-----\r\n",
	} {
		q := w.account("ann@red.example", "x@else.example", "Content-Type: "+typ+"\r\n\r\n"+body)
		if d := w.ask(&q); len(d.Copies) > 0 || q.Rows[0].State != queue.StateReady {
			t.Errorf("%s was added to", typ)
		}
	}
	q = w.stranger("x@else.example", "bob@red.example", letter)
	if d := w.ask(&q); len(d.Copies) > 0 {
		t.Error("mail that comes in was added to")
	}
}

// TestBelow reads back what a message with a text below it says.
func TestBelow(t *testing.T) {
	for _, c := range []struct{ name, in, text string }{
		{"html", "Subject: a\r\nMIME-Version: 1.0\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n<p>=3D</p>\r\n", "Ltd."},
		{"not ASCII", "Subject: a\r\n\r\nhello\r\n", "Größe GmbH"},
		{"base64", "Subject: a\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\naGVsbG8=\r\n", "Ltd."},
		{"mixed", "Subject: a\r\nContent-Type: multipart/mixed;\r\n boundary=x\r\n\r\n--x\r\n\r\none\r\n--x--\r\n", "Ltd."},
	} {
		out := below([]byte(c.in), c.text)
		m, err := netmail.ReadMessage(bytes.NewReader(out))
		if err != nil {
			t.Fatal(c.name, err)
		}
		typ, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
		if err != nil || typ != "multipart/mixed" || m.Header.Get("Subject") != "a" || len(m.Header["Mime-Version"]) != 1 {
			t.Fatalf("%s: %s %v in %q", c.name, typ, err, out)
		}
		r := multipart.NewReader(m.Body, params["boundary"])
		one, err := r.NextRawPart()
		if err != nil {
			t.Fatal(c.name, err)
		}
		content, _ := io.ReadAll(one)
		if _, body, _ := strings.Cut(c.in, "\r\n\r\n"); string(content) != body {
			t.Errorf("%s: %q", c.name, content)
		}
		two, err := r.NextPart()
		if err != nil {
			t.Fatal(c.name, err)
		}
		if _, err := r.NextPart(); err != io.EOF {
			t.Errorf("%s: %v", c.name, err)
		}
		if two.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("%s: %v", c.name, two.Header)
		}
	}
}

func TestJournal(t *testing.T) {
	w := newWorld(t)
	w.boxes("ann@red.example", "bob@red.example", "ann@blue.example")
	w.group("team@red.example", "bob@red.example")
	w.set.policy["red"] = settings.Policy{Journal: "journal@keep.example"}
	w.set.policy["blue"] = settings.Policy{Journal: "ann@blue.example"}
	q := w.account("ann@red.example", "team@red.example ann@blue.example x@else.example", letter)
	q.Message.Subject = "hello\r\nBcc: x"
	d := w.ask(&q)
	if len(d.Copies) != 2 {
		t.Fatalf("%d copies", len(d.Copies))
	}
	for i, want := range []string{"ann@blue.example bob@red.example team@red.example x@else.example", "ann@blue.example"} {
		s := d.Copies[i].Submission
		if s.Envelope.From != "" || s.Origin.Door != "internal" || s.Envelope.Recipients[0].Notify != "NEVER" || bytes.Contains(s.Body, []byte("\r\nBcc:")) {
			t.Errorf("%+v", s)
		}
		m, err := netmail.ReadMessage(bytes.NewReader(s.Body))
		if err != nil {
			t.Fatal(err)
		}
		_, params, _ := mime.ParseMediaType(m.Header.Get("Content-Type"))
		r := multipart.NewReader(m.Body, params["boundary"])
		if _, err := r.NextPart(); err != nil {
			t.Fatal(err)
		}
		p, err := r.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := io.ReadAll(p); string(b) != letter {
			t.Errorf("%q", b)
		}
		ru := newRun(q, w.deps())
		ru.q.Rows = q.Rows
		if got := strings.Join(ru.journalled([]org.OrganizationID{"red", "blue"}[i]), " "); got != want {
			t.Errorf("journal of %d: %s", i, got)
		}
	}
	// The report itself is not journalled.
	s := d.Copies[1].Submission
	again := w.question(s.Origin, "", s.Envelope.Recipients[0].Address, string(s.Body))
	if d := w.ask(&again); len(d.Copies) > 0 {
		t.Error("a journal of a journal")
	}
}
