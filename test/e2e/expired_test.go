package e2e

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/cluster/ca"
	"github.com/postern-mail/postern/internal/cluster/view"
)

// TestStartsWithExpiredCertificate starts a data folder whose server was off
// until after its certificate's end. It also proves, today, that the folder of
// the first version can be started when its certificate of 90 days is long
// over: the server issues itself a new one from the last agreed state. (The
// group's own authority lives for 25 years.)
func TestStartsWithExpiredCertificate(t *testing.T) {
	dir := t.TempDir()
	must(t, unpack("../fixtures/v1/group-of-one.tar.gz", dir))
	config := filepath.Join(dir, "MBX1", "postern.toml")
	b, err := os.ReadFile(config)
	must(t, err)
	must(t, os.WriteFile(config, []byte(strings.ReplaceAll(string(b), "/srv/lab", dir)), 0o600))
	bundle := filepath.Join(dir, "MBX1", "cluster", "server.pem")
	expire(t, filepath.Join(dir, "MBX1", "cluster"), bundle)

	lab, stop := oldLab(t, dir)
	defer stop()
	want := []string{`1 fixture 1 [\Seen]`, `2 fixture 2 [\Flagged custom]`, `5 fixture 5 []`}
	if got := contents(t, lab.login(t), "INBOX"); !slices.Equal(got, want) {
		t.Errorf("INBOX holds %q, want %q", got, want)
	}
	eventually(t, 20*time.Second, "the certificate is renewed", func() error {
		b, err := os.ReadFile(bundle)
		if err != nil {
			return err
		}
		cert, authority, err := ca.ParseBundle(b)
		if err != nil {
			return err
		}
		_, err = ca.Verify(authority, []*x509.Certificate{cert.Leaf}, x509.ExtKeyUsageServerAuth)
		return err
	})
}

// expire replaces a server's certificate by one whose time is over.
func expire(t *testing.T, folder, bundle string) {
	t.Helper()
	old, err := os.ReadFile(bundle)
	must(t, err)
	cert, authorityCert, err := ca.ParseBundle(old)
	must(t, err)
	who, err := ca.Who(cert.Leaf)
	must(t, err)
	groupKey, err := os.ReadFile(filepath.Join(folder, "group.key"))
	must(t, err)
	snap, err := os.ReadFile(filepath.Join(folder, "view.snap"))
	must(t, err)
	_, v, err := view.Decode(snap)
	must(t, err)
	sealed, ok := v.Get("ca/key")
	if !ok {
		t.Fatal("the last agreed state has no ca/key")
	}
	authority, err := ca.Open(authorityCert, sealed.Value, groupKey)
	must(t, err)
	key, csr, err := ca.Request()
	must(t, err)
	who.Host = cert.Leaf.IPAddresses[0].String()
	// Certificates begin an hour ago, so this one ended half an hour ago.
	der, err := authority.Issue(csr, who, -30*time.Minute)
	must(t, err)
	leaf, err := x509.ParseCertificate(der)
	must(t, err)
	if !leaf.NotAfter.Before(time.Now()) {
		t.Fatalf("valid until %s", leaf.NotAfter)
	}
	must(t, os.WriteFile(bundle, ca.Bundle(der, authorityCert, key), 0o600))
}
