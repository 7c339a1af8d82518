package guard

import (
	"context"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
)

// senderTimeout bounds the look-up of a sender's domain.
const senderTimeout = 5 * time.Second

// Sender judges the sender of a message. For a peer without an account it finds
// the connector that is proven for this message and puts it and its
// organization into p, or takes them out.
func (g *Guard) Sender(ctx context.Context, p *mail.Peer, e *mail.Envelope) mail.Verdict {
	now := time.Now()
	if p.Account != "" {
		g.mem.loggedIn(p.Remote, now)
		return pass()
	}
	p.Connector, p.Organization = "", ""
	from, err := senderOf(e)
	if err != nil {
		return g.said("sender", refuse("5.1.7", "Sender is not a valid address", "sender cannot be read"))
	}
	f := g.inForce()
	if c, err := Prove(*p, *e, g.deps.Settings.AllConnectors(), g.tenancy()); err == nil {
		p.Connector, p.Organization = c.Name, c.Organization
		return g.said("connector", pass())
	}
	if f.block.sender(from, now) {
		return g.said("block", refuse("5.7.1", "This sender is not let in", "block list"))
	}
	if from.IsZero() || from.IsLiteral() || g.deps.Directory.Hosted(from.Domain) || g.near(p) || f.allow.network(p.Remote, now) {
		return pass()
	}
	return g.senderExists(ctx, from.Domain)
}

// senderExists refuses senders that nobody could answer (RFC 5321 section 3.3,
// RFC 7505 section 4.2).
func (g *Guard) senderExists(ctx context.Context, domain string) mail.Verdict {
	ctx, cancel := context.WithTimeout(ctx, senderTimeout)
	defer cancel()
	_, _, err := g.deps.Resolver.MX(ctx, domain)
	switch {
	case err == nil:
		return pass()
	case kind.Is(err, kind.NotFound):
		return g.said("sender", refuse("5.1.8", "Sender's domain does not exist", "sender domain not found"))
	case kind.Is(err, kind.Invalid):
		return g.said("sender", refuse("5.7.27", "Sender's domain takes no mail", "null MX"))
	}
	return g.said("sender", later("4.1.8", "Sender's domain cannot be looked up now", "dns: "+err.Error()))
}

func senderOf(e *mail.Envelope) (mail.Address, error) {
	if e.From == "" {
		return mail.Address{}, nil
	}
	return mail.ParseAddress(e.From)
}

func (g *Guard) tenancy() Tenancy {
	return Tenancy{OrganizationOf: g.deps.Directory.OrganizationOf, Roots: g.deps.Roots, Now: time.Now()}
}
