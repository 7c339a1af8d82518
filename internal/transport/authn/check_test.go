package authn

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/mail"
)

// TestTreeWalkNames is the example of RFC 9989 section 4.10.
func TestTreeWalkNames(t *testing.T) {
	for domain, want := range map[string]string{
		"a.b.c.d.e.f.g.h.i.j.mail.example.com": "a.b.c.d.e.f.g.h.i.j.mail.example.com g.h.i.j.mail.example.com h.i.j.mail.example.com i.j.mail.example.com j.mail.example.com mail.example.com example.com com",
		"a.b.c.d.e.f.example.com":              "a.b.c.d.e.f.example.com b.c.d.e.f.example.com c.d.e.f.example.com d.e.f.example.com e.f.example.com f.example.com example.com com",
		"a.mail.example.com":                   "a.mail.example.com mail.example.com example.com com",
		"com":                                  "com",
	} {
		if got := strings.Join(names(domain), " "); got != want {
			t.Errorf("%s:\n got %s\nwant %s", domain, got, want)
		}
	}
}

// TestOrganizationalDomain holds the examples of RFC 9989 section 4.10.2 and
// appendix B.4.
func TestOrganizationalDomain(t *testing.T) {
	const rec = "v=DMARC1; p=reject"
	for _, c := range []struct {
		start, want string
		zone        *zone
	}{
		{"a.mail.example.com", "example.com", texts("_dmarc.mail.example.com", rec, "_dmarc.example.com", rec)},
		{"a.mail.example.com", "mail.example.com", texts("_dmarc.mail.example.com", rec+"; psd=n", "_dmarc.example.com", rec)},
		{"a.mail.example.com", "example.com", texts("_dmarc.com", rec+"; psd=y")},
		{"signing.example.com", "example.com", texts("_dmarc.signing.example.com", rec, "_dmarc.example.com", rec)},
		{"a.b.c.d.e.f.g.h.i.j.k.example.com", "example.com", texts("_dmarc.example.com", rec)},
		{"giant.bank.example", "giant.bank.example", texts("_dmarc.giant.bank.example", rec, "_dmarc.bank.example", rec+";psd=y")},
		{"mail.giant.bank.example", "giant.bank.example", texts("_dmarc.giant.bank.example", rec, "_dmarc.bank.example", rec+";psd=y")},
		{"mail.mega.bank.example", "mega.bank.example", texts("_dmarc.bank.example", rec+";psd=y")},
		{"bank.example", "bank.example", texts("_dmarc.bank.example", rec+";psd=y", "_dmarc.example", rec)},
		{"a.example.com", "a.example.com", texts()},
		{"a.example.com", "a.example.com", texts("_dmarc.example.com", rec, "_dmarc.example.com", "v=DMARC1; p=none")}, // two: none
		{"a.example.com", "example.com", texts("_dmarc.example.com", rec, "_dmarc.example.com", "v=spf1 -all")},
		{"a.example.com", "a.example.com", texts("_dmarc.example.com", "v=DMARC1; p=bad")}, // not valid
	} {
		w := &walker{r: c.zone, seen: map[string]site{}}
		sites, err := w.walk(t.Context(), c.start)
		if got := organizational(c.start, sites); err != nil || got != c.want || len(c.zone.asked) > maxWalk {
			t.Errorf("%s: %s, want %s (%v, asked %v)", c.start, got, c.want, err, c.zone.asked)
		}
	}
}

var errServer = errors.New("server failure")

