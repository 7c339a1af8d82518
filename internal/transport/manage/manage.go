package manage

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/keys"
	"github.com/postern-mail/postern/internal/transport/quarantine"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// Deps is what the commands work with. Names and parameters can be read from
// those of zero Deps.
type Deps struct {
	Agreed     settings.Agreed
	Book       *settings.Book
	Keys       *keys.Keys
	Checker    keys.Checker
	Quarantine *quarantine.Quarantine

	// OrganizationOf tells whose a domain is, in any spelling.
	OrganizationOf func(domain string) (org.OrganizationID, bool)
	// Organizations lists all.
	Organizations func() []org.OrganizationID
	// Facts are what the DNS records of a domain follow from, but its keys.
	Facts func(domain string) keys.Facts
	// Covers tells whether settings of the group fit what mailboxes and copies
	// have (settings.Group.Covers), in place of those before; nil: they do.
	Covers func(before, after settings.Group) error
	// SealPassword seals the password of a connector.
	SealPassword func(o org.OrganizationID, name, password string) ([]byte, error)
	// TestConnector tries a connector out, host by host.
	TestConnector func(ctx context.Context, c settings.Connector) ([]Trial, error)
	Now           func() time.Time
}

// Who may do what.
var (
	byServer  = []command.Role{command.ServerAdmin}
	byAdmins  = []command.Role{command.ServerAdmin, command.OrganizationAdmin}
	byAll     = []command.Role{command.ServerAdmin, command.OrganizationAdmin, command.HelpDesk, command.Auditor}
	byAuditor = []command.Role{command.ServerAdmin, command.Auditor}
)

// Commands are the entries of the command table.
func Commands(d Deps) []command.Command {
	if d.Now == nil {
		d.Now = time.Now
	}
	return slices.Concat(transportCommands(d), policyCommands(d), connectorCommands(d), ruleCommands(d),
		dkimCommands(d), quarantineCommands(d), guardCommands(d))
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

// example adds an example to an entry.
func example(c command.Command, text string) command.Command {
	c.Example = text
	return c
}

// carryOut does the one step of a plan, or only shows it.
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

// sees tells whether an organization exists for the caller.
func sees(ctx context.Context, o org.OrganizationID) bool {
	bound := command.CallerOf(ctx).Organization
	return bound == "" || string(o) == bound
}

// ofServers tells whether the caller administers the servers, not only an
// organization. Without a caller it is the system itself.
func ofServers(ctx context.Context) bool {
	c := command.CallerOf(ctx)
	return c.Organization == "" && (len(c.Roles) == 0 || slices.Contains(c.Roles, command.ServerAdmin))
}

// noSuch is one answer for what does not exist and for what belongs to a
// stranger.
func noSuch(what, name, hint string) error {
	return kind.WithHint(kind.Errorf(kind.NotFound, "%s %.200s: no such %s", what, name, what), hint)
}

// organization finds one that the caller may see.
func (d Deps) organization(ctx context.Context, name string) (org.OrganizationID, error) {
	o := org.OrganizationID(name)
	if org.ValidName(name) != nil || !sees(ctx, o) || !exists(d.Agreed.View(), o) {
		return "", noSuch("organization", name, "postern organization list")
	}
	return o, nil
}

func organizationKey(o org.OrganizationID) string { return "organizations/" + string(o) }

func exists(v *cluster.View, o org.OrganizationID) bool {
	_, ok := v.Get(organizationKey(o))
	return ok
}

// inScope lists the organizations a listing covers: the one asked for, or all
// the caller may see.
func (d Deps) inScope(ctx context.Context, asked string) []org.OrganizationID {
	if asked != "" {
		if o := org.OrganizationID(asked); sees(ctx, o) {
			return []org.OrganizationID{o}
		}
		return nil
	}
	if bound := command.CallerOf(ctx).Organization; bound != "" {
		return []org.OrganizationID{org.OrganizationID(bound)}
	}
	return d.Organizations()
}

// domain finds one that the caller may see, in its one spelling.
func (d Deps) domain(ctx context.Context, name string) (string, org.OrganizationID, error) {
	missing := noSuch("domain", name, "postern domain list")
	spelled, err := mail.NormalizeDomain(name)
	if err != nil {
		return "", "", missing
	}
	o, ok := d.OrganizationOf(spelled)
	if !ok || !sees(ctx, o) {
		return "", "", missing
	}
	return spelled, o, nil
}

// one finds a setting of a list.
func one(all []settings.Setting, key string) settings.Setting {
	key = strings.ReplaceAll(key, "-", "_")
	for _, s := range all {
		if s.Key == key {
			return s
		}
	}
	return settings.Setting{}
}

// count is how many rows there are below a prefix.
func count(v *cluster.View, prefix string) (n int) {
	for range v.Prefix(prefix) {
		n++
	}
	return n
}

// created adds a row of an organization, which has to exist when it is written.
func created(v *cluster.View, t *settings.Txn, o org.OrganizationID, key string, row any) error {
	if !exists(v, o) {
		return noSuch("organization", string(o), "postern organization list")
	}
	t.Keep(organizationKey(o), -1)
	return t.Put(key, 0, row)
}
