package directory

import (
	"context"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Resolution is where mail for an address goes.
type Resolution struct {
	Organization org.OrganizationID
	Mailboxes    []Target // each mailbox once
}

// Target is one mailbox that gets the message.
type Target struct {
	Mailbox org.MailboxRef
	// Address is the address asked for, or, for a member of a group, the
	// member's own.
	Address mail.Address
}

// Resolve tells which mailboxes get mail for an address: aliases, groups and
// user+detail are followed, each mailbox comes once. Errors: NotFound for an
// unknown recipient of a hosted domain, Elsewhere for a domain that is not ours, Denied
// for a recipient that is disabled or a group nobody receives from, Invalid
// for a group that expands to more than the limit.
func (d *Directory) Resolve(ctx context.Context, a mail.Address) (Resolution, error) {
	if err := ctx.Err(); err != nil {
		return Resolution{}, err
	}
	v := d.state.View()
	if a.IsZero() || a.IsLiteral() {
		return Resolution{}, kind.Errorf(kind.Elsewhere, "resolve %s: not a hosted domain", a)
	}
	o, ok := organizationOf(v, a.Domain)
	if !ok {
		return Resolution{}, kind.Errorf(kind.Elsewhere, "resolve %s: not a hosted domain", a)
	}
	r, ok := d.lookup(v, a)
	if !ok {
		if strings.EqualFold(a.Local, "postmaster") {
			return d.postmaster(v, o, a)
		}
		return Resolution{}, kind.Errorf(kind.NotFound, "resolve %s: no such recipient", a)
	}
	switch {
	case r.Deleted != nil:
		return Resolution{}, kind.Errorf(kind.NotFound, "resolve %s: no such recipient", a)
	case r.Disabled:
		return Resolution{}, kind.Errorf(kind.Denied, "resolve %s: recipient is disabled", a)
	case r.IsMailbox():
		return Resolution{o, []Target{{r.Ref(), a}}}, nil
	}
	targets, err := d.expand(v, r)
	if err != nil {
		return Resolution{}, err
	}
	if len(targets) == 0 {
		return Resolution{}, kind.Errorf(kind.Denied, "resolve %s: the group has no member that can receive", a)
	}
	return Resolution{o, targets}, nil
}

// lookup finds who has the address, or the address without its detail.
func (d *Directory) lookup(v View, a mail.Address) (*Recipient, bool) {
	if r, _, ok := d.byAddress(v, a); ok {
		return r, true
	}
	base, _, ok := a.Detail()
	if !ok {
		return nil, false
	}
	if dom, _, ok := row[Domain](v, domainKey(a.Domain)); !ok || dom.NoPlus {
		return nil, false
	}
	r, _, ok := d.byAddress(v, base)
	return r, ok
}

// expand walks a group in breadth, so that what is near is found before a
// limit is met. Members that are disabled or gone are passed over.
func (d *Directory) expand(v View, g *Recipient) ([]Target, error) {
	var out []Target
	seen := map[org.MailboxID]bool{g.ID: true}
	level := []*Recipient{g}
	for depth := 0; len(level) > 0; depth++ {
		if depth >= d.opt.MaxDepth {
			return nil, kind.Errorf(kind.Invalid, "expand %s: groups within groups deeper than %d", g.Address, d.opt.MaxDepth)
		}
		var next []*Recipient
		for _, in := range level {
			for _, id := range in.Members {
				if seen[id] {
					continue
				}
				if len(seen) > d.opt.MaxExpansion {
					return nil, kind.Errorf(kind.Invalid, "expand %s: more than %d recipients", g.Address, d.opt.MaxExpansion)
				}
				seen[id] = true
				m, _, ok := d.recipient(v, g.Organization, id)
				switch {
				case !ok || m.Disabled || m.Deleted != nil:
				case m.IsMailbox():
					out = append(out, Target{m.Ref(), m.Address})
				default:
					next = append(next, m)
				}
			}
		}
		level = next
	}
	return out, nil
}

// postmaster has to be reachable at every domain (RFC 5321 section 4.5.1):
// where nobody has the address, the organization's administrators get the mail.
func (d *Directory) postmaster(v View, o org.OrganizationID, a mail.Address) (Resolution, error) {
	res := Resolution{Organization: o}
	for r := range d.recipients(v, o) {
		if r.Type == TypeUser && !r.Disabled && r.Deleted == nil && slices.Contains(r.Roles, command.OrganizationAdmin) {
			res.Mailboxes = append(res.Mailboxes, Target{r.Ref(), a})
		}
		if len(res.Mailboxes) == 10 { // enough for one postmaster
			break
		}
	}
	if len(res.Mailboxes) == 0 {
		return Resolution{}, kind.Errorf(kind.NotFound, "resolve %s: no such recipient", a)
	}
	return res, nil
}

// MaySendAs tells whether the account may use the address as a sender: its own
// addresses with or without a detail, and those of recipients of its
// organization that granted it.
func (d *Directory) MaySendAs(a Account, from mail.Address) bool {
	if a.Health {
		return from.String() == a.Login.String()
	}
	if a.Mailbox.Database == "" || a.Organization == "" {
		return false
	}
	r, ok := d.lookup(d.state.View(), from)
	if !ok || r.Organization != a.Organization || r.Disabled || r.Deleted != nil {
		return false
	}
	return r.ID == a.ID || r.grant(a.ID).SendAs
}
