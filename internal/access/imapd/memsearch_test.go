package imapd

import (
	"bufio"
	"bytes"
	"context"
	"mime"
	"slices"
	"strings"

	gomessage "github.com/emersion/go-message/textproto"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

func (s *memStore) Search(ctx context.Context, at org.MailboxRef, r mail.SearchRequest) (mail.Found, error) {
	b, err := s.box(ctx, at, "search")
	if err != nil {
		return mail.Found{}, err
	}
	defer s.mu.Unlock()
	f := b.byID(r.Folder)
	if f == nil {
		return mail.Found{}, kind.Errorf(kind.NotFound, "no folder")
	}
	var out mail.Found
	for _, m := range f.msgs {
		if b.matches(m, &r.Criteria) {
			out.UIDs = append(out.UIDs, m.UID)
			out.HighestModSeq = max(out.HighestModSeq, m.ModSeq)
		}
	}
	return out, nil
}

func (b *memBox) matches(m *mail.Message, c *mail.Criteria) bool {
	has := func(k string) bool {
		return slices.ContainsFunc(m.Keywords, func(x string) bool { return strings.EqualFold(x, k) })
	}
	within := func(v, since, before int64) bool { return (since == 0 || v >= since) && (before == 0 || v < before) }
	text := b.blobs[m.Blob]
	lower := bytes.ToLower(text)
	ok := m.Flags&c.Flags == c.Flags && m.Flags&c.NotFlags == 0 &&
		within(m.InternalDate/1e9, c.Since, c.Before) &&
		(c.Larger == 0 || m.Size > c.Larger) && (c.Smaller == 0 || m.Size < c.Smaller)
	for _, set := range c.UIDs {
		ok = ok && inRanges(set, m.UID)
	}
	for _, k := range c.Keywords {
		ok = ok && has(k)
	}
	for _, k := range c.NotKeywords {
		ok = ok && !has(k)
	}
	for _, t := range append(slices.Clone(c.Text), c.Body...) {
		ok = ok && bytes.Contains(lower, []byte(strings.ToLower(t)))
	}
	if len(c.Header) > 0 || c.SentSince != 0 || c.SentBefore != 0 {
		h, _ := gomessage.ReadHeader(newReader(text))
		for _, want := range c.Header {
			ok = ok && h.Has(want.Name) && strings.Contains(strings.ToLower(strings.Join(h.Values(want.Name), "\n")), strings.ToLower(want.Value))
		}
	}
	for i := range c.Not {
		ok = ok && !b.matches(m, &c.Not[i])
	}
	for i := range c.Or {
		ok = ok && (b.matches(m, &c.Or[i][0]) || b.matches(m, &c.Or[i][1]))
	}
	return ok
}

// summarize parses a message as far as the tests need it.
func summarize(text []byte) *mail.Summary {
	p, env := parsePart(text, 0, int64(len(text)))
	return &mail.Summary{Envelope: *env, Structure: p}
}

func parsePart(text []byte, from, to int64) (*mail.Part, *mail.MessageEnvelope) {
	p := &mail.Part{HeaderStart: from, BodyStart: to, BodyEnd: to, Type: "text", Subtype: "plain"}
	if bytes.HasPrefix(text[from:to], []byte("\r\n")) {
		p.BodyStart = from + 2
	} else if i := bytes.Index(text[from:to], []byte("\r\n\r\n")); i >= 0 {
		p.BodyStart = from + int64(i) + 4
	}
	h, _ := gomessage.ReadHeader(newReader(text[from:p.BodyStart]))
	if t, params, err := mime.ParseMediaType(h.Get("Content-Type")); err == nil {
		p.Type, p.Subtype, _ = strings.Cut(t, "/")
		p.Params = params
	}
	p.Encoding = strings.ToLower(h.Get("Content-Transfer-Encoding"))
	p.ID, p.Description, p.Location = h.Get("Content-Id"), h.Get("Content-Description"), h.Get("Content-Location")
	if d, params, err := mime.ParseMediaType(h.Get("Content-Disposition")); err == nil {
		p.Disposition, p.DispParams = d, params
	}
	body := text[p.BodyStart:to]
	p.Lines = int64(bytes.Count(body, []byte("\n")))
	switch {
	case p.Type == "multipart":
		for _, r := range splitMultipart(body, p.Params["boundary"]) {
			child, _ := parsePart(text, p.BodyStart+r[0], p.BodyStart+r[1])
			p.Children = append(p.Children, child)
		}
	case p.Type == "message" && p.Subtype == "rfc822":
		p.Message, p.Envelope = parsePart(text, p.BodyStart, to)
	}
	return p, parseEnvelope(h)
}

// splitMultipart finds the parts between the boundaries.
func splitMultipart(body []byte, boundary string) (out [][2]int64) {
	start, pos := int64(-1), int64(0)
	for _, line := range bytes.SplitAfter(body, []byte("\n")) {
		if rest, ok := bytes.CutPrefix(line, []byte("--"+boundary)); ok && boundary != "" {
			if start >= 0 {
				out = append(out, [2]int64{start, max(start, pos-2)})
			}
			if start = pos + int64(len(line)); bytes.HasPrefix(rest, []byte("--")) {
				return out
			}
		}
		pos += int64(len(line))
	}
	return out
}

func parseEnvelope(h gomessage.Header) *mail.MessageEnvelope {
	addrs := func(name string) (out []mail.HeaderAddress) {
		for _, v := range h.Values(name) {
			for a := range strings.SplitSeq(v, ",") {
				display, spec := "", strings.TrimSpace(a)
				if i := strings.IndexByte(spec, '<'); i >= 0 {
					display, spec = strings.Trim(spec[:i], ` "`), strings.Trim(spec[i:], "<> ")
				}
				box, host, _ := strings.Cut(spec, "@")
				out = append(out, mail.HeaderAddress{Name: display, Mailbox: box, Host: host})
			}
		}
		return out
	}
	var reply []string
	if v := h.Get("In-Reply-To"); v != "" {
		reply = []string{strings.Trim(v, "<> ")}
	}
	return &mail.MessageEnvelope{
		RawDate: h.Get("Date"), Subject: h.Get("Subject"), From: addrs("From"), Sender: addrs("Sender"), ReplyTo: addrs("Reply-To"),
		To: addrs("To"), Cc: addrs("Cc"), Bcc: addrs("Bcc"), InReplyTo: reply, MessageID: strings.Trim(h.Get("Message-Id"), "<> "),
	}
}

func newReader(b []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(b)) }
