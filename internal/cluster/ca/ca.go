package ca

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

const (
	// Life of the CA itself. A change of CA is a new group.
	caLife = 25 * 365 * 24 * time.Hour
	// backdate allows for clocks that run behind the signer's.
	backdate = time.Hour

	// GroupKeySize is the length of the key that seals the CA key.
	GroupKeySize = 32

	serverPrefix = "server:"
)

// sealing binds a sealed key to its use.
var sealing = []byte("postern ca key v1")

// NewGroupKey makes the secret that every member holds.
func NewGroupKey() []byte {
	k := make([]byte, GroupKeySize)
	rand.Read(k) // never fails (crypto/rand)
	return k
}

// Authority can issue certificates.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes a CA for a group.
func NewAuthority(group string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "Postern group " + group, Organization: []string{"Postern"}},
		NotBefore:             time.Now().Add(-backdate),
		NotAfter:              time.Now().Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Authority{cert, key}, nil
}

func serial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b)
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}

// Certificate is the CA's own certificate.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// Seal encrypts the CA's key with the group key.
func (a *Authority) Seal(groupKey []byte) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(a.key)
	if err != nil {
		return nil, err
	}
	box, err := aead(groupKey)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, box.NonceSize())
	rand.Read(nonce)
	return box.Seal(nonce, nonce, der, sealing), nil
}

// Open makes an Authority of its certificate and sealed key.
func Open(cert *x509.Certificate, sealed, groupKey []byte) (*Authority, error) {
	box, err := aead(groupKey)
	if err != nil {
		return nil, err
	}
	if len(sealed) < box.NonceSize() {
		return nil, kind.Errorf(kind.Corrupt, "open ca key: too short")
	}
	der, err := box.Open(nil, sealed[:box.NonceSize()], sealed[box.NonceSize():], sealing)
	if err != nil {
		return nil, kind.Errorf(kind.Denied, "open ca key: the group key does not fit")
	}
	key, err := x509.ParseECPrivateKey(der)
	if err != nil {
		return nil, kind.Errorf(kind.Corrupt, "open ca key: %w", err)
	}
	if pub, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || !pub.Equal(key.Public()) {
		return nil, kind.Errorf(kind.Corrupt, "open ca key: it is not the key of the ca certificate")
	}
	return &Authority{cert, key}, nil
}

func aead(groupKey []byte) (cipher.AEAD, error) {
	if len(groupKey) != GroupKeySize {
		return nil, kind.Errorf(kind.Corrupt, "group key has %d bytes, want %d", len(groupKey), GroupKeySize)
	}
	block, err := aes.NewCipher(groupKey)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// Subject is who a certificate is for.
type Subject struct {
	Name     org.ServerName
	Identity string
	// Host is the address or DNS name under which others reach it; etcd's
	// own client checks it.
	Host string
	// Also are further addresses of the kind.
	Also []string
}

// Request makes a key and a certificate request for it (PEM and DER).
func Request() (keyPEM, csr []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	// The subject is the signer's to say, not the requester's.
	csr, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), csr, err
}

// Issue signs a server's request. From the request only the key is taken.
func (a *Authority) Issue(csr []byte, sub Subject, life time.Duration) ([]byte, error) {
	tmpl := template(life, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth)
	tmpl.Subject = pkix.Name{CommonName: serverPrefix + string(sub.Name), SerialNumber: sub.Identity, Organization: []string{"Postern"}}
	names := []string{string(sub.Name) + ".postern.internal"}
	if sub.Host != "" {
		names = append(names, sub.Host)
	}
	return a.sign(csr, tmpl, append(names, sub.Also...))
}

// IssueDoor signs a request for a certificate that clients of the doors see.
// It names no server, so Who and Verify refuse it.
func (a *Authority) IssueDoor(csr []byte, names []string, life time.Duration) ([]byte, error) {
	tmpl := template(life, x509.ExtKeyUsageServerAuth)
	tmpl.Subject = pkix.Name{Organization: []string{"Postern"}}
	return a.sign(csr, tmpl, names)
}

