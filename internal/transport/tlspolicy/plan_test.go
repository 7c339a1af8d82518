package tlspolicy

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/transport/dns"
)

func record(usage, selector, matching uint8, c *x509.Certificate) dns.TLSA {
	data := c.Raw
	if selector == selectorKey {
		data = c.RawSubjectPublicKeyInfo
	}
	switch matching {
	case matchSHA256:
		sum := sha256.Sum256(data)
		data = sum[:]
	case matchSHA512:
		sum := sha512.Sum512(data)
		data = sum[:]
	}
	return dns.TLSA{Usage: usage, Selector: selector, Matching: matching, Data: data}
}

// TestDANE: every usable kind of record against every kind of chain.
func TestDANE(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	soon, past := time.Now().Add(time.Hour), time.Now().Add(-time.Minute)
	leaf := func(c tls.Certificate) *x509.Certificate { return c.Leaf }
	good, old, wrong := leaf(ca.issue(t, "m.test", soon)), leaf(ca.issue(t, "m.test", past)), leaf(ca.issue(t, "x.test", soon))
	foreign := leaf(other.issue(t, "m.test", soon))
	chains := map[string][]*x509.Certificate{
		"whole": {good, ca.cert}, "leaf only": {good}, "expired": {old, ca.cert}, "other name": {wrong, ca.cert},
		"foreign": {foreign, other.cert}, "foreign with ours behind": {foreign, ca.cert}, "nothing": nil,
	}
	for selector := range uint8(2) {
		for matching := range uint8(3) {
			full := selector == selectorCert && matching == matchFull
			ta := map[string]bool{"whole": true, "leaf only": full}
			for name, chain := range chains {
				if err := verifyDANE([]dns.TLSA{record(usageTA, selector, matching, ca.cert)}, chain, []string{"other.test", "m.test"}, time.Now()); (err == nil) != ta[name] {
					t.Errorf("2 %d %d, %s: %v", selector, matching, name, err)
				}
				if len(chain) == 0 {
					continue
				}
				// A leaf that is named needs neither date nor name.
				rs := []dns.TLSA{record(usageTA, 0, 1, other.cert), record(usageEE, selector, matching, chain[0])}
				if err := verifyDANE(usable(rs), chain, []string{"nobody.test"}, time.Now()); err != nil {
					t.Errorf("3 %d %d, %s: %v", selector, matching, name, err)
				}
				if err := verifyDANE([]dns.TLSA{record(usageEE, selector, matching, ca.cert)}, chain, []string{"m.test"}, time.Now()); err == nil {
					t.Errorf("3 %d %d, %s: the authority passes for the host", selector, matching, name)
				}
			}
		}
	}
}

func TestUsable(t *testing.T) {
	sum := make([]byte, 32)
	for _, tt := range []struct {
		r    dns.TLSA
		want bool
	}{
		{dns.TLSA{Usage: 3, Selector: 1, Matching: 1, Data: sum}, true},
		{dns.TLSA{Usage: 2, Selector: 0, Matching: 2, Data: make([]byte, 64)}, true},
		{dns.TLSA{Usage: 3, Selector: 0, Matching: 0, Data: sum}, true},
		{dns.TLSA{Usage: 1, Selector: 1, Matching: 1, Data: sum}, false},
		{dns.TLSA{Usage: 0, Selector: 1, Matching: 1, Data: sum}, false},
		{dns.TLSA{Usage: 255, Selector: 1, Matching: 1, Data: sum}, false},
		{dns.TLSA{Usage: 3, Selector: 2, Matching: 1, Data: sum}, false},
		{dns.TLSA{Usage: 3, Selector: 1, Matching: 3, Data: sum}, false},
		{dns.TLSA{Usage: 3, Selector: 1, Matching: 1, Data: sum[1:]}, false},
		{dns.TLSA{Usage: 3, Selector: 1, Matching: 2, Data: sum}, false},
		{dns.TLSA{Usage: 3, Selector: 1, Matching: 0}, false},
	} {
		if got := usable([]dns.TLSA{tt.r}); (len(got) == 1) != tt.want {
			t.Errorf("%+v: %v", tt.r, got)
		}
	}
}

