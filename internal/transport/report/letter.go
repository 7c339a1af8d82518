package report

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/message"
	"github.com/postern-mail/postern/internal/mail"
)

// letter is a report on its way by mail.
type letter struct {
	id, domain string
	day        time.Time
	file       string
	mediaType  string
	kind       string      // of the multipart
	extra      [][2]string // header fields
	text       string      // for people
	data       []byte
}

// fileName of a report (RFC 9990 section 3.5.2, RFC 8460 section 5.1).
func (r *Reporter) fileName(day time.Time, domain, id, extension string) string {
	return fmt.Sprintf("%s!%s!%d!%d!%s.%s", r.d.Hostname, domain, day.Unix(), day.Add(aDay).Unix()-1, id, extension)
}

// pack compresses with gzip, the same bytes for the same report.
func pack(b []byte) ([]byte, error) {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// mail hands a report for one reader to the queue.
func (r *Reporter) mail(ctx context.Context, l letter, to mail.Address) error {
	body, err := r.compose(l, to)
	if err != nil {
		return err
	}
	now := r.d.Now()
	return r.d.Submit(ctx, mail.Submission{Trace: mail.NewTraceID(now), Received: now, Body: body, Priority: mail.PriorityLow,
		// No notification comes back, and whoever answers a report answers
		// nobody.
		Envelope: mail.Envelope{From: "noreply@" + r.d.Hostname, Recipients: []mail.EnvelopeRecipient{{Address: to.String(), Notify: "NEVER"}}},
		Origin:   mail.Origin{Door: "internal"}, Identity: sha256.Sum256([]byte("postern report\x00" + l.id + "\x00" + to.Key()))})
}

// compose writes the message: a text for people and the report.
func (r *Reporter) compose(l letter, to mail.Address) ([]byte, error) {
	var b bytes.Buffer
	boundary := "=_postern_" + l.id // in no part: text is ours, data base64
	head := [][2]string{{"From", "<postmaster@" + r.d.Hostname + ">"}, {"To", "<" + to.String() + ">"},
		{"Subject", fmt.Sprintf("Report Domain: %s Submitter: %s Report-ID: <%s>", l.domain, r.d.Hostname, l.id)},
		{"Date", r.d.Now().Format("Mon, 02 Jan 2006 15:04:05 -0700")}, {"Message-ID", "<" + l.id + "." + keyOf(to) + "@" + r.d.Hostname + ">"},
		{"Auto-Submitted", "auto-generated"}}
	head = append(head, l.extra...)
	head = append(head, [2]string{"MIME-Version", "1.0"}, [2]string{"Content-Type", "multipart/" + l.kind + "; boundary=\"" + boundary + "\""})
	for _, f := range head {
		line, err := message.Field(f[0], f[1])
		if err != nil {
			return nil, err
		}
		b.Write(line)
	}
	b.WriteString("\r\n--" + boundary + "\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n" + l.text + "\r\n--" + boundary + "\r\n")
	for _, f := range [][2]string{{"Content-Type", l.mediaType + "; name=\"" + l.file + "\""}, {"Content-Transfer-Encoding", "base64"},
		{"Content-Disposition", "attachment; filename=\"" + l.file + "\""}} {
		line, err := message.Field(f[0], f[1])
		if err != nil {
			return nil, err
		}
		b.Write(line)
	}
	b.WriteString("\r\n")
	text := base64.StdEncoding.EncodeToString(l.data)
	for len(text) > 0 {
		n := min(len(text), 76)
		b.WriteString(text[:n] + "\r\n")
		text = text[n:]
	}
	b.WriteString("--" + boundary + "--\r\n")
	return b.Bytes(), nil
}

// keyOf tells the messages of one report to several readers apart.
func keyOf(to mail.Address) string {
	h := sha256.Sum256([]byte(strings.ToLower(to.String())))
	return fmt.Sprintf("%x", h[:4])
}
