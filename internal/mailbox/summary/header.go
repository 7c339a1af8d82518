package summary

import (
	"bytes"
	"net/mail"
	"strings"
	"unicode/utf8"

	words "github.com/postern-mail/postern/internal/mail"
)

// Lengths of kept strings in bytes.
const (
	maxText  = 998 // subject, names, ids: one line of RFC 5322
	maxValue = 1024
	maxToken = 127
	maxDate  = 128
)

const (
	maxInReplyTo  = 10
	maxReferences = 100
	maxParams     = 32
	maxLanguages  = 16
)

// header parses the header section at pos and goes past the empty line that
// ends it. ended tells that a delimiter came before any empty line: the part
// has no body.
func (p *parser) header(n *words.Part, env *words.MessageEnvelope) (boundary string, end delimiter, ended bool) {
	begin, count := p.pos, 0
	var seen fieldSet
	var field []byte // of the field being collected, with its folded lines
	flush := func() {
		if len(field) > 0 {
			p.field(n, env, &seen, &boundary, field)
		}
		field = nil
	}
	for p.pos < len(p.b) {
		start, lines := p.pos, p.lines
		line := p.line()
		if len(line) == 1 && line[0] == '\n' || len(line) == 2 && line[0] == '\r' && line[1] == '\n' {
			flush()
			return boundary, end, false
		}
		if d, ok := p.delimits(line); ok {
			flush()
			d.start, d.lines = start, lines
			return boundary, d, true
		}
		count++
		if start-begin > maxHeaderBytes || count > maxHeaderLines {
			continue // looked through for its end only
		}
		if line[0] == ' ' || line[0] == '\t' {
			if len(field) > 0 {
				field = p.b[start-len(field) : p.pos : p.pos]
			}
			continue
		}
		flush()
		field = line
	}
	flush()
	return boundary, delimiter{start: len(p.b), lines: p.lines}, true
}

// fieldSet tells which fields were there: of fields that may come once the
// first counts.
type fieldSet uint32

func (s *fieldSet) first(bit uint) bool {
	was := *s&(1<<bit) != 0
	*s |= 1 << bit
	return !was
}

// field takes one header field, folded as it came.
func (p *parser) field(n *words.Part, env *words.MessageEnvelope, seen *fieldSet, boundary *string, f []byte) {
	colon := bytes.IndexByte(f[:min(len(f), 80)], ':')
	if colon <= 0 {
		return
	}
	name := strings.ToLower(string(bytes.TrimRight(f[:colon], " \t")))
	val := f[colon+1:]
	if rest, ok := strings.CutPrefix(name, "content-"); ok {
		p.mimeField(n, seen, boundary, rest, val)
		return
	}
	if env != nil {
		p.envelopeField(env, seen, name, val)
	}
}

func (p *parser) mimeField(n *words.Part, seen *fieldSet, boundary *string, name string, val []byte) {
	switch name {
	case "type":
		if seen.first(0) {
			*boundary = p.contentType(n, val)
		}
	case "transfer-encoding":
		if seen.first(1) {
			n.Encoding = p.keep(strings.ToLower(firstToken(val)), maxToken)
		}
	case "disposition":
		if seen.first(2) {
			var head string
			head, n.DispParams = p.params(val)
			n.Disposition = p.keep(strings.ToLower(head), maxToken)
		}
	case "id":
		if seen.first(3) {
			n.ID = p.text(val, maxText)
		}
	case "description":
		if seen.first(4) {
			n.Description = p.text(val, maxText)
		}
	case "location":
		if seen.first(5) {
			n.Location = p.text(val, maxValue)
		}
	case "language":
		if seen.first(6) {
			for _, l := range strings.SplitN(string(val[:min(len(val), maxValue)]), ",", maxLanguages+1) {
				if l = p.text([]byte(l), maxToken); l != "" && len(n.Language) < maxLanguages {
					n.Language = append(n.Language, l)
				}
			}
		}
	}
}

