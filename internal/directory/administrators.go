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

// Administrator is an account with roles: a login of its own, or a mailbox
// that was given roles.
type Administrator struct {
	Login        string             `json:"login" col:"LOGIN"`
	Organization org.OrganizationID `json:"organization,omitempty" col:"ORGANIZATION"` // empty: all
	Roles        []command.Role     `json:"roles" col:"ROLES"`
	Mailbox      bool               `json:"mailbox" col:"MAILBOX"`
}

// checkRoles refuses roles that do not exist or do not fit: who is bound to
// an organization is no server administrator.
func checkRoles(roles []command.Role, o org.OrganizationID) error {
	if len(roles) == 0 {
		return kind.Errorf(kind.Invalid, "administrator: want a role")
	}
	for _, r := range roles {
		switch r {
		case command.OrganizationAdmin, command.HelpDesk:
			if o == "" {
				return kind.Errorf(kind.Invalid, "administrator: role %s needs an organization", r)
			}
		case command.Auditor:
		case command.ServerAdmin:
			if o != "" {
				return kind.Errorf(kind.Invalid, "administrator: role %s is not for one organization", r)
			}
		default:
			return kind.Errorf(kind.Invalid, "administrator: no role %q", r)
		}
	}
	return nil
}

// CreateAdministrator adds a login without a mailbox, or gives roles to a
// mailbox where login is an address (then there is no password here). It returns the
// password if one was made.
func (d *Directory) CreateAdministrator(ctx context.Context, login string, o org.OrganizationID, roles []command.Role, password string) (string, error) {
	s := scopeOf(ctx)
	if s.organization != "" {
		if o != "" && o != s.organization {
			return "", noSuch("organization", o)
		}
		o = s.organization
	}
	roles = slices.Compact(slices.Sorted(slices.Values(roles)))
	if strings.Contains(login, "@") {
		return "", d.giveRoles(ctx, login, o, roles, password)
	}
	if s.organization != "" {
		// Names are the whole system's: they would tell of strangers.
		return "", kind.Errorf(kind.Denied, "administrator %s: want the address of a mailbox", login)
	}
	if err := checkRoles(roles, o); err != nil {
		return "", err
	}
	login = strings.ToLower(login)
	if err := org.ValidName(login); err != nil {
		return "", kind.Errorf(kind.Invalid, "administrator: %w", err)
	}
	hash, made, err := d.secretHash(ctx, password)
	if err != nil {
		return "", err
	}
	adm := administrator{Name: login, Organization: o, Roles: roles, Hash: hash, Created: now()}
	err = d.change(ctx, func(v View) (txn, error) {
		var t txn
		if o != "" {
			tenant, rev, ok := row[Organization](v, organizationKey(o))
			if !ok || tenant.Removing {
				return t, noSuch("organization", o)
			}
			t.If = append(t.If, Cond{Key: organizationKey(o), Revision: rev})
		}
		if _, ok := v.Get(administratorKey(login)); ok {
			return t, kind.Errorf(kind.Exists, "administrator %s: the name is taken", login)
		}
		t.put(administratorKey(login), 0, adm)
		return t, nil
	})
	if err != nil {
		return "", err
	}
	return made, nil
}

func (d *Directory) giveRoles(ctx context.Context, login string, o org.OrganizationID, roles []command.Role, password string) error {
	a, err := mail.ParseAddress(login)
	if err != nil || password != "" {
		return kind.Errorf(kind.Invalid, "administrator %s: want a mailbox; it logs in with its own password", login)
	}
	_, err = d.update(ctx, scopeOf(ctx), a, "mailbox", func(_ View, r *Recipient, _ *txn) error {
		if r.Type != TypeUser || o != "" && o != r.Organization {
			return noSuch("mailbox", a)
		}
		r.Roles = roles
		return checkRoles(roles, r.Organization)
	})
	return err
}

