package transport

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/keys"
	"github.com/postern-mail/postern/internal/transport/manage"
	"github.com/postern-mail/postern/internal/transport/remote"
	"github.com/postern-mail/postern/internal/transport/report/inbox"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// manageCommands are the commands that change what transport goes by.
func manageCommands(m *Mover) []command.Command {
	if m == nil {
		return manage.Commands(manage.Deps{})
	}
	return manage.Commands(manage.Deps{Agreed: m.deps.Group, Book: m.settings, Keys: m.keys, Quarantine: m.quarantine,
		Checker:        keys.Checker{Resolver: m.resolver, Std: m.resolver.Std(), STS: m.policies, SRV: net.DefaultResolver.LookupSRV},
		OrganizationOf: m.deps.Directory.OrganizationOf, Organizations: boxes{m.deps.Directory}.OrganizationIDs,
		Facts: m.facts, TestConnector: m.testConnector, Now: m.now,
		Covers: func(before, after settings.Group) error {
			return after.Replaces(before, org.LongestLag(m.deps.Group.View().Databases()), m.deps.DuplicateWindow)
		},
		SealPassword: func(o org.OrganizationID, name, password string) ([]byte, error) {
			return m.deps.Group.SealSecret(remote.SecretPurpose(o, name), []byte(password))
		}})
}

// reportCommands are the commands that show what others report.
func reportCommands(m *Mover) []command.Command {
	if m == nil {
		return inbox.Commands(inbox.Deps{})
	}
	return inbox.Commands(inbox.Deps{Store: m.deps.Store, Now: m.now, Mailbox: func(a mail.Address) (org.MailboxRef, org.OrganizationID, bool) {
		r, ok := m.deps.Directory.ByAddress(a)
		return r.Ref(), r.Organization, ok && r.IsMailbox() && r.Deleted == nil
	}})
}

// SettingsMarkdown lists what commands of the group can set, for docs/settings.md.
func SettingsMarkdown() string { return settings.Markdown() }

// HoldTime is how long mail can be delivered again after its delivery, by the
// settings of the group.
func HoldTime(v *cluster.View) time.Duration {
	g, _, err := settings.Read[settings.Group](v, settings.GroupKey)
	if err != nil || g.HoldTime == 0 {
		g = settings.Defaults()
	}
	return g.HoldTime.Std()
}

// facts are what the DNS records of a domain follow from, but its keys.
func (m *Mover) facts(domain string) keys.Facts {
	f := keys.Facts{Domain: domain, Hosts: m.hosts()}
	for _, s := range m.cfg.Source {
		if a, err := netip.ParseAddr(s); err == nil {
			f.Sources = append(f.Sources, a)
		}
	}
	host := f.Hosts[0]
	for _, s := range []keys.Service{{Name: "imaps", Port: 993}, {Name: "submissions", Port: 465}, {Name: "submission", Port: 587}} {
		s.Host = host
		f.Services = append(f.Services, s)
	}
	return f
}

// testConnector connects to each host of a connector and says what it found.
func (m *Mover) testConnector(ctx context.Context, c settings.Connector) ([]manage.Trial, error) {
	var out []manage.Trial
	for _, p := range m.agent.Try(ctx, c) {
		out = append(out, manage.Trial{Host: p.Host, Step: p.Step, OK: p.Err == nil, Detail: cmp.Or(errText(p.Err), p.Detail)})
	}
	return out, nil
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