func (p *parser) envelopeField(e *words.MessageEnvelope, seen *fieldSet, name string, val []byte) {
	switch name {
	case "date":
		if seen.first(7) {
			e.RawDate = p.text(val, maxDate)
			if t, err := mail.ParseDate(e.RawDate); err == nil && t.Year() > 0 && t.Year() < 10000 {
				e.Date = t.Unix()
			}
		}
	case "subject":
		if seen.first(8) {
			e.Subject = p.text(val, maxText)
		}
	case "from":
		p.once(&e.From, seen, 9, val)
	case "sender":
		p.once(&e.Sender, seen, 10, val)
	case "reply-to":
		p.once(&e.ReplyTo, seen, 11, val)
	case "to":
		e.To = p.addressList(e.To, val)
	case "cc":
		e.Cc = p.addressList(e.Cc, val)
	case "bcc":
		e.Bcc = p.addressList(e.Bcc, val)
	case "message-id":
		if seen.first(12) {
			if ids := p.ids(val, 1); len(ids) > 0 {
				e.MessageID = ids[0]
			} else {
				e.MessageID = p.text(val, maxText)
			}
		}
	case "in-reply-to":
		if seen.first(13) {
			e.InReplyTo = p.ids(val, maxInReplyTo)
		}
	case "references":
		if seen.first(14) {
			e.References = p.ids(val, maxReferences)
		}
	}
}

func (p *parser) once(to *[]words.HeaderAddress, seen *fieldSet, bit uint, val []byte) {
	if seen.first(bit) {
		*to = p.addressList(nil, val)
	}
}

// ids takes the message ids of a field: of more than limit the first and the
// last ones, which tell the root and the parents of a thread.
func (p *parser) ids(val []byte, limit int) []string {
	var found [][]byte
	for {
		i := bytes.IndexByte(val, '<')
		if i < 0 {
			break
		}
		val = val[i+1:]
		j := bytes.IndexByte(val, '>')
		if j < 0 {
			break
		}
		if id := val[:j]; len(id) > 0 && len(id) <= maxText {
			if len(found) == limit && limit > 1 {
				copy(found[1:], found[2:])
				found = found[:limit-1]
			}
			if len(found) < limit {
				found = append(found, id)
			}
		}
		val = val[j+1:]
	}
	var out []string
	for _, id := range found {
		if s := p.text(id, maxText); s != "" {
			out = append(out, s)
		}
	}
	return out
}

// text is a field's value on one line, cut to limit bytes.
func (p *parser) text(val []byte, limit int) string {
	val = bytes.TrimSpace(val[:min(len(val), 4*limit)])
	return p.keep(strings.TrimSpace(string(oneLine(val))), limit)
}

// oneLine unfolds a value (RFC 5322 section 2.2.3). Control characters, which
// no protocol could send on, become blanks.
func oneLine(val []byte) []byte {
	out := make([]byte, 0, len(val))
	for _, c := range val {
		switch {
		case c == '\r' || c == '\n':
		case c < ' ' || c == 0x7f:
			out = append(out, ' ')
		default:
			out = append(out, c)
		}
	}
	return out
}

// keep cuts a string to limit bytes, makes it UTF-8 and counts it against the
// budget; when that is used up nothing more is kept.
func (p *parser) keep(s string, limit int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > limit {
		for limit > 0 && !utf8.RuneStart(s[limit]) {
			limit--
		}
		s = s[:limit]
	}
	if len(s) > p.budget {
		return ""
	}
	p.budget -= len(s)
	return strings.Clone(s)
}

// HeaderEnd tells where the header of a message ends that begins with b: after
// its empty line. Without one in b, whole is false and end the end of b.
func HeaderEnd(b []byte) (end int, whole bool) {
	for end < len(b) {
		i := bytes.IndexByte(b[end:], '\n')
		if i < 0 {
			break
		}
		line := b[end : end+i]
		end += i + 1
		if len(line) == 0 || len(line) == 1 && line[0] == '\r' {
			return end, true
		}
	}
	return len(b), false
}
