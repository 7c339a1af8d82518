package peers

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/test/rig"
)

// attachment is a message with a file in it.
func attachment(from, to, subject, content string) []byte {
	text := letter(from, to, subject)
	head, _, _ := strings.Cut(string(text), "MIME-Version:")
	return fmt.Appendf(nil, "%sMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nSee the file.\r\n"+
		"--b\r\nContent-Type: application/octet-stream; name=file.com\r\nContent-Transfer-Encoding: base64\r\n\r\n%s\r\n--b--\r\n", head, base64.StdEncoding.EncodeToString([]byte(content)))
}

// testMalware sends what ClamAV knows, from outside and from a user.
func testMalware(t *testing.T, w *world) {
	const from = "x@postfix.test"
	refused(t, "from outside", w.bring(w.host.SMTP(), from, attachment(from, ann, "a file for you", eicar), nil, nil, ann), 550, "5.7.1")
	refused(t, "from a user", w.submit(bob, attachment(bob, "x@postfix.test", "a file for you", eicar), nil, "x@postfix.test"), 550, "5.7.1")
	rig.Must(t, w.bring(w.host.SMTP(), from, attachment(from, ann, "a harmless file", "X5O"), nil, nil, ann))
	w.read(t, ann, "INBOX", "a harmless file")
}

// spam is a message that rspamd knows.
func spam(subject string) []byte {
	return []byte(strings.Replace(string(letter("x@postfix.test", ann, subject)), "The words", gtube+"\r\nThe words", 1))
}

// testSpam sends what rspamd calls spam: it is put aside, or refused where the
// organization wants so.
func testSpam(t *testing.T, w *world) {
	w.rspamd(t)
	const from = "x@postfix.test"
	bring := func(raw []byte) error { return w.bring(w.host.SMTP(), from, raw, nil, nil, ann) }
	rig.Must(t, bring(spam("spam before rspamd is asked")))
	w.read(t, ann, "INBOX", "spam before rspamd is asked")
	w.spam.open()
	rig.Must(t, bring(spam("spam to put aside")))
	w.aside(t, "spam to put aside", "spam")
	w.host.Do("policy", "set", "example", "spam_action", "reject")
	refused(t, "spam", bring(spam("spam to refuse")), 550, "5.7.1")
	rig.Must(t, bring(letter(from, ann, "no spam at all")))
	got := string(w.read(t, ann, "INBOX", "no spam at all"))
	if !strings.Contains(got, "X-Spam-Status: No, score=") {
		t.Errorf("rspamd's score is not there:\n%s", got)
	}
	says(t, "swaks sends spam", swaks(t, w.host.SMTP(), "--from", from, "--to", ann, "--body", gtube), "<** 550 5.7.1 ")
}

// testScannersDown takes the scanners away: each kind fails as the settings say.
func testScannersDown(t *testing.T, w *world) {
	const from = "x@postfix.test"
	n := 0
	bring := func() error {
		n++
		return w.bring(w.host.SMTP(), from, letter(from, ann, fmt.Sprintf("scanned or not %d", n)), nil, nil, ann)
	}
	temporary := func(what string, err error) {
		t.Helper()
		if e, ok := err.(*smtp.SMTPError); !ok || !e.Temporary() {
			t.Errorf("%s: %v, want a temporary refusal", what, err)
		}
	}
	rig.Must(t, bring())
	w.spam.shut()
	rig.Must(t, bring()) // open by default
	w.host.Do("transport", "set", "spam_scan_fail", "closed")
	temporary("no spam scanner, closed", bring())
	w.spam.open()
	rig.Must(t, bring())
	w.malware.shut()
	temporary("no malware scanner, closed by default", bring())
	w.host.Do("transport", "set", "malware_scan_fail", "open")
	rig.Must(t, bring())
	w.malware.open()
	refused(t, "malware again", w.bring(w.host.SMTP(), from, attachment(from, ann, "again", eicar), nil, nil, ann), 550, "5.7.1")
}
