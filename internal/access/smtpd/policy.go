package smtpd

import (
	"cmp"
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/message"
	"github.com/postern-mail/postern/internal/mail"
)

const (
	// lookupTimeout bounds a question inside the dialogue.
	lookupTimeout = 20 * time.Second
	// maxDelay bounds how long policy may hold back one answer, maxDelays all
	// answers of a connection.
	maxDelay  = 20 * time.Second
	maxDelays = 2 * time.Minute
	// shutTimeout is how long a client that was refused in the greeting may take
	// to say QUIT.
	shutTimeout = 30 * time.Second
	// maxPrepend bounds the lines that policy puts in front of a message.
	maxPrepend = 64 << 10
)

// fate is what policy has in store for a message that is taken: the zero value
// is delivery.
type fate struct {
	action mail.Action // Pass, Discard or Quarantine
	why    string
}

// add notes a verdict. What is in quarantine can be had back, so it goes
// before what is discarded.
func (f *fate) add(v mail.Verdict) {
	switch {
	case v.Action == mail.ActionQuarantine && f.action != mail.ActionQuarantine,
		v.Action == mail.ActionDiscard && f.action == mail.ActionPass:
		*f = fate{action: v.Action, why: cmp.Or(v.Why, v.Text, "policy")}
	}
}

func (c *conn) lookup() (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.ctx, lookupTimeout)
}

// greeting lets policy look at the client and says the first word. It reports
// whether to go on.
func (c *conn) greeting() bool {
	ctx, cancel := c.lookup()
	v := c.srv.deps.Guard.Connect(ctx, &c.peer)
	cancel()
	c.fate.add(v)
	r := c.judged("connect", v)
	switch {
	case r.code == 0:
		r = reply{code: 220, text: c.srv.cfg.Hostname + " ESMTP"}
	case r.code < 500:
		r.code, r.close = 421, true
	default: // RFC 5321 section 3.1: 554, and 503 until QUIT
		r.code, c.shut = 554, true
	}
	return c.answer(r)
}

// hello asks policy about the name the client goes by.
func (c *conn) hello() reply {
	ctx, cancel := c.lookup()
	defer cancel()
	v := c.srv.deps.Guard.Hello(ctx, &c.peer)
	c.fate.add(v)
	r := c.judged("hello", v)
	if r.bad() {
		c.refused++
	}
	return r
}

// sender asks policy about the sender of the transaction.
func (c *conn) sender() reply {
	ctx, cancel := c.lookup()
	defer cancel()
	v := c.srv.deps.Guard.Sender(ctx, &c.peer, &c.tx.envelope)
	c.tx.fate.add(v)
	r := c.judged("sender", v)
	if r.bad() {
		c.refused++
	}
	return r
}

// recipient asks policy about a recipient. One that is not to be kept is
// answered as if it was.
func (c *conn) recipient(to mail.EnvelopeRecipient) (r reply, keep bool) {
	ctx, cancel := c.lookup()
	defer cancel()
	v := c.srv.deps.Guard.Recipient(ctx, &c.peer, &c.tx.envelope, to)
	if v.Action == mail.ActionQuarantine {
		c.tx.fate.add(v)
	}
	r = c.judged("recipient", v)
	if r.bad() && strings.HasPrefix(r.status, "5.1.") {
		c.failed(failedRecipient)
	}
	return r, v.Action != mail.ActionDiscard
}

// content asks policy about a whole message and returns what goes in front of
// it.
func (c *conn) content(s *mail.Submission) (front []byte, r reply) {
	ctx, cancel := context.WithTimeout(c.ctx, c.srv.cfg.DeliverTimeout.Std())
	defer cancel()
	v := c.srv.deps.Guard.Content(ctx, &c.peer, s)
	c.tx.fate.add(v)
	if r := c.judged("content", v); r.code != 0 {
		return nil, r
	}
	if !wholeLines(v.Prepend) {
		c.log.Error("lines to put in front of a message are not whole header lines", "trace", c.tx.trace.String())
		return nil, unavailable("Message cannot be judged, try again later")
	}
	return v.Prepend, reply{}
}

