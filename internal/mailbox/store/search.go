package store

import (
	"context"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/mailbox/summary"
	"github.com/postern-mail/postern/internal/org"
)

// Limits of a search.
const (
	maxSearchDepth = 100
	maxSearchTerms = 10_000
)

// Fetch reads the bytes of a message.
type Fetch func(mail.BlobID) ([]byte, error)

// Search finds the messages of a folder that match. What the index knows is
// asked first; a message's bytes are fetched only when a criterion needs them
// and all cheaper ones match. The work is linear in what is fetched.
func (r *Reader) Search(ctx context.Context, id org.MailboxID, q mail.SearchRequest, fetch Fetch) (mail.Found, error) {
	var out mail.Found
	terms := 0
	want, err := compile(&q.Criteria, 1, &terms)
	if err != nil {
		return out, err
	}
	if _, err := r.folder(id, q.Folder); err != nil {
		return out, err
	}
	err = eachMessage(r, id, q.Folder, want.narrow(), func(m mail.Message) (bool, error) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		c := candidate{r: r, id: id, m: &m, fetch: fetch}
		if c.matches(want) {
			out.UIDs = append(out.UIDs, m.UID)
			out.HighestModSeq = max(out.HighestModSeq, m.ModSeq)
		}
		return c.err == nil, c.err
	})
	return out, err
}

// wanted is a Criteria made ready: sets normalized, text folded.
type wanted struct {
	*mail.Criteria
	uids   [][]mail.UIDRange
	header []mail.HeaderMatch
	body   []string
	text   []string
	not    []*wanted
	or     [][2]*wanted
}

func compile(c *mail.Criteria, depth int, terms *int) (*wanted, error) {
	*terms += 1 + len(c.UIDs) + len(c.Keywords) + len(c.NotKeywords) + len(c.Header) + len(c.Body) + len(c.Text)
	if depth > maxSearchDepth || *terms > maxSearchTerms {
		return nil, kind.Errorf(kind.Invalid, "search: more than %d levels or %d terms", maxSearchDepth, maxSearchTerms)
	}
	w := &wanted{Criteria: c}
	for _, set := range c.UIDs {
		w.uids = append(w.uids, normalize(append([]mail.UIDRange{}, set...)))
	}
	for _, h := range c.Header {
		w.header = append(w.header, mail.HeaderMatch{Name: strings.ToLower(h.Name), Value: fold(h.Value)})
	}
	for _, s := range c.Body {
		w.body = append(w.body, fold(s))
	}
	for _, s := range c.Text {
		w.text = append(w.text, fold(s))
	}
	for i := range c.Not {
		n, err := compile(&c.Not[i], depth+1, terms)
		if err != nil {
			return nil, err
		}
		w.not = append(w.not, n)
	}
	for i := range c.Or {
		a, err := compile(&c.Or[i][0], depth+1, terms)
		if err != nil {
			return nil, err
		}
		b, err := compile(&c.Or[i][1], depth+1, terms)
		if err != nil {
			return nil, err
		}
		w.or = append(w.or, [2]*wanted{a, b})
	}
	return w, nil
}

// narrow gives UIDs that hold every match, nil for all.
func (w *wanted) narrow() []mail.UIDRange {
	if len(w.uids) > 0 {
		return w.uids[0]
	}
	return nil
}

// candidate is one message with what was read of it so far.
type candidate struct {
	r     *Reader
	id    org.MailboxID
	m     *mail.Message
	fetch Fetch
	err   error // the first failure; the answer does not count then

	env     *mail.MessageEnvelope
	raw     []byte
	fetched bool
	fields  map[string][]string // by lower case name, decoded and folded
	parts   []string            // folded texts
	parted  bool
}

// matches tries the cheap criteria first.
func (c *candidate) matches(w *wanted) bool {
	if !c.row(w) || !c.sent(w) {
		return false
	}
	for _, n := range w.not {
		if !n.costly() && c.matches(n) {
			return false
		}
	}
	for _, h := range w.header {
		if !c.header(h) {
			return false
		}
	}
	for _, o := range w.or {
		if !c.matches(o[0]) && !c.matches(o[1]) {
			return false
		}
	}
	for _, n := range w.not {
		if n.costly() && c.matches(n) {
			return false
		}
	}
	for _, s := range w.body {
		if !c.inBody(s) {
			return false
		}
	}
	for _, s := range w.text {
		if !c.inHeader(s) && !c.inBody(s) {
			return false
		}
	}
	return c.err == nil
}

func (w *wanted) costly() bool {
	return len(w.header)+len(w.body)+len(w.text)+len(w.not)+len(w.or) > 0
}

