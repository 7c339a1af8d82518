package guard

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/message"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// content is one message being judged.
type content struct {
	g *Guard
	p *mail.Peer
	s *mail.Submission

	hosted   []directory.Destination // of the recipients that are ours
	outside  int                     // recipients elsewhere
	policies []settings.Policy       // of all organizations that have to do with it
	prepend  []byte
	trusted  bool   // the network is on the allow list
	friend   bool   // so is it, or a proven sender
	spam     bool   // the scanner calls it so
	known    string // sender and network that the greylist need not stop, empty for none
}

// Content judges a whole message: size, who it is from, what is in it. It may
// put a reason into s.Quarantine (the verdict then is ActionQuarantine) and
// lower s.Priority; of a connector that is not proven after all it takes p and
// s.Origin back to a stranger's. Prepend are header lines for the front of the
// message, also where it goes to quarantine.
//
// An organization's policy is for mail to it and from it. Of several, the
// message is refused if all would refuse it, and goes to quarantine if one would
// refuse it or put it there.
func (g *Guard) Content(ctx context.Context, p *mail.Peer, s *mail.Submission) mail.Verdict {
	c := &content{g: g, p: p, s: s}
	c.look()
	if c.health() {
		return mail.Verdict{}
	}
	for _, step := range []func(context.Context) mail.Verdict{c.size, c.authenticate, c.attachments, c.scan, c.others} {
		if v := step(ctx); v.Action != mail.ActionPass {
			return v
		}
	}
	if c.outside > 0 && p.Account != "" {
		from, _ := senderOf(&s.Envelope) // read at MAIL; the null sender is on no list
		g.wrote(p.Account, from, c.outside)
	}
	if s.Priority == mail.PriorityNormal && bulk(s.Body) {
		s.Priority = mail.PriorityLow
	}
	v := mail.Verdict{Prepend: c.prepend}
	if s.Quarantine != "" {
		v.Action, v.Why = mail.ActionQuarantine, s.Quarantine
		return v
	}
	if c.known != "" {
		g.mem.know(c.known, time.Now())
	}
	if stranger(p) && !c.spam {
		g.mem.behaved(network(p.Remote), time.Now())
	}
	return v
}

// look finds out whom the message concerns.
func (c *content) look() {
	orgs := map[org.OrganizationID]bool{}
	add := func(o org.OrganizationID) {
		if o != "" && !orgs[o] {
			orgs[o] = true
			c.policies = append(c.policies, c.g.deps.Settings.Policy(o))
		}
	}
	add(c.p.Organization)
	for _, r := range c.s.Envelope.Recipients {
		a, err := mail.ParseAddress(r.Address)
		if err != nil {
			continue
		}
		if !c.g.deps.Directory.Hosted(a.Domain) {
			c.outside++
			continue
		}
		if d, err := c.g.deps.Directory.Destination(a); err == nil {
			c.hosted = append(c.hosted, d)
			add(d.Organization)
		}
	}
}

// health tells whether the message is a probe of the group's own that goes to
// health mailboxes only. Nothing is asked about it: a scanner that is away is no
// reason to call the way of mail broken.
func (c *content) health() bool {
	if c.outside > 0 || len(c.hosted) == 0 || len(c.hosted) != len(c.s.Envelope.Recipients) {
		return false
	}
	return !slices.ContainsFunc(c.hosted, func(d directory.Destination) bool { return !d.Health })
}

// size judges what SIZE did not announce.
func (c *content) size(context.Context) mail.Verdict {
	n := int64(len(c.s.Body))
	for _, d := range c.hosted {
		if limit := c.g.largest(d); limit > 0 && n > limit {
			return c.g.said("size", refuse("5.3.4", "Message is larger than a recipient takes", "size"))
		}
	}
	for _, p := range c.policies {
		if p.MaxMessage > 0 && n > p.MaxMessage {
			return c.g.said("size", refuse("5.3.4", "Message is larger than the organization allows", "size"))
		}
	}
	return pass()
}

// hold puts the message into quarantine; the first reason stays.
func (c *content) hold(check, why string) {
	c.g.m.guard.WithLabelValues(check, result(mail.ActionQuarantine)).Inc()
	if c.s.Quarantine == "" {
		c.s.Quarantine = why
	}
}

// The actions of policies.
const (
	actionMark       = "mark"
	actionQuarantine = "quarantine"
	actionReject     = "reject"
)

// together is what several policies come to: reject, quarantine, or empty.
func together(policies []settings.Policy, action func(settings.Policy) string) string {
	reject, hold := 0, 0
	for _, p := range policies {
		switch action(p) {
		case actionReject:
			reject++
		case actionQuarantine:
			hold++
		}
	}
	switch {
	case reject > 0 && reject == len(policies):
		return actionReject
	case reject+hold > 0:
		return actionQuarantine
	}
	return ""
}

// bulk tells whether a message says of itself that it went to many.
func bulk(body []byte) bool {
	var end message.Ending
	for f := range message.Fields(body, &end) {
		switch {
		case f.Is("List-Id"), f.Is("List-Unsubscribe"):
			return true
		case f.Is("Precedence"):
			switch strings.ToLower(f.Value(body)) {
			case "bulk", "list", "junk":
				return true
			}
		}
	}
	return false
}
