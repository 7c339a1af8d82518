package remote

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/dns"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/settings"
	"github.com/postern-mail/postern/internal/transport/tlspolicy"
)

// TestPolicy: TLS as far as the domain asks for it, and never in clear where it
// does.
func TestPolicy(t *testing.T) {
	enforce := tlspolicy.STS{Mode: tlspolicy.ModeEnforce, MX: []string{"mx.a.test"}}
	trial_ := tlspolicy.STS{Mode: tlspolicy.ModeTesting, MX: []string{"mx.a.test"}}
	const none = "no tls"
	for _, c := range []struct {
		name   string
		sts    tlspolicy.STS
		dane   bool
		cert   string // of the host; none: TLS is not offered
		broken bool   // the handshake fails
		strict bool
		state  queue.State
		tls    uint8
		note   string
	}{
		{name: "nobody asks", cert: none, state: queue.StateRelayed, note: "no-policy-found starttls-not-supported"},
		{name: "whoever", cert: "other.test", state: queue.StateRelayed, tls: 1, note: "no-policy-found success"},
		{name: "in clear then", cert: "mx.a.test", broken: true, state: queue.StateRelayed, note: "no-policy-found validation-failure"},
		{name: "sts", sts: enforce, cert: "mx.a.test", state: queue.StateRelayed, tls: 4, note: "sts success"},
		{name: "sts wrong name", sts: enforce, cert: "other.test", state: queue.StateDeferred, note: "sts certificate-host-mismatch"},
		{name: "sts no tls", sts: enforce, cert: none, state: queue.StateDeferred, note: "sts starttls-not-supported"},
		{name: "sts broken", sts: enforce, cert: "mx.a.test", broken: true, state: queue.StateDeferred, note: "sts validation-failure"},
		{name: "sts other host", sts: tlspolicy.STS{Mode: tlspolicy.ModeEnforce, MX: []string{"b.test"}}, cert: "mx.a.test", state: queue.StateDeferred, note: "sts validation-failure"},
		{name: "sts testing", sts: trial_, cert: "other.test", state: queue.StateRelayed, tls: 2, note: "sts certificate-host-mismatch"},
		{name: "dane", dane: true, cert: "mx.a.test", state: queue.StateRelayed, tls: 5, note: "tlsa success"},
		{name: "dane no tls", dane: true, cert: none, state: queue.StateDeferred, note: "tlsa starttls-not-supported"},
		{name: "requiretls", sts: enforce, strict: true, cert: "mx.a.test", state: queue.StateRelayed, tls: 4, note: "sts success"},
		{name: "requiretls wrong name", sts: trial_, strict: true, cert: "other.test", state: queue.StateDeferred, note: "sts certificate-host-mismatch"},
		{name: "requiretls unproven", strict: true, cert: "mx.a.test", state: queue.StateReturned},
	} {
		w := newWorld(t)
		p := w.host("192.0.2.1")
		p.ext = append(p.ext, "REQUIRETLS")
		if c.cert != none {
			w.secure(p, c.cert)
		}
		if c.broken {
			p.act["tls"] = drop
		}
		w.sts["a.test"] = c.sts
		if c.dane {
			w.zone.secure = true
			data := []byte("nobody")
			if p.tls != nil {
				sum := sha256.Sum256(p.tls.Certificates[0].Leaf.Raw)
				data = sum[:]
			}
			w.zone.tlsa["_25._tcp.mx.a.test"] = []dns.TLSA{{Usage: 3, Selector: 0, Matching: 1, Data: data}}
		}
		work := w.work("mx:a.test", letter, "user@a.test")
		work.Message.Envelope.RequireTLS = c.strict
		r := w.send(work)[0]
		var notes []string
		if c.note != "" {
			notes = []string{"a.test " + c.note}
		}
		if r.State != c.state || r.TLS != c.tls || !slices.Equal(w.notes, notes) {
			t.Errorf("%s: %+v, notes %q", c.name, r, w.notes)
		}
		if c.name == "sts wrong name" {
			want := Session{Domain: "a.test", Policy: "sts", Result: "certificate-host-mismatch", Host: "mx.a.test", Address: netip.MustParseAddr("192.0.2.1"),
				Published: c.sts.Lines(), Hosts: c.sts.MX, Source: w.session.Source}
			if !reflect.DeepEqual(w.session, want) || len(want.Published) < 4 {
				t.Errorf("session %+v, want %+v", w.session, want)
			}
		}
		if c.name == "dane" && (len(w.session.Published) != 1 || !strings.HasPrefix(w.session.Published[0], "3 0 1 ")) {
			t.Errorf("records %q", w.session.Published)
		}
		if c.state == queue.StateDeferred && (r.Status != "4.7.5" || r.Whole == c.strict) {
			t.Errorf("%s: %+v", c.name, r)
		}
		if relayed := c.state == queue.StateRelayed; relayed != (len(p.got()) == 1) {
			t.Errorf("%s: %d messages", c.name, len(p.got()))
		}
	}
}

