package directory

import (
	"context"
	"slices"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// CreateGroup creates a group in the organization of its domain.
func (d *Directory) CreateGroup(ctx context.Context, a mail.Address, name string) (Recipient, error) {
	if err := checkName(name); err != nil {
		return Recipient{}, err
	}
	r := &Recipient{ID: org.NewMailboxID(), Type: TypeGroup, Address: a, Name: name, Created: now()}
	err := d.change(ctx, func(v View) (txn, error) { return d.createTxn(v, scopeOf(ctx), r, "", "") })
	if err != nil {
		return Recipient{}, err
	}
	return *r, nil
}

// RemoveGroup removes a group and its addresses; its members stay.
func (d *Directory) RemoveGroup(ctx context.Context, a mail.Address) error {
	return d.change(ctx, func(v View) (txn, error) {
		r, rev, err := d.find(v, scopeOf(ctx), a, "group")
		if err != nil {
			return txn{}, err
		}
		return d.removeTxn(v, r, rev), nil
	})
}

// removeTxn deletes all rows of a recipient.
func (d *Directory) removeTxn(v View, r *Recipient, rev int64) txn {
	var t txn
	t.drop(recipientKey(r.Organization, r.ID), rev)
	for _, a := range append([]mail.Address{r.Address}, r.Aliases...) {
		if own, arev, ok := row[owner](v, addressKey(a)); ok && own.Recipient == r.ID {
			t.drop(addressKey(a), arev)
		}
	}
	if it, ok := v.Get(credentialsKey(r.Organization, r.ID)); ok {
		t.drop(credentialsKey(r.Organization, r.ID), it.Revision)
	}
	return t
}

// AddMember puts a mailbox or group of the same organization in a group. Invalid
// where that would make a loop, or a group too large or too deep.
func (d *Directory) AddMember(ctx context.Context, a, member mail.Address) (Recipient, error) {
	r, err := d.update(ctx, scopeOf(ctx), a, "group", func(v View, g *Recipient, t *txn) error {
		m, _, err := d.find(v, scope{organization: g.Organization}, member, "")
		if err != nil {
			return err
		}
		g.Members = slices.DeleteFunc(g.Members, func(id org.MailboxID) bool {
			_, _, there := d.recipient(v, g.Organization, id)
			return !there
		})
		if slices.Contains(g.Members, m.ID) {
			return kind.Errorf(kind.Exists, "%s is a member of %s already", member, a)
		}
		if len(g.Members) >= d.opt.MaxMembers {
			return kind.WithHint(kind.Errorf(kind.Invalid, "group %s has %d members already", a, d.opt.MaxMembers), "use groups within the group")
		}
		g.Members = append(g.Members, m.ID)
		if m.IsMailbox() && len(m.Forward) == 0 {
			return nil
		}
		// Two changes that are each fine may make a loop together: those that
		// nest groups go one after another.
		it, _ := v.Get(nestingKey(g.Organization))
		t.put(nestingKey(g.Organization), it.Revision, g.ID)
		if m.IsMailbox() {
			if d.leads(v, m, g.ID) {
				return kind.Errorf(kind.Invalid, "group %s: %s forwards to it, that would be a loop", g.Address, m.Address)
			}
			return nil
		}
		return d.checkNesting(v, g, m)
	})
	if err != nil {
		return Recipient{}, err
	}
	return *r, nil
}

// checkNesting refuses to put group m into group g where g is within m, or
// where the whole would be deeper than allowed.
func (d *Directory) checkNesting(v View, g, m *Recipient) error {
	below, within := d.below(v, m, g.ID)
	if within || m.ID == g.ID {
		return kind.Errorf(kind.Invalid, "group %s: %s contains it, that would be a loop", g.Address, m.Address)
	}
	if above := d.above(v, g); above+1+below >= d.opt.MaxDepth {
		return kind.Errorf(kind.Invalid, "group %s: groups within groups deeper than %d", g.Address, d.opt.MaxDepth)
	}
	return nil
}

// below counts the levels of groups below m, and tells whether one of them is
// the looked for.
func (d *Directory) below(v View, m *Recipient, lookFor org.MailboxID) (levels int, found bool) {
	return d.walk(m, lookFor, func(g *Recipient) []*Recipient {
		var out []*Recipient
		for _, id := range g.Members {
			if c, _, ok := d.recipient(v, g.Organization, id); ok && !c.IsMailbox() {
				out = append(out, c)
			}
		}
		return out
	})
}

// above counts the levels of groups that contain g.
func (d *Directory) above(v View, g *Recipient) int {
	parents := map[org.MailboxID][]*Recipient{}
	for p := range d.recipients(v, g.Organization) {
		for _, id := range p.Members {
			parents[id] = append(parents[id], p)
		}
	}
	levels, _ := d.walk(g, org.MailboxID{}, func(c *Recipient) []*Recipient { return parents[c.ID] })
	return levels
}

// walk goes through a graph of groups and finds the longest way. Groups are
// seen again on longer ways only, and never beyond the depth limit, so that it ends.
func (d *Directory) walk(from *Recipient, lookFor org.MailboxID, next func(*Recipient) []*Recipient) (levels int, found bool) {
	level := []*Recipient{from}
	for levels <= d.opt.MaxDepth {
		var following []*Recipient
		seen := map[org.MailboxID]bool{}
		for _, g := range level {
			for _, c := range next(g) {
				found = found || c.ID == lookFor
				if !seen[c.ID] {
					seen[c.ID] = true
					following = append(following, c)
				}
			}
		}
		if len(following) == 0 {
			break
		}
		level = following
		levels++
	}
	return levels, found
}

// RemoveMember takes a recipient out of a group.
func (d *Directory) RemoveMember(ctx context.Context, a, member mail.Address) (Recipient, error) {
	r, err := d.update(ctx, scopeOf(ctx), a, "group", func(v View, g *Recipient, _ *txn) error {
		m, _, err := d.find(v, scope{organization: g.Organization}, member, "")
		if err != nil {
			return err
		}
		i := slices.Index(g.Members, m.ID)
		if i < 0 {
			return kind.Errorf(kind.NotFound, "%s is no member of %s", member, a)
		}
		g.Members = slices.Delete(g.Members, i, i+1)
		return nil
	})
	if err != nil {
		return Recipient{}, err
	}
	return *r, nil
}