func template(life time.Duration, use ...x509.ExtKeyUsage) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial(), NotBefore: now.Add(-backdate), NotAfter: now.Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: use,
	}
}

// sign checks the request and signs the template for its key and the names
// (DNS names or IP addresses).
func (a *Authority) sign(csr []byte, tmpl *x509.Certificate, names []string) ([]byte, error) {
	req, err := x509.ParseCertificateRequest(csr)
	if err == nil {
		err = req.CheckSignature()
	}
	if err != nil {
		return nil, kind.Errorf(kind.Invalid, "certificate request: %w", err)
	}
	if pub, ok := req.PublicKey.(*ecdsa.PublicKey); !ok || pub.Curve != elliptic.P256() {
		return nil, kind.Errorf(kind.Invalid, "certificate request: want an ECDSA P-256 key")
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, req.PublicKey, a.key)
	if err != nil {
		return nil, kind.Errorf(kind.Invalid, "issue certificate for %s: %w", strings.Join(names, " "), err)
	}
	return der, nil
}

// Fingerprint is the SHA-256 of a certificate, by which a join token pins the CA.
func Fingerprint(cert *x509.Certificate) [sha256.Size]byte { return sha256.Sum256(cert.Raw) }

// Who reads name and identity of a server from its certificate.
func Who(cert *x509.Certificate) (Subject, error) {
	name, ok := strings.CutPrefix(cert.Subject.CommonName, serverPrefix)
	if !ok || org.ValidName(name) != nil || cert.Subject.SerialNumber == "" {
		return Subject{}, kind.Errorf(kind.Denied, "certificate of %q is not a server's", cert.Subject.CommonName)
	}
	return Subject{Name: org.ServerName(name), Identity: cert.Subject.SerialNumber}, nil
}

// Verify checks that a peer's chain leads to the CA and tells whose it is.
func Verify(authority *x509.Certificate, chain []*x509.Certificate, use x509.ExtKeyUsage) (Subject, error) {
	if len(chain) == 0 {
		return Subject{}, kind.Errorf(kind.Denied, "peer has shown no certificate")
	}
	roots := x509.NewCertPool()
	roots.AddCert(authority)
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{use}}); err != nil {
		return Subject{}, &kind.Error{Kind: kind.Denied, Text: "verify peer certificate", Err: err}
	}
	return Who(chain[0])
}

// Bundle is what a server's certificate file holds: certificate, CA
// certificate and key, in one file so that they change together.
func Bundle(certDER []byte, authority *x509.Certificate, keyPEM []byte) []byte {
	var b bytes.Buffer
	pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: certDER})
	pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: authority.Raw})
	b.Write(keyPEM)
	return b.Bytes()
}

// ParseBundle reads a Bundle; Leaf is set and the CA is its second certificate.
func ParseBundle(b []byte) (tls.Certificate, *x509.Certificate, error) {
	cert, err := tls.X509KeyPair(b, b)
	if err != nil {
		return cert, nil, kind.Errorf(kind.Corrupt, "server certificate: %w", err)
	}
	if len(cert.Certificate) != 2 {
		return cert, nil, kind.Errorf(kind.Corrupt, "server certificate: the file has %d certificates, want 2", len(cert.Certificate))
	}
	authority, err := x509.ParseCertificate(cert.Certificate[1])
	if err == nil && cert.Leaf == nil {
		cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0])
	}
	if err != nil {
		return cert, nil, kind.Errorf(kind.Corrupt, "server certificate: %w", err)
	}
	return cert, authority, nil
}

// RenewAt is when a certificate should be replaced: at two thirds of its
// life, counted from when it was really issued.
func RenewAt(leaf *x509.Certificate) time.Time {
	issued := leaf.NotBefore.Add(backdate)
	return issued.Add(leaf.NotAfter.Sub(issued) * 2 / 3)
}
