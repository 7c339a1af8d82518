package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-smtp"

	"github.com/postern-mail/postern/test/rig"
)

// answerWait is longer than the longest time a server lets a client wait for
// a change that it cannot make.
const answerWait = 90 * time.Second

// letter makes a small message that can be found again by its subject.
func letter(subject, to string) []byte {
	return fmt.Appendf(nil, "From: <tester@sender.invalid>\r\nTo: <%s>\r\nSubject: %s\r\nMessage-ID: <%s@e2e.invalid>\r\nDate: Mon, 02 Nov 2026 08:00:00 +0000\r\n\r\nThe words of %s.\r\n",
		to, subject, strings.ReplaceAll(subject, " ", "-"), subject)
}

// deliver sends one message over SMTP.
func deliver(ctx context.Context, addr, to string, raw []byte) error {
	nc, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	c := smtp.NewClient(nc)
	defer c.Close()
	c.CommandTimeout, c.SubmissionTimeout = answerWait, answerWait
	if err := c.Hello("sender.invalid"); err != nil {
		return err
	}
	if err := c.Mail("tester@sender.invalid", nil); err != nil {
		return err
	}
	if err := c.Rcpt(to, nil); err != nil {
		return err
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(raw); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return c.Quit()
}

// temporary tells whether a server answered a delivery with 4xx.
func temporary(err error) bool {
	var e *smtp.SMTPError
	return errors.As(err, &e) && e.Temporary()
}

// reader is an IMAP session.
type reader struct{ rig.Reader }

// login opens an IMAP session over TLS.
func login(ctx context.Context, addr string, conf *tls.Config, user, password string) (reader, error) {
	r, err := rig.Login(ctx, addr, conf, user, password)
	return reader{r}, err
}

func (r reader) subjects(folder string) ([]string, error) { return r.Subjects(folder) }

func (r reader) body(folder, subject string) ([]byte, error) { return r.Body(folder, subject) }

// store appends a message.
func (r reader) store(folder string, raw []byte, flags ...imap.Flag) (*imap.AppendData, error) {
	cmd := r.Append(folder, int64(len(raw)), &imap.AppendOptions{Flags: flags})
	if _, err := io.Copy(cmd, bytes.NewReader(raw)); err != nil {
		return nil, err
	}
	if err := cmd.Close(); err != nil {
		return nil, err
	}
	return cmd.Wait()
}

// saidNo tells whether a server answered NO, so that the session is still good.
func saidNo(err error) bool {
	var e *imap.Error
	return errors.As(err, &e) && e.Type == imap.StatusResponseTypeNo
}

// sameSubjects compares what is in a folder, sorted, with what should be.
func sameSubjects(got, want []string) error {
	want = slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		return fmt.Errorf("found %q, want %q", got, want)
	}
	return nil
}
