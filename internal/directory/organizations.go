package directory

import (
	"context"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// CreateOrganization adds a tenant. The id is short and stays; the name is for
// people.
func (d *Directory) CreateOrganization(ctx context.Context, id org.OrganizationID, name string) (Organization, error) {
	if err := org.ValidName(string(id)); err != nil {
		return Organization{}, kind.Errorf(kind.Invalid, "organization: %w", err)
	}
	if strings.ToLower(string(id)) != string(id) {
		return Organization{}, kind.Errorf(kind.Invalid, "organization %s: want small letters", id)
	}
	if err := checkName(name); err != nil {
		return Organization{}, err
	}
	o := Organization{ID: id, Name: name, Created: now()}
	err := d.change(ctx, func(v View) (txn, error) {
		var t txn
		if _, ok := v.Get(organizationKey(id)); ok {
			return t, kind.Errorf(kind.Exists, "organization %s exists", id)
		}
		t.put(organizationKey(id), 0, o)
		return t, nil
	})
	return o, err
}

// RemoveOrganization removes a tenant that has no domains and no recipients
// left, with its administrators.
func (d *Directory) RemoveOrganization(ctx context.Context, id org.OrganizationID) error {
	// Marked first: whoever adds something now depends on the row as it was,
	// and so fails; whoever was before is seen below.
	err := d.markOrganization(ctx, id, true)
	if err != nil {
		return err
	}
	if err = d.organizationInUse(d.state.View(), id); err == nil {
		if err := d.removeSystem(ctx, id); err != nil {
			return err // the mark stays: it is to be removed
		}
	}
	err = d.change(ctx, func(v View) (txn, error) {
		var t txn
		if why := d.organizationInUse(v, id); why != nil {
			return t, why
		}
		if err := d.systemLeft(v, id); err != nil {
			return t, err
		}
		_, rev, ok := row[Organization](v, organizationKey(id))
		if !ok {
			return t, noSuch("organization", id)
		}
		t.drop(organizationKey(id), rev)
		if _, ok := v.Get(nestingKey(id)); ok {
			t.Then = append(t.Then, Op{Key: nestingKey(id), Delete: true})
		}
		for key, it := range v.Prefix("administrators/") {
			if adm, _, ok := row[administrator](v, key); ok && adm.Organization == id {
				t.drop(key, it.Revision)
			}
		}
		return t, nil
	})
	if kind.Is(err, kind.Invalid) {
		if e := d.markOrganization(ctx, id, false); e != nil {
			d.opt.Log.Warn("take back the removal of an organization", "organization", id, "error", e)
		}
	}
	return err
}

func (d *Directory) markOrganization(ctx context.Context, id org.OrganizationID, removing bool) error {
	return d.change(ctx, func(v View) (txn, error) {
		var t txn
		o, rev, ok := row[Organization](v, organizationKey(id))
		if !ok {
			return t, noSuch("organization", id)
		}
		o.Removing = removing
		t.put(organizationKey(id), rev, o)
		return t, nil
	})
}

// organizationInUse tells what keeps an organization from being removed.
func (d *Directory) organizationInUse(v View, id org.OrganizationID) error {
	for key := range v.Prefix("domains/") {
		if dom, _, ok := row[Domain](v, key); ok && dom.Organization == id {
			return kind.WithHint(kind.Errorf(kind.Invalid, "organization %s has the domain %s", id, dom.Name), "postern domain remove "+dom.Name)
		}
	}
	for key, it := range v.Prefix(recipientsOf(id)) {
		if r := d.rows.get(key, it); r != nil && r.Type == TypeSystem {
			continue // goes with it
		}
		return kind.WithHint(kind.Errorf(kind.Invalid, "organization %s has mailboxes or groups", id), "postern mailbox list --organization "+string(id))
	}
	return nil
}

// systemLeft is Busy while a mailbox of the system is left: it was made a
// moment before the organization was marked.
func (d *Directory) systemLeft(v View, id org.OrganizationID) error {
	for range d.recipients(v, id) {
		return kind.Errorf(kind.Busy, "organization %s: a mailbox of the system is left, try again", id)
	}
	return nil
}

// AddDomain gives a domain to an organization.
func (d *Directory) AddDomain(ctx context.Context, id org.OrganizationID, domain string) (Domain, error) {
	name, err := mail.NormalizeDomain(domain)
	if err != nil || strings.HasPrefix(name, "[") {
		return Domain{}, kind.Errorf(kind.Invalid, "domain %q: not a domain name", domain)
	}
	if name == HealthDomain {
		return Domain{}, kind.Errorf(kind.Denied, "domain %s is the group's own", name)
	}
	dom := Domain{Name: name, Organization: id, Created: now()}
	err = d.change(ctx, func(v View) (txn, error) {
		var t txn
		o, rev, ok := row[Organization](v, organizationKey(id))
		if !ok || o.Removing {
			return t, noSuch("organization", id)
		}
		t.If = append(t.If, Cond{Key: organizationKey(id), Revision: rev})
		old, drev, exists := row[Domain](v, domainKey(name))
		switch {
		case !exists:
			t.put(domainKey(name), 0, dom)
		case old.Organization == id && old.Removing: // a removal that was broken off
			t.put(domainKey(name), drev, dom)
		default:
			return t, kind.Errorf(kind.Exists, "domain %s is taken", name)
		}
		return t, nil
	})
	return dom, err
}

// RemoveDomain removes a domain no recipient has an address in.
func (d *Directory) RemoveDomain(ctx context.Context, domain string) error {
	name, err := d.markDomain(ctx, domain, true)
	if err != nil {
		return err
	}
	err = d.change(ctx, func(v View) (txn, error) {
		var t txn
		dom, rev, ok := row[Domain](v, domainKey(name))
		if !ok {
			return t, noSuch("domain", name)
		}
		if why := d.domainInUse(v, *dom); why != nil {
			return t, why
		}
		t.drop(domainKey(name), rev)
		return t, nil
	})
	if kind.Is(err, kind.Invalid) {
		if _, e := d.markDomain(ctx, name, false); e != nil {
			d.opt.Log.Warn("take back the removal of a domain", "domain", name, "error", e)
		}
	}
	return err
}

func (d *Directory) markDomain(ctx context.Context, domain string, removing bool) (string, error) {
	s := scopeOf(ctx)
	name, err := mail.NormalizeDomain(domain)
	if err != nil {
		return "", noSuch("domain", domain)
	}
	return name, d.change(ctx, func(v View) (txn, error) {
		var t txn
		dom, rev, ok := row[Domain](v, domainKey(name))
		if !ok || !s.sees(dom.Organization) {
			return t, noSuch("domain", name)
		}
		dom.Removing = removing
		t.put(domainKey(name), rev, dom)
		return t, nil
	})
}

// domainInUse tells which recipient keeps a domain from being removed.
func (d *Directory) domainInUse(v View, dom Domain) error {
	for r := range d.recipients(v, dom.Organization) {
		in := r.Address.Domain == dom.Name
		for _, a := range r.Aliases {
			in = in || a.Domain == dom.Name
		}
		if in {
			hint := "postern mailbox list --organization " + string(dom.Organization)
			if r.Deleted != nil {
				hint = "postern mailbox remove --now " + r.Address.String()
			}
			return kind.WithHint(kind.Errorf(kind.Invalid, "domain %s: %s has an address in it", dom.Name, r.Address), hint)
		}
	}
	return nil
}
