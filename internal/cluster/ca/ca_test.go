package ca

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
)

func authority(t *testing.T) *Authority {
	t.Helper()
	a, err := NewAuthority("g")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func issue(t *testing.T, a *Authority, sub Subject, life time.Duration) (*x509.Certificate, []byte) {
	t.Helper()
	key, csr, err := Request()
	if err != nil {
		t.Fatal(err)
	}
	der, err := a.Issue(csr, sub, life)
	if err != nil {
		t.Fatal(err)
	}
	b := Bundle(der, a.Certificate(), key)
	cert, ca, err := ParseBundle(b)
	if err != nil {
		t.Fatal(err)
	}
	if Fingerprint(ca) != Fingerprint(a.Certificate()) {
		t.Error("the bundle has another ca")
	}
	return cert.Leaf, b
}

func TestIssueAndVerify(t *testing.T) {
	a := authority(t)
	sub := Subject{Name: "MBX1", Identity: "id1", Host: "127.0.0.1"}
	leaf, _ := issue(t, a, sub, time.Hour)
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		got, err := Verify(a.Certificate(), []*x509.Certificate{leaf}, use)
		if err != nil || got.Name != "MBX1" || got.Identity != "id1" {
			t.Errorf("verify: %v %v", got, err)
		}
	}
	if err := leaf.VerifyHostname("127.0.0.1"); err != nil {
		t.Error(err)
	}
	if left := time.Until(RenewAt(leaf)); left < 39*time.Minute || left > 41*time.Minute {
		t.Errorf("renewal in %s, want 40 minutes of 60", left)
	}
}

func TestVerifyRefuses(t *testing.T) {
	a := authority(t)
	foreign, _ := issue(t, authority(t), Subject{Name: "MBX1", Identity: "id1"}, time.Hour)
	expired, _ := issue(t, a, Subject{Name: "MBX1", Identity: "id1"}, -time.Minute)
	nobody, _ := issue(t, a, Subject{Name: "../x", Identity: "id1"}, time.Hour)
	for name, chain := range map[string][]*x509.Certificate{
		"foreign ca": {foreign}, "expired": {expired}, "bad name": {nobody}, "none": nil, "the ca itself": {a.Certificate()},
	} {
		if _, err := Verify(a.Certificate(), chain, x509.ExtKeyUsageClientAuth); !kind.Is(err, kind.Denied) {
			t.Errorf("%s: %v, want denied", name, err)
		}
	}
}

// TestDoorCertificateIsNoServer: what the doors show must open nothing here.
func TestDoorCertificateIsNoServer(t *testing.T) {
	a := authority(t)
	_, csr, _ := Request()
	der, err := a.IssueDoor(csr, []string{"mail.example.test", "127.0.0.1"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	for _, host := range []string{"mail.example.test", "127.0.0.1"} {
		if err := cert.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if _, err := Verify(a.Certificate(), []*x509.Certificate{cert}, use); !kind.Is(err, kind.Denied) {
			t.Errorf("a door's certificate speaks as a server: %v", err)
		}
	}
}

func TestSealedKey(t *testing.T) {
	a, key := authority(t), NewGroupKey()
	sealed, err := a.Seal(key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(a.Certificate(), sealed, key); err != nil {
		t.Error(err)
	}
	if _, err := Open(a.Certificate(), sealed, NewGroupKey()); !kind.Is(err, kind.Denied) {
		t.Errorf("another group key: %v", err)
	}
	if _, err := Open(authority(t).Certificate(), sealed, key); !kind.Is(err, kind.Corrupt) {
		t.Errorf("another ca: %v", err)
	}
	sealed[20] ^= 1
	if _, err := Open(a.Certificate(), sealed, key); err == nil {
		t.Error("a flipped bit was not seen")
	}
}

func TestIssueRefusesBadRequests(t *testing.T) {
	if _, err := authority(t).Issue([]byte("nonsense"), Subject{Name: "A"}, time.Hour); !kind.Is(err, kind.Invalid) {
		t.Errorf("nonsense: %v", err)
	}
}

func FuzzParseBundle(f *testing.F) {
	a, _ := NewAuthority("g")
	key, csr, _ := Request()
	der, _ := a.Issue(csr, Subject{Name: "A", Identity: "i"}, time.Hour)
	f.Add(Bundle(der, a.Certificate(), key))
	f.Fuzz(func(t *testing.T, b []byte) {
		if cert, ca, err := ParseBundle(b); err == nil && (cert.Leaf == nil || ca == nil) {
			t.Error("no error and no certificate")
		}
	})
}
