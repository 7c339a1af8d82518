package authn

import (
	"bytes"
	"strings"
)

// Limits of a header block, as at the doors.
const (
	maxHeader = 1 << 20 // octets
	maxLines  = 20000
)

// field is one header field with its continuation lines.
type field struct {
	name       string // lower case, blanks before the colon removed
	start, end int    // octets in the message
	colon      int
}

// long reports whether there is more behind the colon than is read.
func (f field) long() bool { return f.end-f.colon > MaxField }

// value is what stands behind the colon, unfolded.
func (f field) value(msg []byte) string {
	return string(bytes.Trim(bytes.ReplaceAll(msg[f.colon+1:f.end], []byte("\r\n"), nil), " \t\n"))
}

// fields reads the header until the empty line, the first line that is no
// field (readers take it for the body) or a limit.
func fields(msg []byte, yield func(field)) {
	lines := 0
	for at := 0; at < len(msg) && at < maxHeader && lines < maxLines; lines++ {
		f := field{start: at, end: lineEnd(msg, at)}
		colon := bytes.IndexByte(msg[at:f.end], ':')
		if colon < 1 {
			return
		}
		name := bytes.TrimRight(msg[at:at+colon], " \t")
		if len(name) == 0 || bytes.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return
		}
		for f.end < len(msg) && (msg[f.end] == ' ' || msg[f.end] == '\t') && lines < maxLines {
			f.end = lineEnd(msg, f.end)
			lines++
		}
		f.name, f.colon = strings.ToLower(string(name)), at+colon
		at = f.end
		yield(f)
	}
}

// lineEnd is the offset behind the line that starts at at.
func lineEnd(msg []byte, at int) int {
	if i := bytes.IndexByte(msg[at:], '\n'); i >= 0 {
		return at + i + 1
	}
	return len(msg)
}