// TestEvaluate goes through discovery and evaluation with the examples of RFC
// 9989 appendix B and with what strangers may send.
func TestEvaluate(t *testing.T) {
	spf := func(d string) SPF { return SPF{Result: Pass, Domain: d} }
	dkim := func(ds ...string) (out []DKIM) {
		for _, d := range ds {
			out = append(out, DKIM{Result: Pass, Domain: d})
		}
		return out
	}
	example := func(more ...string) *zone {
		return texts(append(more, "_dmarc.example.com", "v=DMARC1; p=reject; sp=quarantine; np=none", "child.example.com", "x")...)
	}
	bank := texts("_dmarc.giant.bank.example", "v=DMARC1; p=quarantine", "_dmarc.bank.example", "v=DMARC1; p=none; np=reject; sp=quarantine; psd=y", "mega.bank.example", "x")
	fault := func(z *zone, name string) *zone { z.fault[name] = errServer; return z }
	for _, c := range []struct {
		name, from string
		zone       *zone
		spf        SPF
		dkim       []DKIM
		want       string // result applied record aligned
	}{
		{"B.1.1 example 1", "example.com", example(), spf("example.com"), nil, "pass none example.com spf"},
		{"B.1.1 example 2", "example.com", example(), spf("child.example.com"), nil, "pass none example.com spf"},
		{"B.1.1 example 3", "child.example.com", example(), spf("example.net"), nil, "fail quarantine example.com"},
		{"B.1.2 example 1", "example.com", example(), SPF{}, dkim("Example.COM"), "pass none example.com dkim"},
		{"B.1.2 example 2", "child.example.com", example(), SPF{}, dkim("example.com"), "pass none example.com dkim"},
		{"B.1.2 example 3", "child.example.com", example(), SPF{}, dkim("example.net"), "fail quarantine example.com"},
		{"B.3.1", "example.com", example(), spf("mail.example.com"), dkim("example.com"), "pass none example.com spf dkim"},
		{"B.4.1", "example.com", example("_dmarc.signing.example.com", "v=DMARC1; p=none"), spf("example.com"), dkim("signing.example.com"), "pass none example.com spf dkim"},
		{"B.4.2", "a.b.c.d.e.f.g.h.i.j.k.example.com", example(), spf("example.com"), dkim("signing.example.com"), "pass none example.com spf dkim"},
		{"B.4.3", "giant.bank.example", bank, spf("mail.giant.bank.example"), dkim("mail.mega.bank.example"), "pass none giant.bank.example spf"},
		{"suffix, existing", "mega.bank.example", bank, SPF{}, nil, "fail quarantine bank.example"},
		{"suffix, missing", "no.bank.example", bank, SPF{}, nil, "fail reject bank.example"},
		{"no record", "example.org", example(), spf("example.org"), nil, "none none "},
		{"own policy", "example.com", example(), SPF{Result: Fail, Domain: "example.com"}, nil, "fail reject example.com"},
		{"missing subdomain", "gone.example.com", example(), SPF{}, nil, "fail none example.com"},
		{"failed signature", "example.com", example(), SPF{}, []DKIM{{Result: Fail, Domain: "example.com"}, {Result: PermError, Domain: "example.com"}}, "fail reject example.com"},
		{"strict spf", "example.com", texts("_dmarc.example.com", "v=DMARC1;p=reject;aspf=s"), spf("a.example.com"), nil, "fail reject example.com"},
		{"strict dkim", "example.com", texts("_dmarc.example.com", "v=DMARC1;p=reject;adkim=s"), spf("a.example.com"), dkim("a.example.com"), "pass none example.com spf"},
		{"testing reject", "example.com", texts("_dmarc.example.com", "v=DMARC1;p=reject;t=y"), SPF{}, nil, "fail quarantine example.com"},
		{"testing quarantine", "example.com", texts("_dmarc.example.com", "v=DMARC1;p=quarantine;t=y"), SPF{}, nil, "fail none example.com"},
		{"look-alike suffix", "example.com", example(), spf("notexample.com"), dkim("example.com.evil.example"), "fail reject example.com"},
		{"sibling under psd=n", "a.example.com", example("_dmarc.a.example.com", "v=DMARC1;p=reject;psd=n"), spf("b.example.com"), nil, "fail reject a.example.com"},
		{"sibling is psd=n", "a.example.com", example("_dmarc.b.example.com", "v=DMARC1;p=reject;psd=n"), spf("b.example.com"), nil, "fail none example.com"},
		{"bad record", "a.example.com", texts("_dmarc.a.example.com", "v=DMARC1;p=bad", "_dmarc.example.com", "v=DMARC1;p=reject"), spf("a.example.com"), nil, "permerror none a.example.com"},
		{"two records", "a.example.com", texts("_dmarc.a.example.com", "v=DMARC1;p=none", "_dmarc.a.example.com", "v=DMARC1;p=none", "_dmarc.example.com", "v=DMARC1;p=reject"), SPF{}, nil, "fail reject example.com"},
		{"fault at author", "example.com", fault(texts(), "_dmarc.example.com"), spf("example.com"), nil, "temperror none "},
		{"fault above, own record", "example.com", fault(example(), "_dmarc.com"), spf("example.com"), nil, "pass none example.com spf"},
		{"fault above, relaxed", "example.com", fault(example(), "_dmarc.com"), spf("a.example.com"), nil, "temperror none example.com"},
		{"fault above, nobody passed", "example.com", fault(example(), "_dmarc.com"), SPF{Result: Fail, Domain: "example.com"}, nil, "fail reject example.com"},
		{"fault of existence", "gone.example.com", fault(example(), "gone.example.com"), SPF{}, nil, "temperror none "},
		{"fault of spf, aligned", "example.com", example(), SPF{Result: TempError, Domain: "example.com"}, nil, "temperror none example.com"},
		{"fault of spf, apart", "example.com", example(), SPF{Result: TempError, Domain: "evil.example"}, nil, "fail reject example.com"},
		{"fault of a key, other passes", "example.com", example(), spf("example.com"), []DKIM{{Result: TempError, Domain: "example.com"}}, "pass none example.com spf"},
		{"fault of identifier's walk", "example.com", fault(example(), "_dmarc.a.example.com"), spf("a.example.com"), nil, "temperror none example.com"},
	} {
		w := &walker{r: c.zone, seen: map[string]site{}}
		orgs := Orgs{}
		d := w.discover(t.Context(), c.from, orgs)
		w.compare(t.Context(), c.from, d.Record, identifiers(c.spf, c.dkim), orgs)
		m := Evaluate(c.from, d, orgs, c.spf, c.dkim)
		got := fmt.Sprintf("%s %s %s", m.Result, m.Applied, m.Domain)
		if m.SPFAligned {
			got += " spf"
		}
		if m.DKIMAligned {
			got += " dkim"
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s (%s)", c.name, got, c.want, m.Why)
		}
	}
}

