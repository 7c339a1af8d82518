package peers

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/test/rig"
)

// letter makes a message that can be found by its subject. It has what a way
// through other systems may break: dots at line starts, 8-bit text, long lines,
// white space and empty lines at the end.
func letter(from, to, subject string) []byte {
	return fmt.Appendf(nil, "From: <%s>\r\nTo: <%s>\r\nSubject: %s\r\nMessage-ID: <%s@%s>\r\nDate: %s\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"+
		"The words of %s, grüße.\r\n.\r\n..two\r\n.one\r\n%s\r\nwhite \t \r\n\r\n\r\n",
		from, to, subject, strings.ReplaceAll(subject, " ", "-"), from[strings.LastIndex(from, "@")+1:], time.Now().Format(time.RFC1123Z), subject, strings.Repeat("x", 990))
}

// submit sends a message as one of our users.
func (w *world) submit(from string, raw []byte, o *smtp.RcptOptions, to ...string) error {
	return w.submitWith(from, from, raw, &smtp.MailOptions{Body: smtp.Body8BitMIME}, o, to...)
}

// submitWith is submit for a sender other than the user who logs in.
func (w *world) submitWith(user, from string, raw []byte, m *smtp.MailOptions, o *smtp.RcptOptions, to ...string) error {
	nc, err := net.DialTimeout("tcp", w.host.Submission(), 5*time.Second)
	if err != nil {
		return err
	}
	conf := w.tls.Clone()
	conf.ServerName = w.host.Hostname()
	c, err := smtp.NewClientStartTLS(nc, conf)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Auth(sasl.NewPlainClient("", user, password)); err != nil {
		return err
	}
	return send(c, from, raw, m, o, to...)
}

func send(c *smtp.Client, from string, raw []byte, m *smtp.MailOptions, o *smtp.RcptOptions, to ...string) error {
	if err := c.Mail(from, m); err != nil {
		return err
	}
	for _, r := range to {
		if err := c.Rcpt(r, o); err != nil {
			return err
		}
	}
	d, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := d.Write(raw); err != nil {
		return err
	}
	if err := d.Close(); err != nil {
		return err
	}
	return c.Quit()
}

// refused checks that an error is an answer of this code and status.
func refused(t *testing.T, what string, err error, code int, status string) {
	t.Helper()
	var e *smtp.SMTPError
	if !errors.As(err, &e) {
		t.Errorf("%s: %v, want %d %s", what, err, code, status)
		return
	}
	got := fmt.Sprintf("%d.%d.%d", e.EnhancedCode[0], e.EnhancedCode[1], e.EnhancedCode[2])
	if e.Code != code || got != status {
		t.Errorf("%s: %v (%s), want %d %s", what, e, got, code, status)
	}
}

// read waits for a message in somebody's folder.
func (w *world) read(t *testing.T, who, folder, subject string) (raw []byte) {
	t.Helper()
	rig.Eventually(t, mailboxWait, fmt.Sprintf("%s reads %q", who, subject), func() error {
		r, err := rig.Login(t.Context(), w.host.IMAP(), w.tls, who, password)
		if err != nil {
			return err
		}
		defer r.Close()
		raw, err = r.Body(folder, subject)
		return err
	})
	return raw
}

// row is a recipient of a message, as `message show` has it.
type row struct {
	Trace     string `json:"trace"`
	Recipient string `json:"recipient"`
	State     string `json:"state"`
	Attempts  int    `json:"attempts"`
	Reply     string `json:"reply"`
	Host      string `json:"host"`
	TLS       string `json:"tls"`
	Report    string `json:"report"`
}

// state waits until a recipient's row is in a state.
func (w *world) state(t *testing.T, to, state string) (r row) {
	t.Helper()
	rig.Eventually(t, 30*time.Second, to+" is "+state, func() error {
		var found []row
		if err := w.host.Command(t.Context(), &found, "message", "trace", "--recipient", to); err != nil {
			return err
		}
		if len(found) != 1 {
			return fmt.Errorf("%d rows: %+v", len(found), found)
		}
		var rows []row
		if err := w.host.Command(t.Context(), &rows, "message", "show", found[0].Trace); err != nil {
			return err
		}
		for _, x := range rows {
			if r = x; x.Recipient == to && x.State == state {
				return nil
			}
		}
		return fmt.Errorf("rows are %+v", rows)
	})
	return r
}

// unix has line ends as Postfix writes them into files.
func unix(raw []byte) string { return string(bytes.ReplaceAll(raw, []byte("\r\n"), []byte("\n"))) }
