package guard

import (
	"bufio"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// relayAttempt is a line of the corpus.
type relayAttempt struct{ where, from, to string }

func corpus(t *testing.T) []relayAttempt {
	t.Helper()
	f, err := os.Open("testdata/relay.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []relayAttempt
	for in := bufio.NewScanner(f); in.Scan(); {
		line := strings.TrimSpace(in.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		parts := strings.Split(line, "|")
		if len(parts) != 3 {
			t.Fatalf("line %q", line)
		}
		out = append(out, relayAttempt{strings.TrimSpace(parts[0]), strings.TrimSpace(parts[1]), strings.TrimSpace(parts[2])})
	}
	if len(out) < 50 {
		t.Fatalf("%d attempts in the corpus", len(out))
	}
	return out
}

// relayWorld has the connectors of the corpus and its authority.
func relayWorld(t *testing.T) (*world, func(where string) *mail.Peer) {
	w := newWorld(t, "evil.test. 60 IN MX 10 mx.evil.test.", "x.test. 60 IN MX 10 mx.x.test.", "sub.example.test. 60 IN A 192.0.2.5")
	for _, c := range connectors() {
		w.put(t, settings.ConnectorKey(c.Organization, c.Name), c)
	}
	trusted, unknown := newAuthority(t), newAuthority(t)
	w.deps.Roots = trusted.pool
	return w, func(where string) *mail.Peer {
		switch where {
		case "stranger":
			return peerAt("198.51.100.7")
		case "google":
			return peerAt("209.85.220.41")
		case "exchange":
			return peerAt("40.107.22.1")
		case "exchange+cert":
			p := peerAt("40.107.22.1")
			p.TLS = trusted.tls(t, "mail.protection.outlook.com", "*.mail.protection.outlook.com")
			return p
		case "branch":
			return peerAt("203.0.113.5")
		case "cert":
			p := peerAt("198.51.100.8")
			p.TLS = trusted.tls(t, "mail.example.test")
			return p
		case "elsewhere+cert":
			p := peerAt("198.51.100.8")
			p.TLS = unknown.tls(t, "mail.example.test")
			return p
		case "wide":
			return peerAt("198.18.0.1")
		}
		t.Fatalf("where is %q", where)
		return nil
	}
}

// TestRelayCorpus shows that none of the attempts comes through: what is not
// refused at RCPT is refused with its content, which nobody signed.
func TestRelayCorpus(t *testing.T) {
	w, peer := relayWorld(t)
	for _, at := range corpus(t) {
		p := peer(at.where)
		e := mail.Envelope{From: at.from}
		if v := w.Sender(t.Context(), p, &e); v.Action == mail.ActionRefuse {
			continue
		}
		v := w.Recipient(t.Context(), p, &e, to(at.to)[0])
		if v.Action == mail.ActionRefuse {
			continue
		}
		e.Recipients = to(at.to)
		s := mail.Submission{Envelope: e, Origin: mail.Origin{Connector: p.Connector, Organization: p.Organization, Trusted: true}, Body: []byte(plain)}
		if v := w.Content(t.Context(), p, &s); v.Action == mail.ActionRefuse && p.Connector == "" && !s.Origin.Trusted && s.Origin.Organization == "" {
			continue
		}
		t.Errorf("%v: %v %q", at, v, p.Connector)
	}
}

func TestProve(t *testing.T) {
	w, peer := relayWorld(t)
	for _, c := range []struct{ where, from, want string }{
		{"branch", "ann@example.test", "branch"},
		{"branch", "ann+news@example.test", "branch"},
		{"branch", "ann@EXAMPLE.test", "branch"},
		{"cert", "ann@example.test", "cert"},
		{"cert", "", "cert"},
		{"google", "ann@example.test", "branch"}, // its network, but a signature is needed
		{"exchange+cert", "ann@example.test", "exchange"},
		{"stranger", "ann@example.test", ""}, // connectors that are off or go out
		{"wide", "eve@wide.test", ""},
	} {
		p := peer(c.where)
		got, err := Prove(*p, mail.Envelope{From: c.from}, connectors(), w.tenancy())
		if got.Name != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%v: %q, %v", c, got.Name, err)
		}
		if shared := strings.HasPrefix(c.where, "google") || strings.HasPrefix(c.where, "exchange"); err == nil && SignatureNeeded(*p, got) != shared {
			t.Errorf("%v: signature needed: %v", c, !shared)
		}
	}
}

// TestProveOneOrganization: a certificate that two organizations' connectors
// name says for neither who sends the null sender's message.
func TestProveOneOrganization(t *testing.T) {
	w, peer := relayWorld(t)
	cs := append(connectors(), settings.Connector{Name: "thief", Organization: "other", Enabled: true, Direction: settings.DirectionIn,
		Kind: settings.KindSMTP, CertificateNames: []string{"mail.example.test"}})
	if c, err := Prove(*peer("cert"), mail.Envelope{}, cs, w.tenancy()); err == nil {
		t.Errorf("null sender is %s's", c.Organization)
	}
	if c, err := Prove(*peer("cert"), mail.Envelope{From: "ann@example.test"}, cs, w.tenancy()); err != nil || c.Organization != "example" {
		t.Errorf("%v, %v", c, err)
	}
}

func TestNames(t *testing.T) {
	a := newAuthority(t)
	for _, c := range []struct {
		cert, want string
		ok         bool
	}{
		{"mail.example.test", "mail.example.test", true},
		{"mail.example.test", "MAIL.example.test.", true},
		{"mail.example.test", "*.example.test", true},
		{"*.example.test", "*.example.test", true},
		{"*.example.test", "mail.example.test", true},
		{"a.b.example.test", "*.example.test", false},
		{"example.test", "*.example.test", false},
		{"evil-example.test", "*.example.test", false},
		{"mail.example.test", "*.test", false},
		{"mail.example.test", "*", false},
		{"mail.example.test", "", false},
		{"mail.example.test", "*.*.test", false},
		{"mail.evil.test", "mail.example.test", false},
	} {
		if got := hasName(a.tls(t, c.cert).PeerCertificates[0], c.want); got != c.ok {
			t.Errorf("%v: %v", c, got)
		}
	}
}

// TestRelayNever puts addresses together from what relays fall for: whatever a
// stranger may write to is a plain address of a hosted domain that the directory
// has.
func TestRelayNever(t *testing.T) {
	w := newWorld(t)
	pieces := []string{"bob", "ann", "postmaster", "%", "!", "@", ":", ",", ";", `"`, `\`, ".", "target.test", "example.test", "catch.test", "[192.0.2.1]", "[IPv6:::1]", "+", "=", " ", "(", ")", "<", ">", "\u00fc", "\r\n", "\x00"}
	take := func(rcpt string) bool {
		e := mail.Envelope{UTF8: true}
		return w.recipient(t.Context(), peerAt("198.51.100.7"), &e, mail.EnvelopeRecipient{Address: rcpt}).Action == mail.ActionPass
	}
	if !take("ann@example.test") || !take("anybody@catch.test") {
		t.Fatal("nothing is taken: nothing would be tested")
	}
	rapid.Check(t, func(r *rapid.T) {
		rcpt := strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 1, 9).Draw(r, "address"), "")
		if rapid.Bool().Draw(r, "plain") {
			rcpt += "@" + rapid.SampledFrom([]string{"example.test", "catch.test"}).Draw(r, "domain")
		}
		if !take(rcpt) {
			return
		}
		a, err := mail.ParseAddress(rcpt)
		if err != nil || a.Domain != "example.test" && a.Domain != "catch.test" || strings.ContainsAny(a.Local, "@%!:\r\n\x00") {
			r.Errorf("%q is taken: %v", rcpt, err)
		}
	})
}