func TestAuthors(t *testing.T) {
	for _, c := range []struct{ header, want string }{
		{"From: Joe <joe@Example.COM>\r\n", "example.com"},
		{"Subject: x\r\nfrom : joe@example.com.\r\n\r\nFrom: body@x.example\r\n", "example.com"},
		{"From: \"ceo@bank.example\" <x@evil.example>\r\n", "evil.example"},
		{"From: x@evil.example (ceo@bank.example (nested) \\) @x)\r\n", "evil.example"},
		{"From: ceo@bank.example <x@evil.example>\r\n", "bank.example evil.example"},
		{"From: a@a.example, B <b@b.example>,\r\n c@A.example\r\n", "a.example b.example"},
		{"From: Team: a@a.example, b@b.example;\r\n", "a.example b.example"},
		{"From: \"a@b\"@example.com\r\n", "example.com"},
		{"From: Joe @ Home <joe@example.com>\r\n", "example.com"},
		{"From: joe@ example (c) . com (Joe)\r\n", "example.com"},
		{"From: joe@b\u00fccher.example\r\n", "xn--bcher-kva.example"},
		{"From: =?utf-8?q?ceo=40bank.example?= <x@evil.example>\r\n", "evil.example"},
		{"From: <@relay.example:x@evil.example>\r\n", "relay.example evil.example"},
		{"From: \"open <x@evil.example>\r\n", "evil.example"},
		{"From: (open <x@evil.example>\r\n", "evil.example"},
		{"From: a@a.example\r\nFrom: b@b.example\r\n", "!2 from fields"},
		{"Subject: none\r\n", "!0 from fields"},
		{"From: <>\r\n", "!from field has no domain"},
		{"From: undisclosed-recipients:;\r\n", "!from field has no domain"},
		{"From: joe@[192.0.2.1]\r\n", "!from field has no domain"},
		{"From: joe@localhost\r\n", "!from field has no domain"},
		{"From: joe@a..example\r\n", "!from field has domain \"a..example\""},
		{"From: a@a.example,a@b.example,a@c.example,a@d.example,a@e.example\r\n", "!from field has more than 4 domains"},
		{"From: " + strings.Repeat("x", MaxField+1) + "@a.example\r\n", "!from field of more than 65536 octets"},
	} {
		got, err := Authors([]byte(c.header))
		s := strings.Join(got, " ")
		if err != nil {
			s = "!" + err.Error()
		}
		if s != c.want {
			t.Errorf("%.60q: %s, want %s", c.header, s, c.want)
		}
	}
}

