// Package scrub holds the words in which scanners of content speak: what they
// get, what they find. Each scanner is a package below this one.
//
// A scanner that could not do its work returns an error, never a finding: what
// was not looked at must not pass as clean. Whether mail goes on then is the
// policy's choice (fail open or closed), not the scanner's.
package scrub

import (
	"context"
	"strings"

	"github.com/postern-mail/postern/internal/mail"
)

// Scanner looks at one message. It ends when ctx does and keeps nothing of the
// body.
type Scanner interface {
	Scan(ctx context.Context, m Mail) (Finding, error)
}

// Mail is what a scanner may know of a message.
type Mail struct {
	Trace    mail.TraceID
	Peer     mail.Peer
	Envelope mail.Envelope
	Body     []byte // header and body, CRLF line ends
}

// Finding is what a scanner says of a message it has looked at.
type Finding struct {
	Scanner  string
	Action   mail.Action // what it advises; policy decides
	Spam     bool        // to be delivered as junk
	Score    float64
	Required float64 // score from which a message is refused
	Symbols  []string
	Virus    string // name of what was found, empty for nothing
	// Partial: limits of the scanner kept it from looking at everything, or it
	// was told not to look. It is not clean.
	Partial bool
	Add     []HeaderEdit
	Remove  []HeaderEdit
	Text    string // for the client, one line
}

// HeaderEdit is one change of a header. To add: value and, from 0, place (-1:
// at the end). To remove: which of that name, from 1; 0 is all, negative counts
// from the end; one with a value is to be changed to it.
type HeaderEdit struct {
	Name  string
	Value string
	Order int
}

// Line makes one line of printable ASCII, at most n octets, of what a scanner
// wrote.
func Line(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, s[:min(len(s), 4*n)])
	s = strings.Join(strings.Fields(s), " ")
	return s[:min(len(s), n)]
}

// Value makes one line of at most n octets of a header value, which a scanner
// may have folded.
func Value(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s[:min(len(s), n)], ""))
	return strings.Join(strings.Fields(s), " ")
}
