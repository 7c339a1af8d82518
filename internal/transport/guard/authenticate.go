package guard

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/authn"
	"github.com/postern-mail/postern/internal/transport/dns"
	"github.com/postern-mail/postern/internal/transport/sign"
)

// Observation is what became of a message whose author domain has a DMARC
// policy, for its aggregate report (RFC 9990).
type Observation struct {
	Time    time.Time
	Remote  netip.Addr
	From    string // envelope sender, as written
	Results authn.Results
	// Disposition is what was done for DMARC's sake.
	Disposition authn.Disposition
	// Override is why it is not what was asked for: "arc" or "local_policy";
	// empty where it is.
	Override string
}

// newChecker makes the checker of messages.
func newChecker(r *dns.Resolver, trusted func(sealer string) bool) *authn.Checker {
	txt := func(ctx context.Context, name string) ([]string, error) {
		all, _, err := r.TXT(ctx, name)
		return all, err
	}
	return authn.New(authn.Deps{Resolver: r.Std(), Trusted: trusted, Verify: func(ctx context.Context, msg []byte) ([]authn.DKIM, authn.ARC) {
		sigs, chain := sign.VerifyAll(ctx, msg, txt, sign.VerifyOptions{Now: time.Now()})
		return signatures(sigs), arc(chain)
	}})
}

func signatures(sigs []sign.Verification) []authn.DKIM {
	var out []authn.DKIM
	for _, v := range sigs {
		out = append(out, authn.DKIM{Result: authn.Result(v.Result), Domain: v.Domain, Selector: v.Selector, Identity: v.Identity,
			Algorithm: v.Algorithm, Signature: v.Signature, Why: reason(v.Err)})
	}
	return out
}

func arc(c sign.Chain) authn.ARC {
	out := authn.ARC{Result: authn.Result(c.Status), Sets: len(c.Sets), OldestPass: c.OldestPass, Why: reason(c.Err)}
	if n := len(c.Sets); n > 0 {
		out.Sealer, out.Results = c.Sets[n-1].Domain, c.Sets[n-1].Results
	}
	return out
}

func reason(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// authenticate finds out who a message is from. It does so for strangers, and
// for connectors whose proof others share.
func (c *content) authenticate(ctx context.Context) mail.Verdict {
	if !c.mustBeSigned() && (!stranger(c.p) || c.g.near(c.p)) {
		return pass()
	}
	r := c.g.checker.Check(ctx, *c.p, c.s.Envelope, c.s.Body)
	c.g.countResults(r)
	if !stranger(c.p) {
		if c.signed(r) {
			return pass()
		}
		if v := c.downgrade(ctx); v.Action != mail.ActionPass {
			return v
		}
	}
	c.prepend = append(c.prepend, r.Header(c.g.cfg.Hostname)...)
	c.trust(r)
	if v := c.dmarc(r); v.Action != mail.ActionPass {
		return v
	}
	return c.restricted(r)
}

// mustBeSigned tells whether the connector is proven only by what other
// tenants of a cloud have as well.
func (c *content) mustBeSigned() bool {
	if c.p.Connector == "" {
		return false
	}
	row, ok := c.g.deps.Settings.Connector(c.p.Organization, c.p.Connector)
	return !ok || SignatureNeeded(*c.p, row)
}

// signed tells whether a domain of the connector's organization signed.
func (c *content) signed(r authn.Results) bool {
	return slices.ContainsFunc(r.DKIM, func(d authn.DKIM) bool {
		o, ok := c.g.deps.Directory.OrganizationOf(d.Domain)
		return d.Result == authn.Pass && ok && o == c.p.Organization
	})
}

// downgrade makes the peer the stranger it is: the tenant is not proven. What
// it could only do as a connector is refused.
func (c *content) downgrade(ctx context.Context) mail.Verdict {
	c.p.Connector, c.p.Organization = "", ""
	c.s.Origin.Connector, c.s.Origin.Organization, c.s.Origin.Trusted = "", "", false
	for _, r := range c.s.Envelope.Recipients {
		if v := c.g.recipient(ctx, c.p, &c.s.Envelope, r); v.Action != mail.ActionPass {
			return c.g.said("connector", refuse("5.7.1", "Relaying needs a DKIM signature of a domain of the organization", "tenant not proven: "+v.Why))
		}
	}
	return c.g.said("connector", pass())
}

// trust notes what is proven: for lists of allowed senders, and for the
// greylist next time.
func (c *content) trust(r authn.Results) {
	f, now := c.g.inForce(), time.Now()
	c.trusted = f.allow.network(c.p.Remote, now)
	c.friend = c.trusted
	from, err := senderOf(&c.s.Envelope)
	if err == nil && !from.IsZero() && proven(r, from.Domain) {
		c.known = knownKey(c.p.Remote, from.Domain)
		c.friend = c.friend || f.allow.sender(from, now)
	}
}

// proven tells whether the domain of the envelope's sender is behind the
// message.
func proven(r authn.Results, domain string) bool {
	return r.MailFrom.Result == authn.Pass && r.MailFrom.Domain == domain ||
		slices.ContainsFunc(r.DKIM, func(d authn.DKIM) bool { return d.Result == authn.Pass && d.Domain == domain })
}

// restricted asks strangers for a proof of the domain that lets them write to a
// group.
func (c *content) restricted(r authn.Results) mail.Verdict {
	from, err := senderOf(&c.s.Envelope)
	for _, d := range c.hosted {
		if len(d.Senders.Domains) > 0 && !c.trusted && (err != nil || !proven(r, from.Domain)) {
			return c.g.said("restricted", refuse("5.7.1", "You may not write to this group without SPF or DKIM", "sender of a group is not proven"))
		}
	}
	return pass()
}

// dmarc does what the author's domain asks for.
func (c *content) dmarc(r authn.Results) mail.Verdict {
	d := r.DMARC
	if d.Result == authn.PermError && d.From == "" {
		return c.g.said("dmarc", refuse("5.6.0", "Message needs one From field with a valid address", "author: "+d.Why))
	}
	done, override := d.Applied, d.Override
	if done != authn.DispositionNone && done != "" && (c.trusted || !*c.g.deps.Settings.Group().DMARCEnforce) {
		done, override = authn.DispositionNone, "local_policy"
	}
	if d.Domain != "" && c.g.deps.Note != nil {
		c.g.deps.Note(Observation{Time: time.Now(), Remote: c.p.Remote, From: c.s.Envelope.From, Results: r, Disposition: done, Override: override})
	}
	switch done {
	case authn.DispositionReject:
		return c.g.said("dmarc", refuse("5.7.1", fmt.Sprintf("Message is refused as the policy of %s asks (DMARC)", d.From), "dmarc: "+d.Why))
	case authn.DispositionQuarantine:
		c.hold("dmarc", "DMARC policy of "+d.From)
	}
	return pass()
}

// countResults counts by method and result.
func (g *Guard) countResults(r authn.Results) {
	count := func(method string, res authn.Result) {
		if res != "" {
			g.m.auth.WithLabelValues(method, string(res)).Inc()
		}
	}
	count("spf", r.MailFrom.Result)
	for _, d := range r.DKIM {
		count("dkim", d.Result)
	}
	if len(r.DKIM) == 0 {
		count("dkim", authn.None)
	}
	count("arc", r.ARC.Result)
	count("dmarc", r.DMARC.Result)
}