func FuzzAuthors(f *testing.F) {
	f.Add([]byte("From: \"a@b\" <x@evil.example> (c), y@b.example\r\n folded@c.example\r\n\r\nbody"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		got, err := Authors(msg)
		if err == nil && (len(got) == 0 || len(got) > MaxAuthors) {
			t.Fatalf("%q: %v", msg, got)
		}
		for _, d := range got {
			if asciiDomain(d) != d {
				t.Fatalf("%q: %q is not in its final form", msg, d)
			}
		}
	})
}

// checker verifies nothing itself: signatures are given.
func checker(z *zone, a ARC, sigs ...DKIM) *Checker {
	return New(Deps{
		Resolver: z,
		Verify:   func(context.Context, []byte) ([]DKIM, ARC) { return sigs, a },
		Trusted:  func(s string) bool { return s == "sealer.example" },
	})
}

var client = mail.Peer{Remote: netip.MustParseAddr("192.0.2.1"), Helo: "mx.example.com"}

func TestCheck(t *testing.T) {
	z := texts(
		"example.com", "v=spf1 ip4:192.0.2.1 -all", "mx.example.com", "v=spf1 ip4:192.0.2.1 -all", "_dmarc.example.com", "v=DMARC1; p=reject",
		"other.example", "v=spf1 -all", "_dmarc.other.example", "v=DMARC1; p=quarantine")
	sealed := ARC{Result: Pass, Sets: 2, Sealer: "Sealer.example", Results: "sealer.example; dmarc=pass header.from=other.example"}
	edit := func(f func(*ARC)) ARC { a := sealed; f(&a); return a }
	for _, c := range []struct {
		name, sender, from string
		arc                ARC
		want               string
	}{
		{"all good", "joe@example.com", "joe@example.com", ARC{}, "pass pass pass none "},
		{"null sender", "", "postmaster@example.com", ARC{}, "pass  pass none "},
		{"spoofed", "joe@example.com", "ceo@other.example", ARC{}, "pass pass fail quarantine "},
		{"shown beside", "joe@example.com", "ceo@other.example <joe@example.com>", ARC{}, "pass pass fail quarantine "},
		{"author without a record beside", "joe@example.com", "a@nobody.example, joe@example.com", ARC{}, "pass pass none none "},
		{"no author", "joe@example.com", "<>", ARC{}, "pass pass permerror none "},
		{"trusted chain", "joe@example.com", "ceo@other.example", sealed, "pass pass fail none arc"},
		{"broken chain", "joe@example.com", "ceo@other.example", edit(func(a *ARC) { a.Result = Fail }), "pass pass fail quarantine "},
		{"untrusted chain", "joe@example.com", "ceo@other.example", edit(func(a *ARC) { a.Sealer = "evil.example" }), "pass pass fail quarantine "},
		{"chain for another author", "joe@example.com", "ceo@other.example", edit(func(a *ARC) { a.Results = "x; dmarc=pass header.from=example.com" }), "pass pass fail quarantine "},
		{"chain that saw it fail", "joe@example.com", "ceo@other.example", edit(func(a *ARC) { a.Results = "x; dmarc=fail header.from=other.example" }), "pass pass fail quarantine "},
		{"garbage in a chain", "joe@example.com", "ceo@other.example", edit(func(a *ARC) { a.Results = "x; dmarc=pass (" }), "pass pass fail quarantine "},
		{"quoted local part", `"a@other.example"@example.com`, "joe@example.com", ARC{}, "pass pass pass none "},
		{"no domain", "joe", "joe@example.com", ARC{}, "none pass fail reject "},
	} {
		msg := []byte("From: " + c.from + "\r\n\r\nbody\r\n")
		r := checker(z, c.arc).Check(t.Context(), client, mail.Envelope{From: c.sender}, msg)
		got := fmt.Sprintf("%s %s %s %s %s", r.MailFrom.Result, r.Helo.Result, r.DMARC.Result, r.DMARC.Applied, r.DMARC.Override)
		if got != c.want {
			t.Errorf("%s: %s, want %s (%+v)", c.name, got, c.want, r)
		}
	}
}

