package smtpd

import (
	"net/mail"
	"slices"
	"time"
)

// maxFrom bounds the addresses in From of a submitted message: each is looked
// up.
const maxFrom = 20

// judgeSubmitted checks whose message it says it is. A header that readers
// might end at different places is refused, so nothing can hide in it.
func (c *conn) judgeSubmitted(s survey) reply {
	switch {
	case s.Junk:
		return reply{code: 550, status: "5.6.0", text: "Header has a line that is no header field"}
	case len(s.from) != 1:
		return reply{code: 550, status: "5.6.0", text: "Message needs one From"}
	case len(s.sender) > 1:
		return reply{code: 550, status: "5.6.0", text: "Message has more than one Sender"}
	}
	for _, value := range slices.Concat(s.from, s.sender) {
		if r := c.judgeAuthors(value); r.code != 0 {
			return r
		}
	}
	return reply{}
}

func (c *conn) judgeAuthors(value string) reply {
	unreadable := reply{code: 550, status: "5.6.0", text: "From or Sender is not readable"}
	if len(value) > 64<<10 {
		return unreadable
	}
	list, err := mail.ParseAddressList(value)
	if err != nil || len(list) == 0 || len(list) > maxFrom {
		return unreadable
	}
	for _, a := range list {
		if r := c.maySend(a.Address); r.code != 0 {
			return r
		}
	}
	return reply{}
}

// complete adds what RFC 6409 section 8 lets a submission server add.
func (c *conn) complete(b []byte, s survey, now time.Time) []byte {
	if !s.messageID {
		b = append(b, "Message-ID: <"+c.tx.trace.String()+"@"+c.srv.cfg.Hostname+">\r\n"...)
	}
	if !s.date {
		b = append(b, "Date: "...)
		b = now.AppendFormat(b, "Mon, 2 Jan 2006 15:04:05 -0700")
		b = append(b, '\r', '\n')
	}
	return b
}
