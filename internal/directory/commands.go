package directory

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Who may do what. A caller who is bound to an organization finds nothing of
// others: all entries are Scoped.
var (
	byServer = []command.Role{command.ServerAdmin}
	byAdmins = []command.Role{command.ServerAdmin, command.OrganizationAdmin}
	byDesk   = []command.Role{command.ServerAdmin, command.OrganizationAdmin, command.HelpDesk}
	byAll    = []command.Role{command.ServerAdmin, command.OrganizationAdmin, command.HelpDesk, command.Auditor}
)

// Commands are the directory's entries of the command table.
func Commands(d *Directory) []command.Command {
	return slices.Concat(
		organizationCommands(d), domainCommands(d),
		mailboxCommands(d), loginCommands(d), grantCommands(d),
		groupCommands(d), administratorCommands(d),
	)
}

// reads makes an entry that only looks.
func reads[In, Out any](noun, verb, short string, run func(ctx context.Context, in In) (Out, error)) command.Command {
	return command.New(command.Command{Noun: noun, Verb: verb, Short: short, Roles: byAll, Scoped: true}, run)
}

// changes makes an entry that alters something.
func changes[In, Out any](noun, verb, short string, roles []command.Role, run func(ctx context.Context, in In) (Out, error)) command.Command {
	return command.New(command.Command{Noun: noun, Verb: verb, Short: short, Roles: roles, Scoped: true, Changes: true}, run)
}

// removes makes an entry that asks first and can be tried dry.
func removes[In any](noun, verb, short string, roles []command.Role, run func(ctx context.Context, in In) (command.Plan, error)) command.Command {
	return command.New(command.Command{Noun: noun, Verb: verb, Short: short, Roles: roles, Scoped: true, Changes: true, Dangerous: true}, run)
}

// carryOut does the one step of a plan, or only shows it. A step that fails is the
// command's error: nothing was done.
func carryOut(dry bool, name, detail string, do func() error) (command.Plan, error) {
	step := command.Step{Name: name, Detail: detail}
	if !dry {
		if err := do(); err != nil {
			return command.Plan{}, err
		}
		step.Done = true
	}
	return command.Plan{DryRun: dry, Steps: []command.Step{step}}, nil
}

// Secret is the answer of commands that may make a password.
type Secret struct {
	Login string `json:"login" col:"LOGIN"`
	// Password is set where it was made here. It is not shown again.
	Password string `json:"password,omitempty" col:"PASSWORD"`
}

type organizationIn struct {
	ID string `json:"organization" arg:"1" required:"true" doc:"short name of the organization" complete:"organization list"`
}

// OrganizationRow is an organization as commands show it.
type OrganizationRow struct {
	ID        org.OrganizationID `json:"organization" col:"ORGANIZATION"`
	Name      string             `json:"name" col:"NAME"`
	Domains   []string           `json:"domains" col:"DOMAINS"`
	Mailboxes int                `json:"mailboxes" col:"MAILBOXES"`
	Groups    int                `json:"groups" col:"GROUPS"`
	Created   time.Time          `json:"created" col:"CREATED"`
}

func (d *Directory) organizationRow(v View, o Organization) OrganizationRow {
	out := OrganizationRow{ID: o.ID, Name: o.Name, Created: o.Created, Domains: []string{}}
	for _, dom := range d.Domains(o.ID) {
		out.Domains = append(out.Domains, dom.Name)
	}
	for r := range d.recipients(v, o.ID) {
		switch {
		case !r.IsMailbox():
			out.Groups++
		case r.Deleted == nil && r.Type != TypeSystem:
			out.Mailboxes++
		}
	}
	return out
}