func (c *conn) failed(what string) { c.srv.deps.Guard.Failed(&c.peer, what) }

// judged waits as a verdict says and turns it into an answer; code 0 is to go
// on.
func (c *conn) judged(stage string, v mail.Verdict) reply {
	c.delay(v.Delay)
	c.over = c.over || v.Close
	var r reply
	switch v.Action {
	case mail.ActionPass, mail.ActionDiscard, mail.ActionQuarantine:
	case mail.ActionRefuse:
		r = refusal(v)
	default:
		r = deferral(v)
	}
	if v.Why != "" && v.Action != mail.ActionPass {
		level := slog.LevelInfo
		if stage == "recipient" {
			level = slog.LevelDebug // guessers would fill the log; policy counts them
		}
		c.log.Log(c.ctx, level, "policy", "stage", stage, "why", printable(v.Why, 400), "answer", r.code, "status", r.status)
	}
	return r
}

// refusal is the answer of a verdict for good: 550, or what fits its status
// better.
func refusal(v mail.Verdict) reply {
	r := reply{code: 550, status: statusOf(v.Status, '5', "5.7.1"), text: textOf(v, "Refused by policy")}
	switch {
	case r.status == "5.2.2", r.status == "5.3.4":
		r.code = 552
	case strings.HasPrefix(r.status, "5.3."), strings.HasPrefix(r.status, "5.4."), strings.HasPrefix(r.status, "5.5."):
		r.code = 554
	}
	return r
}

// deferral is the answer of a verdict for now: 450 about addresses and policy,
// 452 about space, else 451.
func deferral(v mail.Verdict) reply {
	r := reply{code: 451, status: statusOf(v.Status, '4', "4.7.1"), text: textOf(v, "Not now, try again later")}
	switch {
	case r.status == "4.2.2", r.status == "4.3.1", r.status == "4.5.3":
		r.code = 452
	case strings.HasPrefix(r.status, "4.1."), strings.HasPrefix(r.status, "4.2."), strings.HasPrefix(r.status, "4.7."):
		r.code = 450
	}
	return r
}

// statusOf makes an enhanced status agree with the code it stands behind
// (RFC 2034 section 4), and is otherwise if there is none.
func statusOf(s string, class byte, otherwise string) string {
	parts := strings.Split(s, ".")
	if len(parts) != 3 || len(s) > 9 {
		return otherwise
	}
	for _, p := range parts {
		if p == "" || strings.Trim(p, "0123456789") != "" {
			return otherwise
		}
	}
	return string(class) + "." + parts[1] + "." + parts[2]
}

// textOf is the text of a verdict, which may come from a scanner; UTF-8 is not
// for every client (RFC 6531 section 3.7.4.2).
func textOf(v mail.Verdict, otherwise string) string {
	return strings.Map(func(r rune) rune {
		if r > '~' {
			return '?'
		}
		return r
	}, printable(cmp.Or(v.Text, otherwise), 200))
}

// delay holds an answer back, within limits and until the server stops.
func (c *conn) delay(d time.Duration) {
	if d = min(d, maxDelay, maxDelays-c.delayed); d <= 0 {
		return
	}
	c.delayed += d
	if c.flush() != nil { // answers before it need not wait
		return // the next read or write will tell
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.srv.stopping:
	case <-c.ctx.Done():
	}
}

// wholeLines reports whether b is nothing, or header lines that are all whole.
// Anything else would end the header or the message for somebody.
func wholeLines(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	if len(b) > maxPrepend || b[0] == ' ' || b[0] == '\t' {
		return false
	}
	var r reader
	r.feed(b, func([]byte) {})
	if r.flaws != 0 || r.state != atStart {
		return false
	}
	var end message.Ending
	for f := range message.Fields(b, &end) {
		if f.Odd {
			return false
		}
	}
	return !end.Empty && !end.Junk && !end.Cut
}
