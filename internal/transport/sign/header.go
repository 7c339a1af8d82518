package sign

import (
	"bytes"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
	header "github.com/postern-mail/postern/internal/base/message"
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

// read indexes the header of a message. A header that does not end at an empty
// line of CRLF or the end of the message is refused: readers do not agree where
// it ends, so a signature over it proves nothing.
func read(msg []byte) (*message, error) {
	m := &message{named: map[string][]int{}}
	var end header.Ending
	for f := range header.Fields(msg, &end) {
		name := strings.ToLower(f.Name)
		m.named[name] = append(m.named[name], len(m.fields))
		m.fields = append(m.fields, field{name, msg[f.Start:f.End], f.Colon - f.Start})
	}
	switch {
	case end.Cut:
		return nil, kind.Errorf(kind.Invalid, "header: more than %d lines or %d bytes", header.MaxHeaderLines, header.MaxHeader)
	case end.Junk, end.Empty && !bytes.HasSuffix(msg[:end.At], []byte("\r\n")):
		return nil, kind.Errorf(kind.Invalid, "header: what follows field %d is no field", len(m.fields))
	case end.Empty:
		m.body = msg[end.At:]
	}
	return m, nil
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