// row asks what the message row tells.
func (c *candidate) row(w *wanted) bool {
	m := c.m
	for _, set := range w.uids {
		if !holds(set, m.UID) {
			return false
		}
	}
	date := m.InternalDate / 1e9
	switch {
	case m.Flags&w.Flags != w.Flags, m.Flags&w.NotFlags != 0,
		w.Since != 0 && date < w.Since, w.Before != 0 && date >= w.Before,
		w.Larger != 0 && m.Size <= w.Larger, w.Smaller != 0 && m.Size >= w.Smaller,
		m.ModSeq < w.ModSeq:
		return false
	}
	for _, k := range w.Keywords {
		if !hasWord(m.Keywords, k) {
			return false
		}
	}
	for _, k := range w.NotKeywords {
		if hasWord(m.Keywords, k) {
			return false
		}
	}
	return true
}

// sent asks for the Date header; a message without a readable one was sent
// when it came (RFC 8621 section 4.1.3 treats it so).
func (c *candidate) sent(w *wanted) bool {
	if w.SentSince == 0 && w.SentBefore == 0 {
		return true
	}
	env := c.envelope()
	if env == nil {
		return false
	}
	date := env.Date
	if date == 0 {
		date = c.m.InternalDate / 1e9
	}
	return (w.SentSince == 0 || date >= w.SentSince) && (w.SentBefore == 0 || date < w.SentBefore)
}

func (c *candidate) envelope() *mail.MessageEnvelope {
	if c.env == nil && c.err == nil {
		c.env, c.err = c.r.envelope(c.id, c.m)
	}
	if c.err != nil {
		return nil
	}
	return c.env
}

func (c *candidate) summary() *mail.Summary {
	if c.m.Summary == nil && c.err == nil {
		_, c.err = c.r.Summary(c.id, c.m)
	}
	if c.err != nil {
		return nil
	}
	return c.m.Summary
}

func (c *candidate) bytes() []byte {
	if !c.fetched && c.err == nil {
		c.fetched = true
		c.raw, c.err = c.fetch(c.m.Blob)
	}
	return c.raw
}

func (c *candidate) header(h mail.HeaderMatch) bool {
	if h.Value != "" && h.Name == "subject" && c.env == nil && c.err == nil {
		var subject string
		subject, c.err = c.r.subject(c.id, c.m)
		if text, known := subjectText(subject); known {
			return strings.Contains(fold(text), h.Value)
		}
	} else if h.Value != "" {
		if env := c.envelope(); env != nil {
			if text, known := envelopeText(env, h.Name); known {
				return strings.Contains(fold(text), h.Value)
			}
		}
	}
	c.readHeader()
	for _, v := range c.fields[h.Name] {
		if strings.Contains(v, h.Value) {
			return true
		}
	}
	return false
}

func subjectText(raw string) (text string, known bool) {
	return summary.DecodeHeader(raw), raw != "" && len(raw) < 900
}

// envelopeText is the text of a field as the envelope has it; known is false
// where the envelope may hold less than the message.
func envelopeText(e *mail.MessageEnvelope, name string) (text string, known bool) {
	var list []mail.HeaderAddress
	switch name {
	case "subject":
		return subjectText(e.Subject)
	case "from":
		list = e.From
	case "to":
		list = e.To
	case "cc":
		list = e.Cc
	case "bcc":
		list = e.Bcc
	}
	if len(list) == 0 || len(list) > 1000 {
		return "", false
	}
	var b strings.Builder
	for _, a := range list {
		if len(a.Name) > 900 || a.Mailbox == "" && a.Name == "" {
			return "", false
		}
		b.WriteString(summary.DecodeHeader(a.Name) + " <" + a.Mailbox + "@" + a.Host + ">, ")
	}
	return b.String(), true
}

func (c *candidate) readHeader() {
	if c.fields != nil || c.err != nil {
		return
	}
	c.fields = map[string][]string{}
	summary.EachField(c.bytes(), func(name, value string) {
		c.fields[name] = append(c.fields[name], fold(summary.DecodeHeader(value)))
	})
}

func (c *candidate) inHeader(s string) bool {
	c.readHeader()
	for name, values := range c.fields {
		for _, v := range values {
			if strings.Contains(v, s) || strings.Contains(name+": "+v, s) {
				return true
			}
		}
	}
	return false
}

// inBody looks in the text parts of the message and of messages inside it.
func (c *candidate) inBody(s string) bool {
	if sum := c.summary(); !c.parted && sum != nil {
		c.parted = true
		c.gather(sum.Structure, c.bytes())
	}
	for _, p := range c.parts {
		if strings.Contains(p, s) {
			return true
		}
	}
	return false
}

func (c *candidate) gather(n *mail.Part, raw []byte) {
	if n == nil || c.err != nil {
		return
	}
	if n.Type == "text" {
		c.parts = append(c.parts, fold(summary.Text(n, raw, 0)))
	}
	if e := n.Envelope; e != nil {
		c.parts = append(c.parts, fold(summary.DecodeHeader(e.Subject)))
	}
	for _, child := range n.Children {
		c.gather(child, raw)
	}
	c.gather(n.Message, raw)
}
