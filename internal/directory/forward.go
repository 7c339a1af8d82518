package directory

import (
	"context"
	"slices"

	"golang.org/x/text/language"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Limits of what says where mail goes.
const (
	maxForward = 20
	maxOwners  = 50
	maxSenders = 500
)

// mailFlow are the parts of a MailboxChange that say where its mail goes.
func (d *Directory) mailFlow(v View, r *Recipient, t *txn, c MailboxChange) error {
	set(&r.ForwardKeep, c.ForwardKeep)
	set(&r.MaxMessage, c.MaxMessage)
	if r.MaxMessage < 0 {
		return kind.Errorf(kind.Invalid, "mailbox %s: message size below zero", r.Address)
	}
	if set(&r.Route, c.Route) {
		if err := checkRoute(r.Route); err != nil {
			return err
		}
	}
	if set(&r.Language, c.Language) && r.Language != "" {
		tag, err := language.Parse(r.Language)
		if err != nil {
			return kind.Errorf(kind.Invalid, "language %q: want a tag such as en or pt-BR", r.Language)
		}
		r.Language = tag.String()
	}
	if c.Forward == nil {
		return nil
	}
	r.Forward = distinct(*c.Forward)
	if len(r.Forward) > maxForward {
		return kind.Errorf(kind.Invalid, "mailbox %s: more than %d forwards", r.Address, maxForward)
	}
	return d.checkForward(v, r, t)
}

// checkForward refuses forwards inside the organization to nobody and those
// that lead back.
func (d *Directory) checkForward(v View, r *Recipient, t *txn) error {
	inside := false
	for _, a := range r.Forward {
		if a.IsLiteral() {
			return kind.Errorf(kind.Invalid, "forward to %s: want a domain", a)
		}
		o, ok := organizationOf(v, a.Domain)
		if !ok || o != r.Organization {
			continue // a stranger's, which is not looked at
		}
		inside = true
		to, ok := d.lookup(v, a)
		if !ok || to.Deleted != nil {
			return kind.Errorf(kind.NotFound, "forward to %s: no such recipient", a)
		}
		if d.leads(v, to, r.ID) {
			return kind.Errorf(kind.Invalid, "forward of %s to %s: that leads back to it, it would be a loop", r.Address, a)
		}
	}
	if inside {
		// Two changes that are each fine may make a loop together, as with groups.
		it, _ := v.Get(nestingKey(r.Organization))
		t.put(nestingKey(r.Organization), it.Revision, r.ID)
	}
	return nil
}

// leads tells whether mail for a recipient also goes to another one, by groups
// and forwards inside the organization.
func (d *Directory) leads(v View, from *Recipient, to org.MailboxID) bool {
	seen := map[org.MailboxID]bool{}
	todo := []*Recipient{from}
	for len(todo) > 0 && len(seen) <= d.opt.MaxExpansion {
		r := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if r.ID == to {
			return true
		}
		if seen[r.ID] {
			continue
		}
		seen[r.ID] = true
		for _, id := range r.Members {
			if m, _, ok := d.recipient(v, r.Organization, id); ok {
				todo = append(todo, m)
			}
		}
		for _, a := range r.Forward {
			if o, ok := organizationOf(v, a.Domain); !ok || o != r.Organization {
				continue
			}
			if m, ok := d.lookup(v, a); ok {
				todo = append(todo, m)
			}
		}
	}
	return false
}

// distinct leaves each address once and drops empty ones, which end a list.
func distinct(all []mail.Address) []mail.Address {
	var out []mail.Address
	for _, a := range all {
		same := func(b mail.Address) bool { return a.Key() == b.Key() }
		if !a.IsZero() && !slices.ContainsFunc(out, same) {
			out = append(out, a)
		}
	}
	return out
}

// checkRoute holds what names a connector to what can name one.
func checkRoute(s string) error {
	if s == "" {
		return nil
	}
	if err := org.ValidName(s); err != nil {
		return kind.Errorf(kind.Invalid, "route: %w", err)
	}
	return nil
}

// GroupChange says what to change of a group; nil fields stay.
type GroupChange struct {
	Name       *string
	InsideOnly *bool           // accounts of the organization may send
	Senders    *[]mail.Address // mailboxes that may send
	Domains    *[]string       // domains whose senders may send
	Owners     *[]mail.Address // mailboxes
	MaxMessage *int64
}

// ChangeGroup changes name, limits, owners and senders of a group.
func (d *Directory) ChangeGroup(ctx context.Context, a mail.Address, c GroupChange) (Recipient, error) {
	r, err := d.update(ctx, scopeOf(ctx), a, "group", func(v View, g *Recipient, _ *txn) error {
		set(&g.Name, c.Name)
		set(&g.Senders.Authenticated, c.InsideOnly)
		set(&g.MaxMessage, c.MaxMessage)
		if g.MaxMessage < 0 {
			return kind.Errorf(kind.Invalid, "group %s: message size below zero", a)
		}
		if err := d.setMailboxes(v, g, &g.Owners, c.Owners, "owners", maxOwners); err != nil {
			return err
		}
		if err := d.setMailboxes(v, g, &g.Senders.Mailboxes, c.Senders, "senders", maxSenders); err != nil {
			return err
		}
		if err := setDomains(g, c.Domains); err != nil {
			return err
		}
		return checkName(g.Name)
	})
	if err != nil {
		return Recipient{}, err
	}
	return *r, nil
}

// setMailboxes replaces a list of mailboxes of the group's organization.
func (d *Directory) setMailboxes(v View, g *Recipient, to *[]org.MailboxID, from *[]mail.Address, what string, most int) error {
	if from == nil {
		return nil
	}
	*to = nil
	for _, a := range distinct(*from) {
		m, _, err := d.find(v, scope{organization: g.Organization}, a, "mailbox")
		if err != nil {
			return err
		}
		if !slices.Contains(*to, m.ID) {
			*to = append(*to, m.ID)
		}
	}
	if len(*to) > most {
		return kind.Errorf(kind.Invalid, "group %s: more than %d %s", g.Address, most, what)
	}
	return nil
}

func setDomains(g *Recipient, from *[]string) error {
	if from == nil {
		return nil
	}
	g.Senders.Domains = nil
	for _, s := range *from {
		if s == "" {
			continue
		}
		name, err := mail.NormalizeDomain(s)
		if err != nil {
			return kind.Errorf(kind.Invalid, "domain %q: not a domain name", s)
		}
		if !slices.Contains(g.Senders.Domains, name) {
			g.Senders.Domains = append(g.Senders.Domains, name)
		}
	}
	if len(g.Senders.Domains) > maxSenders {
		return kind.Errorf(kind.Invalid, "group %s: more than %d domains", g.Address, maxSenders)
	}
	return nil
}

// DomainChange says what to change of a domain; nil fields stay.
type DomainChange struct {
	CatchAll *mail.Address // zero: nobody
	NoPlus   *bool
	Route    *string
}

// ChangeDomain changes what happens to mail for a domain.
func (d *Directory) ChangeDomain(ctx context.Context, domain string, c DomainChange) (Domain, error) {
	s := scopeOf(ctx)
	name, err := mail.NormalizeDomain(domain)
	if err != nil {
		return Domain{}, noSuch("domain", domain)
	}
	var out Domain
	err = d.change(ctx, func(v View) (txn, error) {
		var t txn
		dom, rev, ok := row[Domain](v, domainKey(name))
		if !ok || !s.sees(dom.Organization) {
			return t, noSuch("domain", name)
		}
		set(&dom.NoPlus, c.NoPlus)
		if set(&dom.Route, c.Route) {
			if err := checkRoute(dom.Route); err != nil {
				return t, err
			}
		}
		if c.CatchAll != nil {
			if err := d.checkCatchAll(v, dom.Organization, *c.CatchAll); err != nil {
				return t, err
			}
			dom.CatchAll = *c.CatchAll
		}
		out = *dom
		t.put(domainKey(name), rev, dom)
		return t, nil
	})
	return out, err
}

// checkCatchAll wants somebody who has the address, where it is one of the
// organization: a catch-all that is unknown itself would lead to itself.
func (d *Directory) checkCatchAll(v View, o org.OrganizationID, a mail.Address) error {
	if a.IsZero() {
		return nil
	}
	if a.IsLiteral() {
		return kind.Errorf(kind.Invalid, "catch-all %s: want a domain", a)
	}
	if in, ok := organizationOf(v, a.Domain); !ok || in != o {
		return nil // a stranger's, which is not looked at
	}
	if r, ok := d.lookup(v, a); !ok || r.Deleted != nil {
		return kind.Errorf(kind.NotFound, "catch-all %s: no such recipient", a)
	}
	return nil
}
