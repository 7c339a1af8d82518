package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/event"
)

// make makes a certificate that nobody has signed.
func makeCert(t testing.TB, from time.Time, life time.Duration, names ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<60))
	tpl := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, NotBefore: from, NotAfter: from.Add(life)}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func writePair(t *testing.T, c tls.Certificate, cert, key string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: c.Certificate[0]}, key: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func shown(t *testing.T, s *Source) *x509.Certificate {
	t.Helper()
	return shownTo(t, s, "mx.example.test")
}

// shownTo makes a handshake and returns the certificate of the server.
func shownTo(t *testing.T, s *Source, name string) *x509.Certificate {
	t.Helper()
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	go tls.Server(there, s.TLS()).Handshake() // the client tells how it went
	c := tls.Client(here, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	return c.ConnectionState().PeerCertificates[0]
}

func ownCA(t *testing.T, life time.Duration) func([]string) (tls.Certificate, error) {
	return func(names []string) (tls.Certificate, error) { return makeCert(t, time.Now(), life, names...), nil }
}

func TestOwnIsRenewed(t *testing.T) {
	s, err := New(Default(), Deps{Issue: ownCA(t, 90*24*time.Hour), Names: []string{"mx.example.test"}})
	if err != nil {
		t.Fatal(err)
	}
	first := shown(t, s)
	if first.DNSNames[0] != "mx.example.test" {
		t.Fatal(first.DNSNames)
	}
	s.renewOwn(time.Now().Add(59 * 24 * time.Hour))
	if !shown(t, s).Equal(first) {
		t.Fatal("renewed too early")
	}
	s.renewOwn(time.Now().Add(61 * 24 * time.Hour))
	if shown(t, s).Equal(first) {
		t.Fatal("not renewed")
	}
	s.deps.Issue = func([]string) (tls.Certificate, error) { return tls.Certificate{}, errors.New("no quorum") }
	s.renewOwn(time.Now().Add(200 * 24 * time.Hour))
	shown(t, s) // the last one stays
	if s.TLS().MinVersion != tls.VersionTLS12 {
		t.Fatal("old TLS")
	}
}

func TestFilesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	cfg := Config{Source: SourceFiles, CertFile: cert, KeyFile: key}
	events := event.NewLog(slog.New(slog.DiscardHandler))
	s, err := New(cfg, Deps{Issue: ownCA(t, time.Hour), Names: []string{"own.test"}, Events: events})
	if err != nil {
		t.Fatal(err)
	}
	if got := shown(t, s).DNSNames[0]; got != "own.test" {
		t.Fatal("without files the own CA has to serve, got", got)
	}
	before := stamp(cert, key)
	writePair(t, makeCert(t, time.Now(), time.Hour, "one.test"), cert, key)
	before = s.reload(before)
	if got := shown(t, s).DNSNames[0]; got != "one.test" {
		t.Fatal(got)
	}
	if err := os.WriteFile(key, []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	before = s.reload(before)
	if got := shown(t, s).DNSNames[0]; got != "one.test" {
		t.Fatal("the last good one has to stay, got", got)
	}
	writePair(t, makeCert(t, time.Now(), 2*time.Hour, "two.test"), cert, key)
	s.reload(before)
	if got := shown(t, s).DNSNames[0]; got != "two.test" {
		t.Fatal(got)
	}
	var names []string
	for _, e := range events.Recent(10) {
		names = append(names, e.Name)
	}
	if got := strings.Join(names, " "); got != "certificate_unusable certificate_replaced certificate_unusable certificate_replaced" {
		t.Fatal(got)
	}
}

func TestDue(t *testing.T) {
	day := 24 * time.Hour
	now := time.Now()
	for _, c := range []struct {
		left, life time.Duration
		days       int64
		is         bool
	}{
		{22 * day, 365 * day, 0, false},
		{20 * day, 365 * day, 21, true},
		{6 * day, 365 * day, 7, true},
		{12 * time.Hour, 365 * day, 1, true},
		{-time.Hour, 365 * day, 0, true},
		{20 * day, 90 * day, 0, false}, // renewed at 30 days; 18 are a fifth
		{17 * day, 90 * day, 21, true},
		{2 * day, 6 * day, 0, false},
		{day, 6 * day, 1, true},
	} {
		days, is := due(now, now.Add(c.left-c.life), now.Add(c.left))
		if days != c.days || is != c.is {
			t.Errorf("%v of %v left: %d %v", c.left, c.life, days, is)
		}
	}
}

func TestEndIsToldOnceForEachMark(t *testing.T) {
	events := event.NewLog(slog.New(slog.DiscardHandler))
	s, err := New(Default(), Deps{Issue: ownCA(t, 365*24*time.Hour), Names: []string{"a.test"}, Events: events})
	if err != nil {
		t.Fatal(err)
	}
	end := s.End()
	for _, left := range []int{30, 20, 19, 6, 5, 0, -1} {
		s.watchEnd(end.AddDate(0, 0, -left))
	}
	if n := len(events.Recent(10)); n != 3 { // 21, 7 and over
		t.Fatal(n, "events")
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, ""},
		{Config{Source: "files"}, "cert_file"},
		{Config{Source: "acme"}, "needs names"},
		{Config{Source: "acme", Names: []string{"a"}}, "agree_to_terms"},
		{Config{Source: "magic"}, "want own, files or acme"},
	} {
		err := c.cfg.Validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.cfg, err)
		}
	}
}
