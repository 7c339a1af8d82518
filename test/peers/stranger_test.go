package peers

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/test/rig"
)

// Addresses of the Internet that strangers come from (RFC 5737).
const (
	goodIP = "198.51.100.7"
	evilIP = "203.0.113.66"
)

// rsaKey makes a key for python3-dkim and puts its record into DNS.
func (w *world) rsaKey(t *testing.T, domain, selector string) (file string) {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	rig.Must(t, err)
	file = filepath.Join(w.dir, domain+"."+selector+".key")
	w.write(file, string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)})))
	pub, err := x509.MarshalPKIXPublicKey(k.Public())
	rig.Must(t, err)
	w.dns.text(selector+"._domainkey."+domain, "v=DKIM1; k=rsa; p="+base64.StdEncoding.EncodeToString(pub))
	return file
}

func (w *world) ed25519Key(t *testing.T, domain, selector string) (file string) {
	t.Helper()
	pub, k, err := ed25519.GenerateKey(rand.Reader)
	rig.Must(t, err)
	file = filepath.Join(w.dir, domain+"."+selector+".key")
	w.write(file, base64.StdEncoding.EncodeToString(k.Seed()))
	w.dns.text(selector+"._domainkey."+domain, "v=DKIM1; k=ed25519; p="+base64.StdEncoding.EncodeToString(pub))
	return file
}

// domain puts a sender's domain into DNS.
func (w *world) domain(t *testing.T, name, spf, dmarc string) {
	t.Helper()
	w.dns.add(t, name+". 60 IN MX 10 mx."+name+".", "mx."+name+". 60 IN A "+goodIP)
	if spf != "" {
		w.dns.text(name, spf)
	}
	if dmarc != "" {
		w.dns.text("_dmarc."+name, dmarc)
	}
}

// results is the Authentication-Results field that the server wrote.
func (w *world) results(msg []byte) string {
	head, _, _ := strings.Cut(strings.ReplaceAll(string(msg), "\r\n\t", " "), "\r\n\r\n")
	for l := range strings.Lines(head) {
		if v, ok := strings.CutPrefix(l, "Authentication-Results: "+w.host.Hostname()+";"); ok {
			return strings.Join(strings.Fields(v), " ")
		}
	}
	return ""
}

// testStrangers sends mail from the Internet, signed by python3-dkim, from
// addresses that SPF allows and others, for domains that ask for DMARC.
func testStrangers(t *testing.T, w *world) {
	const dan = "dan@example.test"
	w.host.Do("mailbox", "create", dan, "--database", "DB01", "--password", password)
	w.domain(t, "strict.test", "v=spf1 ip4:"+goodIP+" -all", "v=DMARC1; p=reject")
	w.domain(t, "aside.test", "v=spf1 ip4:"+goodIP+" -all", "v=DMARC1; p=quarantine")
	w.domain(t, "lax.test", "v=spf1 ip4:"+goodIP+" -all", "")
	rsaFile, edFile := w.rsaKey(t, "strict.test", "r1"), w.ed25519Key(t, "strict.test", "e1")
	good, evil := stranger(t, w.host.SMTP(), goodIP), stranger(t, w.host.SMTP(), evilIP)
	sign := func(raw []byte, file, selector, algorithm string) []byte {
		t.Helper()
		out, err := w.python(t, "dkimsign", raw, "--signalg", algorithm, selector, "strict.test", file)
		rig.Must(t, err)
		if !strings.HasPrefix(out, "DKIM-Signature:") {
			t.Fatalf("not signed:\n%s", out)
		}
		return []byte(out)
	}
	plain := func(from, subject string) []byte { return letter(from, dan, subject) }
	const strict = "eve@strict.test"
	for _, c := range []struct {
		subject, addr, from string
		raw                 []byte
		want                []string // in the results
		refused             bool
	}{
		{"SPF passes", good, strict, plain(strict, "SPF passes"), []string{"spf=pass", "dmarc=pass"}, false},
		{"SPF fails", evil, strict, plain(strict, "SPF fails"), nil, true},
		{"RSA passes", evil, strict, sign(plain(strict, "RSA passes"), rsaFile, "r1", "rsa-sha256"), []string{"dkim=pass", "header.d=strict.test", "spf=fail", "dmarc=pass"}, false},
		{"Ed25519 passes", evil, strict, sign(plain(strict, "Ed25519 passes"), edFile, "e1", "ed25519-sha256"), []string{"dkim=pass", "a=ed25519-sha256", "dmarc=pass"}, false},
		{"changed after it was signed", evil, strict, []byte(strings.Replace(string(sign(plain(strict, "changed after it was signed"), rsaFile, "r1", "rsa-sha256")), "The words", "The swords", 1)), nil, true},
		{"no policy", evil, "eve@lax.test", plain("eve@lax.test", "no policy"), []string{"spf=fail", "dmarc=none"}, false},
	} {
		err := w.bring(c.addr, c.from, c.raw, nil, nil, dan)
		if c.refused {
			refused(t, c.subject, err, 550, "5.7.1")
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.subject, err)
			continue
		}
		got := w.results(w.read(t, dan, "INBOX", c.subject))
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: no %s in %q", c.subject, want, got)
			}
		}
	}
	refused(t, "a domain that is not there", w.bring(good, "x@nowhere.test", plain("x@nowhere.test", "nowhere"), nil, nil, dan), 550, "5.1.8")
	rig.Must(t, w.bring(evil, "eve@aside.test", plain("eve@aside.test", "put aside"), nil, nil, dan))
	w.aside(t, "put aside", "DMARC")
}