// RemoveAdministrator removes a login without a mailbox, or takes the roles from a mailbox. The
// last server administrator stays.
func (d *Directory) RemoveAdministrator(ctx context.Context, login string) error {
	s := scopeOf(ctx)
	if strings.Contains(login, "@") {
		a, err := mail.ParseAddress(login)
		if err != nil {
			return noSuch("administrator", login)
		}
		_, err = d.update(ctx, s, a, "mailbox", func(_ View, r *Recipient, _ *txn) error {
			if len(r.Roles) == 0 {
				return noSuch("administrator", login)
			}
			r.Roles = nil
			return nil
		})
		return err
	}
	return d.change(ctx, func(v View) (txn, error) {
		var t txn
		adm, rev, err := d.findAdministrator(v, s, login)
		if err != nil {
			return t, err
		}
		t.drop(administratorKey(login), rev)
		if !slices.Contains(adm.Roles, command.ServerAdmin) {
			return t, nil
		}
		for key, it := range v.Prefix("administrators/") {
			other, _, ok := row[administrator](v, key)
			if ok && key != administratorKey(login) && !other.Disabled && slices.Contains(other.Roles, command.ServerAdmin) {
				t.If = append(t.If, Cond{Key: key, Revision: it.Revision}) // and it has to be there still
				return t, nil
			}
		}
		return t, kind.WithHint(kind.Errorf(kind.Invalid, "administrator %s is the last server administrator", login), "postern administrator create")
	})
}

func (d *Directory) findAdministrator(v View, s scope, login string) (*administrator, int64, error) {
	adm, rev, ok := row[administrator](v, administratorKey(login))
	if !ok || !s.sees(adm.Organization) {
		return nil, 0, noSuch("administrator", login)
	}
	return adm, rev, nil
}

// SetAdministratorPassword gives an administrator another password, made here if
// none is given.
func (d *Directory) SetAdministratorPassword(ctx context.Context, login, password string) (made string, err error) {
	if strings.Contains(login, "@") {
		a, err := mail.ParseAddress(login)
		if err != nil {
			return "", noSuch("administrator", login)
		}
		return d.SetPassword(ctx, a, password)
	}
	s := scopeOf(ctx)
	hash, made, err := d.secretHash(ctx, password)
	if err != nil {
		return "", err
	}
	return made, d.change(ctx, func(v View) (txn, error) {
		var t txn
		adm, rev, err := d.findAdministrator(v, s, login)
		if err != nil {
			return t, err
		}
		if err := s.mayManage(adm.Roles); err != nil {
			return t, err
		}
		adm.Hash = hash
		t.put(administratorKey(login), rev, adm)
		return t, nil
	})
}

// administrators lists the accounts with roles that a caller may know of.
func (d *Directory) administrators(s scope) []Administrator {
	var out []Administrator
	v := d.state.View()
	for key := range v.Prefix("administrators/") {
		if adm, _, ok := row[administrator](v, key); ok && s.sees(adm.Organization) {
			out = append(out, Administrator{adm.Name, adm.Organization, adm.Roles, false})
		}
	}
	for _, o := range d.Organizations() {
		if !s.sees(o.ID) {
			continue
		}
		for r := range d.recipients(v, o.ID) {
			if len(r.Roles) > 0 && r.Deleted == nil {
				out = append(out, Administrator{r.Address.String(), o.ID, slices.Clone(r.Roles), true})
			}
		}
	}
	return out
}

// AdminName is the login of the first server administrator.
const AdminName = "admin"

// BootstrapOptions say what a new group begins with. All may be empty.
type BootstrapOptions struct {
	AdminPassword string // one is made if empty
	Organization  org.OrganizationID
	Domains       []string
}

// BootstrapResult tells what was made.
type BootstrapResult struct {
	Created       bool   // the administrator is new
	AdminPassword string // if it was made here; never shown again
}

// Bootstrap creates the first server administrator and, where asked for, an
// organization with domains. What is there already stays as it is, so that it may be repeated.
func (d *Directory) Bootstrap(ctx context.Context, o BootstrapOptions) (BootstrapResult, error) {
	var res BootstrapResult
	if err := d.state.Sync(ctx); err != nil {
		return res, err
	}
	if _, ok := d.state.View().Get(administratorKey(AdminName)); !ok {
		made, err := d.CreateAdministrator(ctx, AdminName, "", []command.Role{command.ServerAdmin}, o.AdminPassword)
		switch {
		case err == nil:
			res = BootstrapResult{true, made}
			d.opt.Events.Emit(evBootstrapped, "administrator %s was created", AdminName)
		case !kind.Is(err, kind.Exists):
			return res, err
		}
	}
	if o.Organization == "" {
		return res, nil
	}
	if _, err := d.CreateOrganization(ctx, o.Organization, ""); err != nil && !kind.Is(err, kind.Exists) {
		return res, err
	}
	for _, name := range o.Domains {
		_, err := d.AddDomain(ctx, o.Organization, name)
		if own, ok := d.OrganizationOf(name); err != nil && !(kind.Is(err, kind.Exists) && ok && own == o.Organization) {
			return res, err
		}
	}
	return res, nil
}
