package smtpd

import (
	"errors"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
)

// reply is one answer: RFC 5321 code, RFC 3463 status (empty where RFC 2034
// wants none) and text for people. close ends the connection after it.
type reply struct {
	code   int
	status string
	text   string
	close  bool
}

// silent is the answer of a command that has answered by itself.
var silent = reply{}

func (r reply) bad() bool { return r.code >= 400 }

func (r reply) closing() reply {
	r.close = true
	return r
}

// append adds the answer as it goes over the wire. Texts may quote what the
// client sent, so bytes that would break the line are replaced.
func (r reply) append(b []byte) []byte {
	b = strconv.AppendInt(b, int64(r.code), 10)
	b = append(b, ' ')
	if r.status != "" {
		b = append(b, r.status...)
		b = append(b, ' ')
	}
	b = append(b, printable(r.text, 400)...)
	return append(b, '\r', '\n')
}

// String is the answer for logs.
func (r reply) String() string { return strings.TrimRight(string(r.append(nil)), "\r\n") }

// printable makes s safe for an answer or a header: control bytes become "?",
// and it is cut at limit bytes.
func printable(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}

func ok(text string) reply { return reply{code: 250, status: "2.0.0", text: text} }

// Answers used in several places. RFC 5248 keeps the list of statuses.
func badSyntax(text string) reply   { return reply{code: 501, status: "5.5.4", text: text} }
func badSequence(text string) reply { return reply{code: 503, status: "5.5.1", text: text} }
func unavailable(text string) reply { return reply{code: 451, status: "4.3.0", text: text} }

func tooLarge(limit int64) reply {
	return reply{code: 552, status: "5.3.4", text: "Message is larger than the " + strconv.FormatInt(limit, 10) + " bytes allowed here"}
}

func noMemory() reply {
	return reply{code: 452, status: "4.3.1", text: "Too much mail at once, try again soon"}
}

func goodbye(code, why string) reply {
	return reply{code: 421, status: code, text: why + ", closing", close: true}
}

// forQueue answers the end of the data for a message that was not kept. Texts
// are ours: an error may tell more than a stranger should know.
func forQueue(err error) reply {
	switch kind.Of(err) {
	case kind.Busy:
		if errors.Is(err, mail.ErrNoSecondCopy) {
			return reply{code: 451, status: "4.4.0", text: "No second server can store it now"}
		}
		return unavailable("Queue is busy, try again later")
	case kind.Full:
		return reply{code: 452, status: "4.3.1", text: "Not enough storage"}
	case kind.Denied:
		return reply{code: 450, status: "4.7.1", text: "Too much mail of this organization, try again later"}
	case kind.Invalid:
		return reply{code: 552, status: "5.3.4", text: "Message is too large"}
	}
	return unavailable("Message was not kept, try again later")
}
