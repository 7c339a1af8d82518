package summary

import (
	"bytes"
	"strings"
)

// EachField calls fn for each field of the message's header section, with its
// name in lower case and its value unfolded as UTF-8. The limits of Parse hold.
func EachField(body []byte, fn func(name, value string)) {
	var field []byte
	flush := func() {
		if colon := bytes.IndexByte(field, ':'); colon > 0 {
			name := strings.ToLower(string(bytes.TrimRight(field[:colon], " \t")))
			value := bytes.TrimSpace(oneLine(field[colon+1:]))
			fn(strings.ToValidUTF8(name, "\uFFFD"), strings.ToValidUTF8(string(value), "\uFFFD"))
		}
		field = nil
	}
	p := &parser{b: body}
	for count := 0; p.pos < len(body) && p.pos <= maxHeaderBytes && count < maxHeaderLines; count++ {
		start := p.pos
		line := p.line()
		if len(bytes.TrimRight(line, "\r\n")) == 0 {
			break
		}
		if (line[0] == ' ' || line[0] == '\t') && len(field) > 0 {
			field = body[start-len(field) : p.pos]
			continue
		}
		flush()
		field = line
	}
	flush()
}
