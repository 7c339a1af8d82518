package keys

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/transport/dns"
	"github.com/postern-mail/postern/internal/transport/settings"
	"github.com/postern-mail/postern/internal/transport/tlspolicy"
)

// zone is a DNS out of lines "TYPE name value"; "FAIL name" does not answer.
type zone struct {
	rows map[string][]string
	sts  tlspolicy.STS
}

func newZone(lines ...string) *zone {
	z := &zone{rows: map[string][]string{}}
	for _, l := range lines {
		f := strings.SplitN(l, " ", 3)
		key := f[0] + " " + f[1]
		z.rows[key] = append(z.rows[key], f[2:]...)
	}
	return z
}

func (z *zone) get(typ, name string) ([]string, error) {
	if _, down := z.rows["FAIL "+name]; down {
		return nil, kind.Errorf(kind.Busy, "no answer")
	}
	if v := z.rows[typ+" "+name]; len(v) > 0 {
		return v, nil
	}
	return nil, kind.Errorf(kind.NotFound, "no %s of %s", typ, name)
}

func (z *zone) TXT(_ context.Context, name string) ([]string, dns.Info, error) {
	v, err := z.get("TXT", name)
	return v, dns.Info{}, err
}

func (z *zone) TLSA(_ context.Context, name string) (out []dns.TLSA, _ dns.Info, err error) {
	v, err := z.get("TLSA", name)
	for _, s := range v {
		b, _ := hex.DecodeString(s)
		out = append(out, dns.TLSA{Usage: 3, Selector: 1, Matching: 1, Data: b})
	}
	return out, dns.Info{Authentic: true}, err
}

func (z *zone) For(context.Context, string) (tlspolicy.STS, error) { return z.sts, nil }

// std is the zone in the words of net.Resolver.
type std struct{ *zone }

func (s std) err(err error) error {
	if kind.Is(err, kind.NotFound) {
		return &net.DNSError{Err: err.Error(), IsNotFound: true}
	}
	if err != nil {
		return &net.DNSError{Err: err.Error(), IsTemporary: true}
	}
	return nil
}

func (s std) LookupTXT(_ context.Context, name string) ([]string, error) {
	v, err := s.get("TXT", strings.TrimSuffix(name, "."))
	return v, s.err(err)
}

func (s std) LookupMX(_ context.Context, name string) (out []*net.MX, err error) {
	v, err := s.get("MX", strings.TrimSuffix(name, "."))
	for _, h := range v {
		out = append(out, &net.MX{Host: h + ".", Pref: 10})
	}
	return out, s.err(err)
}

func (s std) LookupIPAddr(_ context.Context, host string) (out []net.IPAddr, err error) {
	v, err := s.get("A", strings.TrimSuffix(host, "."))
	for _, a := range v {
		out = append(out, net.IPAddr{IP: net.ParseIP(a)})
	}
	return out, s.err(err)
}

func (s std) LookupAddr(context.Context, string) ([]string, error) {
	return nil, &net.DNSError{IsNotFound: true}
}

func (s std) srv(_ context.Context, _, _, name string) (string, []*net.SRV, error) {
	v, err := s.get("SRV", name)
	var out []*net.SRV
	for _, h := range v {
		out = append(out, &net.SRV{Target: h + ".", Port: 993, Priority: 5})
	}
	return name, out, s.err(err)
}

func (z *zone) checker() Checker {
	return Checker{Resolver: z, Std: std{z}, STS: z, SRV: std{z}.srv}
}