// TestCheckLimit: servers that never answer cost 10 s and nothing else
// (promises 1 and 2).
func TestCheckLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := texts("_dmarc.example.com", "v=DMARC1; p=reject")
		z.hang["example.com"], z.hang["mx.example.com"], z.hang["_dmarc.com"] = true, true, true
		before := time.Now()
		r := checker(z, ARC{}).Check(t.Context(), client, mail.Envelope{From: "joe@example.com"}, []byte("From: joe@example.com\r\n"))
		if took := time.Since(before); took != Limit {
			t.Errorf("took %v", took)
		}
		if r.MailFrom.Result != TempError || r.Helo.Result != TempError || r.DMARC.Result != TempError || r.DMARC.Applied != DispositionNone {
			t.Errorf("%+v", r)
		}
	})
}

// TestSlowSender: servers of the sender that never answer do not keep the
// policy of the domain it claims from being found.
func TestSlowSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := texts("_dmarc.example.com", "v=DMARC1; p=reject")
		z.hang["slow.example"], z.hang["mx.slow.example"] = true, true
		c := New(Deps{Resolver: z, Trusted: func(string) bool { return false }, Verify: func(ctx context.Context, _ []byte) ([]DKIM, ARC) {
			<-ctx.Done()
			return []DKIM{{Result: TempError, Domain: "slow.example"}}, ARC{}
		}})
		before := time.Now()
		r := c.Check(t.Context(), mail.Peer{Remote: client.Remote, Helo: "mx.slow.example"}, mail.Envelope{From: "a@slow.example"}, []byte("From: ceo@mail.example.com\r\n"))
		if took := time.Since(before); took != strangers {
			t.Errorf("took %v", took)
		}
		if r.MailFrom.Result != TempError || r.DMARC.Result != Fail || r.DMARC.Applied != DispositionReject {
			t.Errorf("%+v", r)
		}
	})
}

// TestSlowReverse: nor does the client's reverse zone, if the record that is
// spoofed looks there first.
func TestSlowReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, hang := range []string{"192.0.2.1", "slow.example"} {
			z := texts("example.com", "v=spf1 ptr -all")
			z.ptr = map[string][]string{"192.0.2.1": {"slow.example", "slow.example", "slow.example"}}
			z.hang[hang] = true
			before := time.Now()
			got := checkMailFrom(t.Context(), z, client.Remote, "x", "a@example.com")
			if took := time.Since(before); took != reverseLimit || got.Result != Fail {
				t.Errorf("%s: %v, %+v", hang, took, got)
			}
		}
	})
}

