package route

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/base/message"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// edit is one change of a message: a field in front, or a text below.
type edit struct {
	field []byte
	text  string
}

// edited are the recipients that get the message with the same edits.
type edited struct {
	edits []edit
	rows  []uint16 // that the copy replaces
	roots []uint16 // of each recipient
	to    []mail.EnvelopeRecipient
}

// disclaim adds a text to what leaves, where that breaks nothing, once.
func (r *run) disclaim(it *item, text string) {
	same := func(e edit) bool { return e.text == text }
	if !r.survey.Empty || sealed(r.survey.ContentType, r.q.Body[r.survey.At:]) || slices.ContainsFunc(it.edits, same) {
		return
	}
	it.edits = append(it.edits, edit{text: text})
}

// sealed tells whether a message is signed or encrypted, or a report, which
// nobody may add to.
func sealed(contentType string, body []byte) bool {
	typ, _, _ := strings.Cut(strings.ToLower(contentType), ";")
	typ = strings.TrimSpace(typ)
	switch {
	case typ == "multipart/signed", typ == "multipart/encrypted", typ == "multipart/report",
		strings.HasPrefix(typ, "application/pkcs7-"), strings.HasPrefix(typ, "application/x-pkcs7-"), strings.HasPrefix(typ, "application/pgp"):
		return true
	}
	return bytes.Contains(body, []byte("-----BEGIN PGP "))
}

// edit sends a recipient its own form of the message. False: there are too
// many.
func (r *run) edit(it item, c queue.RowChange) bool {
	h := sha256.New()
	for _, e := range it.edits {
		h.Write(e.field)
		h.Write([]byte{0})
		h.Write([]byte(e.text))
		h.Write([]byte{0})
	}
	key := hex.EncodeToString(h.Sum(nil))
	e := r.edits[key]
	if e == nil {
		e = &edited{edits: it.edits}
		r.edits[key] = e
		r.order = append(r.order, key)
	}
	if len(e.to) >= r.limit {
		return false
	}
	if !slices.Contains(e.rows, it.root) {
		e.rows = append(e.rows, it.root)
	}
	e.roots = append(e.roots, it.root)
	e.to = append(e.to, mail.EnvelopeRecipient{Address: it.address.String(), Notify: it.notify, ORcpt: it.orcpt})
	if it.row >= 0 {
		r.change(uint16(it.row), queue.RowChange{State: queue.StateExpanded, Org: c.Org})
	}
	return true
}

// dropEdits takes back what a row led to.
func (r *run) dropEdits(root uint16) {
	for _, e := range r.edits {
		var to []mail.EnvelopeRecipient
		var roots []uint16
		for i, t := range e.to {
			if e.roots[i] != root {
				to, roots = append(to, t), append(roots, e.roots[i])
			}
		}
		e.to, e.roots = to, roots
		e.rows = slices.DeleteFunc(e.rows, func(n uint16) bool { return n == root })
	}
}

// editCopies makes the messages that differ from this one.
func (r *run) editCopies() {
	for _, key := range r.order {
		e := r.edits[key]
		if len(e.to) == 0 {
			continue
		}
		what := "edit " + key
		for _, t := range e.to {
			what += "\x00" + t.Address
		}
		env := r.q.Message.Envelope
		env.Recipients = e.to
		c := r.copy(what, env, apply(r.q.Body, e.edits))
		c.Flags = FlagFinal
		c.Submission.Origin = r.q.Message.Origin
		r.out.Copies = append(r.out.Copies, c)
		for _, n := range e.rows {
			if rc := r.changes[n]; rc.State == queue.StateExpanded {
				rc.Child = c.Submission.Trace
				r.changes[n] = rc
			}
		}
	}
}

// copy is a new message that comes of this one. What it is made for decides its
// trace and identity, so that it is made once.
func (r *run) copy(what string, env mail.Envelope, body []byte) Copy {
	m := &r.q.Message
	sum := sha256.Sum256(append(m.ID[:], what...))
	trace := m.ID // its time
	copy(trace[6:], sum[:10])
	return Copy{Parent: m.ID, Submission: mail.Submission{
		Trace: trace, Envelope: env, Body: body, Identity: sha256.Sum256(append(m.Identity[:], what...)),
		Received: m.Received, Priority: m.Priority,
	}}
}

// apply carries out edits.
func apply(body []byte, edits []edit) []byte {
	var fields []byte
	for _, e := range edits {
		if e.text != "" {
			body = below(body, e.text)
		}
		fields = append(fields, e.field...)
	}
	return slices.Concat(fields, body)
}

// below is a message with a text under it: in the text where that is plain and
// speaks the same charset, else as a part of its own.
func below(msg []byte, text string) []byte {
	s := message.Look(msg)
	text = strings.ReplaceAll(strings.ReplaceAll(strings.TrimRight(text, "\r\n"), "\r\n", "\n"), "\n", "\r\n") + "\r\n"
	if appends(msg, s, text) {
		out := slices.Clip(slices.Clone(msg))
		if !bytes.HasSuffix(out, []byte("\r\n")) {
			out = append(out, "\r\n"...)
		}
		return slices.Concat(out, []byte("\r\n"+text))
	}
	return wrapped(msg, s, text)
}

// appends tells whether a text may simply stand below another.
func appends(msg []byte, s message.Survey, text string) bool {
	encoding := ""
	for _, f := range message.Named(msg, "Content-Transfer-Encoding") {
		encoding = strings.ToLower(f.Value(msg))
	}
	typ, rest, _ := strings.Cut(strings.ToLower(s.ContentType), ";")
	typ = strings.TrimSpace(typ)
	if typ != "" && typ != "text/plain" || strings.Contains(rest, "utf-16") || strings.Contains(rest, "utf-32") || strings.Contains(rest, "utf-7") {
		return false
	}
	return ascii(text) && (encoding == "" || encoding == "7bit" || encoding == "8bit")
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 })
}

// wrapped makes the message the first part of a mixed one whose last is the
// text. The fields that describe its content move to the part.
func wrapped(msg []byte, s message.Survey, text string) []byte {
	var outer, inner []byte
	var end message.Ending
	for f := range message.Fields(msg, &end) {
		raw := msg[f.Start:f.End]
		switch name := strings.ToLower(f.Name); {
		case strings.HasPrefix(name, "content-"):
			inner = append(inner, raw...)
		case name != "mime-version":
			outer = append(outer, raw...)
		}
	}
	sum := sha256.Sum256(msg)
	boundary := "postern-" + hex.EncodeToString(sum[:12])
	var b bytes.Buffer
	b.Write(outer)
	b.WriteString("MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"" + boundary + "\"\r\n\r\n--" + boundary + "\r\n")
	b.Write(inner)
	b.WriteString("\r\n")
	b.Write(msg[s.At:])
	b.WriteString("\r\n--" + boundary + "\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Disposition: inline\r\nContent-Transfer-Encoding: base64\r\n\r\n")
	writeBase64(&b, []byte(text))
	b.WriteString("--" + boundary + "--\r\n")
	return b.Bytes()
}