func organizationCommands(d *Directory) []command.Command {
	type createIn struct {
		ID   string `json:"organization" arg:"1" required:"true" doc:"short name, small letters; it stays"`
		Name string `json:"name" doc:"name for people"`
	}
	type removeIn struct {
		organizationIn
		DryRun bool `json:"dry_run" doc:"only show what would be done"`
	}
	list := func(s scope) []OrganizationRow {
		out := []OrganizationRow{}
		v := d.state.View()
		for _, o := range d.Organizations() {
			if s.sees(o.ID) {
				out = append(out, d.organizationRow(v, o))
			}
		}
		return out
	}
	return []command.Command{
		changes("organization", "create", "Add an organization (tenant)", byServer,
			func(ctx context.Context, in createIn) (OrganizationRow, error) {
				o, err := d.CreateOrganization(ctx, org.OrganizationID(in.ID), in.Name)
				return OrganizationRow{ID: o.ID, Name: o.Name, Domains: []string{}, Created: o.Created}, err
			}),
		reads("organization", "list", "List the organizations", func(ctx context.Context, _ command.None) ([]OrganizationRow, error) {
			return list(scopeOf(ctx)), nil
		}),
		reads("organization", "show", "Show an organization", func(ctx context.Context, in organizationIn) (OrganizationRow, error) {
			for _, o := range list(scopeOf(ctx)) {
				if string(o.ID) == in.ID {
					return o, nil
				}
			}
			return OrganizationRow{}, noSuch("organization", in.ID)
		}),
		removes("organization", "remove", "Remove an organization that has no domains, mailboxes and groups left", byServer,
			func(ctx context.Context, in removeIn) (command.Plan, error) {
				id := org.OrganizationID(in.ID)
				v := d.state.View()
				if _, ok := v.Get(organizationKey(id)); !ok || !scopeOf(ctx).sees(id) {
					return command.Plan{}, noSuch("organization", id)
				}
				if err := d.organizationInUse(v, id); err != nil {
					return command.Plan{}, err
				}
				return carryOut(in.DryRun, "remove organization", in.ID, func() error { return d.RemoveOrganization(ctx, id) })
			}),
	}
}

// DomainRow is a domain as commands show it.
type DomainRow struct {
	Name         string             `json:"domain" col:"DOMAIN"`
	Organization org.OrganizationID `json:"organization" col:"ORGANIZATION"`
	CatchAll     string             `json:"catch_all,omitempty" col:"CATCH-ALL"`
	NoPlus       bool               `json:"no_plus,omitempty" col:"-"`
	Route        string             `json:"route,omitempty" col:"ROUTE"`
	Created      time.Time          `json:"created" col:"CREATED"`
}

func domainRow(dom Domain) DomainRow {
	return DomainRow{dom.Name, dom.Organization, dom.CatchAll.String(), dom.NoPlus, dom.Route, dom.Created}
}

func setDomainCommand(d *Directory) command.Command {
	type in struct {
		Domain   string        `json:"domain" arg:"1" required:"true" scope:"domain" doc:"domain name" complete:"domain list"`
		CatchAll *mail.Address `json:"catch_all" doc:"address that gets the mail for addresses nobody has; empty for none"`
		NoPlus   *bool         `json:"no_plus" doc:"user+detail is an address of its own, not user's"`
		Route    *string       `json:"route" doc:"connector that mail for the domain goes to, also for addresses nobody has here; empty for none"`
	}
	c := changes("domain", "set", "Change what happens to mail for a domain", byAdmins, func(ctx context.Context, in in) (DomainRow, error) {
		dom, err := d.ChangeDomain(ctx, in.Domain, DomainChange{in.CatchAll, in.NoPlus, in.Route})
		if err != nil {
			return DomainRow{}, err
		}
		return domainRow(dom), nil
	})
	c.Example = "postern domain set example.test --catch-all ann@example.test"
	return c
}

func domainCommands(d *Directory) []command.Command {
	type addIn struct {
		Domain       string `json:"domain" arg:"1" required:"true" doc:"domain name"`
		Organization string `json:"organization" required:"true" doc:"organization that gets it" complete:"organization list"`
	}
	type listIn struct {
		Organization string `json:"organization" doc:"only of this organization" complete:"organization list"`
	}
	type removeIn struct {
		Domain string `json:"domain" arg:"1" required:"true" scope:"domain" doc:"domain name" complete:"domain list"`
		DryRun bool   `json:"dry_run" doc:"only show what would be done"`
	}
	return []command.Command{
		changes("domain", "add", "Give a domain to an organization", byServer, func(ctx context.Context, in addIn) (DomainRow, error) {
			dom, err := d.AddDomain(ctx, org.OrganizationID(in.Organization), in.Domain)
			return domainRow(dom), err
		}),
		reads("domain", "list", "List the domains", func(ctx context.Context, in listIn) ([]DomainRow, error) {
			out := []DomainRow{}
			for _, o := range d.inScope(ctx, in.Organization) {
				for _, dom := range d.Domains(o) {
					out = append(out, domainRow(dom))
				}
			}
			return out, nil
		}),
		setDomainCommand(d),
		removes("domain", "remove", "Remove a domain in which nobody has an address", byServer,
			func(ctx context.Context, in removeIn) (command.Plan, error) {
				v := d.state.View()
				name, _ := mail.NormalizeDomain(in.Domain)
				o, ok := organizationOf(v, name)
				if !ok || !scopeOf(ctx).sees(o) {
					return command.Plan{}, noSuch("domain", in.Domain)
				}
				if err := d.domainInUse(v, Domain{Name: name, Organization: o}); err != nil {
					return command.Plan{}, err
				}
				return carryOut(in.DryRun, "remove domain", name, func() error { return d.RemoveDomain(ctx, name) })
			}),
	}
}