// TestHost is the decision: what was published, and what follows from it.
func TestHost(t *testing.T) {
	ee := dns.TLSA{Usage: 3, Selector: 1, Matching: 1, Data: make([]byte, 32)}
	odd := dns.TLSA{Usage: 1, Selector: 1, Matching: 1, Data: make([]byte, 32)}
	at := func(name string, rs ...dns.TLSA) map[string][]dns.TLSA { return map[string][]dns.TLSA{name: rs} }
	en := STS{Mode: ModeEnforce, MX: []string{"m.test"}}
	te := STS{Mode: ModeTesting, MX: []string{"other.test"}}
	secure := dns.Info{Authentic: true, Name: "m.test"}
	for name, tt := range map[string]struct {
		tlsa     map[string][]dns.TLSA
		unsigned bool // answers to TLSA are not authentic
		busy     string
		sts      STS
		insecure bool // MX
		address  dns.Info
		want     Basis
		sni      string
		refused  bool
	}{
		"nothing":                        {address: secure, want: Opportunistic},
		"dane":                           {tlsa: at("_25._tcp.m.test", ee), address: secure, want: DANE},
		"dane over mta-sts":              {tlsa: at("_25._tcp.m.test", odd, ee), sts: en, address: secure, want: DANE},
		"dane, not usable":               {tlsa: at("_25._tcp.m.test", odd), sts: en, address: secure, want: Encrypted},
		"dane, MX not signed":            {tlsa: at("_25._tcp.m.test", ee), insecure: true, address: secure, want: Opportunistic},
		"dane, address not signed":       {tlsa: at("_25._tcp.m.test", ee), address: dns.Info{Name: "m.test"}, want: Opportunistic},
		"dane, records not signed":       {tlsa: at("_25._tcp.m.test", ee), unsigned: true, address: secure, want: Opportunistic},
		"dane, no answer":                {busy: "_25._tcp.m.test", sts: en, address: secure, refused: true},
		"dane, no answer, MX not signed": {busy: "_25._tcp.m.test", insecure: true, address: secure, want: Opportunistic},
		"dane at the end of aliases":     {tlsa: at("_25._tcp.end.test", ee), address: dns.Info{Authentic: true, Name: "end.test"}, want: DANE, sni: "end.test"},
		"dane at the beginning":          {tlsa: at("_25._tcp.m.test", ee), address: dns.Info{Authentic: true, Name: "end.test"}, want: DANE},
		"enforce":                        {sts: en, address: secure, want: PKIX},
		"enforce, other host":            {sts: STS{Mode: ModeEnforce, MX: []string{"other.test"}}, address: secure, refused: true},
		"testing":                        {sts: STS{Mode: ModeTesting, MX: []string{"m.test"}}, address: secure, want: Testing},
		"testing, other host":            {sts: te, address: secure, want: Testing},
		"mode none":                      {sts: STS{Mode: ModeNone}, address: secure, want: Opportunistic},
	} {
		z := &zone{tlsa: tt.tlsa, secure: !tt.unsigned, busy: map[string]bool{tt.busy: true}}
		plan, err := New(Options{Resolver: z}).Host(t.Context(), Question{Domain: "a.test", STS: tt.sts, MX: "m.test", SecureMX: !tt.insecure, Address: tt.address})
		if tt.refused {
			if !kind.Is(err, kind.Busy) {
				t.Errorf("%s: %v, %v", name, plan.Basis, err)
			}
			continue
		}
		if tt.sni == "" {
			tt.sni = "m.test"
		}
		if err != nil || plan.Basis != tt.want || plan.Name != tt.sni || plan.Must() != (tt.want >= Encrypted) {
			t.Errorf("%s: %v %s, %v; want %v", name, plan.Basis, plan.Name, err, tt.want)
		}
		if tt.insecure && len(z.asked) > 0 {
			t.Errorf("%s: asked %v for nothing", name, z.asked)
		}
		if got := plan.Strict().Basis; got != max(tt.want, PKIX) {
			t.Errorf("%s, strict: %v", name, got)
		}
	}
}

// TestHandshake holds plans against a real one.
func TestHandshake(t *testing.T) {
	ca := newAuthority(t)
	cert := ca.issue(t, "m.test", time.Now().Add(time.Hour))
	roots := poolOf(ca.cert)
	plan := func(b Basis, names ...string) Plan {
		return Plan{Basis: b, Name: "m.test", names: names, roots: roots, now: time.Now, tlsa: []dns.TLSA{record(usageEE, 1, 1, cert.Leaf)}}
	}
	broken := plan(DANE)
	broken.tlsa = []dns.TLSA{record(usageEE, 1, 1, ca.cert)}
	for name, tt := range map[string]struct {
		plan       Plan
		shake, fit bool
	}{
		"opportunistic":              {plan(Opportunistic), true, true},
		"encrypted":                  {plan(Encrypted), true, true},
		"testing":                    {plan(Testing, "m.test"), true, true},
		"testing, another name":      {plan(Testing, "x.test"), true, false},
		"testing, host not in list":  {plan(Testing), true, false},
		"pkix":                       {plan(PKIX, "m.test"), true, true},
		"pkix, another name":         {plan(PKIX, "x.test"), false, false},
		"testing, made strict":       {plan(Testing).Strict(), true, true},
		"dane":                       {plan(DANE), true, true},
		"dane, another key":          {broken, false, false},
		"dane is not saved by roots": {Plan{Basis: DANE, Name: "m.test", names: []string{"m.test"}, roots: roots, now: time.Now}, false, false},
	} {
		c, s := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer s.Close()
			tls.Server(s, &tls.Config{Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: true}).Handshake()
		}()
		tc := tls.Client(c, tt.plan.Config(nil))
		err := tc.Handshake()
		if (err == nil) != tt.shake || err != nil && !errors.Is(err, ErrUntrusted) {
			t.Errorf("%s: handshake %v", name, err)
		}
		if err == nil {
			if err := tt.plan.Verify(tc.ConnectionState()); (err == nil) != tt.fit {
				t.Errorf("%s: %v", name, err)
			}
		}
		c.Close()
		<-done
	}
}

// FuzzTLSA: records of strangers, with the whole of a certificate in them or
// something else, never pass for a chain they do not name.
func FuzzTLSA(f *testing.F) {
	f.Add(uint8(3), uint8(1), uint8(1), make([]byte, 32))
	f.Add(uint8(2), uint8(0), uint8(0), []byte{0x30, 0x82, 1, 0})
	chain := []*x509.Certificate{{Raw: []byte("leaf"), RawSubjectPublicKeyInfo: []byte("key")}}
	f.Fuzz(func(t *testing.T, usage, selector, matching uint8, data []byte) {
		rs := usable([]dns.TLSA{{Usage: usage, Selector: selector, Matching: matching, Data: data}})
		err := verifyDANE(rs, chain, []string{"m.test"}, time.Unix(0, 0))
		if err == nil && (usage != usageEE || !matches(rs[0], chain[0])) {
			t.Fatalf("%d %d %d %x passes", usage, selector, matching, data)
		}
	})
}
