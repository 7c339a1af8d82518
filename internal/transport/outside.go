package transport

import (
	"context"
	"crypto/rsa"
	"errors"
	netmail "net/mail"
	"net/netip"
	"path/filepath"
	"sync"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/message"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/deliver"
	"github.com/postern-mail/postern/internal/transport/dns"
	"github.com/postern-mail/postern/internal/transport/guard"
	"github.com/postern-mail/postern/internal/transport/keys"
	"github.com/postern-mail/postern/internal/transport/quarantine"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/remote"
	"github.com/postern-mail/postern/internal/transport/report"
	"github.com/postern-mail/postern/internal/transport/route"
	"github.com/postern-mail/postern/internal/transport/safetynet"
	"github.com/postern-mail/postern/internal/transport/scrub"
	"github.com/postern-mail/postern/internal/transport/scrub/clamd"
	"github.com/postern-mail/postern/internal/transport/scrub/milter"
	"github.com/postern-mail/postern/internal/transport/scrub/rspamd"
	"github.com/postern-mail/postern/internal/transport/settings"
	"github.com/postern-mail/postern/internal/transport/sign"
	"github.com/postern-mail/postern/internal/transport/tlspolicy"
)

// outside is what deals with other systems.
type outside struct {
	resolver *dns.Resolver
	policies *tlspolicy.Policies
	keys     *keys.Keys
	agent    *remote.Agent
	reporter *report.Reporter

	quarantine *quarantine.Quarantine
}

func (o *outside) run(ctx context.Context, wg *sync.WaitGroup, run func(*sync.WaitGroup, string, func() error)) {
	run(wg, "connections", func() error { return o.agent.Run(ctx) })
	run(wg, "reports", func() error { return o.reporter.Run(ctx) })
	run(wg, "DKIM keys", func() error { return o.keys.Run(ctx) })
	run(wg, "quarantine", func() error { return o.quarantine.Run(ctx) })
}

// assemble puts the parts together.
func (m *Mover) assemble() (err error) {
	d := m.deps
	if m.resolver, err = dns.New(dns.Config{Servers: m.cfg.DNS.Servers, TrustAD: m.cfg.DNS.TrustAD}); err != nil {
		return err
	}
	kept, err := tlspolicy.NewFiles(m.disk(), filepath.Join(m.cfg.Dir, "mta-sts"), m.log)
	if err != nil {
		return err
	}
	m.policies = tlspolicy.New(tlspolicy.Options{Resolver: m.resolver, Store: kept, Private: m.cfg.Private})
	m.keys = keys.New(keys.Deps{Group: d.Group, Book: m.settings, Resolver: m.resolver, Log: m.log, Events: d.Events, Now: m.now})
	m.reporter = report.New(report.Deps{Resolver: m.resolver.Std(), Submit: m.submitReport, Server: string(m.me), Hostname: m.hostname(), Version: d.Version,
		Dir: m.cfg.Dir, FS: m.disk(), Settings: m.settings.Group, Private: m.cfg.Private, Now: m.now, Log: m.log})
	m.agent = remote.New(remote.Deps{Resolver: m.resolver, Policies: m.policies, Hostname: m.hostname(), Sources: m.sources(),
		Connector: m.settings.Connector, SmartHost: m.smartHost, ClientCertificate: d.ClientCertificate, OpenSecret: d.Group.OpenSecret,
		Authors: authors, Keys: m.signers, Sealer: m.sealer, Sender: m.senderOf, Port: uint16(m.cfg.RemotePort), Private: m.cfg.Private, Own: m.own,
		Note: func(s remote.Session) { m.reporter.NoteTLS(report.Session(s)) },
		Now:  m.now, Log: m.log, Events: d.Events, Metrics: d.Metrics})
	spam, malware, err := m.scanners()
	if err != nil {
		return err
	}
	milters, err := m.milters()
	if err != nil {
		return err
	}
	// The name in results is that of the doors, which remove forged ones.
	m.guard = guard.New(guard.Config{Hostname: d.Hostname, Private: m.cfg.Private}, guard.Deps{Spam: spam, Malware: malware, Others: milters, Returns: m.returns,
		Note: func(o guard.Observation) { m.reporter.NoteDMARC(report.Observation(o)) },
		View: d.Group.View, Settings: m.settings, Directory: d.Directory,
		Usage: d.Store.Usage, Resolver: m.resolver, Broadcast: m.broadcast, Log: m.log, Events: d.Events, Metrics: d.Metrics})
	m.quarantine = quarantine.New(quarantine.Deps{Store: d.Store, Boxes: boxes{d.Directory}, Book: m.settings, Agreed: d.Group, Log: m.log, Now: m.now,
		Submit: func(ctx context.Context, s mail.Submission) (mail.Receipt, error) { return m.take(ctx, s, internal{}) }})
	m.net = safetynet.New(safetynet.Deps{Group: d.Group, Queue: m.queue, Settings: m.settings.Group, Resubmit: m.resubmit,
		DuplicateWindow: d.DuplicateWindow, Now: m.now, Noted: d.Noted, Log: m.log, Events: d.Events, Metrics: d.Metrics})
	m.local = m.newLocal()
	m.dispatch = deliver.New(deliver.Deps{Queue: m.queue, Rules: m.rules(), Door: m, Now: m.now, Log: m.log,
		InDoubt: m.inDoubt, Organization: m.organizations.name, Observe: func(o deliver.Observed) { m.metrics.observe(o) },
		Agents: map[string]deliver.Agent{"db": m.local, "mx": m.agent, "connector": m.agent, "smarthost": m.agent}})
	return nil
}

