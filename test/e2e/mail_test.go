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
	"github.com/emersion/go-imap/v2/imapclient"
	"github.com/emersion/go-smtp"
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
type reader struct{ *imapclient.Client }

// login opens an IMAP session over TLS.
func login(ctx context.Context, addr string, conf *tls.Config, user, password string) (reader, error) {
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: conf}
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return reader{}, err
	}
	// A server that never answers ends the test, not the other way round.
	if err := nc.SetDeadline(time.Now().Add(5 * time.Minute)); err != nil {
		return reader{}, err
	}
	r := reader{imapclient.New(nc, nil)}
	if err := r.Login(user, password).Wait(); err != nil {
		r.Close()
		return reader{}, fmt.Errorf("login of %s at %s: %w", user, addr, err)
	}
	return r, nil
}

// subjects are those of all messages of a folder, sorted.
func (r reader) subjects(folder string) ([]string, error) {
	sel, err := r.Select(folder, &imap.SelectOptions{ReadOnly: true}).Wait()
	if err != nil || sel.NumMessages == 0 {
		return nil, err
	}
	all := imap.SeqSet{imap.SeqRange{Start: 1, Stop: sel.NumMessages}}
	list, err := r.Fetch(all, &imap.FetchOptions{Envelope: true}).Collect()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, m := range list {
		out = append(out, m.Envelope.Subject)
	}
	slices.Sort(out)
	return out, nil
}

// body is a whole message found by its subject.
func (r reader) body(folder, subject string) ([]byte, error) {
	if _, err := r.Select(folder, &imap.SelectOptions{ReadOnly: true}).Wait(); err != nil {
		return nil, err
	}
	found, err := r.UIDSearch(&imap.SearchCriteria{Header: []imap.SearchCriteriaHeaderField{{Key: "Subject", Value: subject}}}, nil).Wait()
	if err != nil {
		return nil, err
	}
	uids := found.AllUIDs()
	if len(uids) != 1 {
		return nil, fmt.Errorf("%d messages with subject %q in %s, want 1", len(uids), subject, folder)
	}
	list, err := r.Fetch(imap.UIDSetNum(uids[0]), &imap.FetchOptions{BodySection: []*imap.FetchItemBodySection{{Peek: true}}}).Collect()
	if err != nil {
		return nil, err
	}
	if len(list) != 1 || len(list[0].BodySection) != 1 {
		return nil, fmt.Errorf("fetch of %q: %d answers", subject, len(list))
	}
	return list[0].BodySection[0].Bytes, nil
}

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
