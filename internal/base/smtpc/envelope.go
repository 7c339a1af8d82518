package smtpc

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/internal/mail"
)

// plan is the dialogue of one message: every command, before the first is said.
type plan struct {
	mail string
	rcpt []string // empty: refused here, see Sent
}

// prepare judges message and envelope by what the peer can do. A Reply with a
// code means the whole message cannot go; single recipients that cannot are
// marked in rs.
func (c *Conn) prepare(e mail.Envelope, body []byte, rs []Result) (plan, Reply) {
	sv, err := inspect(body)
	if err != nil {
		return plan{}, local(554, "5.6.0", "The message has "+err.Error())
	}
	from := mail.Address{}
	if e.From != "" {
		if from, err = mail.ParseAddress(e.From); err != nil {
			return plan{}, local(553, "5.1.7", "The sender is not an address")
		}
	}
	if r := c.capable(e, from, sv, len(body)); r.Code != 0 {
		return plan{}, r
	}
	p := plan{rcpt: make([]string, len(e.Recipients))}
	utf8 := from.NeedsUTF8() || e.UTF8 && sv.eightHeader
	for i, er := range e.Recipients {
		to, err := mail.ParseAddress(er.Address)
		switch {
		case err != nil:
			rs[i].Reply = local(553, "5.1.3", "The recipient is not an address")
		case to.NeedsUTF8() && !c.internationalized():
			rs[i].Reply = local(553, "5.6.7", "The peer does not take addresses beyond ASCII")
		default:
			utf8 = utf8 || to.NeedsUTF8()
			p.rcpt[i] = "RCPT TO:<" + to.String() + ">"
		}
	}
	for i, er := range e.Recipients {
		if p.rcpt[i] != "" && c.Has("DSN") {
			p.rcpt[i] += notifyOf(er, utf8)
		}
	}
	p.mail = "MAIL FROM:<" + from.String() + ">" + c.parameters(e, sv, len(body), utf8)
	return p, Reply{}
}

// capable says why the peer cannot have the message at all, code 0 when it can.
func (c *Conn) capable(e mail.Envelope, from mail.Address, sv survey, size int) Reply {
	limit, err := strconv.ParseInt(c.ext["SIZE"], 10, 64)
	switch {
	case err == nil && limit > 0 && int64(size) > limit: // RFC 1870 section 6.1
		return local(552, "5.3.4", fmt.Sprintf("The message of %d bytes is larger than the %d the peer takes", size, limit))
	case e.RequireTLS && (c.tls == nil || !c.Has("REQUIRETLS")): // RFC 8689 section 4.2.1
		return local(550, "5.7.30", "The message may only travel with REQUIRETLS, which the peer does not offer")
	case from.NeedsUTF8() && !c.internationalized():
		return local(553, "5.6.7", "The peer does not take a sender beyond ASCII")
	case e.UTF8 && sv.eightHeader && !c.internationalized(): // RFC 6531 section 3.2
		return local(550, "5.6.9", "The peer does not take header fields beyond ASCII")
	case (sv.eightBody || sv.eightHeader) && !c.Has("8BITMIME"): // RFC 6152 section 3
		return local(554, "5.6.3", "The peer does not take bytes beyond ASCII")
	}
	return Reply{}
}

// internationalized asks for both extensions: RFC 6531 section 3.1 wants the
// second of whoever offers the first.
func (c *Conn) internationalized() bool { return c.Has("SMTPUTF8") && c.Has("8BITMIME") }

// parameters of MAIL. A message that is all ASCII goes without SMTPUTF8, as it
// came or not: so it reaches every peer (RFC 6531 section 3.6).
func (c *Conn) parameters(e mail.Envelope, sv survey, size int, utf8 bool) string {
	var b strings.Builder
	if c.Has("SIZE") {
		fmt.Fprintf(&b, " SIZE=%d", size)
	}
	if sv.eightBody || sv.eightHeader || utf8 {
		b.WriteString(" BODY=8BITMIME")
	}
	if utf8 {
		b.WriteString(" SMTPUTF8")
	}
	if e.RequireTLS {
		b.WriteString(" REQUIRETLS")
	}
	if c.Has("DSN") {
		if ret := strings.ToUpper(e.Ret); ret == "FULL" || ret == "HDRS" {
			b.WriteString(" RET=" + ret)
		}
		if id := xtext(e.EnvID); id != "" && len(id) <= 100 {
			b.WriteString(" ENVID=" + id)
		}
	}
	return b.String()
}

// notifyOf gives the parameters of RCPT for a peer that knows DSN (RFC 3461
// section 4). What is not well formed is left out: it only asks for notices.
func notifyOf(r mail.EnvelopeRecipient, utf8 bool) string {
	s := ""
	if n := strings.ToUpper(r.Notify); n != "" && notifies(n) {
		s += " NOTIFY=" + n
	}
	kind, addr, ok := strings.Cut(r.ORcpt, ";")
	if !ok || addr == "" || kind == "" || strings.ContainsFunc(kind, notAtom) {
		return s
	}
	switch {
	case strings.EqualFold(kind, "utf-8"):
		addr = unitext(addr, utf8)
	case ascii(addr):
		addr = xtext(addr)
	default: // rfc822 with bytes beyond ASCII is nothing that can be written
		return s
	}
	if len(kind)+1+len(addr) > 500 {
		return s
	}
	return s + " ORCPT=" + kind + ";" + addr
}

func notifies(list string) bool {
	words := strings.Split(list, ",")
	for _, w := range words {
		switch w {
		case "SUCCESS", "FAILURE", "DELAY":
		case "NEVER":
			if len(words) > 1 {
				return false
			}
		default:
			return false
		}
	}
	return len(words) <= 3
}

func notAtom(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-')
}

// xtext encodes as RFC 3461 section 4 does: all but 33 to 126 without + and =.
func xtext(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < '!' || c > '~' || c == '+' || c == '=' {
			fmt.Fprintf(&b, "+%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// unitext encodes an address of type utf-8 (RFC 6533 section 3): bytes beyond
// ASCII stay where SMTPUTF8 is in use, else they become \x{HEX}.
func unitext(s string, utf8 bool) string {
	var b strings.Builder
	for _, r := range strings.ToValidUTF8(s, "") {
		switch {
		case r >= 0x80 && utf8 && r > 0x9f:
			b.WriteRune(r)
		case r < '!' || r > '~' || r == '+' || r == '=' || r == '\\':
			fmt.Fprintf(&b, `\x{%02X}`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
