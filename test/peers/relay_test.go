package peers

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/test/rig"
)

// testRelays sends to Postfix, which has a certificate of its own making.
func testRelays(t *testing.T, w *world) {
	const to = "plain@postfix.test"
	raw := letter(ann, to, "relayed to Postfix")
	rig.Must(t, w.submit(ann, raw, nil, to))
	got := w.postfix.only(t, to)
	if !strings.HasSuffix(got, unix(raw)) || strings.Contains(got, "\r") {
		t.Errorf("what arrived is not what was sent:\n%s", got)
	}
	r := w.state(t, to, "relayed")
	if !strings.HasPrefix(r.TLS, "TLS") || !strings.Contains(r.Host, "mx.postfix.test") || r.Attempts != 1 {
		t.Errorf("row is %+v", r)
	}
	if n, facts := w.policy.times(to); n != 1 || facts["encryption_protocol"] != "TLSv1.3" || facts["sender"] != ann || facts["helo_name"] != w.host.Hostname() {
		t.Errorf("Postfix saw %v (%d times)", facts, n)
	}
}

// testDeferred sends to a recipient that Postfix does not want at first.
func testDeferred(t *testing.T, w *world) {
	const to, beside = "later@postfix.test", "at-once@postfix.test"
	w.policy.say(to, "450 4.2.1 not now", "DUNNO")
	raw := letter(ann, to, "not now")
	rig.Must(t, w.submit(ann, raw, nil, to, beside))
	if r := w.state(t, to, "deferred"); !strings.Contains(r.Reply, "4.2.1") || !strings.Contains(r.Reply, "not now") || r.Attempts != 1 {
		t.Errorf("row is %+v", r)
	}
	w.state(t, beside, "relayed")
	if all, err := w.postfix.messages(to); err != nil || len(all) > 0 {
		t.Errorf("Postfix has %d messages that it deferred: %v", len(all), err)
	}
	w.host.Do("queue", "retry", "--destination", "mx:postfix.test")
	if r := w.state(t, to, "relayed"); r.Attempts != 2 {
		t.Errorf("row is %+v", r)
	}
	if got := w.postfix.only(t, to); !strings.HasSuffix(got, unix(raw)) {
		t.Errorf("what arrived is not what was sent:\n%s", got)
	}
	w.postfix.only(t, beside)
}

// testReturned sends to a recipient that Postfix does not want at all.
func testReturned(t *testing.T, w *world) {
	const carol, to = "carol@example.test", "never@postfix.test"
	w.host.Do("mailbox", "create", carol, "--database", "DB01", "--password", password)
	w.policy.say(to, "550 5.7.1 go away")
	rig.Must(t, w.submit(carol, letter(carol, to, "unwanted"), nil, to))
	if r := w.state(t, to, "returned"); !strings.Contains(r.Reply, "5.7.1") || r.Attempts != 1 || r.Report == "" {
		t.Errorf("row is %+v", r)
	}
	var subjects []string
	list := func() (err error) {
		r, err := rig.Login(t.Context(), w.host.IMAP(), w.tls, carol, password)
		if err != nil {
			return err
		}
		defer r.Close()
		if subjects, err = r.Subjects("INBOX"); err == nil && len(subjects) != 1 {
			err = fmt.Errorf("%d messages: %q", len(subjects), subjects)
		}
		return err
	}
	rig.Eventually(t, mailboxWait, "the report is there", list)
	report := string(w.read(t, carol, "INBOX", subjects[0]))
	for _, want := range []string{"multipart/report", "Final-Recipient: rfc822;" + to, "Action: failed", "Status: 5.7.1", "go away", "Remote-MTA: dns;mx.postfix.test", "Subject: unwanted"} {
		if !strings.Contains(strings.ReplaceAll(report, "; ", ";"), strings.ReplaceAll(want, "; ", ";")) {
			t.Errorf("no %q in the report:\n%s", want, report)
		}
	}
	if n, _ := w.policy.times(to); n != 1 {
		t.Errorf("it was tried %d times", n)
	}
	rig.Must(t, list()) // still one
}

// testPostfixSends lets Postfix relay to the server, whose certificate it
// verifies, and asks for a report on the delivery, which goes back to it.
func testPostfixSends(t *testing.T, w *world) {
	const from, subject = "asker@postfix.test", "by way of Postfix"
	raw := letter(from, bob, subject)
	rig.Must(t, w.bring(w.postfix.addr(), from, raw, &smtp.MailOptions{Body: smtp.Body8BitMIME, Return: smtp.DSNReturnHeaders, EnvelopeID: "QQ314159"},
		&smtp.RcptOptions{Notify: []smtp.DSNNotify{smtp.DSNNotifySuccess}, OriginalRecipientType: smtp.DSNAddressTypeRFC822, OriginalRecipient: bob}, bob))
	got := w.read(t, bob, "INBOX", subject)
	if !strings.HasSuffix(string(got), string(raw)) {
		t.Errorf("what arrived is not what was sent:\n%s", got)
	}
	if head := string(got[:len(got)-len(raw)]); !strings.Contains(head, "ESMTPS") || !strings.Contains(head, "TLS1.3") && !strings.Contains(head, "TLSv1.3") && !strings.Contains(head, "TLS_AES") {
		t.Errorf("trace does not tell of TLS:\n%s", head)
	}
	if len(w.postfix.log("Verified TLS connection established to 127.0.0.1")) == 0 {
		t.Errorf("Postfix did not verify our certificate: %q", w.postfix.log("TLS connection"))
	}
	report := w.postfix.only(t, from)
	for _, want := range []string{"Action: delivered", "Original-Envelope-Id: QQ314159", "Original-Recipient: rfc822;" + bob, "Status: 2."} {
		if !strings.Contains(strings.ReplaceAll(report, "; ", ";"), strings.ReplaceAll(want, "; ", ";")) {
			t.Errorf("no %q in the report:\n%s", want, report)
		}
	}
}

// testInternational sends addresses and headers in UTF-8 both ways.
func testInternational(t *testing.T, w *world) {
	const there, here, subject = "grüße@postfix.test", "jürgen@example.test", "Überraschung"
	w.host.Do("mailbox", "create", here, "--database", "DB01", "--password", password)
	raw := letter(here, there, subject+" hin")
	rig.Must(t, w.submitWith(here, here, raw, &smtp.MailOptions{Body: smtp.Body8BitMIME, UTF8: true}, nil, there))
	if got := w.postfix.only(t, there); !strings.HasSuffix(got, unix(raw)) {
		t.Errorf("what arrived is not what was sent:\n%s", got)
	}
	raw = letter(there, here, subject+" zurück")
	rig.Must(t, w.bring(w.postfix.addr(), there, raw, &smtp.MailOptions{Body: smtp.Body8BitMIME, UTF8: true}, nil, here))
	if got := w.read(t, here, "INBOX", "zurück"); !strings.HasSuffix(string(got), string(raw)) {
		t.Errorf("what arrived is not what was sent:\n%s", got)
	}
}

// bring sends a message from outside, with STARTTLS.
func (w *world) bring(addr, from string, raw []byte, m *smtp.MailOptions, r *smtp.RcptOptions, to ...string) error {
	nc, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return err
	}
	conf := w.tls.Clone()
	conf.ServerName = w.host.Hostname()
	if addr == w.postfix.addr() {
		conf.InsecureSkipVerify, conf.VerifyConnection, conf.VerifyPeerCertificate = true, nil, nil // nobody vouches for it
	}
	c, err := smtp.NewClientStartTLS(nc, conf)
	if err != nil {
		return err
	}
	defer c.Close()
	return send(c, from, raw, m, r, to...)
}