// testSealed lets a forwarder break a message and vouch for it by ARC.
func testSealed(t *testing.T, w *world) {
	const erin, from = "erin@example.test", "ada@sealed.test"
	w.host.Do("mailbox", "create", erin, "--database", "DB01", "--password", password)
	w.host.Do("transport", "set", "arc_trusted", "forwarder.test")
	w.domain(t, "sealed.test", "v=spf1 -all", "v=DMARC1; p=reject")
	for i, sealer := range []string{"forwarder.test", "anybody.test"} {
		w.domain(t, sealer, "v=spf1 ip4:"+goodIP+" -all", "")
		file := w.rsaKey(t, sealer, "s1")
		subject := "sealed by " + sealer
		raw := fmt.Appendf(nil, "Authentication-Results: mx.%s; dkim=pass header.d=sealed.test; dmarc=pass header.from=sealed.test\r\n%s", sealer, letter(from, erin, subject))
		out, err := w.python(t, "arcsign", raw, "s1", sealer, file, "mx."+sealer)
		rig.Must(t, err)
		if !strings.HasPrefix(out, "ARC-Seal:") {
			t.Fatalf("not sealed:\n%s", out)
		}
		err = w.bring(stranger(t, w.host.SMTP(), net.IPv4(198, 51, 100, byte(100+i)).String()), "list@"+sealer, []byte(out), nil, nil, erin)
		if i > 0 {
			refused(t, subject, err, 550, "5.7.1")
			continue
		}
		rig.Must(t, err)
		if got := w.results(w.read(t, erin, "INBOX", subject)); !strings.Contains(got, "arc=pass") || !strings.Contains(got, "dmarc=fail") {
			t.Errorf("%s: results are %q", subject, got)
		}
	}
}

// testTenants has a connector from a cloud, whose networks are those of all its
// tenants: only who signs for the organization relays.
func testTenants(t *testing.T, w *world) {
	const to, subject = "outside@postfix.test", "from our tenant"
	w.host.Do("organization", "create", "tenant")
	w.host.Do("domain", "add", "tenant.test", "--organization", "tenant")
	w.host.Do("connector", "create", "tenant", "cloud", "--kind", "google", "--direction", "in", "--networks", "198.51.100.160/28")
	file := w.rsaKey(t, "tenant.test", "t1")
	other := w.rsaKey(t, "neighbour.test", "n1")
	w.domain(t, "neighbour.test", "v=spf1 ip4:198.51.100.160/28 -all", "")
	signed := func(from, domain, selector, key string) []byte {
		out, err := w.python(t, "dkimsign", letter(from, to, subject), selector, domain, key)
		rig.Must(t, err)
		return []byte(out)
	}
	ours := signed("boss@tenant.test", "tenant.test", "t1", file)
	for name, c := range map[string]struct {
		ip, from string
		raw      []byte
	}{
		"no signature":                   {"198.51.100.161", "boss@tenant.test", letter("boss@tenant.test", to, subject)},
		"a neighbour's signature":        {"198.51.100.162", "boss@tenant.test", signed("boss@tenant.test", "neighbour.test", "n1", other)},
		"a neighbour":                    {"198.51.100.163", "boss@neighbour.test", signed("boss@neighbour.test", "neighbour.test", "n1", other)},
		"signed, but another network":    {"203.0.113.161", "boss@tenant.test", ours},
		"signed, for nobody":             {"198.51.100.164", "", ours},
		"another organization's address": {"198.51.100.165", ann, letter(ann, to, subject)},
	} {
		refused(t, name, w.bring(stranger(t, w.host.SMTP(), c.ip), c.from, c.raw, nil, nil, to), 550, "5.7.1")
	}
	rig.Must(t, w.bring(stranger(t, w.host.SMTP(), "198.51.100.170"), "boss@tenant.test", ours, nil, nil, to))
	if got := w.postfix.only(t, to); !strings.HasSuffix(got, unix(ours)) {
		t.Errorf("what arrived is not what was sent:\n%s", got)
	}
}

// aside waits for a message in quarantine, for a reason.
func (w *world) aside(t *testing.T, subject, why string) {
	t.Helper()
	rig.Eventually(t, mailboxWait, subject+" is in quarantine", func() error {
		var list []map[string]any
		if err := w.host.Command(t.Context(), &list, "quarantine", "list", "--organization", "example"); err != nil {
			return err
		}
		for _, q := range list {
			if q["subject"] == subject && strings.Contains(fmt.Sprint(q["reason"]), why) {
				return nil
			}
		}
		return fmt.Errorf("quarantine is %v", list)
	})
}
