package dsn

import (
	"mime"
	"strings"
	"unicode/utf8"

	"github.com/postern-mail/postern/internal/base/message"
)

// header is the header of the parent, cut at its end and at maxHeader.
type header struct {
	raw []byte
	message.Survey
}

// headerOf takes whole fields only; a field that is longer than the limit leaves
// nothing.
func headerOf(p Parent) header {
	h := p.Header
	if len(h) == 0 {
		h = p.Full
	}
	whole := 0 // the end of the last field that is taken
	var end message.Ending
	for f := range message.Fields(h, &end) {
		if f.End > maxHeader {
			break
		}
		whole = f.End
	}
	return header{h[:whole], message.Look(h[:whole])}
}

// notification tells whether the parent is itself a report of delivery, by its
// type (RFC 6522), whoever it says it is from.
func (h header) notification() bool {
	v := strings.ToLower(h.ContentType)
	return strings.HasPrefix(v, "multipart/report") && strings.Contains(v, "delivery-status")
}

// messageID is the Message-ID, empty where it is not one that could be written
// into another field.
func (h header) messageID() string {
	v := h.MessageID
	if len(v) < 5 || len(v) > 250 || v[0] != '<' || v[len(v)-1] != '>' || strings.Count(v, "@") != 1 {
		return ""
	}
	for _, c := range []byte(v[1 : len(v)-1]) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`<>()[]\,;:"`, c) >= 0 {
			return ""
		}
	}
	left, right, _ := strings.Cut(v[1:len(v)-1], "@")
	if !dotAtom(left) || !dotAtom(right) {
		return ""
	}
	return v
}

func dotAtom(s string) bool {
	return s != "" && s[0] != '.' && s[len(s)-1] != '.' && !strings.Contains(s, "..")
}

// subject is the subject for people.
func (h header) subject() string {
	v := h.Subject
	if len(v) > 4*maxSubject {
		v = v[:4*maxSubject]
	}
	dec := mime.WordDecoder{}
	if d, err := dec.DecodeHeader(v); err == nil {
		v = d
	}
	return oneLine(v, maxSubject, false)
}

// plain tells whether b can travel as it is: whole CRLF lines of at most 998
// octets without NUL (RFC 5321 section 4.5.3.1.6, RFC 2045 section 2.8), and
// whether it needs 8BITMIME.
func plain(b []byte) (ok, eightBit bool) {
	line := 0
	for i, c := range b {
		switch {
		case c == 0:
			return false, false
		case c == '\n':
			if i == 0 || b[i-1] != '\r' {
				return false, false
			}
			line = 0
			continue
		case c == '\r':
			if i+1 == len(b) || b[i+1] != '\n' {
				return false, false
			}
			continue
		case c >= utf8.RuneSelf:
			eightBit = true
		}
		if line++; line > 998 {
			return false, false
		}
	}
	return true, eightBit
}
