package route

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/message"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// journals makes the copies for the organizations that keep a journal: of what
// they send with all its recipients, of what they get with theirs.
func (r *run) journals() {
	if r.internal() || r.final() {
		return
	}
	for _, o := range r.orgs {
		p := r.d.Settings.Policy(o)
		if p.Journal == "" {
			continue
		}
		to, err := mail.ParseAddress(p.Journal)
		if err != nil {
			continue
		}
		env := mail.Envelope{Recipients: []mail.EnvelopeRecipient{{Address: to.String(), Notify: "NEVER"}}, EightBit: true, UTF8: r.q.Message.Envelope.UTF8}
		c := r.copy("journal "+string(o), env, r.journal(o, to))
		c.Submission.Origin = mail.Origin{Door: "internal", Organization: o}
		r.out.Copies = append(r.out.Copies, c)
	}
}

// journal is the report of a message for an organization: the envelope in words,
// with the message attached as it is.
func (r *run) journal(o org.OrganizationID, to mail.Address) []byte {
	m := &r.q.Message
	id := m.ID.String()
	boundary := "postern-journal-" + id
	var b bytes.Buffer
	field := func(name, value string) {
		if f, err := message.TextField(name, clean(value)); err == nil {
			b.Write(f)
		}
	}
	field("From", "Postern <postmaster@"+to.Domain+">")
	field("To", to.String())
	field("Subject", "Journal: "+clip(m.Subject, 200))
	field("Date", m.Received.UTC().Format(time.RFC1123Z))
	field("Message-ID", "<journal."+id+"@"+to.Domain+">")
	field("Auto-Submitted", "auto-generated")
	b.WriteString("MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"" + boundary + "\"\r\n\r\n--" + boundary +
		"\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n")
	var text bytes.Buffer
	fmt.Fprintf(&text, "Sender: %s\r\nMessage: %s\r\nReceived: %s\r\n", clean(m.Envelope.From), id, m.Received.UTC().Format(time.RFC3339))
	if m.Origin.Account != "" && m.Origin.Organization == o {
		fmt.Fprintf(&text, "Account: %s\r\n", clean(m.Origin.Account))
	}
	for _, a := range r.journalled(o) {
		fmt.Fprintf(&text, "Recipient: %s\r\n", clean(a))
	}
	writeBase64(&b, text.Bytes())
	b.WriteString("--" + boundary + "\r\nContent-Type: message/rfc822\r\nContent-Disposition: attachment\r\n\r\n")
	b.Write(r.q.Body)
	b.WriteString("\r\n--" + boundary + "--\r\n")
	return b.Bytes()
}

// journalled are the recipients an organization may know of: all of its own
// mail, of others' mail its own.
func (r *run) journalled(o org.OrganizationID) []string {
	all := r.q.Message.Origin.Organization == o
	var out []string
	for _, row := range r.q.Rows {
		of := row.Organization
		if c, ok := r.changes[row.N]; ok && of == "" {
			of = c.Org
		}
		if all || of == o {
			out = append(out, row.Address)
		}
	}
	for _, c := range r.added {
		if all || c.Org == o {
			out = append(out, c.New.Address)
		}
	}
	for _, e := range r.edits {
		for i, t := range e.to {
			if c := r.changes[e.roots[i]]; (all || c.Org == o) && c.State == queue.StateExpanded {
				out = append(out, t.Address)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// clean makes a text one line.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

func clip(s string, n int) string {
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "")
	}
	return s
}

// writeBase64 writes in lines of 76 (RFC 2045 section 6.8).
func writeBase64(b *bytes.Buffer, data []byte) {
	s := base64.StdEncoding.EncodeToString(data)
	for len(s) > 76 {
		b.WriteString(s[:76] + "\r\n")
		s = s[76:]
	}
	b.WriteString(s + "\r\n")
}