// TestRequireTLS: a host that does not offer the extension is passed over.
func TestRequireTLS(t *testing.T) {
	w := newWorld(t)
	w.zone.secure = true
	w.zone.mx["a.test"] = []dns.MX{{Host: "mx.a.test", Preference: 10}, {Host: "mx2.a.test", Preference: 20}}
	w.zone.addrs["mx2.a.test"] = []string{"192.0.2.2"}
	first, second := w.host("192.0.2.1"), w.host("192.0.2.2")
	w.secure(first, "mx.a.test")
	w.secure(second, "mx2.a.test")
	work := w.work("mx:a.test", letter, "user@a.test")
	work.Message.Envelope.RequireTLS = true
	if r := w.send(work)[0]; r.State != queue.StateReturned || r.Status != "5.7.30" {
		t.Errorf("nobody offers it: %+v", r)
	}
	second.ext = append(second.ext, "REQUIRETLS")
	if r := w.send(work)[0]; r.State != queue.StateRelayed || r.Host != "mx2.a.test" || second.heard(fmt.Sprintf("MAIL FROM:<sender@out.test> SIZE=%d REQUIRETLS", len(letter))) != 1 {
		t.Errorf("the second offers it: %+v %q", r, second.said)
	}
}

// connector has a connector o1/c of the kind to in.c.test at 198.51.100.1.
func (w *world) connector(c settings.Connector) *peer {
	c.Name, c.Organization, c.Enabled, c.Direction = "c", "o1", true, settings.DirectionBoth
	if c.Hosts == nil {
		c.Hosts = []string{"in.c.test"}
	}
	w.zone.addrs["t.v1.mx.microsoft"] = []string{"198.51.100.1"}
	w.zone.addrs["in.c.test"] = []string{"2001:db8::1", "198.51.100.1"}
	w.deps.Connector = func(o org.OrganizationID, name string) (settings.Connector, bool) {
		return c, o == "o1" && name == "c"
	}
	return w.host("198.51.100.1")
}

func (w *world) codes() (out []int) {
	for _, e := range w.events.Recent(10) {
		out = append(out, e.Code)
	}
	return out
}