// disk is where the folder of the queue is.
func (m *Mover) disk() fsx.FS {
	if m.deps.FS != nil {
		return m.deps.FS
	}
	return fsx.OS{}
}

// submitReport takes a report to be sent, if there is room for mail.
func (m *Mover) submitReport(ctx context.Context, s mail.Submission) error {
	if err := m.queue.Room(); err != nil {
		return err
	}
	_, err := m.take(ctx, s, internal{})
	return err
}

// scanners are those that the configuration names, nil for none.
func (m *Mover) scanners() (spam, malware scrub.Scanner, err error) {
	if c := m.cfg.Rspamd; c.URL != "" {
		r, err := rspamd.New(rspamd.Config{URL: c.URL, Timeout: c.Timeout.Std()})
		if err != nil {
			return nil, nil, err
		}
		spam = r
	}
	if c := m.cfg.Clamd; c.Address != "" {
		a, err := clamd.New(clamd.Config{Address: c.Address, Timeout: c.Timeout.Std()})
		if err != nil {
			return nil, nil, err
		}
		malware = a
	}
	return spam, malware, nil
}

// milters are the other filters that the configuration names, in its order.
func (m *Mover) milters() (out []guard.Other, err error) {
	for _, c := range m.cfg.Milters {
		f, err := milter.New(milter.Config{Address: c.Address, Timeout: c.Timeout.Std(), Hostname: m.deps.Hostname, Log: m.log})
		if err != nil {
			return nil, err
		}
		out = append(out, guard.Other{Name: f.Name(), Scanner: f, Fail: c.Fail})
	}
	return out, nil
}

// smartHost are the settings of the smart host: TLS with its name, but in a
// closed network.
func (m *Mover) smartHost(string) (c settings.Connector) {
	if m.cfg.Private {
		c.TLS = "opportunistic"
	}
	return c
}

// returns tells whether an address of ours is a rewritten sender that leads
// back to somebody.
func (m *Mover) returns(a mail.Address) bool {
	_, err := route.Reverse(a, m.srs, m.now())
	return err == nil
}

func (m *Mover) sources() (out []remote.Source) {
	for _, s := range m.cfg.Source {
		if a, err := netip.ParseAddr(s); err == nil { // Validate looked at it
			out = append(out, remote.Source{Address: a})
		}
	}
	return out
}

// own tells whether an address is that of a server of the group: an MX that
// leads there leads in a circle.
func (m *Mover) own(a netip.Addr) bool {
	for _, s := range m.deps.Group.View().Servers() {
		if ap, err := netip.ParseAddrPort(s.ClusterAddr); err == nil && ap.Addr().Unmap() == a.Unmap() {
			return true
		}
	}
	return false
}

// authors are the domains of the From field, as DMARC counts them.
func authors(msg []byte) ([]string, error) {
	s := message.Look(msg)
	if len(s.From) != 1 {
		return nil, errors.New("not exactly one From")
	}
	list, err := netmail.ParseAddressList(s.From[0])
	if err != nil {
		return nil, err
	}
	var out []string
	for _, x := range list {
		a, err := mail.ParseAddress(x.Address)
		if err != nil {
			return nil, err
		}
		out = append(out, a.Domain)
	}
	return out, nil
}