func facts(t *testing.T) (Facts, settings.DKIMKey) {
	t.Helper()
	w := newWorld()
	made, err := w.Create(t.Context(), "a.example", "s1", Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	made[0].State = settings.DKIMSigning
	return Facts{Domain: "a.example", Hosts: []string{"mx1.a.example", "mx2.a.example"}, Keys: made,
		Certificates: map[string][32]byte{"mx1.a.example": sha256.Sum256(nil)},
		Services:     []Service{{"imaps", "imap.a.example", 993}}}, made[0]
}

func TestExpect(t *testing.T) {
	f, k := facts(t)
	f.Sources = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	f.Includes = []string{"spf.protection.outlook.com"}
	var lines []string
	for _, r := range Expect(f) {
		if r.Why == "" || r.Need == "" {
			t.Errorf("%+v", r)
		}
		lines = append(lines, r.Type+" "+r.Name+" "+strings.ReplaceAll(r.Value, "\n", "|"))
	}
	want := []string{
		"MX a.example 10 mx1.a.example.", "MX a.example 20 mx2.a.example.",
		"TXT a.example v=spf1 mx ip4:192.0.2.1 ip6:2001:db8::1 include:spf.protection.outlook.com -all",
		"TXT s1._domainkey.a.example " + k.Public,
		"TXT _dmarc.a.example v=DMARC1; p=none; rua=mailto:postmaster@a.example",
		"TXT _mta-sts.a.example v=STSv1; id=",
		"HTTPS https://mta-sts.a.example/.well-known/mta-sts.txt version: STSv1|mode: enforce|mx: mx1.a.example|mx: mx2.a.example|max_age: 604800|",
		"TXT _smtp._tls.a.example v=TLSRPTv1; rua=mailto:postmaster@a.example",
		"TLSA _25._tcp.mx1.a.example 3 1 1 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"SRV _imaps._tcp.a.example 0 1 993 imap.a.example.",
	}
	if len(lines) != len(want) {
		t.Fatalf("%q", lines)
	}
	for i := range want {
		if !strings.HasPrefix(lines[i], want[i]) {
			t.Errorf("%q, want %q", lines[i], want[i])
		}
	}
}

func TestCheckFindsWhatIsThere(t *testing.T) {
	f, k := facts(t)
	z := newZone("MX a.example mx1.a.example", "MX a.example mx2.a.example", "A mx1.a.example 192.0.2.1", "A mx2.a.example 192.0.2.2",
		"TXT a.example google-site=1", "TXT a.example v=spf1 mx -all", "TXT s1._domainkey.a.example "+k.Public,
		"TXT _dmarc.a.example v=DMARC1; p=reject", "TXT _mta-sts.a.example v=STSv1; id=1", "TXT _smtp._tls.a.example v=TLSRPTv1; rua=mailto:x@a.example",
		"TLSA _25._tcp.mx1.a.example e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "SRV _imaps._tcp.a.example imap.a.example")
	z.sts = tlspolicy.STS{Mode: tlspolicy.ModeEnforce, MX: []string{"*.a.example"}}
	for _, r := range z.checker().Check(t.Context(), f) {
		if r.Status != StatusPresent || r.Note != "" {
			t.Errorf("%s %s: %s, %q (%s)", r.Type, r.Name, r.Status, r.Found, r.Note)
		}
	}
}

func TestCheckTellsWhatIsWrong(t *testing.T) {
	f, _ := facts(t)
	for name, c := range map[string]struct {
		zone []string
		sts  tlspolicy.STS
		row  string // type and name
		want string // status and part of the note
	}{
		"nothing there":        {nil, tlspolicy.STS{}, "MX a.example", "missing"},
		"mail goes elsewhere":  {[]string{"MX a.example mx.other.example"}, tlspolicy.STS{}, "MX a.example", "different mail for the domain goes elsewhere"},
		"no answer":            {[]string{"FAIL a.example"}, tlspolicy.STS{}, "MX a.example", "unknown"},
		"two policies":         {[]string{"TXT a.example v=spf1 -all", "TXT a.example v=spf1 mx -all"}, tlspolicy.STS{}, "TXT a.example", "different there are 2"},
		"a source not allowed": {[]string{"TXT a.example v=spf1 ip4:192.0.2.1 -all", "A mx1.a.example 192.0.2.1", "A mx2.a.example 192.0.2.2"}, tlspolicy.STS{}, "TXT a.example", "different it does not let 192.0.2.2 send (fail)"},
		"spf2 is none":         {[]string{"TXT a.example v=spf10 mx"}, tlspolicy.STS{}, "TXT a.example", "missing"},
		"signing unseen":       {nil, tlspolicy.STS{}, "TXT s1._domainkey.a.example", "missing signatures of this key fail"},
		"another key":          {[]string{"TXT s1._domainkey.a.example v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="}, tlspolicy.STS{}, "TXT s1._domainkey.a.example", "different it is the record of another key"},
		"asks for nothing":     {[]string{"TXT _dmarc.a.example v=DMARC1; p=none"}, tlspolicy.STS{}, "TXT _dmarc.a.example", "present p=none"},
		"a dmarc that is none": {[]string{"TXT _dmarc.a.example v=DMARC1; p=maybe"}, tlspolicy.STS{}, "TXT _dmarc.a.example", "different"},
		"no id":                {[]string{"TXT _mta-sts.a.example v=STSv1;"}, tlspolicy.STS{}, "TXT _mta-sts.a.example", "different it has no id"},
		"a host left out":      {nil, tlspolicy.STS{Mode: tlspolicy.ModeEnforce, MX: []string{"mx1.a.example"}}, "HTTPS https://mta-sts.a.example/.well-known/mta-sts.txt", "different it does not name mx2"},
		"testing":              {nil, tlspolicy.STS{Mode: tlspolicy.ModeTesting, MX: []string{"*.a.example"}}, "HTTPS https://mta-sts.a.example/.well-known/mta-sts.txt", "present mode testing"},
		"an old certificate":   {[]string{"TLSA _25._tcp.mx1.a.example 00"}, tlspolicy.STS{}, "TLSA _25._tcp.mx1.a.example", "different none is of the present key"},
		"another server":       {[]string{"SRV _imaps._tcp.a.example other.example"}, tlspolicy.STS{}, "SRV _imaps._tcp.a.example", "different it leads elsewhere"},
	} {
		z := newZone(c.zone...)
		z.sts = c.sts
		seen := false
		for _, r := range z.checker().Check(t.Context(), f) {
			if r.Type+" "+r.Name != c.row || seen {
				continue
			}
			seen = true
			if got := r.Status + " " + r.Note; !strings.HasPrefix(got, c.want) {
				t.Errorf("%s: %q, want %q", name, got, c.want)
			}
		}
		if !seen {
			t.Errorf("%s: there is no row %s", name, c.row)
		}
	}
}