// TestTimeOfFields: nothing in a field makes reading it slow.
func TestTimeOfFields(t *testing.T) {
	for _, piece := range []string{"(", "\"", "\"\\", "@", "@a. ", "@a .", "(\"", " ", ";", "\r\n ", "a=b;", "/", "=", "."} {
		long := strings.Repeat(piece, MaxField/len(piece)-10)
		before := time.Now()
		for _, name := range []string{"From: ", "Authentication-Results: ", "Authentication-Results: x; "} {
			msg := []byte(name + long + "\r\n\r\n")
			Authors(msg)
			ParseAuthResults(string(msg[len(name):]))
			RemoveForged(msg, "x")
		}
		ParseDMARC("v=DMARC1;" + long)
		if took := time.Since(before); took > time.Second { // a few milliseconds, with room for a busy machine
			t.Errorf("%q: %v", piece, took)
		}
	}
}

// TestCheckQueries bounds what one message can make us ask (promise 5).
func TestCheckQueries(t *testing.T) {
	z := texts("_dmarc.example.com", "v=DMARC1; p=reject")
	var sigs []DKIM
	for i := range 50 {
		sigs = append(sigs, DKIM{Result: Pass, Domain: fmt.Sprintf("%d.x%d.b.c.d.e.f.g.h.i.example.com", i, i)})
	}
	r := checker(z, ARC{}, sigs...).Check(t.Context(), client, mail.Envelope{From: "a@b.c.d.e.f.g.h.i.j.example.com"}, []byte("From: a@b.c.d.e.f.g.h.i.j.example.com\r\n"))
	if len(r.DKIM) != MaxSignatures || r.DMARC.Result != Pass {
		t.Errorf("%d signatures, %+v", len(r.DKIM), r.DMARC)
	}
	slices.Sort(z.asked)
	if n := len(slices.Compact(z.asked)); n > 2+8+8*MaxSignatures || n != len(z.asked) {
		t.Errorf("%d queries, %d different", len(z.asked), n)
	}
}

func TestSPFFaults(t *testing.T) {
	ip := netip.MustParseAddr("192.0.2.1")
	z := texts("long.example", "v=spf1 "+strings.Repeat("ip4:10.0.0.1 ", maxSPFRecord/13)+"-all", "eight.example", "v=spf1 ip4:192.0.2.1 exp=\u00e4.example -all",
		"spf1.example", "v=spf10 -all", "loop.example", "v=spf1 include:loop.example -all", "mapped.example", "v=spf1 ip4:192.0.2.1 -all")
	z.fault["down.example"] = errServer
	for sender, want := range map[string]SPF{
		"a@long.example":         {Result: PermError, Domain: "long.example"},
		"a@eight.example":        {Result: PermError, Domain: "eight.example"},
		"a@spf1.example":         {Result: None, Domain: "spf1.example"},
		"a@loop.example":         {Result: PermError, Domain: "loop.example"},
		"a@down.example":         {Result: TempError, Domain: "down.example"},
		"a@nobody.example":       {Result: None, Domain: "nobody.example"},
		"a@[192.0.2.1]":          {Result: None},
		"a@localhost":            {Result: None},
		"a@a..example":           {Result: None},
		"@mapped.example":        {Result: Pass, Domain: "mapped.example"},
		"a@B\u00fccher.example.": {Result: None, Domain: "xn--bcher-kva.example"},
	} {
		want.Sender = sender
		got := checkMailFrom(t.Context(), z, ip, "mx.example.com", sender)
		got.Why = ""
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", sender, got, want)
		}
	}
	got := checkMailFrom(t.Context(), z, netip.MustParseAddr("::ffff:192.0.2.1"), "x", "a@mapped.example")
	if got.Result != Pass {
		t.Errorf("mapped address: %+v", got)
	}
	if got := checkHelo(t.Context(), z, ip, "[192.0.2.1]"); got.Result != None || got.Domain != "" {
		t.Errorf("literal as a name: %+v", got)
	}
}
