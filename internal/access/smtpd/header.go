package smtpd

import (
	"bytes"
	"iter"
	"strings"
)

// field is one header field with its line end and continuation lines.
type field struct {
	name       string // as written, blanks before the colon removed
	start, end int    // bytes in the message
	colon      int    // offset of the colon
	odd        bool   // blanks stood between name and colon (RFC 5322 section 4.5)
}

// value returns the unfolded value.
func (f field) value(msg []byte) string {
	return strings.TrimSpace(strings.ReplaceAll(string(msg[f.colon+1:f.end]), "\r\n", ""))
}

// fields yields the header of a message. It ends at the empty line or at the
// first line that is no field, as mail readers do; junk tells which.
func fields(msg []byte, junk *bool) iter.Seq[field] {
	return func(yield func(field) bool) {
		for at := 0; at < len(msg); {
			if bytes.HasPrefix(msg[at:], []byte("\r\n")) {
				return
			}
			f, good := nextField(msg, at)
			if !good {
				*junk = true
				return
			}
			at = f.end
			if !yield(f) {
				return
			}
		}
	}
}

// nextField reads the field that starts at a line start.
func nextField(msg []byte, at int) (f field, good bool) {
	f = field{start: at, end: lineEnd(msg, at)}
	colon := bytes.IndexByte(msg[at:f.end], ':')
	if colon < 1 {
		return f, false
	}
	name := msg[at : at+colon]
	bare := bytes.TrimRight(name, " \t")
	for _, c := range bare {
		if c <= ' ' || c >= 0x7f {
			return f, false
		}
	}
	if len(bare) == 0 {
		return f, false
	}
	f.odd = len(bare) < len(name)
	f.name = string(bare)
	f.colon = at + colon
	for f.end < len(msg) && (msg[f.end] == ' ' || msg[f.end] == '\t') {
		f.end = lineEnd(msg, f.end)
	}
	return f, true
}

// lineEnd is the offset behind the line that starts at at.
func lineEnd(msg []byte, at int) int {
	if i := bytes.IndexByte(msg[at:], '\n'); i >= 0 {
		return at + i + 1
	}
	return len(msg)
}

// span is a range of bytes.
type span struct{ start, end int }

// survey is what the doors need to know of a header.
type survey struct {
	received  int
	from      []string // values of From fields
	oddFrom   bool     // a From with blanks before the colon
	sender    []string
	messageID bool
	date      bool
	junk      bool   // the header ended at a line that is no field
	forged    []span // Return-Path, and Authentication-Results in our name
	blind     []span // Bcc and Resent-Bcc
}

// look reads the header once.
func look(msg []byte, hostname string) survey {
	var s survey
	for f := range fields(msg, &s.junk) {
		switch strings.ToLower(f.name) {
		case "received":
			s.received++
		case "from":
			s.from = append(s.from, f.value(msg))
			s.oddFrom = s.oddFrom || f.odd
		case "sender":
			s.sender = append(s.sender, f.value(msg))
		case "message-id":
			s.messageID = s.messageID || f.value(msg) != ""
		case "date":
			s.date = true
		case "return-path":
			s.forged = append(s.forged, span{f.start, f.end})
		case "authentication-results":
			if inOurName(f.value(msg), hostname) {
				s.forged = append(s.forged, span{f.start, f.end})
			}
		case "bcc", "resent-bcc":
			s.blind = append(s.blind, span{f.start, f.end})
		}
	}
	return s
}

// inOurName reports whether the authserv-id (RFC 8601 section 2.2) is ours. It
// is read as generously as any reader might, so that none is fooled: comments
// in front of it and any blanks behind it are skipped.
func inOurName(value, hostname string) bool {
	s := skipComments(value)
	if id, _, err := parseQuoted(strings.TrimPrefix(s, `"`)); strings.HasPrefix(s, `"`) && err == nil {
		return strings.EqualFold(id, hostname)
	}
	if i := strings.IndexAny(s, " \t;("); i >= 0 {
		s = s[:i]
	}
	return strings.EqualFold(s, hostname)
}

// skipComments skips blanks and comments (CFWS of RFC 5322 section 3.2.2).
func skipComments(s string) string {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '(':
			depth++
		case depth > 0 && c == ')':
			depth--
		case depth > 0 && c == '\\':
			i++
		case depth == 0 && c != ' ' && c != '\t':
			return s[i:]
		}
	}
	return ""
}

// remove takes spans (in order, not overlapping) out of buf[from:] by moving
// what stands before them to the right, and returns where the message now
// begins. One pass; what is behind the header stays where it is.
func remove(buf []byte, from int, spans []span) int {
	if len(spans) == 0 {
		return from
	}
	to := from + spans[len(spans)-1].end
	for i := len(spans) - 1; i >= 0; i-- {
		start := from
		if i > 0 {
			start = from + spans[i-1].end
		}
		keep := buf[start : from+spans[i].start]
		to -= len(keep)
		copy(buf[to:], keep)
	}
	return to
}
