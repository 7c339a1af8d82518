package sign

import (
	"bytes"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
)

// What a header may have at most.
const (
	maxHeader = 1 << 20
	maxLines  = 20000
)

// field is one header field: its bytes with line end and continuation lines,
// and where the colon stands in them.
type field struct {
	name  string // lower case, blanks before the colon removed
	raw   []byte
	colon int
}

// value is what stands behind the colon, as written.
func (f field) value() []byte { return f.raw[f.colon+1:] }

// message is a message with its header indexed by name, so that a signature
// finds each field it covers in one step, whatever the header's size.
type message struct {
	fields []field
	named  map[string][]int // fields of a name, top to bottom
	body   []byte
	hashes [forms][]byte // hash of the body for each form, once asked for
}

// read indexes the header of a message. A line that is no field before the
// empty line is refused: readers do not agree where such a header ends, so a
// signature over it proves nothing.
func read(msg []byte) (*message, error) {
	m := &message{named: map[string][]int{}}
	lines := 0
	for at := 0; at < len(msg); {
		if bytes.HasPrefix(msg[at:], []byte("\r\n")) {
			m.body = msg[at+2:]
			break
		}
		end := lineEnd(msg, at)
		for lines++; end < len(msg) && (msg[end] == ' ' || msg[end] == '\t'); lines++ {
			if lines > maxLines || end > maxHeader {
				break
			}
			end = lineEnd(msg, end)
		}
		if lines > maxLines || end > maxHeader {
			return nil, kind.Errorf(kind.Invalid, "header: more than %d lines or %d bytes", maxLines, maxHeader)
		}
		f, ok := newField(msg[at:end])
		if !ok {
			return nil, kind.Errorf(kind.Invalid, "header: line %d is no field", lines)
		}
		m.named[f.name] = append(m.named[f.name], len(m.fields))
		m.fields = append(m.fields, f)
		at = end
	}
	return m, nil
}

// newField splits the bytes of a field (RFC 5322 section 2.2, with the blanks
// before the colon of section 4.5).
func newField(raw []byte) (field, bool) {
	colon := bytes.IndexByte(raw, ':')
	if colon < 1 {
		return field{}, false
	}
	name := bytes.TrimRight(raw[:colon], " \t")
	for _, c := range name {
		if c <= ' ' || c >= 0x7f {
			return field{}, false
		}
	}
	return field{strings.ToLower(string(name)), raw, colon}, len(name) > 0
}

// lineEnd is the offset behind the line that starts at at.
func lineEnd(msg []byte, at int) int {
	if i := bytes.IndexByte(msg[at:], '\n'); i >= 0 {
		return at + i + 1
	}
	return len(msg)
}

// picker takes fields from the bottom up, each once, as h= names them (RFC
// 6376 section 5.4.2).
type picker struct {
	m     *message
	taken map[string]int
}

func (m *message) picker() picker { return picker{m, map[string]int{}} }

// pick returns the next field of a name (lower case); false: there is none left.
func (p picker) pick(name string) (field, bool) {
	at := p.m.named[name]
	n := p.taken[name]
	if n >= len(at) {
		return field{}, false
	}
	p.taken[name] = n + 1
	return p.m.fields[at[len(at)-1-n]], true
}