// signers are the keys of a domain that belongs to the organization, or of this
// server's own name.
func (m *Mover) signers(o org.OrganizationID, domain string) []sign.Key {
	owner, ok := m.deps.Directory.OrganizationOf(domain)
	if o == "" && domain != m.hostname() || o != "" && (!ok || owner != o) {
		return nil
	}
	return m.keys.Signers(domain)
}

// sealer is the key that seals what is forwarded for an organization: an RSA
// key that signs for one of its domains.
func (m *Mover) sealer(o org.OrganizationID) (sign.Key, bool) {
	for _, d := range m.deps.Directory.Domains(o) {
		for _, k := range m.keys.Signers(d.Name) {
			if _, ok := k.Signer.Public().(*rsa.PublicKey); ok {
				return k, true
			}
		}
	}
	return sign.Key{}, false
}

// broadcast tells all other servers what the guard saw, best effort.
func (m *Mover) broadcast(batch []byte) {
	ctx, cancel := context.WithTimeout(context.Background(), keepEvery)
	defer cancel()
	var wg sync.WaitGroup
	for _, s := range m.servers() {
		if s != m.me {
			wg.Go(func() {
				if _, err := m.shadow.Ask(ctx, s, askRemember, batch); err != nil {
					m.log.Debug("tell what was seen of clients", "server", s, "err", err)
				}
			})
		}
	}
	wg.Wait()
}

// askRemember carries what the guard of another server saw.
const askRemember = "remember"

// resubmit delivers a kept message to a mailbox again. New mail goes first:
// Safety Net has at most as many deliveries under way as resubmitting.
func (m *Mover) resubmit(ctx context.Context, it safetynet.Item) (bool, error) {
	body, err := it.Body(ctx)
	if kind.Is(err, kind.Corrupt) {
		body, err = m.Body(ctx, it.Message.ID)
	}
	if err != nil {
		return false, err
	}
	at, err := m.mailboxOf(it)
	if err != nil {
		return false, err
	}
	d := mail.Delivery{Recipients: []mail.Recipient{{Mailbox: at}}, Body: body, Date: it.Message.Received.UnixNano(),
		Identity: it.Message.Identity, TraceID: it.Message.ID.String()}
	done, err := m.deps.Store.Deliver(ctx, d)
	if err != nil {
		return false, err
	}
	if len(done) != 1 {
		return false, errors.New("the store answered for another number of recipients")
	}
	if d := done[0]; d.Refused != "" || d.RefusedKind != 0 {
		return false, kind.Errorf(kind.Kind(d.RefusedKind), "mailbox %s: %s", at.ID, d.Refused)
	}
	return done[0].Duplicate, nil
}

// mailboxOf is where a kept delivery goes now.
func (m *Mover) mailboxOf(it safetynet.Item) (org.MailboxRef, error) {
	if it.To != "" {
		a, err := mail.ParseAddress(it.To)
		if err != nil {
			return org.MailboxRef{}, kind.Errorf(kind.Invalid, "resubmit to %s: %w", it.To, err)
		}
		dest, err := m.deps.Directory.Destination(a)
		if err == nil && dest.Kind != directory.KindMailbox {
			err = kind.Errorf(kind.Invalid, "resubmit to %s: it is no mailbox", it.To)
		}
		return dest.Mailbox, err
	}
	r, ok := m.deps.Directory.ByID(it.Row.Organization, it.Mailbox)
	if !ok {
		return org.MailboxRef{}, kind.Errorf(kind.NotFound, "mailbox %s does not exist any more", it.Mailbox)
	}
	return r.Ref(), nil
}

// senderOf is the envelope sender as the next host sees it.
func (m *Mover) senderOf(msg queue.Message, r queue.RecipientRow) string {
	return route.Sender(msg, r, m.deps.Directory, m.srs)
}

// boxes are the system mailboxes of organizations.
type boxes struct{ *directory.Directory }

// OrganizationIDs implements quarantine.Boxes.
func (b boxes) OrganizationIDs() (out []org.OrganizationID) {
	for _, o := range b.Organizations() {
		out = append(out, o.ID)
	}
	return out
}
