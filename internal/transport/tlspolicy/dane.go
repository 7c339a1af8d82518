package tlspolicy

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"time"

	"github.com/postern-mail/postern/internal/transport/dns"
)

// Fields of TLSA records (RFC 6698 section 2.1, names of RFC 7218).
const (
	usageTA      = 2 // DANE-TA
	usageEE      = 3 // DANE-EE
	selectorCert = 0
	selectorKey  = 1
	matchFull    = 0
	matchSHA256  = 1
	matchSHA512  = 2
)

const maxTLSA = 50

// usable keeps the records that SMTP may use (RFC 7672 section 3.1): others,
// the two usages of PKIX among them, count as if they were not understood.
func usable(rs []dns.TLSA) []dns.TLSA {
	var out []dns.TLSA
	for _, r := range rs {
		ok := (r.Usage == usageTA || r.Usage == usageEE) && (r.Selector == selectorCert || r.Selector == selectorKey)
		switch r.Matching {
		case matchFull:
			ok = ok && len(r.Data) > 0
		case matchSHA256:
			ok = ok && len(r.Data) == sha256.Size
		case matchSHA512:
			ok = ok && len(r.Data) == sha512.Size
		default:
			ok = false
		}
		if ok && len(out) < maxTLSA {
			out = append(out, r)
		}
	}
	return out
}

// matches tells whether a certificate is the one of a record (RFC 6698
// section 2.1.3).
func matches(r dns.TLSA, c *x509.Certificate) bool {
	data := c.Raw
	if r.Selector == selectorKey {
		data = c.RawSubjectPublicKeyInfo
	}
	switch r.Matching {
	case matchSHA256:
		sum := sha256.Sum256(data)
		data = sum[:]
	case matchSHA512:
		sum := sha512.Sum512(data)
		data = sum[:]
	}
	return bytes.Equal(data, r.Data)
}

var (
	errNoCertificate = errors.New("the host showed no certificate")
	errDANE          = errors.New("no TLSA record fits the certificate")
)

// verifyDANE holds a chain, leaf first, against usable records. A leaf that is
// named by its key or whole needs neither name nor date (RFC 7672 section
// 3.1.1); an authority has to have issued a certificate for one of names that
// is valid now (section 3.1.2).
func verifyDANE(rs []dns.TLSA, chain []*x509.Certificate, names []string, now time.Time) error {
	if len(chain) == 0 {
		return errNoCertificate
	}
	var issuers []*x509.Certificate
	for _, r := range rs {
		if r.Usage == usageEE && matches(r, chain[0]) {
			return nil
		}
		if r.Usage != usageTA {
			continue
		}
		for _, c := range chain {
			if matches(r, c) {
				issuers = append(issuers, c)
			}
		}
		// The authority need not be sent where the record has all of it.
		if r.Selector == selectorCert && r.Matching == matchFull {
			if c, err := x509.ParseCertificate(r.Data); err == nil {
				issuers = append(issuers, c)
			}
		}
	}
	err := errDANE
	for _, issuer := range issuers {
		if err = verifyChain(chain, poolOf(issuer), names, now); err == nil {
			return nil
		}
	}
	return err
}

func poolOf(cs ...*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range cs {
		p.AddCert(c)
	}
	return p
}

// verifyChain is the usual check (RFC 5280, RFC 6125) for one of several
// names; nil roots are the system's.
func verifyChain(chain []*x509.Certificate, roots *x509.CertPool, names []string, now time.Time) error {
	if len(chain) == 0 {
		return errNoCertificate
	}
	err := errors.New("no name to verify")
	for _, n := range names {
		_, err = chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: poolOf(chain[1:]...), DNSName: n, CurrentTime: now})
		if err == nil {
			return nil
		}
	}
	return err
}
