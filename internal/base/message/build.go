package message

import (
	"mime"
	"strings"
	"unicode/utf8"

	"github.com/postern-mail/postern/internal/base/kind"
)

const (
	foldAt  = 78  // RFC 5322 section 2.1.1, should
	maxLine = 998 // and must
)

// Field is a header field as a message has it: folded where its value has
// blanks, with its line end. Invalid: a name that is none, a value with CR, LF,
// NUL or bytes that are no UTF-8, or a word too long for a line.
func Field(name, value string) ([]byte, error) {
	if !isName([]byte(name)) || len(name) > foldAt-2 {
		return nil, kind.Errorf(kind.Invalid, "header field %.80q: not a name", name)
	}
	if strings.ContainsAny(value, "\r\n\x00") || !utf8.ValidString(value) {
		return nil, kind.Errorf(kind.Invalid, "header field %s: its value has a line end, a null byte or no UTF-8", name)
	}
	value = strings.Trim(value, " \t")
	out := make([]byte, 0, len(name)+len(value)+16)
	out = append(out, name...)
	out = append(out, ':', ' ')
	line := len(out)
	for value != "" {
		// A piece is the blanks before a word and the word.
		blanks := len(value) - len(strings.TrimLeft(value, " \t"))
		end := len(value)
		if i := strings.IndexAny(value[blanks:], " \t"); i >= 0 {
			end = blanks + i
		}
		if line+end > foldAt && blanks > 0 {
			out = append(out, "\r\n"...)
			line = 0
		}
		if line += end; line > maxLine {
			return nil, kind.Errorf(kind.Invalid, "header field %s: a word of %d bytes is too long", name, end-blanks)
		}
		out = append(out, value[:end]...)
		value = value[end:]
	}
	return append(out, "\r\n"...), nil
}

// TextField is Field for text of people: what is beyond ASCII is encoded (RFC
// 2047).
func TextField(name, text string) ([]byte, error) {
	return Field(name, mime.QEncoding.Encode("utf-8", text))
}

// Without is a message without some of its spans, which are in order.
func Without(msg []byte, spans []Span) []byte {
	out := make([]byte, 0, len(msg))
	at := 0
	for _, s := range spans {
		out = append(out, msg[at:s.Start]...)
		at = s.End
	}
	return append(out, msg[at:]...)
}
