package tlspolicy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/transport/dns"
)

// Basis is what a plan rests on, from weak to strong.
type Basis uint8

// The bases.
const (
	Opportunistic Basis = iota // TLS if offered, whoever it is
	Testing                    // MTA-STS in testing: as above, but reported
	Encrypted                  // TLS, whoever it is: TLSA records none of which can be used
	PKIX                       // TLS with a certificate the roots vouch for: MTA-STS, REQUIRETLS
	DANE                       // TLS with a certificate of the TLSA records
)

func (b Basis) String() string {
	return [...]string{"opportunistic", "testing", "encrypted", "pkix", "dane"}[b]
}

// Question is about one MX host of a domain.
type Question struct {
	Domain string
	STS    STS    // of the domain, by For
	MX     string // host name
	Port   int    // 0: 25
	// SecureMX: the answer that named the host was authentic. Address is what
	// came with its addresses.
	SecureMX bool
	Address  dns.Info
}

// Plan is how to speak to one host.
type Plan struct {
	Basis Basis
	// Name is asked for in the handshake (SNI).
	Name  string
	names []string // one of which the certificate has to have
	tlsa  []dns.TLSA
	roots *x509.CertPool
	now   func() time.Time
}

// Must tells whether nothing may go in clear.
func (p Plan) Must() bool { return p.Basis >= Encrypted }

// Host decides about a host. An error (Busy) means that it may not be spoken
// to now: its domain's policy does not name it, or nobody could tell what it
// promises. A TLSA record counts only when all that led to it is authentic.
func (p *Policies) Host(ctx context.Context, q Question) (Plan, error) {
	plan := Plan{Name: q.MX, names: []string{q.MX}, roots: p.o.Roots, now: p.now}
	if q.SecureMX && q.Address.Authentic {
		base, rs, err := p.tlsa(ctx, q)
		switch {
		case err != nil:
			return Plan{}, kind.Errorf(kind.Busy, "dane %s: %w", q.MX, err)
		case rs != nil:
			plan.Name, plan.tlsa = base, usable(rs)
			plan.names = distinct(base, q.MX, q.Domain)
			if plan.Basis = DANE; len(plan.tlsa) == 0 {
				plan.Basis = Encrypted // RFC 7672 section 2.2
			}
			return plan, nil
		}
	}
	switch q.STS.Mode {
	case ModeEnforce:
		if !q.STS.Allows(q.MX) {
			return Plan{}, kind.Errorf(kind.Busy, "mta-sts %s: the policy does not name the host %s", q.Domain, q.MX)
		}
		plan.Basis = PKIX
	case ModeTesting:
		plan.Basis = Testing
		if !q.STS.Allows(q.MX) {
			plan.names = nil // no certificate will do, which is to be reported
		}
	}
	return plan, nil
}

// tlsa looks for the records of a host, first under the name its aliases end
// in (RFC 7672 section 2.2.2). Nil: there are none that count.
func (p *Policies) tlsa(ctx context.Context, q Question) (base string, rs []dns.TLSA, err error) {
	port := q.Port
	if port == 0 {
		port = 25
	}
	for _, base := range distinct(q.Address.Name, q.MX) {
		rs, info, err := p.o.Resolver.TLSA(ctx, fmt.Sprintf("_%d._tcp.%s", port, base))
		switch {
		case err == nil && info.Authentic && len(rs) > 0:
			return base, rs, nil
		case err != nil && !kind.Is(err, kind.NotFound):
			return "", nil, err
		}
	}
	return "", nil, nil
}

func distinct(names ...string) []string {
	var out []string
	for _, n := range names {
		if n != "" && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// Strict raises a plan for a message that asks for it (REQUIRETLS, RFC 8689
// section 4.2.1): the host has to prove its name. DANE stays as it is.
func (p Plan) Strict() Plan {
	if p.Basis < PKIX {
		p.Basis, p.names = PKIX, []string{p.Name}
	}
	return p
}

// Records are the usable TLSA records of the plan, as a zone file has their
// data.
func (p Plan) Records() []string {
	var out []string
	for _, r := range p.tlsa {
		out = append(out, fmt.Sprintf("%d %d %d %x", r.Usage, r.Selector, r.Matching, r.Data))
	}
	return out
}

// Verify tells whether a connection keeps what was promised. For Testing the
// error is only to be reported.
func (p Plan) Verify(cs tls.ConnectionState) error {
	switch p.Basis {
	case DANE:
		return verifyDANE(p.tlsa, cs.PeerCertificates, p.names, p.now())
	case PKIX, Testing:
		return verifyChain(cs.PeerCertificates, p.roots, p.names, p.now())
	}
	return nil
}

// Config is the one for the handshake. It verifies by Verify where the plan
// is binding; certificate, if any, is shown to the host.
func (p Plan) Config(certificate *tls.Certificate) *tls.Config {
	c := &tls.Config{
		ServerName: p.Name,
		MinVersion: tls.VersionTLS12,
		// Verification is VerifyConnection's: by default it would be by name
		// and roots, which is too much or the wrong thing.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if !p.Must() {
				return nil
			}
			if err := p.Verify(cs); err != nil {
				return fmt.Errorf("%w (%s): %w", ErrUntrusted, p.Basis, err)
			}
			return nil
		},
	}
	if certificate != nil {
		c.Certificates = []tls.Certificate{*certificate}
	}
	return c
}

// ErrUntrusted is wrapped by what a handshake fails with when the certificate
// is not the promised one.
var ErrUntrusted = errors.New("certificate is not to be trusted")
