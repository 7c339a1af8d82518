package smtpd

import (
	"errors"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/mail"
)

// transaction is one message from MAIL to its answer.
type transaction struct {
	trace    mail.TraceID
	started  time.Time
	envelope mail.Envelope
	named    int             // recipients accepted, also those named twice or dropped by policy
	known    map[string]bool // recipients accepted
	fate     fate

	body    *body
	content reader
	chunks  bool  // BDAT has begun
	failed  reply // a chunk was refused; all until the last get this answer
}

// mail begins a transaction (RFC 5321 section 4.1.1.2).
func (c *conn) mail(arg string) reply {
	switch {
	case c.helo == "":
		return badSequence("Say EHLO first")
	case c.tx != nil:
		return badSequence("Sender was given already")
	case c.door.users && c.tls == nil:
		return reply{code: 530, status: "5.7.0", text: "Say STARTTLS first"}
	case c.door.users && c.account == nil:
		return reply{code: 530, status: "5.7.0", text: "Log in first"}
	}
	rest, good := cutFold(arg, "FROM:")
	if !good {
		return badSyntax("Want MAIL FROM:<address>")
	}
	from, rest, err := parsePath(rest)
	if err != nil {
		return reply{code: 501, status: "5.1.7", text: "Sender: " + err.Error()}
	}
	params, err := parseMailParams(rest)
	if err != nil {
		return paramReply(err)
	}
	if r := c.checkSender(from, params); r.code != 0 {
		return r
	}
	now := time.Now()
	c.tx = &transaction{trace: mail.NewTraceID(now), started: now, known: map[string]bool{}, fate: c.fate,
		envelope: mail.Envelope{From: from.raw, Ret: params.ret, EnvID: params.envid, UTF8: params.utf8,
			EightBit: params.body == "8BITMIME", RequireTLS: params.tls, Size: max(params.size, 0)}}
	if r := c.sender(); r.code != 0 {
		c.reset()
		return r
	}
	return reply{code: 250, status: "2.1.0", text: "Sender noted"}
}

// checkSender says whether a message from this sender is welcome.
func (c *conn) checkSender(from path, params mailParams) reply {
	switch {
	case params.size > c.srv.cfg.MaxMessageBytes:
		return tooLarge(c.srv.cfg.MaxMessageBytes)
	case from.route:
		return reply{code: 553, status: "5.1.7", text: "Source routes are not taken"}
	case !from.null && from.domain == "":
		return reply{code: 553, status: "5.1.7", text: "Sender needs a domain"}
	case from.utf8 && !params.utf8:
		return reply{code: 553, status: "5.6.7", text: "Address needs SMTPUTF8"}
	case params.tls && c.tls == nil:
		return reply{code: 530, status: "5.7.10", text: "REQUIRETLS needs TLS"}
	}
	if c.account == nil {
		return reply{}
	}
	if !c.srv.rates.message(accountKey(*c.account)) {
		return reply{code: 450, status: "4.7.1", text: "This account sends too much, try again later"}
	}
	if from.null {
		return reply{} // receipts and notices by mail programs (RFC 3798)
	}
	return c.maySend(from.raw)
}

// maySend checks that the account may use an address as its own.
func (c *conn) maySend(address string) reply {
	a, err := mail.ParseAddress(address)
	if err != nil {
		return reply{code: 553, status: "5.1.7", text: "Sender is not a valid address"}
	}
	if !c.srv.deps.Directory.MaySendAs(*c.account, a) {
		return reply{code: 550, status: "5.7.1", text: "Not allowed to send as <" + address + ">"}
	}
	return reply{}
}

// rcpt adds a recipient that policy lets pass (RFC 5321 section 4.1.1.3).
func (c *conn) rcpt(arg string) reply {
	switch {
	case c.tx == nil:
		return badSequence("Give the sender first")
	case c.tx.chunks:
		return badSequence("Not between chunks")
	}
	rest, good := cutFold(arg, "TO:")
	if !good {
		return badSyntax("Want RCPT TO:<address>")
	}
	to, rest, err := parsePath(rest)
	if err != nil {
		return reply{code: 501, status: "5.1.3", text: "Recipient: " + err.Error()}
	}
	params, err := parseRcptParams(rest)
	if err != nil {
		return paramReply(err)
	}
	if c.tx.named >= c.srv.cfg.MaxRecipients {
		c.refused++
		return reply{code: 452, status: "4.5.3", text: "Too many recipients, send the rest in another message"}
	}
	r := c.addRecipient(to, params)
	if r.bad() {
		c.refused++
	}
	return r
}

// addRecipient decides on one recipient.
func (c *conn) addRecipient(to path, params rcptParams) reply {
	if to.domain == "" && !to.null && c.srv.cfg.Postmaster != "" {
		to.raw = c.srv.cfg.Postmaster
	}
	switch {
	case to.null:
		return reply{code: 501, status: "5.1.3", text: "Recipient cannot be empty"}
	case to.domain == "" && c.srv.cfg.Postmaster == "":
		return reply{code: 550, status: "5.1.1", text: "No such mailbox here"}
	case to.route, to.literal:
		return reply{code: 550, status: "5.7.1", text: "Relaying is not allowed"}
	case to.utf8 && !c.tx.envelope.UTF8:
		return reply{code: 553, status: "5.6.7", text: "Address needs SMTPUTF8"}
	}
	address, err := mail.ParseAddress(to.raw)
	if err != nil {
		return reply{code: 553, status: "5.1.3", text: "Address is not valid"}
	}
	if c.account != nil && !c.srv.rates.recipient(accountKey(*c.account)) {
		return reply{code: 450, status: "4.7.1", text: "This account sends to too many, try again later"}
	}
	rcpt := mail.EnvelopeRecipient{Address: to.raw, Notify: params.notify, ORcpt: params.orcpt}
	r, keep := c.recipient(rcpt)
	if r.code != 0 {
		return r
	}
	// Named twice is delivered once. Whether the local part has a case is for
	// its domain to say, so addresses are compared as they were written.
	if key := address.String(); keep && !c.tx.known[key] {
		c.tx.known[key] = true
		c.tx.envelope.Recipients = append(c.tx.envelope.Recipients, rcpt)
	}
	c.tx.named++
	return reply{code: 250, status: "2.1.5", text: "Recipient is known"}
}

// paramReply tells unknown parameters (555) from wrong ones (501).
func paramReply(err error) reply {
	if errors.Is(err, errUnknownParam) {
		return reply{code: 555, status: "5.5.4", text: "Parameter is not known"}
	}
	return badSyntax(err.Error())
}

// cutFold is strings.CutPrefix without regard to case.
func cutFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}
