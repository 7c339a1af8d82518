package dsn

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postern-mail/postern/internal/mail"
)

// rfc5322 is how dates stand in a header.
const rfc5322 = "Mon, 02 Jan 2006 15:04:05 -0700"

type builder struct {
	report Report
	sender mail.Address
	rows   []Recipient
	header header
	trace  mail.TraceID
	words  *words
	utf8   bool // the notification may hold UTF-8 anywhere (RFC 6531)

	returned part // what is attached of the parent
}

// part is a body part; its header lines are whole.
type part struct {
	header string
	body   []byte
}

// beyondASCII tells whether an internationalized notification says more than
// one that is not.
func (b *builder) beyondASCII() bool {
	if !isASCII(string(b.header.raw)) {
		return true
	}
	for _, c := range b.rows {
		if !isASCII(c.Address) || !isASCII(c.ORcpt) {
			return true
		}
	}
	return false
}

// message puts the parts together.
func (b *builder) message() (body []byte, eightBit bool) {
	b.returned, eightBit = b.original()
	parts := []part{b.text(), b.status(), b.returned}
	boundary := b.boundary(parts)
	var w bytes.Buffer
	w.WriteString(b.head(boundary, eightBit || b.utf8))
	w.WriteString("\r\n" + b.words.mime + "\r\n")
	for _, p := range parts {
		w.WriteString("\r\n--" + boundary + "\r\n")
		w.WriteString(p.header + "\r\n")
		w.Write(p.body)
	}
	w.WriteString("\r\n--" + boundary + "--\r\n")
	return w.Bytes(), eightBit || b.utf8
}

// head is the header of the notification.
func (b *builder) head(boundary string, eightBit bool) string {
	host := b.host()
	from := b.report.From
	if from.IsZero() || from.NeedsUTF8() && !b.utf8 {
		from = mail.Address{Local: "MAILER-DAEMON", Domain: host}
	}
	var h strings.Builder
	h.WriteString(field("From", b.words.from+" <"+from.String()+">"))
	h.WriteString(field("To", "<"+b.sender.String()+">"))
	subject := b.words.subject[b.report.Kind]
	if s := b.header.subject(); s != "" {
		subject += ": " + s
	}
	h.WriteString(field("Subject", mime.QEncoding.Encode("utf-8", subject)))
	h.WriteString(field("Date", b.report.Now.Format(rfc5322)))
	h.WriteString(field("Message-ID", "<"+b.trace.String()+"@"+host+">"))
	if id := b.header.messageID(); id != "" {
		h.WriteString(field("In-Reply-To", id))
		h.WriteString(field("References", id))
	}
	h.WriteString("Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n")
	h.WriteString("Content-Type: multipart/report; report-type=delivery-status;\r\n boundary=\"" + boundary + "\"\r\n")
	if eightBit {
		h.WriteString("Content-Transfer-Encoding: 8bit\r\n")
	}
	return h.String()
}

// host is this server's name, good for a header.
func (b *builder) host() string {
	if d, err := mail.NormalizeDomain(b.report.ReportingMTA); err == nil {
		return d
	}
	return "localhost"
}

// boundary occurs in no part, whatever the original holds.
func (b *builder) boundary(parts []part) string {
	for n := 0; ; n++ {
		sum := sha256.Sum256(fmt.Appendf(nil, "boundary %s %d", b.trace, n))
		s := "=_postern_" + hex.EncodeToString(sum[:12])
		free := true
		for _, p := range parts {
			free = free && !bytes.Contains(p.body, []byte(s))
		}
		if free {
			return s
		}
	}
}

// text is the part for people.
func (b *builder) text() part {
	text := b.words.compose(b)
	head := "Content-Type: text/plain; charset=utf-8\r\nContent-Language: " + b.words.tag + "\r\n"
	return part{head + "Content-Transfer-Encoding: quoted-printable\r\n", quoted([]byte(text))}
}

