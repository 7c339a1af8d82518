package guard

import (
	"crypto/x509"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// Tenancy is what Prove knows of organizations and certificates.
type Tenancy struct {
	OrganizationOf func(domain string) (org.OrganizationID, bool)
	Roots          *x509.CertPool // nil: the system's
	Now            time.Time
}

// errUnproven is the reason of most refusals.
var errUnproven = errors.New("no connector is proven")

// Prove finds the connector that a peer comes in by. It is proven by a verified
// client certificate with one of its names, or by the peer's address being of
// its networks; and the sender's domain is of its organization. The null
// sender has no domain: it needs a certificate, and one that no cloud shares
// and that names no other organization's connector.
//
// SignatureNeeded tells whether the message has to show a signature as well.
// The error (Denied) says why nothing is proven.
func Prove(peer mail.Peer, env mail.Envelope, cs []settings.Connector, t Tenancy) (settings.Connector, error) {
	var from mail.Address
	var sender org.OrganizationID
	if env.From != "" {
		var err error
		if from, err = mail.ParseAddress(env.From); err != nil || from.IsLiteral() {
			return settings.Connector{}, kind.Errorf(kind.Denied, "prove sender: no domain")
		}
		var ok bool
		if sender, ok = t.OrganizationOf(from.Domain); !ok {
			return settings.Connector{}, kind.Errorf(kind.Denied, "prove sender: its domain is no organization's")
		}
	}
	var found []settings.Connector
	why := errUnproven
	for _, c := range cs {
		if !c.Enabled || c.Direction == settings.DirectionOut || c.Organization == "" {
			continue
		}
		certified := certifiedFor(peer, c, t)
		switch {
		case !certified && !within(peer.Remote, c.Networks):
		case env.From != "" && c.Organization != sender:
			why = errors.New("the sender's domain is of another organization than the connector")
		case env.From == "" && (!certified || SignatureNeeded(peer, c)):
			why = errors.New("the null sender needs a certificate of its own")
		default:
			found = append(found, c)
		}
	}
	if len(found) == 0 {
		return settings.Connector{}, kind.Errorf(kind.Denied, "prove connector: %w", why)
	}
	best := found[0]
	for _, c := range found[1:] {
		if c.Organization != best.Organization { // null sender only
			return settings.Connector{}, kind.Errorf(kind.Denied, "prove connector: the certificate names connectors of several organizations")
		}
		if SignatureNeeded(peer, best) && !SignatureNeeded(peer, c) {
			best = c
		}
	}
	return best, nil
}

// SignatureNeeded tells whether what proves the connector is shared with other
// tenants of a cloud, who may claim any sender: then the message has to carry a
// DKIM signature of a domain of the organization as well.
func SignatureNeeded(peer mail.Peer, c settings.Connector) bool {
	if c.Kind != settings.KindSMTP || within(peer.Remote, sharedNetworks()) {
		return true
	}
	for _, n := range c.CertificateNames {
		for _, s := range []string{"outlook.com", "office365.com", "microsoft.com", "google.com", "gmail.com", "googlemail.com"} {
			if n = strings.ToLower(n); n == s || strings.HasSuffix(n, "."+s) {
				return true
			}
		}
	}
	return false
}

// within tells whether an address is in one of the networks. Networks that hold
// a good part of the Internet prove nothing.
func within(a netip.Addr, nets []netip.Prefix) bool {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return false
	}
	for _, n := range nets {
		widest := 8
		if n.Addr().Is6() {
			widest = 19 // the largest that a registry gives to one
		}
		if n.Bits() >= widest && n.Contains(a) {
			return true
		}
	}
	return false
}

// certifiedFor tells whether the peer showed a certificate that somebody
// trusted vouches for and that has one of the connector's names. The name is
// looked at first, as that costs nothing.
func certifiedFor(peer mail.Peer, c settings.Connector, t Tenancy) bool {
	if peer.TLS == nil || len(peer.TLS.PeerCertificates) == 0 {
		return false
	}
	leaf := peer.TLS.PeerCertificates[0]
	named := false
	for _, n := range c.CertificateNames {
		named = named || hasName(leaf, n)
	}
	if !named {
		return false
	}
	roots := t.Roots
	if c.CA != "" {
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(c.CA)) {
			return false
		}
	}
	between := x509.NewCertPool()
	for _, cert := range peer.TLS.PeerCertificates[1:] {
		between.AddCert(cert)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: t.Now,
		// Authorities stop to issue certificates for clients; mail servers show
		// the one they have.
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err == nil
}

// hasName tells whether a certificate has a name. "*.domain" is any name right
// below the domain, or the certificate's own wildcard.
func hasName(leaf *x509.Certificate, want string) bool {
	want = strings.ToLower(strings.TrimSuffix(want, "."))
	parent, any := strings.CutPrefix(want, "*.")
	if !strings.Contains(parent, ".") || strings.Contains(parent, "*") {
		return false
	}
	if !any {
		return leaf.VerifyHostname(want) == nil
	}
	for _, n := range leaf.DNSNames {
		label, rest, _ := strings.Cut(strings.ToLower(n), ".")
		if label != "" && rest == parent {
			return true
		}
	}
	return false
}

// sharedNetworks are those that Exchange Online and Google send from for all
// their tenants, as published (spf.protection.outlook.com, _spf.google.com).
// They are a second line: a connector of kind smtp that lists them is still not
// taken at its word.
func sharedNetworks() []netip.Prefix {
	var out []netip.Prefix
	for s := range strings.FieldsSeq(`
		40.92.0.0/15 40.107.0.0/16 52.100.0.0/14 104.47.0.0/17
		2a01:111:f400::/48 2a01:111:f403::/48
		35.190.247.0/24 35.191.0.0/16 64.233.160.0/19 66.102.0.0/20 66.249.80.0/20 72.14.192.0/18 74.125.0.0/16
		108.177.8.0/21 108.177.96.0/19 130.211.0.0/22 142.250.0.0/15 172.217.0.0/16 172.253.0.0/16 173.194.0.0/16
		192.178.0.0/15 209.85.128.0/17 216.58.192.0/19 216.239.32.0/19
		2001:4860:4000::/36 2404:6800:4000::/36 2607:f8b0:4000::/36 2800:3f0:4000::/36 2a00:1450:4000::/36 2c0f:fb50:4000::/36`) {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}
