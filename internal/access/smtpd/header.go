package smtpd

import (
	"strings"

	"github.com/postern-mail/postern/internal/base/message"
)

// survey is what the doors need to know of a header: less than message.Survey,
// so that a message costs few allocations here.
type survey struct {
	message.Ending
	received  int
	from      []string // values of From fields
	oddFrom   bool     // a From with blanks before the colon
	sender    []string
	messageID bool
	date      bool
	forged    []message.Span // Return-Path, and Authentication-Results in our name
	blind     []message.Span // Bcc and Resent-Bcc
}

// look reads the header once.
func look(msg []byte, hostname string) survey {
	var s survey
	for f := range message.Fields(msg, &s.Ending) {
		switch strings.ToLower(f.Name) {
		case "received":
			s.received++
		case "from":
			s.from = append(s.from, f.Value(msg))
			s.oddFrom = s.oddFrom || f.Odd
		case "sender":
			s.sender = append(s.sender, f.Value(msg))
		case "message-id":
			s.messageID = s.messageID || f.Value(msg) != ""
		case "date":
			s.date = true
		case "return-path":
			s.forged = append(s.forged, message.Span{Start: f.Start, End: f.End})
		case "authentication-results":
			if inOurName(f.Value(msg), hostname) {
				s.forged = append(s.forged, message.Span{Start: f.Start, End: f.End})
			}
		case "bcc", "resent-bcc":
			s.blind = append(s.blind, message.Span{Start: f.Start, End: f.End})
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
func remove(buf []byte, from int, spans []message.Span) int {
	if len(spans) == 0 {
		return from
	}
	to := from + spans[len(spans)-1].End
	for i := len(spans) - 1; i >= 0; i-- {
		start := from
		if i > 0 {
			start = from + spans[i-1].End
		}
		keep := buf[start : from+spans[i].Start]
		to -= len(keep)
		copy(buf[to:], keep)
	}
	return to
}
