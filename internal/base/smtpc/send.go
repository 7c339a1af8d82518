package smtpc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/internal/mail"
)

// Outcome says where the responsibility for a message is.
type Outcome uint8

const (
	// NotSent: no byte of the final dot was given to the network. The peer has
	// nothing; the message may go again, here or elsewhere.
	NotSent Outcome = iota
	// InDoubt: the final dot may have gone out and no answer came. The peer
	// may have the message (RFC 1047).
	InDoubt
	// Refused: the peer answered the final dot with 4xx or 5xx. It has nothing.
	Refused
	// Taken: the peer answered the final dot with 2xx. It has the message for
	// the recipients it accepted.
	Taken
)

func (o Outcome) String() string {
	return [...]string{"not sent", "in doubt", "refused", "taken"}[o]
}

// Result is what became of one recipient at RCPT.
type Result struct {
	// Reply of the peer, or one made here (Local); code 0: it was not asked,
	// the error of Send says why.
	Reply Reply
	// Accepted: Outcome and Sent.Reply hold for this recipient.
	Accepted bool
	// TooMany: refused only because there were so many before it (452, or 552
	// from those that follow RFC 821; RFC 5321 section 4.5.3.1.10). It may go in
	// another transaction at once.
	TooMany bool
}

// Sent is what became of a message.
type Sent struct {
	Recipients []Result // in the order of the envelope
	Outcome    Outcome
	Reply      Reply // to the final dot; code 0 unless Refused or Taken
}

// Send transfers one message to the recipients of e. Recipients with a reply
// of 4xx or 5xx are settled by it, whatever the error. For the others: a nil
// error means Taken, or that no recipient was accepted; an error (*Failure)
// tells why they were not served, and Outcome whether they may have been.
//
// beforeDot is called when all but the final dot is on its way; its error
// stops the message there, NotSent, and ends the session. body has CRLF line
// ends; a last line without one gets it.
func (c *Conn) Send(ctx context.Context, e mail.Envelope, body []byte, beforeDot func() error) (Sent, error) {
	s := Sent{Recipients: make([]Result, len(e.Recipients))}
	if c.dead != nil {
		return s, broken(StageReset, c.o.Address, c.dead)
	}
	p, r := c.prepare(e, body, s.Recipients)
	if r.Code != 0 {
		return s, answered(StageCheck, c.o.Address, r)
	}
	limit := c.o.Timeouts.Overall + time.Duration(len(body)/1024)*time.Second
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errOverall)
	defer cancel()
	defer c.begin(ctx)()
	if c.open {
		if err := c.reset(); err != nil {
			return s, err
		}
	}
	ready, err := c.address(p, s.Recipients)
	if err != nil || !ready {
		return s, err
	}
	return s, c.content(&s, body, beforeDot)
}

// content is everything behind 354.
func (c *Conn) content(s *Sent, body []byte, beforeDot func() error) error {
	d := dotter{emit: func(p []byte) error {
		c.nc.SetDeadline(time.Now().Add(c.o.Timeouts.Block))
		_, err := c.nc.Write(p)
		return err
	}}
	if err := d.send(body); err != nil {
		return c.interrupted(err)
	}
	if err := beforeDot(); err != nil {
		c.dead = errors.New("a message was stopped before its end")
		c.raw.Close()
		return &Failure{Stage: StageHook, Peer: c.o.Address, Err: err}
	}
	if c.ctx.Err() != nil {
		return c.fail(StageDot, c.ctx.Err())
	}
	if err := c.present(); err != nil {
		return err
	}
	r, err := c.dot(&s.Outcome)
	if err != nil {
		return err
	}
	s.Reply = r
	if r.Positive() {
		s.Outcome = Taken
		c.used++
		return nil
	}
	s.Outcome = Refused
	return c.refused(StageDot, r)
}

// dot ends the message and reads what the peer says of it. It leaves InDoubt
// in o when bytes may have gone out without an answer that can be understood.
func (c *Conn) dot(o *Outcome) (Reply, error) {
	before := c.raw.out
	c.nc.SetDeadline(time.Now().Add(c.o.Timeouts.Block))
	_, err := c.nc.Write([]byte(".\r\n"))
	if c.raw.out != before {
		*o = InDoubt
	}
	if err != nil {
		return Reply{}, c.fail(StageDot, err)
	}
	r, err := c.read(StageDot, c.o.Timeouts.Dot)
	if err != nil {
		return Reply{}, err
	}
	if !r.Positive() && r.Code < 400 {
		return Reply{}, c.offScript(StageDot, r)
	}
	c.open = false
	return r, nil
}

