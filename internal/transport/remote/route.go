package remote

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/smtpc"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/settings"
	"github.com/postern-mail/postern/internal/transport/tlspolicy"
)

// The kinds of destinations.
const (
	destMX        = "mx"
	destConnector = "connector"
	destSmartHost = "smarthost"
)

// route is the way to a destination, before anything is looked up.
type route struct {
	dest   string
	kind   string
	domain string             // with destMX
	set    settings.Connector // with the others
	strict bool               // the message asks for REQUIRETLS
	key    string             // of the pool

	tls            smtpc.TLS // of the others; see config
	roots          *x509.CertPool
	certificate    *tls.Certificate
	user, password string
}

// routeOf reads a destination. The verdict counts where ok is false.
func (a *Agent) routeOf(dest string, strict bool) (r route, v verdict, ok bool) {
	k, name, _ := strings.Cut(dest, ":")
	r = route{dest: dest, kind: k, strict: strict}
	r.key = dest
	if strict {
		r.key += "\x00requiretls"
	}
	var err error
	switch k {
	case destMX:
		r.domain = name
		return r, v, true
	case destConnector:
		o, c, _ := strings.Cut(name, "/")
		set, found := settings.Connector{}, false
		if a.d.Connector != nil {
			set, found = a.d.Connector(org.OrganizationID(o), c)
		}
		if r.set = set; !found || !set.Enabled || set.Direction == settings.DirectionIn {
			err = fmt.Errorf("the connector %s does not exist, is disabled or is not for sending", name)
		}
	case destSmartHost:
		r.set, err = a.smartHost(name)
	default:
		err = fmt.Errorf("the destination %s is of no kind that is known here", dest)
	}
	if err == nil {
		err = a.equip(&r)
	}
	if err != nil {
		v = deferred(451, "4.3.5", "The way to the recipient is not set up: "+err.Error()).whole()
		v.misconfigured = true
		return r, v, false
	}
	return r, v, true
}

func (a *Agent) smartHost(name string) (settings.Connector, error) {
	host, port := name, ""
	if h, p, err := net.SplitHostPort(name); err == nil {
		host, port = h, p
	}
	var set settings.Connector
	if a.d.SmartHost != nil {
		set = a.d.SmartHost(name)
	}
	set.Name, set.Hosts = name, []string{strings.Trim(host, "[]")}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return set, fmt.Errorf("the port of %s is not a number", name)
		}
		set.Port = int(n)
	}
	return set, nil
}

// equip finds what the settings of a connector only name.
func (a *Agent) equip(r *route) (err error) {
	c := r.set
	if len(c.Hosts) == 0 {
		return fmt.Errorf("the connector %s has no host", c.Name)
	}
	if r.tls = smtpc.TLSMust; c.TLS == "opportunistic" && c.User == "" && !r.strict {
		r.tls = smtpc.TLSMay
	}
	if r.roots = a.d.Roots; c.CA != "" {
		if r.roots = x509.NewCertPool(); !r.roots.AppendCertsFromPEM([]byte(c.CA)) {
			return fmt.Errorf("the CA of connector %s is no certificate in PEM", c.Name)
		}
	}
	if c.ClientCertificate != "" {
		if a.d.ClientCertificate == nil {
			return kind.Errorf(kind.NotFound, "there is no certificate %s", c.ClientCertificate)
		}
		if r.certificate, err = a.d.ClientCertificate(c.ClientCertificate); err != nil {
			return fmt.Errorf("the certificate %s: %w", c.ClientCertificate, err)
		}
	}
	if r.user = c.User; r.user != "" && len(c.Password) > 0 {
		if a.d.OpenSecret == nil {
			return kind.Errorf(kind.NotFound, "the password of connector %s cannot be opened here", c.Name)
		}
		secret, err := a.d.OpenSecret(SecretPurpose(c.Organization, c.Name), c.Password)
		if err != nil {
			return fmt.Errorf("the password of connector %s: %w", c.Name, err)
		}
		r.password = string(secret)
	}
	// Two tenants never share a connection, nor do the settings before and
	// after a change.
	r.key += fmt.Sprintf("\x00%d\x00%s\x00%s\x00%s\x00%x", r.tls, c.VerifyName, c.ClientCertificate, c.User, c.Password)
	return nil
}

// config is for the handshake with a host of a connector. Where TLS is
// required, the host has to prove its name or the one the settings name.
func (r *route) config(host string) *tls.Config {
	name := r.set.VerifyName
	if name == "" {
		name = host
		// Hosts of Exchange Online may be named by an alias in the tenant's own
		// zone; those for DANE prove their own names.
		if r.set.Kind == settings.KindExchangeOnline && !strings.HasSuffix(strings.ToLower(host), ".mx.microsoft") {
			name = "*.mail.protection.outlook.com"
		}
	}
	c := &tls.Config{
		ServerName: host,
		MinVersion: tls.VersionTLS12,
		// Verification is VerifyConnection's: the name may be a pattern.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if r.tls != smtpc.TLSMust {
				return nil
			}
			if err := verify(cs.PeerCertificates, r.roots, name); err != nil {
				return fmt.Errorf("%w: %w", tlspolicy.ErrUntrusted, err)
			}
			return nil
		},
	}
	if _, err := netip.ParseAddr(host); err == nil {
		c.ServerName = "" // no address in SNI (RFC 6066 section 3)
	}
	if r.certificate != nil {
		// Shown whatever authorities the host lists: it tells whose mail it is.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return r.certificate, nil }
	}
	return c
}

// verify checks a chain and a name. A pattern (*.name) takes any certificate
// for that pattern or for a name with one label in place of the star.
func verify(chain []*x509.Certificate, roots *x509.CertPool, name string) error {
	if len(chain) == 0 {
		return fmt.Errorf("the host shows no certificate")
	}
	o := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), DNSName: name}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	suffix, pattern := strings.CutPrefix(name, "*")
	if pattern {
		o.DNSName = ""
	}
	if _, err := chain[0].Verify(o); err != nil || !pattern {
		return err
	}
	for _, n := range chain[0].DNSNames {
		label, parent, _ := strings.Cut(n, ".")
		if label != "" && strings.EqualFold("."+parent, suffix) {
			return nil
		}
	}
	return x509.HostnameError{Certificate: chain[0], Host: name}
}