func quoted(b []byte) []byte {
	var w bytes.Buffer
	q := quotedprintable.NewWriter(&w)
	q.Write(b) // a bytes.Buffer takes all
	q.Close()
	return w.Bytes()
}

// status is the part for programs (RFC 3464 section 2, RFC 6533 section 4).
func (b *builder) status() part {
	var w strings.Builder
	w.WriteString(field("Reporting-MTA", "dns; "+b.host()))
	if id := oneLine(b.report.Parent.Envelope.EnvID, 200, !b.utf8); id != "" {
		w.WriteString(field("Original-Envelope-Id", id))
	}
	if !b.report.Parent.Received.IsZero() {
		w.WriteString(field("Arrival-Date", b.report.Parent.Received.Format(rfc5322)))
	}
	for _, c := range b.rows {
		w.WriteString("\r\n")
		b.recipient(&w, c)
	}
	if b.utf8 {
		return part{"Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: 8bit\r\n", []byte(w.String())}
	}
	return part{"Content-Type: message/delivery-status\r\n", []byte(w.String())}
}

// recipient writes the fields of one (RFC 3464 section 2.3).
func (b *builder) recipient(w *strings.Builder, c Recipient) {
	put := func(name, value string) {
		if value != "" {
			w.WriteString(field(name, value))
		}
	}
	k := b.report.Kind
	put("Original-Recipient", original(c.ORcpt, b.utf8))
	put("Final-Recipient", typed("rfc822", final(c.Address), b.utf8))
	put("Action", k.String())
	put("Status", status(k, c.Status))
	if host := oneLine(c.Host, mail.MaxDomain, true); host != "" {
		put("Remote-MTA", "dns; "+host)
	}
	put("Diagnostic-Code", b.diagnostic(c))
	put("Last-Attempt-Date", date(c.Last))
	put("Final-Log-ID", b.report.Parent.Trace.String())
	if k == Delayed {
		put("Will-Retry-Until", date(c.Expires))
	}
}

// diagnostic is the reply of a server as it came, or our words.
func (b *builder) diagnostic(c Recipient) string {
	text := oneLine(c.Text, maxReply, !b.utf8)
	switch {
	case c.Code >= 200 && c.Code <= 599:
		return strings.TrimSpace("smtp; " + strconv.Itoa(c.Code) + " " + text)
	case text != "":
		return "x-postern; " + text
	}
	return ""
}

func date(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(rfc5322)
}

// original is the message, where the sender asked for it on failure (RFC 3461
// section 4.3) and it can travel as it is, or its header. REQUIRETLS means the
// header only (RFC 8689 section 5).
func (b *builder) original() (p part, eightBit bool) {
	e, full := b.report.Parent.Envelope, b.report.Parent.Full
	limit := b.report.MaxFull
	if limit <= 0 {
		limit = defaultFull
	}
	if b.report.Kind == Failed && strings.EqualFold(e.Ret, "FULL") && !e.RequireTLS && len(full) > 0 && len(full) <= limit {
		ok, eight := plain(full)
		switch {
		case ok && !eight:
			return part{"Content-Type: message/rfc822\r\n", full}, false
		case ok && isASCII(string(b.header.raw)):
			return part{"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n", full}, true
		case ok && b.utf8 && utf8.Valid(full):
			return part{"Content-Type: message/global\r\nContent-Transfer-Encoding: 8bit\r\n", full}, true
		}
	}
	ok, eight := plain(b.header.raw)
	switch {
	case ok && !eight:
		return part{"Content-Type: text/rfc822-headers\r\n", b.header.raw}, false
	case ok && b.utf8 && utf8.Valid(b.header.raw):
		return part{"Content-Type: message/global-headers\r\nContent-Transfer-Encoding: 8bit\r\n", b.header.raw}, true
	}
	return part{"Content-Type: text/rfc822-headers\r\nContent-Transfer-Encoding: quoted-printable\r\n", quoted(b.header.raw)}, false
}