// inScope lists the organizations a listing covers: the one asked for, or all
// the caller may see.
func (d *Directory) inScope(ctx context.Context, asked string) []org.OrganizationID {
	s := scopeOf(ctx)
	if asked != "" {
		if o := org.OrganizationID(asked); s.sees(o) {
			return []org.OrganizationID{o}
		}
		return nil
	}
	if s.organization != "" {
		return []org.OrganizationID{s.organization}
	}
	var out []org.OrganizationID
	for _, o := range d.Organizations() {
		out = append(out, o.ID)
	}
	return out
}

func administratorCommands(d *Directory) []command.Command {
	type createIn struct {
		Login        string         `json:"login" arg:"1" required:"true" doc:"a name, or the address of a mailbox that gets the roles"`
		Organization string         `json:"organization" doc:"bind it to this organization" complete:"organization list"`
		Roles        []command.Role `json:"role" required:"true" enum:"server-admin,organization-admin,help-desk,auditor" doc:"what it may do (may be repeated)"`
		Password     string         `json:"password" secret:"true" doc:"password; one is made if empty"`
	}
	type loginIn struct {
		Login  string `json:"login" arg:"1" required:"true" doc:"name or address" complete:"administrator list"`
		DryRun bool   `json:"dry_run" doc:"only show what would be done"`
	}
	type passwordIn struct {
		Login    string `json:"login" arg:"1" required:"true" doc:"name or address" complete:"administrator list"`
		Password string `json:"password" secret:"true" doc:"password; one is made if empty"`
	}
	return []command.Command{
		changes("administrator", "create", "Add an administrator, or give roles to a mailbox", byAdmins,
			func(ctx context.Context, in createIn) (Secret, error) {
				made, err := d.CreateAdministrator(ctx, in.Login, org.OrganizationID(in.Organization), in.Roles, in.Password)
				return Secret{in.Login, made}, err
			}),
		reads("administrator", "list", "List the administrators", func(ctx context.Context, _ command.None) ([]Administrator, error) {
			return append([]Administrator{}, d.administrators(scopeOf(ctx))...), nil
		}),
		removes("administrator", "remove", "Remove an administrator, or take the roles from a mailbox", byAdmins,
			func(ctx context.Context, in loginIn) (command.Plan, error) {
				same := func(a Administrator) bool { return strings.EqualFold(a.Login, in.Login) }
				if !slices.ContainsFunc(d.administrators(scopeOf(ctx)), same) {
					return command.Plan{}, noSuch("administrator", in.Login)
				}
				return carryOut(in.DryRun, "remove administrator", in.Login, func() error { return d.RemoveAdministrator(ctx, in.Login) })
			}),
		changes("administrator", "password", "Give an administrator another password", byAdmins,
			func(ctx context.Context, in passwordIn) (Secret, error) {
				made, err := d.SetAdministratorPassword(ctx, in.Login, in.Password)
				return Secret{in.Login, made}, err
			}),
	}
}

// page cuts a sorted listing: rows that contain the filter, after a name, at
// most so many.
func page(all []Recipient, filter, after string, limit int) ([]Recipient, error) {
	if limit < 1 || limit > 10000 {
		return nil, kind.Errorf(kind.Invalid, "limit: want 1 to 10000")
	}
	filter = strings.ToLower(filter)
	all = slices.DeleteFunc(all, func(r Recipient) bool {
		return r.Address.Key() <= strings.ToLower(after) ||
			!strings.Contains(r.Address.Key(), filter) && !strings.Contains(strings.ToLower(r.Name), filter)
	})
	slices.SortFunc(all, func(a, b Recipient) int { return strings.Compare(a.Address.Key(), b.Address.Key()) })
	return all[:min(limit, len(all))], nil
}
