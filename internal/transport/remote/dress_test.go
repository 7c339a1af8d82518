package remote

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/sign"
)

var rsaKey = sync.OnceValue(func() crypto.Signer {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

var edKey = ed25519.NewKeyFromSeed([]byte(strings.Repeat("postern.", 4)))

// signing has keys of out.test for the organization o1, and their records.
func signing(t *testing.T) *world {
	w := newWorld(t)
	keys := []sign.Key{{Domain: "out.test", Selector: "r", Signer: rsaKey()}, {Domain: "out.test", Selector: "e", Signer: edKey}}
	for _, k := range keys {
		txt, err := sign.FormatKeyRecord(k.Signer.Public())
		if err != nil {
			t.Fatal(err)
		}
		w.zone.txt[k.Selector+"._domainkey.out.test"] = []string{txt}
	}
	w.deps.Hostname = "mail.out.test"
	w.deps.Authors = func(msg []byte) ([]string, error) {
		_, rest, ok := bytes.Cut(msg, []byte("From: <"))
		addr, _, _ := bytes.Cut(rest, []byte(">"))
		_, domain, _ := bytes.Cut(addr, []byte("@"))
		if !ok {
			return nil, kind.Errorf(kind.Invalid, "no From")
		}
		return []string{string(domain)}, nil
	}
	w.deps.Keys = func(o org.OrganizationID, domain string) []sign.Key {
		if o == "o1" && domain == "out.test" || o == "" && domain == "mail.out.test" {
			return keys
		}
		return nil
	}
	w.deps.Sealer = func(o org.OrganizationID) (sign.Key, bool) { return keys[0], o == "o2" }
	return w
}

// TestSigned: another implementation accepts our signatures, and a message is
// signed once for all its attempts.
func TestSigned(t *testing.T) {
	w := signing(t)
	p := w.host("192.0.2.1")
	work := w.work("mx:a.test", "Return-Path: <x@out.test>\r\n"+letter, "user@a.test")
	work.Message.Origin.Organization = "o1"
	for range 2 {
		if r := w.send(work)[0]; r.State != queue.StateRelayed {
			t.Fatalf("%+v", r)
		}
	}
	got := p.got()
	if got[0] != got[1] || !strings.HasPrefix(got[0], "DKIM-Signature:") || !strings.HasSuffix(got[0], "\r\n"+letter) {
		t.Errorf("arrived %q and %q", got[0], got[1])
	}
	vs, err := dkim.VerifyWithOptions(strings.NewReader(got[0]), &dkim.VerifyOptions{LookupTXT: func(name string) ([]string, error) {
		txt, _, err := w.zone.TXT(t.Context(), name)
		return txt, err
	}})
	if err != nil || len(vs) != 2 {
		t.Fatalf("%d signatures, %v", len(vs), err)
	}
	for _, v := range vs {
		if v.Err != nil || v.Domain != "out.test" {
			t.Errorf("%+v", v)
		}
	}
}

// TestUnsigned: nobody signs for another, for a stranger or twice.
func TestUnsigned(t *testing.T) {
	for name, c := range map[string]struct {
		o          org.OrganizationID
		door, body string
	}{
		"another organization": {"o2", "submission", letter},
		"a stranger":           {"", "receive", letter},
		"internal copy":        {"", "internal", letter},
		"no From":              {"o1", "submission", "Subject: x\r\n\r\nx\r\n"},
		"signed":               {"o1", "submission", "DKIM-Signature: v=1; s=x;\r\n\td=OUT.test; b=\r\n" + letter},
	} {
		w := signing(t)
		p := w.host("192.0.2.1")
		work := w.work("mx:a.test", c.body, "user@a.test")
		work.Message.Origin.Organization, work.Message.Origin.Door = c.o, c.door
		if r := w.send(work)[0]; r.State != queue.StateRelayed || p.got()[0] != c.body {
			t.Errorf("%s: %+v, arrived %q", name, r, p.got())
		}
	}
}

// TestReport: mail of the server itself is signed with its own name.
func TestReport(t *testing.T) {
	w := signing(t)
	p := w.host("192.0.2.1")
	work := w.work("mx:a.test", "From: <postmaster@mail.out.test>\r\n\r\nx\r\n", "user@a.test")
	work.Message.Origin.Door, work.Message.Envelope.From = "internal", ""
	if r := w.send(work)[0]; r.State != queue.StateRelayed || !strings.HasPrefix(p.got()[0], "DKIM-Signature:") {
		t.Errorf("%+v, arrived %q", r, p.got())
	}
}

// TestSealed: what a stranger wrote and somebody of ours forwards is sealed
// with what the door found.
func TestSealed(t *testing.T) {
	w := signing(t)
	p := w.host("192.0.2.1")
	body := "Authentication-Results: elsewhere.test; dmarc=pass\r\nAuthentication-Results: mail.out.test;\r\n\tspf=pass smtp.mailfrom=b.test\r\nFrom: <x@b.test>\r\n\r\nx\r\n"
	work := w.work("mx:a.test", body, "user@a.test")
	work.Message.Origin.Door = "receive"
	work.Rows[0].Organization, work.Rows[0].Why = "o2", queue.WhyForward
	if r := w.send(work)[0]; r.State != queue.StateRelayed {
		t.Fatalf("%+v", r)
	}
	got := p.got()[0]
	chain := sign.VerifyChain(t.Context(), []byte(got), func(ctx context.Context, name string) ([]string, error) {
		txt, _, err := w.zone.TXT(ctx, name)
		return txt, err
	}, sign.VerifyOptions{Now: time.Now()})
	if chain.Status != sign.ChainPass || len(chain.Sets) != 1 || chain.Sets[0].Domain != "out.test" || !strings.HasSuffix(got, body) {
		t.Fatalf("%+v in %q", chain, got)
	}
	if r := chain.Sets[0].Results; !strings.Contains(r, "mail.out.test; spf=pass smtp.mailfrom=b.test") {
		t.Errorf("results %q", r)
	}
	work.Rows[0].Organization = "o3"
	if w.send(work); p.got()[1] != body {
		t.Errorf("arrived %q", p.got()[1])
	}
}

// TestDressed: signatures are remembered for their time and not without bound.
func TestDressed(t *testing.T) {
	d, now := newDressed(), time.Unix(1000, 0)
	for i := range maxDressed + 10 {
		d.put(dressKey{id: [16]byte{byte(i), byte(i >> 8)}}, []byte("x"), now)
	}
	if len(d.of) != maxDressed || len(d.old) != maxDressed {
		t.Errorf("%d remembered", len(d.of))
	}
	k := dressKey{id: [16]byte{20}}
	if _, ok := d.get(k, now.Add(dressTime-1)); !ok {
		t.Error("forgotten too early")
	}
	if _, ok := d.get(k, now.Add(dressTime)); ok {
		t.Error("used for too long")
	}
	d.put(dressKey{}, nil, now.Add(2*dressTime))
	if len(d.of) != 1 || len(d.old) != 1 {
		t.Errorf("%d and %d remembered", len(d.of), len(d.old))
	}
}

// TestUnreadable: a message that cannot be read waits, whoever wants it.
func TestUnreadable(t *testing.T) {
	w := newWorld(t)
	p := w.host("192.0.2.1")
	work := w.work("mx:a.test", letter, "user@a.test")
	work.Body = func(context.Context) ([]byte, error) { return nil, kind.Errorf(kind.Corrupt, "a hole in the disk") }
	if r := w.send(work)[0]; r.State != queue.StateDeferred || r.Whole || p.heard("MAIL") != 0 {
		t.Errorf("%+v", r)
	}
}
