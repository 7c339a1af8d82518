package authn

import (
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// suite is one document of the RFC 7208 test suite, release 2014.04 (licence
// beside it), as JSON.
type suite struct {
	Description string
	Tests       map[string]struct {
		Helo, Host, MailFrom string
		Result               []string
	}
	Zone map[string][]struct {
		Type, Error string
		Data        []string
	}
}

// zone puts the records of a document where look-ups find them. What stands
// under SPF is a TXT record where no TXT is, as the suite wants it.
func (s suite) zone(t *testing.T) *zone {
	z := texts()
	z.mx, z.ip, z.ptr, z.cname = map[string][]*net.MX{}, map[string][]net.IPAddr{}, map[string][]string{}, map[string]string{}
	for name, records := range s.Zone {
		name = key(name)
		for _, r := range records {
			switch r.Type {
			case "A", "AAAA":
				for _, a := range r.Data {
					z.ip[name] = append(z.ip[name], net.IPAddr{IP: net.ParseIP(a)})
				}
			case "MX":
				pref, err := strconv.ParseUint(r.Data[0], 10, 16)
				if err != nil {
					t.Fatal(err)
				}
				z.mx[name] = append(z.mx[name], &net.MX{Host: r.Data[1], Pref: uint16(pref)})
			case "TXT":
				if r.Data[0] != "NONE" {
					z.txt[name] = append(z.txt[name], strings.Join(r.Data, ""))
				}
			case "PTR":
				a := reversed(name)
				z.ptr[a] = append(z.ptr[a], r.Data...)
			case "CNAME":
				z.cname[name] = r.Data[0]
			case "":
				z.fault[name] = errors.New(r.Error)
				if strings.HasSuffix(name, ".arpa") {
					z.fault[reversed(name)] = errors.New(r.Error)
				}
			}
		}
		hasTXT := slices.ContainsFunc(records, func(r struct {
			Type, Error string
			Data        []string
		}) bool {
			return r.Type == "TXT"
		})
		for _, r := range records {
			if r.Type == "SPF" && !hasTXT {
				z.txt[name] = append(z.txt[name], strings.Join(r.Data, ""))
			}
		}
	}
	return z
}

// reversed is the address that a name under arpa stands for.
func reversed(name string) string {
	if v4, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		p := strings.Split(v4, ".")
		slices.Reverse(p)
		return strings.Join(p, ".")
	}
	p := strings.Split(strings.TrimSuffix(name, ".ip6.arpa"), ".")
	slices.Reverse(p)
	var b strings.Builder
	for i, nibble := range p {
		if i > 0 && i%4 == 0 {
			b.WriteByte(':')
		}
		b.WriteString(nibble)
	}
	return netip.MustParseAddr(b.String()).String()
}

func TestRFC7208Suite(t *testing.T) {
	raw, err := os.ReadFile("testdata/rfc7208-tests.json")
	if err != nil {
		t.Fatal(err)
	}
	var suites []suite
	if err := json.Unmarshal(raw, &suites); err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, s := range suites {
		z := s.zone(t)
		for name, c := range s.Tests {
			ran++
			got := checkMailFrom(t.Context(), z, netip.MustParseAddr(c.Host), c.Helo, c.MailFrom)
			want := c.Result
			if d, ok := deviations[name]; ok {
				if slices.Contains(c.Result, string(d)) {
					t.Errorf("%s: is no deviation any more", name)
				}
				want = []string{string(d)}
			}
			if !slices.Contains(want, string(got.Result)) {
				t.Errorf("%s/%s: %+v, want %v", s.Description, name, got, want)
			}
		}
	}
	if ran != 203 {
		t.Errorf("%d tests ran, want all 203", ran)
	}
}

// deviations are the tests whose result differs, with what we say and why. None
// of them turns anything into a pass.
var deviations = map[string]Result{
	// The suite lets the look-up of type SPF time out, which nobody asks for any
	// more, and every record of that name with it.
	"spftimeout": TempError,
	// The evaluation does not take names with a slash.
	"a-colon-domain": PermError, "a-colon-domain-ip4mapped": PermError,
	"mx-colon-domain": PermError, "mx-colon-domain-ip4mapped": PermError,
	"macro-mania-in-domain": Fail,
	// The macro p is always "unknown", which section 7.3 allows.
	"p-macro-multiple": Neutral,
}

func FuzzSPFSyntax(f *testing.F) {
	for _, s := range []string{"v=spf1 a:b.example/24//64 mx ip4:192.0.2.0/24 ip6:2001:db8::/32 include:%{d2r}.example ~all",
		"v=spf1 exists:%{ir}.%{l1r-}.x%_%%.example redirect=_spf.example", "v=spf1 exp=x.%{o} foo=%{c} -ptr:a.b"} {
		if err := checkSyntax(s); err != nil {
			f.Fatal(err)
		}
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !isSPF(s) || len(s) > maxSPFRecord {
			return
		}
		if checkSyntax(s) != nil || !printable(s) {
			return
		}
		// What is good may have blanks around it and any letter case of its names.
		if err := checkSyntax("V=SPF1  " + s[6:] + "  "); err != nil {
			t.Fatal(err)
		}
	})
}
