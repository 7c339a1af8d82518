package smtpd

import (
	"strconv"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
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

// forRecipient answers RCPT for an error of the directory. Texts are ours: an
// error may tell more than a stranger should know.
func forRecipient(err error) reply {
	switch kind.Of(err) {
	case kind.NotFound:
		return reply{code: 550, status: "5.1.1", text: "No such mailbox here"}
	case kind.Denied:
		return reply{code: 550, status: "5.2.1", text: "Recipient is disabled"}
	case kind.Invalid:
		return reply{code: 550, status: "5.2.4", text: "Group is too large"}
	case kind.Full:
		return reply{code: 452, status: "4.2.2", text: "Mailbox is full"}
	}
	return unavailable("Directory cannot answer, try again later")
}

// forDelivery answers the end of the data for an error of the store that
// concerns the whole message.
func forDelivery(k kind.Kind) reply {
	switch k {
	case kind.Invalid:
		return reply{code: 554, status: "5.6.0", text: "Message cannot be stored"}
	case kind.Full:
		return reply{code: 452, status: "4.3.1", text: "Disk is full, try again later"}
	case kind.Busy, kind.Elsewhere, kind.Conflict:
		return unavailable("Mailbox database is not available, try again later")
	}
	return unavailable("Message was not stored, try again later")
}

// forRefusal answers for a mailbox that cannot take a message.
func forRefusal(k kind.Kind) reply {
	switch k {
	case kind.Full:
		return reply{code: 452, status: "4.2.2", text: "Mailbox is full"}
	case kind.Invalid:
		return reply{code: 554, status: "5.6.0", text: "Message cannot be stored"}
	case kind.Denied:
		return reply{code: 550, status: "5.2.1", text: "Recipient is disabled"}
	}
	// Also NotFound: the directory has just named this mailbox, so a store
	// that does not know it is behind, or the directory is; a retry is asked
	// again at RCPT and gets the lasting answer there.
	return unavailable("Mailbox is not available, try again later")
}
