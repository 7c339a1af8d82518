package guard

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Recipient judges one recipient: whether it exists, may be written to by this
// sender and has room, and, where it is not ours, whether the peer may relay.
func (g *Guard) Recipient(ctx context.Context, p *mail.Peer, e *mail.Envelope, r mail.EnvelopeRecipient) mail.Verdict {
	v := g.recipient(ctx, p, e, r)
	if v.Action == mail.ActionPass && stranger(p) {
		v = g.greylist(p, e, r)
	}
	return g.slow(p, v)
}

// recipient is Recipient without the greylist.
func (g *Guard) recipient(ctx context.Context, p *mail.Peer, e *mail.Envelope, r mail.EnvelopeRecipient) mail.Verdict {
	if strings.HasPrefix(r.Address, "@") { // source route (RFC 5321 appendix C)
		return g.noRelay(p, "source route")
	}
	a, err := mail.ParseAddress(r.Address)
	switch {
	case err != nil:
		return g.said("recipient", refuse("5.1.3", "Address is not valid", "address cannot be read"))
	case a.IsLiteral():
		return g.noRelay(p, "address literal")
	case a.NeedsUTF8() && !e.UTF8:
		return g.said("recipient", refuse("5.6.7", "Address needs SMTPUTF8", "UTF-8 without SMTPUTF8"))
	case g.deps.Returns != nil && e.From == "" && g.deps.Directory.Hosted(a.Domain) && g.deps.Returns(a):
		return g.said("return", pass())
	case stranger(p) && strings.ContainsAny(a.Local, "@%!:"):
		// Some hosts read a way through others out of it. We never do, but
		// whoever asks looks for one that does.
		return g.noRelay(p, "route in the local part")
	}
	if !g.deps.Directory.Hosted(a.Domain) {
		if stranger(p) {
			return g.noRelay(p, "not hosted")
		}
		return g.said("relay", pass())
	}
	d, err := g.deps.Directory.Destination(a)
	if err != nil {
		return g.unknown(p, err)
	}
	return g.destination(ctx, p, e, d)
}

func (g *Guard) noRelay(p *mail.Peer, why string) mail.Verdict {
	if stranger(p) {
		g.Failed(p, "relay")
	}
	return g.said("relay", refuse("5.7.1", "Relaying is not allowed", why))
}

// unknown answers for an error of the directory. Texts are ours: an error may
// tell more than a stranger should know.
func (g *Guard) unknown(p *mail.Peer, err error) mail.Verdict {
	v := later("4.3.0", "Directory cannot answer, try again later", err.Error())
	switch kind.Of(err) {
	case kind.NotFound:
		v = refuse("5.1.1", "No such mailbox here", "unknown recipient")
	case kind.Denied:
		v = refuse("5.2.1", "Recipient is disabled", "disabled")
	case kind.Invalid:
		v = refuse("5.2.4", "Group is too large", err.Error())
	case kind.Elsewhere: // the domain has just left
		return g.noRelay(p, "not hosted any more")
	}
	return g.said("recipient", v)
}

// destination judges a recipient that is known.
func (g *Guard) destination(ctx context.Context, p *mail.Peer, e *mail.Envelope, d directory.Destination) mail.Verdict {
	if !d.Allows(sender(p, e)) {
		return g.said("restricted", refuse("5.7.1", "You may not write to this group", "senders of the group are limited"))
	}
	if limit := g.largest(d); limit > 0 && e.Size > limit {
		return g.said("size", refuse("5.3.4", "Message is larger than the recipient takes", "announced size"))
	}
	if d.Kind == directory.KindMailbox && d.Route == "" && (len(d.Forward) == 0 || d.Keep) && g.isFull(ctx, d.Mailbox, e.Size) {
		return g.said("full", later("4.2.2", "Mailbox is full", "mailbox is full"))
	}
	return g.said("recipient", pass())
}

// sender is who sends, in the words of the directory. The envelope's domain
// counts for strangers only after Content has seen it proven.
func sender(p *mail.Peer, e *mail.Envelope) directory.Sender {
	s := directory.Sender{Organization: p.Organization}
	if _, id, ok := strings.Cut(p.Account, "/"); ok {
		if s.Account.UnmarshalText([]byte(id)) != nil {
			s.Account = org.MailboxID{}
		}
	}
	if from, err := senderOf(e); err == nil {
		s.Domain = from.Domain
	}
	return s
}

// largest is the size of message that a recipient takes, 0 where it is the
// server that decides.
func (g *Guard) largest(d directory.Destination) int64 {
	a, b := d.MaxMessage, g.deps.Settings.Policy(d.Organization).MaxMessage
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// Full notes that a mailbox refused a message for lack of space: until it has
// room again, recipients are told at once.
func (g *Guard) Full(id org.MailboxID) { g.mem.filled(id.String(), time.Now()) }

// isFull asks the store about a mailbox that was full a while ago.
func (g *Guard) isFull(ctx context.Context, at org.MailboxRef, size int64) bool {
	id := at.ID.String()
	if !g.mem.wasFull(id, time.Now()) {
		return false
	}
	u, err := g.deps.Usage(ctx, at)
	if err == nil && (u.QuotaBytes > 0 && u.Bytes+max(size, 1) > u.QuotaBytes || u.QuotaMessages > 0 && u.Messages >= u.QuotaMessages) {
		return true
	}
	g.mem.emptied(id) // the delivery itself will tell
	return false
}

// greylist defers the first message of an unknown network from this sender to
// this recipient, where the settings say so. Who sends mail for real tries
// again.
func (g *Guard) greylist(p *mail.Peer, e *mail.Envelope, r mail.EnvelopeRecipient) mail.Verdict {
	s := g.deps.Settings.Group()
	now := time.Now()
	if !s.Greylist || g.inForce().allow.network(p.Remote, now) {
		return pass()
	}
	from, err := senderOf(e)
	if err == nil && !from.IsZero() && g.mem.knows(knownKey(p.Remote, from.Domain), now) {
		return g.said("greylist", pass())
	}
	to, err := mail.ParseAddress(r.Address)
	if err != nil {
		return pass() // judged before
	}
	if g.mem.triple(digest("triple", network(p.Remote), from.Key(), to.Key()), s.GreylistDelay.Std(), now) {
		return g.said("greylist", pass())
	}
	return g.said("greylist", later("4.7.1", "Not seen before, try again in a few minutes", "greylist"))
}

// knownKey names a sender domain at a network where it was proven.
func knownKey(a netip.Addr, domain string) string { return digest("known", network(a), domain) }
