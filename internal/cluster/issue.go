package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster/ca"
)

// maxNames bounds the names of one certificate.
const maxNames = 100

// Issue makes a certificate of the group's CA for the doors: for DNS names and
// IP addresses, good for showing to clients and never for speaking as a server
// of the group. It needs the view only.
func (c *Cluster) Issue(names []string) (tls.Certificate, error) {
	if len(names) == 0 || len(names) > maxNames {
		return tls.Certificate{}, kind.Errorf(kind.Invalid, "issue certificate: %d names, want 1 to %d", len(names), maxNames)
	}
	authority, err := c.authority()
	if err != nil {
		return tls.Certificate{}, err
	}
	keyPEM, csr, err := ca.Request()
	if err != nil {
		return tls.Certificate{}, err
	}
	der, err := authority.IssueDoor(csr, names, c.cfg.CertificateLife)
	if err != nil {
		return tls.Certificate{}, err
	}
	cert, err := tls.X509KeyPair(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyPEM)
	if err == nil && cert.Leaf == nil {
		cert.Leaf, err = x509.ParseCertificate(der)
	}
	if err != nil {
		return tls.Certificate{}, err
	}
	cert.Certificate = append(cert.Certificate, c.ca.Raw)
	return cert, nil
}
