package message

import (
	"bytes"
	"iter"
	"strings"
)

// Limits of a header.
const (
	MaxHeader      = 1 << 20 // bytes
	MaxHeaderLines = 20_000
)

// HeaderField is one field with its continuation lines and line end.
type HeaderField struct {
	Name       string // as written, without blanks before the colon
	Start, End int    // bytes in the message
	Colon      int    // offset of the colon
	Odd        bool   // blanks stand between name and colon (RFC 5322 section 4.5)
}

// Is tells whether it has a name, without regard to case.
func (f HeaderField) Is(name string) bool { return strings.EqualFold(f.Name, name) }

// Value is what stands behind the colon, unfolded (RFC 5322 section 2.2.3) and
// without blanks around it. Bytes that are no UTF-8 stay.
func (f HeaderField) Value(msg []byte) string { return unfold(msg[f.Colon+1 : f.End]) }

func unfold(b []byte) string {
	b = bytes.Trim(b, " \t\r\n")
	if bytes.ContainsAny(b, "\r\n") {
		out := make([]byte, 0, len(b))
		for _, c := range b {
			if c != '\r' && c != '\n' {
				out = append(out, c)
			}
		}
		b = out
	}
	return string(bytes.Trim(b, " \t\r\n"))
}

// Ending says how a header ended.
type Ending struct {
	At    int  // where the body begins: behind the empty line, at junk, or the end
	Empty bool // there was an empty line
	Junk  bool // the header ended at a line that is no field, as readers take it
	Cut   bool // the limits ended it
}

// Fields yields the fields of a message's header from the top. When all were
// yielded, end tells how it ended.
func Fields(msg []byte, end *Ending) iter.Seq[HeaderField] {
	return func(yield func(HeaderField) bool) {
		*end = Ending{}
		lines := 0
		for at := 0; ; {
			end.At = at
			if at >= len(msg) {
				return
			}
			if n := emptyLine(msg[at:]); n > 0 {
				end.At, end.Empty = at+n, true
				return
			}
			f, n, good := nextField(msg, at, MaxHeaderLines-lines)
			switch {
			case !good:
				end.Junk = true
				return
			case n < 0 || f.End > MaxHeader:
				end.Cut = true
				return
			}
			lines += n
			at = f.End
			if !yield(f) {
				end.At = at
				return
			}
		}
	}
}

// Named are the fields of a name, from the top.
func Named(msg []byte, name string) []HeaderField {
	var out []HeaderField
	var end Ending
	for f := range Fields(msg, &end) {
		if f.Is(name) {
			out = append(out, f)
		}
	}
	return out
}

// emptyLine is the length of the empty line b begins with, 0 for none.
func emptyLine(b []byte) int {
	switch {
	case len(b) > 0 && b[0] == '\n':
		return 1
	case len(b) > 1 && b[0] == '\r' && b[1] == '\n':
		return 2
	}
	return 0
}

// nextField reads the field that starts at a line start, and how many lines it
// has; -1: more than most.
func nextField(msg []byte, at, most int) (f HeaderField, lines int, good bool) {
	f = HeaderField{Start: at, End: lineEnd(msg, at)}
	colon := bytes.IndexByte(msg[at:f.End], ':')
	if colon < 1 {
		return f, 0, false
	}
	name := msg[at : at+colon]
	bare := bytes.TrimRight(name, " \t")
	if !isName(bare) {
		return f, 0, false
	}
	f.Name, f.Colon, f.Odd = string(bare), at+colon, len(bare) < len(name)
	for lines = 1; f.End < len(msg) && (msg[f.End] == ' ' || msg[f.End] == '\t'); lines++ {
		if lines > most || f.End > MaxHeader {
			return f, -1, true
		}
		f.End = lineEnd(msg, f.End)
	}
	if lines > most {
		return f, -1, true
	}
	return f, lines, true
}

// isName tells whether b may name a field (RFC 5322 section 3.6.8).
func isName(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c >= 0x7f || c == ':' {
			return false
		}
	}
	return len(b) > 0
}

// lineEnd is the offset behind the line that starts at at.
func lineEnd(msg []byte, at int) int {
	if i := bytes.IndexByte(msg[at:], '\n'); i >= 0 {
		return at + i + 1
	}
	return len(msg)
}
