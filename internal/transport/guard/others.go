package guard

import (
	"context"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/scrub"
)

// Other is a filter that is neither the spam nor the malware scanner: a milter.
type Other struct {
	Name    string // in logs, metrics and events
	Scanner scrub.Scanner
	Fail    string // open: what it did not look at passes; closed: it is deferred
}

type other struct {
	*scanner
	fail string
}

// checkOther is the check that the words of other filters are counted under.
const checkOther = "milter"

// others asks the other filters about every message, one after the other, until
// one wants it no further. Unlike a score, what they advise is done: to refuse
// is the filter's choice, not the organization's.
func (c *content) others(ctx context.Context) mail.Verdict {
	m := scrub.Mail{Trace: c.s.Trace, Peer: *c.p, Envelope: c.s.Envelope, Body: c.s.Body}
	for _, o := range c.g.others {
		f, err := c.g.scanWith(ctx, o.scanner, m)
		if v := c.judgeOther(o.name, f, err, o.fail); v.Action != mail.ActionPass {
			return v
		}
	}
	return pass()
}

func (c *content) judgeOther(name string, f scrub.Finding, err error, fail string) mail.Verdict {
	if err != nil {
		return c.unscanned(checkOther, fail, err)
	}
	why := name
	if f.Text != "" {
		why += ": " + f.Text
	}
	switch f.Action {
	case mail.ActionRefuse:
		return c.g.said(checkOther, refuse("5.7.1", text(f.Text, "Message is refused"), why))
	case mail.ActionDefer:
		return c.g.said(checkOther, later("4.7.1", text(f.Text, "Try again later"), why))
	case mail.ActionDiscard:
		return c.g.said(checkOther, mail.Verdict{Action: mail.ActionDiscard, Why: why})
	case mail.ActionQuarantine:
		c.hold(checkOther, why)
	}
	if v := c.judgeJunk(checkOther, f, why+": spam"); v.Action != mail.ActionPass {
		return v
	}
	if f.Spam {
		c.junk()
	}
	c.add(f)
	return pass()
}
