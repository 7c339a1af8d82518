package smtpd

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// transaction is one message from MAIL to its answer.
type transaction struct {
	trace   string
	started time.Time
	from    path
	params  mailParams
	rcpts   []recipient
	targets []mail.Recipient
	known   map[org.MailboxID]bool // mailboxes in targets

	body    *body
	content reader
	chunks  bool  // BDAT has begun
	failed  reply // a chunk was refused; all until the last get this answer
}

// recipient is a RCPT that was accepted.
type recipient struct {
	address string
	params  rcptParams
}

// maxTargets bounds what groups may expand to in one message.
const maxTargets = 20000

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
	c.tx = &transaction{trace: mail.NewTraceID(time.Now()).String(), started: time.Now(), from: from, params: params, known: map[org.MailboxID]bool{}}
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
	a, err := mailboxOf(address)
	if err != nil {
		return reply{code: 553, status: "5.1.7", text: "Sender is not a valid address"}
	}
	if !c.srv.deps.Directory.MaySendAs(*c.account, a) {
		return reply{code: 550, status: "5.7.1", text: "Not allowed to send as <" + address + ">"}
	}
	return reply{}
}

// rcpt adds a recipient after looking it up (RFC 5321 section 4.1.1.3).
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
	if len(c.tx.rcpts) >= c.srv.cfg.MaxRecipients {
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
		return c.noRelay()
	case to.utf8 && !c.tx.params.utf8:
		return reply{code: 553, status: "5.6.7", text: "Address needs SMTPUTF8"}
	}
	address, err := mailboxOf(to.raw)
	if err != nil {
		return reply{code: 553, status: "5.1.3", text: "Address is not valid"}
	}
	if !c.srv.deps.Directory.Hosted(address.Domain) {
		return c.noRelay()
	}
	if c.account != nil && !c.srv.rates.recipient(accountKey(*c.account)) {
		return reply{code: 450, status: "4.7.1", text: "This account sends to too many, try again later"}
	}
	return c.resolve(address, recipient{to.raw, params})
}

// noRelay refuses what is not ours. Users get told what the server cannot do.
func (c *conn) noRelay() reply {
	if c.account != nil {
		return reply{code: 550, status: "5.7.1", text: "This server does not send to other domains"}
	}
	return reply{code: 550, status: "5.7.1", text: "Relaying is not allowed"}
}

// resolve adds the mailboxes behind an address.
func (c *conn) resolve(a mail.Address, rcpt recipient) reply {
	ctx, cancel := c.lookup()
	defer cancel()
	res, err := c.srv.deps.Directory.Resolve(ctx, a)
	if err != nil {
		if k := kind.Of(err); k == kind.Internal || k == kind.Busy || k == kind.Corrupt {
			c.log.Warn("recipient cannot be looked up", "err", err)
		}
		if kind.Is(err, kind.Elsewhere) { // the domain has just left
			return c.noRelay()
		}
		return forRecipient(err)
	}
	if len(c.tx.targets)+len(res.Mailboxes) > maxTargets {
		return reply{code: 452, status: "4.5.3", text: "Too many recipients, send the rest in another message"}
	}
	if len(res.Mailboxes) == 1 && c.isFull(ctx, res.Mailboxes[0].Mailbox) {
		return forRefusal(kind.Full)
	}
	for _, t := range res.Mailboxes {
		if !c.tx.known[t.Mailbox.ID] { // promise: named twice, delivered once
			c.tx.known[t.Mailbox.ID] = true
			c.tx.targets = append(c.tx.targets, mail.Recipient{Mailbox: t.Mailbox})
		}
	}
	c.tx.rcpts = append(c.tx.rcpts, rcpt)
	return reply{code: 250, status: "2.1.5", text: "Recipient is known"}
}

// isFull asks the store about a mailbox that was full a while ago.
func (c *conn) isFull(ctx context.Context, at org.MailboxRef) bool {
	if !c.srv.full.has(at.ID) {
		return false
	}
	u, err := c.srv.deps.Store.Usage(ctx, at)
	size := max(c.tx.params.size, 1)
	if err == nil && (u.QuotaBytes > 0 && u.Bytes+size > u.QuotaBytes || u.QuotaMessages > 0 && u.Messages >= u.QuotaMessages) {
		return true
	}
	c.srv.full.forget(at.ID) // the delivery itself will tell
	return false
}

// lookupTimeout bounds a question inside the dialogue.
const lookupTimeout = 20 * time.Second

func (c *conn) lookup() (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.ctx, lookupTimeout)
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
