package remote

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/smtpc"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/deliver"
	"github.com/postern-mail/postern/internal/transport/dns"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/settings"
	"github.com/postern-mail/postern/internal/transport/sign"
	"github.com/postern-mail/postern/internal/transport/tlspolicy"
)

// Resolver is what is asked of DNS; *dns.Resolver is one.
type Resolver interface {
	MX(ctx context.Context, domain string) ([]dns.MX, dns.Info, error)
	Addrs(ctx context.Context, host string) ([]netip.Addr, dns.Info, error)
	TXT(ctx context.Context, name string) ([]string, dns.Info, error)
}

// Policies says how far TLS has to be believed in; *tlspolicy.Policies is one.
type Policies interface {
	For(ctx context.Context, domain string) (tlspolicy.STS, error)
	Host(ctx context.Context, q tlspolicy.Question) (tlspolicy.Plan, error)
}

// Source is an address to send from and the name to greet with from there.
type Source struct {
	Address netip.Addr
	Hello   string // empty: Deps.Hostname
}

// Deps are what an Agent works with. Functions that are nil know nothing.
type Deps struct {
	Resolver Resolver
	Policies Policies
	// Hostname is the name of this server for EHLO and in results of its own
	// that it seals.
	Hostname string
	// Sources are the addresses to send from, any number of each family; a
	// destination always sees the same one. A family without any is sent from
	// as the system chooses.
	Sources []Source

	Connector func(o org.OrganizationID, name string) (settings.Connector, bool)
	// SmartHost gives the settings of a smart host; what they leave empty is as
	// for a connector, and the host is the destination's. Nil: TLS with the
	// host's name and no log-in.
	SmartHost func(host string) settings.Connector
	// ClientCertificate gives the certificate that a connector names.
	ClientCertificate func(name string) (*tls.Certificate, error)
	// OpenSecret opens a connector's password; see SecretPurpose.
	OpenSecret func(purpose string, sealed []byte) ([]byte, error)

	// Authors are the domains of a message's From field.
	Authors func(msg []byte) ([]string, error)
	// Keys are the keys in state signing of a domain, if it is the
	// organization's; without an organization, of this server's own name.
	Keys func(o org.OrganizationID, domain string) []sign.Key
	// Sealer gives the key that seals (ARC) what is forwarded for the
	// organization.
	Sealer func(o org.OrganizationID) (sign.Key, bool)
	// Sender is the envelope sender for a row; nil: the message's.
	Sender func(m queue.Message, r queue.RecipientRow) string
	// Note counts sessions for TLS reports. It must not wait.
	Note func(Session)

	// Port of other hosts, 25. Labs have another.
	Port uint16
	// Private allows hosts of a domain to have addresses that are not public or
	// are the group's, as in labs.
	Private bool
	// Own tells the addresses of this group, which no mail for the Internet
	// goes to.
	Own func(netip.Addr) bool
	// Roots verify the hosts of connectors that name no CA; nil: the system's.
	Roots *x509.CertPool
	// Dial opens connections; an invalid source is any. Nil is a net.Dialer.
	Dial     func(ctx context.Context, source netip.Addr, address string) (net.Conn, error)
	Timeouts smtpc.Timeouts

	Now     func() time.Time // nil: time.Now
	Log     *slog.Logger
	Events  *event.Log
	Metrics prometheus.Registerer // nil: none
}

// Session is how TLS of one session with a host of a domain went, or why there
// was none.
type Session struct {
	Domain string // of the recipients
	// Policy is a policy-type and Result a result-type of RFC 8460 section 4,
	// or "success".
	Policy, Result string
	// Published is the policy, line by line or record by record, and Hosts are
	// those it names; empty where they are not known.
	Published, Hosts []string
	// Host is the host that was spoken to, Address where, Source from where; as
	// far as it came to that.
	Host            string
	Address, Source netip.Addr
}

// SecretPurpose is what the password of a connector is sealed for.
func SecretPurpose(o org.OrganizationID, name string) string {
	return "connector " + string(o) + "/" + name
}

// Agent delivers to other mail systems. It is safe for concurrent use.
type Agent struct {
	d        Deps
	pool     *pool
	dressed  *dressed
	failing  *failing
	cold     *cold
	sessions *prometheus.CounterVec // by policy and result of TLS
}

var _ deliver.Agent = (*Agent)(nil)

// New makes an Agent. It works at once; connections are used again only while
// Run does.
func New(d Deps) *Agent {
	d.Port = cmp.Or(d.Port, 25)
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Events == nil {
		d.Events = event.NewLog(d.Log)
	}
	if d.Dial == nil {
		d.Dial = dial
	}
	a := &Agent{d: d, pool: newPool(d.Now), dressed: newDressed(), failing: newFailing(d.Events), cold: newCold(),
		sessions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "postern_transport_tls_total",
			Help: "Sessions with other hosts, by the policy for TLS and what came of it."}, []string{"policy", "result"})}
	if d.Metrics != nil {
		d.Metrics.MustRegister(a.sessions)
	}
	return a
}

func dial(ctx context.Context, source netip.Addr, address string) (net.Conn, error) {
	d := net.Dialer{}
	if source.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
	}
	return d.DialContext(ctx, "tcp", address)
}

// Run keeps connections for the next message until ctx ends, and returns when
// those it kept are closed.
func (a *Agent) Run(ctx context.Context) error { return a.pool.run(ctx) }

// Deliver tries once and answers for each row. It implements deliver.Agent.
func (a *Agent) Deliver(ctx context.Context, w deliver.Work) []deliver.Result {
	t := &trial{a: a, w: w, results: make([]deliver.Result, len(w.Rows)), open: len(w.Rows), settled: make([]bool, len(w.Rows))}
	t.run(ctx)
	t.wg.Wait()
	t.finish()
	return t.results
}