// TestConnector: TLS with the host's name, or the one that is set, and a log-in
// over it only.
func TestConnector(t *testing.T) {
	secret := func(purpose string, sealed []byte) ([]byte, error) {
		if purpose != "connector o1/c" {
			return nil, errors.New("sealed for something else")
		}
		return append([]byte("open "), sealed...), nil
	}
	for _, c := range []struct {
		name  string
		set   settings.Connector
		cert  string // empty: no TLS
		act   map[string]string
		state queue.State
		code  int // event
	}{
		{name: "name", cert: "in.c.test", state: queue.StateRelayed},
		{name: "other name", cert: "other.test", state: queue.StateDeferred, code: 1760},
		{name: "set name", set: settings.Connector{VerifyName: "other.test"}, cert: "other.test", state: queue.StateRelayed},
		{name: "pattern", set: settings.Connector{VerifyName: "*.c.test"}, cert: "x.c.test", state: queue.StateRelayed},
		{name: "pattern itself", set: settings.Connector{VerifyName: "*.c.test"}, cert: "*.c.test", state: queue.StateRelayed},
		{name: "below pattern", set: settings.Connector{VerifyName: "*.c.test"}, cert: "y.x.c.test", state: queue.StateDeferred, code: 1760},
		{name: "exchange", set: settings.Connector{Kind: settings.KindExchangeOnline}, cert: "*.mail.protection.outlook.com", state: queue.StateRelayed},
		{name: "not exchange", set: settings.Connector{Kind: settings.KindExchangeOnline}, cert: "in.c.test", state: queue.StateDeferred, code: 1760},
		{name: "exchange with dane", set: settings.Connector{Kind: settings.KindExchangeOnline, Hosts: []string{"t.v1.mx.microsoft"}}, cert: "t.v1.mx.microsoft", state: queue.StateRelayed},
		{name: "no tls", state: queue.StateDeferred, code: 1760},
		{name: "no tls needed", set: settings.Connector{TLS: "opportunistic"}, state: queue.StateRelayed},
		{name: "whoever", set: settings.Connector{TLS: "opportunistic"}, cert: "other.test", state: queue.StateRelayed},
		{name: "log-in", set: settings.Connector{User: "me", Password: []byte("sesame")}, cert: "in.c.test", state: queue.StateRelayed},
		{name: "no log-in in clear", set: settings.Connector{User: "me", Password: []byte("sesame"), TLS: "opportunistic"}, state: queue.StateDeferred, code: 1760},
		{name: "wrong password", set: settings.Connector{User: "me"}, cert: "in.c.test", act: map[string]string{"AUTH": "535 5.7.8 no"}, state: queue.StateDeferred, code: 1761},
		{name: "attribution", cert: "in.c.test", act: map[string]string{"RCPT": "550 5.7.64 TenantAttribution"}, state: queue.StateDeferred, code: 1761},
		{name: "no such certificate", set: settings.Connector{ClientCertificate: "nobody"}, cert: "in.c.test", state: queue.StateDeferred, code: 1761},
		{name: "no CA", set: settings.Connector{CA: "CA"}, cert: "in.c.test", state: queue.StateDeferred, code: 1761},
		{name: "no address", set: settings.Connector{Hosts: []string{"gone.test"}}, cert: "in.c.test", state: queue.StateDeferred, code: 1760},
		{name: "too large", set: settings.Connector{MaxMessage: 10}, cert: "in.c.test", state: queue.StateReturned},
	} {
		w := newWorld(t)
		p := w.connector(c.set)
		w.deps.OpenSecret = secret
		w.deps.ClientCertificate = func(string) (*tls.Certificate, error) { return nil, errors.New("no such certificate") }
		p.ext = append(p.ext, "AUTH LOGIN PLAIN")
		if c.cert != "" {
			w.secure(p, c.cert)
		}
		for k, v := range c.act {
			p.act[k] = v
		}
		r := w.one("connector:o1/c")
		if again := w.one("connector:o1/c"); again.State != r.State {
			t.Errorf("%s: %+v, then %+v", c.name, r, again)
		}
		var codes []int
		if c.code != 0 {
			codes = []int{c.code} // told once
		}
		if r.State != c.state || !slices.Equal(w.codes(), codes) || r.State == queue.StateDeferred && !r.Whole {
			t.Errorf("%s: %+v, events %v", c.name, r, w.events.Recent(10))
		}
		if c.name == "log-in" && p.heard("AUTH PLAIN AG1lAG9wZW4gc2VzYW1l") != 2 {
			t.Errorf("%s: said %q", c.name, p.said)
		}
		if c.name == "no log-in in clear" && p.heard("AUTH") != 0 {
			t.Errorf("%s: said %q", c.name, p.said)
		}
	}
}

// TestConnectorSettings: what is shown, from where and whereto.
func TestConnectorSettings(t *testing.T) {
	w := newWorld(t)
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.ca.cert.Raw}))
	p := w.connector(settings.Connector{Kind: settings.KindExchangeOnline, ClientCertificate: "tenant", CA: ca, Port: 2525})
	w.secure(p, "*.mail.protection.outlook.com")
	p.tls.ClientCAs = newAuthority(t).pool() // lists others than ours
	w.deps.Roots = nil
	shown := w.ca.issue(t, "tenant.service.test")
	w.deps.ClientCertificate = func(name string) (*tls.Certificate, error) {
		if name != "tenant" {
			return nil, errors.New("no such certificate")
		}
		return &shown, nil
	}
	if r := w.one("connector:o1/c"); r.State != queue.StateRelayed || r.TLS != 4 {
		t.Errorf("%+v", r)
	}
	if !slices.Equal(w.dialed, []string{"198.51.100.1:2525"}) || !slices.Equal(p.shown, []string{"tenant.service.test"}) || len(w.notes) != 0 {
		t.Errorf("dialed %q, shown %q, notes %q", w.dialed, p.shown, w.notes)
	}
	for _, dest := range []string{"connector:o1/d", "connector:o2/c", "connector:o1", "carrier:pigeon", "smarthost:in.c.test:x"} {
		if r := w.one(dest); r.State != queue.StateDeferred || r.Status != "4.3.5" || !r.Whole {
			t.Errorf("%s: %+v", dest, r)
		}
	}
	if c := w.codes(); len(c) != 5 || c[0] != 1761 {
		t.Errorf("events %v", c)
	}
}