// interrupted is for a peer that stops reading the message. Often it said why
// just before it hung up.
func (c *Conn) interrupted(cause error) error {
	if c.ctx.Err() == nil {
		c.nc.SetReadDeadline(time.Now().Add(time.Second))
		if r, _, err := readReply(c.br); err == nil && r.Code >= 400 {
			c.fail(StageBody, cause)
			return answered(StageBody, c.o.Address, r)
		}
	}
	return c.fail(StageBody, cause)
}

// step is one command of the envelope.
type step struct {
	stage Stage
	line  string
	rcpt  int // index of the recipient
	wait  time.Duration
}

// group is how many commands go out before their answers are read, where the
// peer offers PIPELINING (RFC 2920). With at most 512 bytes and some
// parameters each they fit the buffers of both hosts, so neither waits for the
// other.
const group = 32

// address says MAIL, RCPT and DATA and reads the answers. It returns true when
// the peer waits for the message and has accepted a recipient.
func (c *Conn) address(p plan, rs []Result) (bool, error) {
	t := c.o.Timeouts
	steps := []step{{StageMail, p.mail, 0, t.Envelope}}
	for i, line := range p.rcpt {
		if line != "" {
			steps = append(steps, step{StageRcpt, line, i, t.Envelope})
		}
	}
	if len(steps) == 1 {
		return false, nil // every recipient was refused here
	}
	steps = append(steps, step{StageData, "DATA", 0, t.Data})
	size := 1
	if c.Has("PIPELINING") {
		size = group
	}
	a := answers{c: c, rs: rs}
	for len(steps) > 0 && !a.hopeless(steps[0]) {
		n := min(size, len(steps))
		if err := c.say(steps[:n]); err != nil {
			return false, err
		}
		for _, st := range steps[:n] {
			if err := a.take(st); err != nil {
				return false, err
			}
		}
		steps = steps[n:]
	}
	if a.ready && (a.failed != nil || a.accepted == 0) {
		return false, c.nothing(a.failed)
	}
	return a.ready, a.failed
}

func (c *Conn) say(steps []step) error {
	lines := make([]string, len(steps))
	for i, st := range steps {
		lines[i] = st.line
	}
	if steps[0].stage == StageMail {
		c.open = true
	}
	return c.write(steps[0].stage, steps[0].wait, lines...)
}

// answers collects what the peer says to the envelope.
type answers struct {
	c        *Conn
	rs       []Result
	accepted int
	ready    bool  // 354
	failed   error // of MAIL or DATA
}

// hopeless tells whether st need not be said any more.
func (a *answers) hopeless(st step) bool {
	return a.failed != nil || st.stage == StageData && a.accepted == 0
}

// take reads the answer to st. An error ends the session.
func (a *answers) take(st step) error {
	r, err := a.c.read(st.stage, st.wait)
	switch {
	case err != nil:
		return err
	case r.Code == 421:
		return a.c.refused(st.stage, r)
	case st.stage == StageData && r.Code == 354:
		a.ready = true
		return nil
	case r.Code < 400 && (st.stage == StageData || !r.Positive()):
		return a.c.offScript(st.stage, r)
	case a.failed != nil:
		return nil // follows from the first refusal
	case st.stage == StageRcpt:
		a.recipient(st.rcpt, r)
	case r.Code >= 400 && (st.stage == StageMail || a.accepted > 0):
		a.failed = answered(st.stage, a.c.o.Address, r)
	}
	return nil
}

func (a *answers) recipient(i int, r Reply) {
	res := Result{Reply: r, Accepted: r.Positive()}
	if res.Accepted {
		a.accepted++
	}
	// 552 with 5.2.2 is a full mailbox, not a full transaction.
	res.TooMany = a.accepted > 0 && (r.Code == 452 && r.Status != "4.2.2" || r.Code == 552 && (r.Status == "" || r.Status == "5.5.3"))
	a.rs[i] = res
}

// nothing answers a peer that wants the message though it accepted nobody: a
// lone dot (RFC 2920 section 3.1). cause is the error of MAIL, if any.
func (c *Conn) nothing(cause error) error {
	var o Outcome
	r, err := c.dot(&o)
	switch {
	case err != nil && cause == nil:
		return err
	case err == nil && r.Positive():
		c.fail(StageDot, fmt.Errorf("%w: took a message for nobody", errProtocol))
	}
	return cause
}