// TestExchange: a recipient that the tenant does not know is asked for once
// more.
func TestExchange(t *testing.T) {
	w := newWorld(t)
	p := w.connector(settings.Connector{Kind: settings.KindExchangeOnline})
	w.secure(p, "x.mail.protection.outlook.com")
	p.act["RCPT"] = "550 5.4.1 Recipient address rejected: Access denied"
	work := w.work("connector:o1/c", letter, "user@a.test")
	r := w.send(work)[0]
	if r.State != queue.StateDeferred || r.Wait != rest || r.Whole {
		t.Errorf("first %+v", r)
	}
	work.Rows[0].Status = r.Status
	if r := w.send(work)[0]; r.State != queue.StateReturned || r.Status != "5.4.1" {
		t.Errorf("second %+v", r)
	}
	p.act["RCPT"] = "451 4.7.500 Server busy (AS1)"
	if r := w.send(work)[0]; !r.Slow || r.Whole || r.Wait != rest {
		t.Errorf("busy %+v", r)
	}
}

// TestSmartHost: with TLS and the host's name, unless the settings say
// otherwise.
func TestSmartHost(t *testing.T) {
	w := newWorld(t)
	w.zone.addrs["smart.test"] = []string{"10.0.0.9"} // as the administrator set it
	p := w.host("10.0.0.9")
	if r := w.one("smarthost:smart.test:587"); r.State != queue.StateDeferred || !r.Whole {
		t.Errorf("in clear: %+v", r)
	}
	w.secure(p, "smart.test")
	if r := w.one("smarthost:smart.test:587"); r.State != queue.StateRelayed || w.dialed[1] != "10.0.0.9:587" {
		t.Errorf("%+v, dialed %q", r, w.dialed)
	}
	w.a, p.tls, p.ext = nil, nil, nil
	w.deps.SmartHost = func(string) settings.Connector { return settings.Connector{TLS: "opportunistic"} }
	if r := w.one("smarthost:[10.0.0.9]"); r.State != queue.StateRelayed || w.dialed[2] != "10.0.0.9:25" {
		t.Errorf("%+v, dialed %q", r, w.dialed)
	}
}

// TestTry: an administrator sees what each host of a connector does.
func TestTry(t *testing.T) {
	w := newWorld(t)
	set := settings.Connector{Name: "c", Organization: "o1", IPv4Only: true, User: "me", Hosts: []string{"in.c.test", "gone.test", "six.test", "bad.test"}}
	p := w.connector(set)
	w.secure(p, "in.c.test")
	p.ext = append(p.ext, "AUTH PLAIN")
	w.zone.addrs["six.test"], w.zone.addrs["bad.test"] = []string{"2001:db8::9"}, []string{"198.51.100.2"}
	bad := w.host("198.51.100.2")
	w.secure(bad, "other.test")
	var got []string
	for _, f := range w.agent().Try(t.Context(), set) {
		got = append(got, fmt.Sprint(f.Host, ": ", f.Step, " ", f.Err == nil))
	}
	want := []string{"in.c.test 198.51.100.1:25: connect true", "in.c.test 198.51.100.1:25: TLS true", "in.c.test 198.51.100.1:25: log in true",
		"gone.test: look up false", "six.test: look up false", "bad.test 198.51.100.2:25: tls false"}
	if !slices.Equal(got, want) || p.heard("MAIL") != 0 {
		t.Errorf("found %q", got)
	}
	set.CA = "CA"
	if f := w.a.Try(t.Context(), set); len(f) != 1 || f[0].Step != "settings" {
		t.Errorf("found %+v", f)
	}
}
