package dns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"blitiri.com.ar/go/spf"
	wire "github.com/miekg/dns"
	"github.com/postern-mail/postern/internal/base/kind"
)

func wantKind(t *testing.T, err error, want kind.Kind) {
	t.Helper()
	if !kind.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}

func TestMX(t *testing.T) {
	f := start(t,
		"a.test. 300 IN MX 20 Two.a.test.", "a.test. 300 IN MX 10 one.a.test.",
		"null.test. 300 IN MX 0 .",
		"mixed.test. 300 IN MX 0 .", "mixed.test. 300 IN MX 5 m.test.",
		"address.test. 300 IN A 192.0.2.1",
		"six.test. 300 IN AAAA 2001:db8::1",
		"text.test. 300 IN TXT hello",
		"alias.test. 100 IN CNAME a.test.",
		`bad.test. 300 IN MX 0 a\032b.test.`,
		"xn--bcher-kva.test. 300 IN MX 0 m.test.")
	r := resolver(t, f)
	for domain, want := range map[string]string{
		"a.test": "[{one.a.test 10} {two.a.test 20}]", "A.Test.": "[{one.a.test 10} {two.a.test 20}]", "mixed.test": "[{m.test 5}]",
		"address.test": "[{address.test 0}]", "six.test": "[{six.test 0}]", "alias.test": "[{one.a.test 10} {two.a.test 20}]", "bücher.test": "[{m.test 0}]",
	} {
		got, info, err := r.MX(t.Context(), domain)
		if err != nil || fmt.Sprint(got) != want || info.Authentic {
			t.Errorf("%s: %v %+v, %v; want %s", domain, got, info, err, want)
		}
	}
	if _, info, _ := r.MX(t.Context(), "alias.test"); info.Name != "a.test" || info.TTL > 100*time.Second {
		t.Errorf("alias: %+v", info)
	}
	for domain, want := range map[string]kind.Kind{"null.test": kind.Invalid, "bad.test": kind.Invalid, "no.test": kind.NotFound, "text.test": kind.NotFound,
		"": kind.Invalid, "[192.0.2.1]": kind.Invalid, "a..test": kind.Invalid, "a\r.test": kind.Invalid, strings.Repeat("a.", 200): kind.Invalid, `a\.b.test`: kind.Invalid} {
		_, _, err := r.MX(t.Context(), domain)
		wantKind(t, err, want)
		if errors.Is(err, ErrNoMail) != (domain == "null.test") {
			t.Errorf("%s: %v", domain, err)
		}
	}
}

func TestAddrs(t *testing.T) {
	f := start(t, "both.test. 300 IN A 192.0.2.1", "both.test. 300 IN A 192.0.2.1", "both.test. 200 IN AAAA 2001:db8::1", "mapped.test. 300 IN AAAA ::ffff:192.0.2.9", "four.test. 300 IN A 192.0.2.2", "none.test. 300 IN TXT x")
	r := resolver(t, f)
	for host, want := range map[string]string{"both.test": "[2001:db8::1 192.0.2.1]", "four.test": "[192.0.2.2]", "mapped.test": "[192.0.2.9]"} {
		got, info, err := r.Addrs(t.Context(), host)
		if err != nil || fmt.Sprint(got) != want || info.TTL <= 0 || info.Name != host {
			t.Errorf("%s: %v %+v, %v", host, got, info, err)
		}
	}
	for _, host := range []string{"none.test", "no.test"} {
		_, _, err := r.Addrs(t.Context(), host)
		wantKind(t, err, kind.NotFound)
	}
	// One family fails: the other is enough, but nothing is not NotFound.
	f.set(func() {
		f.odd = func(q *wire.Msg, tcp bool) (*wire.Msg, bool) {
			m := new(wire.Msg)
			m.SetRcode(q, wire.RcodeServerFailure)
			return m, q.Question[0].Qtype == wire.TypeAAAA
		}
	})
	f.add(t, "later.test. 300 IN A 192.0.2.3")
	if got, _, err := r.Addrs(t.Context(), "later.test"); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
	_, _, err := r.Addrs(t.Context(), "nothing.test")
	wantKind(t, err, kind.Busy)
}

func TestTXTAndOthers(t *testing.T) {
	f := start(t, `t.test. 300 IN TXT "v=spf1 " "a \"x\" \\ \200 -all"`, "t.test. 300 IN TXT second",
		"_25._tcp.m.test. 300 IN TLSA 3 1 1 00ff", "1.2.0.192.in-addr.arpa. 300 IN PTR Mx.a.test.",
		`o\'brien+x._spf.test. 300 IN A 127.0.0.2`)
	r := resolver(t, f)
	txt, _, err := r.TXT(t.Context(), "t.test")
	slices.Sort(txt)
	if want := []string{"second", "v=spf1 a \"x\" \\ \xc8 -all"}; err != nil || !slices.Equal(txt, want) {
		t.Errorf("%q, %v", txt, err)
	}
	tlsa, _, err := r.TLSA(t.Context(), "_25._tcp.m.test")
	if err != nil || len(tlsa) != 1 || tlsa[0].Usage != 3 || !bytes.Equal(tlsa[0].Data, []byte{0, 255}) {
		t.Errorf("%v, %v", tlsa, err)
	}
	ptr, _, err := r.PTR(t.Context(), netip.MustParseAddr("::ffff:192.0.2.1"))
	if err != nil || !slices.Equal(ptr, []string{"mx.a.test"}) {
		t.Errorf("%v, %v", ptr, err)
	}
	_, _, err = r.PTR(t.Context(), netip.MustParseAddr("2001:db8::1"))
	wantKind(t, err, kind.NotFound)
	if ips, _, err := r.Addrs(t.Context(), "o'brien+x._spf.test"); err != nil || len(ips) != 1 {
		t.Errorf("odd name: %v, %v", ips, err)
	}
}

// TestAliases: chains that are long, open or closed in themselves end.
func TestAliases(t *testing.T) {
	f := start(t, "x.test. 300 IN CNAME y.test.", "y.test. 300 IN CNAME x.test.", "dangling.test. 300 IN CNAME gone.test.")
	for i := range 30 {
		f.add(t, fmt.Sprintf("c%d.test. 300 IN CNAME c%d.test.", i, i+1))
	}
	f.add(t, "c30.test. 300 IN A 192.0.2.1")
	r := resolver(t, f)
	for name, want := range map[string]kind.Kind{"x.test": kind.Invalid, "c0.test": kind.Invalid, "dangling.test": kind.NotFound} {
		_, _, err := r.TXT(t.Context(), name)
		wantKind(t, err, want)
	}
	if ips, info, err := r.Addrs(t.Context(), "c21.test"); err != nil || len(ips) != 1 || info.Name != "c30.test" {
		t.Errorf("%v %+v %v", ips, info, err)
	}
	// A resolver that leaves an alias open is asked for its target.
	f.set(func() {
		f.odd = func(q *wire.Msg, tcp bool) (*wire.Msg, bool) {
			n := strings.TrimPrefix(q.Question[0].Name, "open")
			m := new(wire.Msg)
			m.SetReply(q)
			m.RecursionAvailable = true
			rr, _ := wire.NewRR("open" + n + " 300 IN CNAME open1" + n)
			m.Answer = []wire.RR{rr}
			return m, len(n) < len(q.Question[0].Name) && len(n) < 9
		}
	})
	f.add(t, "open111.test. 300 IN TXT found", "open1111.test. 300 IN TXT found")
	if txt, _, err := r.TXT(t.Context(), "open.test"); err != nil || len(txt) != 1 {
		t.Errorf("%v, %v", txt, err)
	}
}

// TestLimits: an answer with too much of everything, over TCP.
func TestLimits(t *testing.T) {
	f := start(t)
	for i := range 400 {
		f.add(t, fmt.Sprintf("many.test. 300 IN MX %d m%d.many.test.", 400-i, i), fmt.Sprintf("many.test. 300 IN A 192.0.%d.%d", i/250, i%250+1))
	}
	for i := range 40 {
		f.add(t, fmt.Sprintf(`big.test. 300 IN TXT "%d" "%s" "%s" "%s" "%s" "%s"`, i, s250, s250, s250, s250, s250))
	}
	r := resolver(t, f)
	if mx, _, err := r.MX(t.Context(), "many.test"); err != nil || len(mx) != maxRecords {
		t.Errorf("%d MX, %v", len(mx), err)
	}
	if ips, _, err := r.Addrs(t.Context(), "many.test"); err != nil || len(ips) != maxAddrs {
		t.Errorf("%d addresses, %v", len(ips), err)
	}
	txt, _, err := r.TXT(t.Context(), "big.test")
	if n := len(strings.Join(txt, "")); err != nil || n == 0 || n > maxBytes {
		t.Errorf("%d bytes of text, %v", n, err)
	}
}

var s250 = strings.Repeat("x", 250)

// TestFailures: what is no answer is Busy, and another resolver is asked.
func TestFailures(t *testing.T) {
	ways := map[string]func(q *wire.Msg, tcp bool) (*wire.Msg, bool){
		"silence": func(*wire.Msg, bool) (*wire.Msg, bool) { return nil, true },
		"servfail": func(q *wire.Msg, _ bool) (*wire.Msg, bool) {
			return new(wire.Msg).SetRcode(q, wire.RcodeServerFailure), true
		},
		"refused": func(q *wire.Msg, _ bool) (*wire.Msg, bool) { return new(wire.Msg).SetRcode(q, wire.RcodeRefused), true },
		"lame":    func(q *wire.Msg, _ bool) (*wire.Msg, bool) { return new(wire.Msg).SetReply(q), true },
		"cut": func(q *wire.Msg, _ bool) (*wire.Msg, bool) {
			m := new(wire.Msg).SetReply(q)
			m.Truncated = true
			return m, true
		},
		"other question": func(q *wire.Msg, _ bool) (*wire.Msg, bool) {
			m := new(wire.Msg).SetReply(q)
			m.RecursionAvailable = true
			m.Question = []wire.Question{{Name: "other.test.", Qtype: wire.TypeTXT, Qclass: wire.ClassINET}}
			return m, true
		},
		"other identity": func(q *wire.Msg, _ bool) (*wire.Msg, bool) {
			m := new(wire.Msg).SetReply(q)
			m.Id++
			m.RecursionAvailable = true
			return m, true
		},
		"not an answer": func(q *wire.Msg, _ bool) (*wire.Msg, bool) { m := q.Copy(); return m, true },
	}
	good := start(t, "a.test. 300 IN TXT x")
	for name, odd := range ways {
		f := start(t)
		f.set(func() { f.odd = odd })
		r := resolver(t, f)
		_, _, err := r.TXT(t.Context(), "a.test")
		wantKind(t, err, kind.Busy)
		n := f.asked.Load()
		if _, _, err := r.TXT(t.Context(), "a.test"); !kind.Is(err, kind.Busy) || f.asked.Load() != n {
			t.Errorf("%s: a failure is not remembered for a moment: %v", name, err)
		}
		r = resolver(t, f, good)
		for i := range 2 { // the second time it starts with the good one
			r.cache = newCache(10, 1<<20)
			if txt, _, err := r.TXT(t.Context(), "a.test"); err != nil || len(txt) != 1 {
				t.Errorf("%s %d: %v, %v", name, i, txt, err)
			}
		}
		if n := f.asked.Load(); r.first.Load() != 1 {
			t.Errorf("%s: goes on with the bad one (%d)", name, n)
		}
	}
}

// TestRecordsOfOthers: records that were not asked for are not believed.
func TestRecordsOfOthers(t *testing.T) {
	f := start(t)
	f.set(func() {
		f.odd = func(q *wire.Msg, tcp bool) (*wire.Msg, bool) {
			m := new(wire.Msg).SetReply(q)
			m.RecursionAvailable = true
			for _, s := range []string{"bank.test. 300 IN A 192.0.2.66", "a.test. 300 CH A 192.0.2.66", "a.test. 300 IN TXT x"} {
				rr, _ := wire.NewRR(s)
				m.Answer = append(m.Answer, rr)
			}
			return m, true
		}
	})
	r := resolver(t, f)
	ips, _, err := r.Addrs(t.Context(), "a.test")
	if len(ips) > 0 || !kind.Is(err, kind.NotFound) {
		t.Errorf("%v, %v", ips, err)
	}
}

// TestConfirm: one resolver that says there is no such domain is not enough
// to return mail.
func TestConfirm(t *testing.T) {
	liar, honest := start(t, "d.test. 300 IN TXT x"), start(t, "a.test. 300 IN MX 1 m.test.", "d.test. 300 IN AAAA 2001:db8::1")
	r := resolver(t, liar, honest)
	if mx, _, err := r.MX(t.Context(), "a.test"); err != nil || len(mx) != 1 {
		t.Errorf("%v, %v", mx, err)
	}
	for range 2 {
		_, _, err := r.MX(t.Context(), "b.test")
		wantKind(t, err, kind.NotFound)
	}
	if l, h := liar.asked.Load(), honest.asked.Load(); l != 2 || h != 2 {
		t.Errorf("asked %d and %d times", l, h)
	}
	if mx, _, err := r.MX(t.Context(), "d.test"); err != nil || len(mx) != 1 {
		t.Errorf("its own host: %v, %v", mx, err)
	}
	honest.set(func() { honest.rcode["c.test."] = wire.RcodeServerFailure })
	_, _, err := r.MX(t.Context(), "c.test")
	wantKind(t, err, kind.NotFound)
}

func TestAuthentic(t *testing.T) {
	f := start(t, "a.test. 300 IN MX 1 m.test.", "m.test. 300 IN A 192.0.2.1", "_25._tcp.m.test. 300 IN TLSA 3 1 1 00", "alone.test. 60 IN A 192.0.2.1")
	f.set(func() { f.ad = true })
	for trust, want := range map[string]bool{"": true, TrustAuto: true, TrustAlways: true, TrustNever: false} {
		r, err := New(Config{Servers: []string{f.addr}, TrustAD: trust})
		if err != nil {
			t.Fatal(err)
		}
		_, mx, _ := r.MX(t.Context(), "a.test")
		_, ips, _ := r.Addrs(t.Context(), "m.test")
		_, tlsa, _ := r.TLSA(t.Context(), "_25._tcp.m.test")
		_, implicit, _ := r.MX(t.Context(), "alone.test")
		if mx.Authentic != want || ips.Authentic != want || tlsa.Authentic != want || implicit.Authentic != want {
			t.Errorf("%q: %v %v %v %v", trust, mx, ips, tlsa, implicit)
		}
	}
	if s, err := parseServer("192.0.2.53", TrustAuto); err != nil || s.trusted || s.addr != "192.0.2.53:53" {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := parseServer("[::1]:5353", TrustAuto); err != nil || !s.trusted {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestCache(t *testing.T) {
	f := start(t, "a.test. 100 IN TXT x", "zero.test. 0 IN TXT x", "long.test. 9999999 IN TXT x")
	r := resolver(t, f)
	now := time.Now()
	r.now = func() time.Time { return now }
	for _, step := range []struct {
		name  string
		after time.Duration
		asked int32
	}{
		{"a.test", 0, 1}, {"A.TEST.", 99 * time.Second, 0}, {"a.test", 101 * time.Second, 1},
		{"zero.test", 0, 1}, {"zero.test", 0, 1},
		{"no.test", 0, 1}, {"no.test", 39 * time.Second, 0}, {"no.test", 41 * time.Second, 1}, // the SOA says 40 s
		{"long.test", 0, 1}, {"long.test", 25 * time.Hour, 1},
	} {
		before := f.asked.Load()
		base := now
		now = now.Add(step.after)
		r.TXT(t.Context(), step.name)
		if got := f.asked.Load() - before; got != step.asked {
			t.Errorf("%s after %v: asked %d times, want %d", step.name, step.after, got, step.asked)
		}
		if step.asked == 0 {
			now = base
		}
	}
}

func TestCacheLimits(t *testing.T) {
	c := newCache(3, 1<<20)
	now := time.Now()
	for i := range 5 {
		c.put(cacheKey{fmt.Sprint(i), 1}, answer{ttl: time.Minute}, now)
		c.get(cacheKey{"0", 1}, now)
	}
	if _, _, ok := c.get(cacheKey{"0", 1}, now); !ok || c.order.Len() != 3 || len(c.byKey) != 3 {
		t.Errorf("%d entries, first kept %v", c.order.Len(), ok)
	}
	c = newCache(1000, 1000)
	for i := range 50 {
		c.put(cacheKey{fmt.Sprint(i % 7), 1}, answer{ttl: time.Minute}, now)
	}
	if c.held > 1000 || c.held <= 0 || c.order.Len() != 4 {
		t.Errorf("%d bytes in %d entries", c.held, c.order.Len())
	}
}

func TestCancel(t *testing.T) {
	f := start(t)
	f.set(func() { f.odd = func(*wire.Msg, bool) (*wire.Msg, bool) { return nil, true } })
	r, _ := New(Config{Servers: []string{f.addr}, Timeout: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	f.set(func() { f.odd = func(*wire.Msg, bool) (*wire.Msg, bool) { cancel(); return nil, true } })
	_, _, err := r.TXT(ctx, "a.test")
	if !errors.Is(err, context.Canceled) || !kind.Is(err, kind.Busy) {
		t.Error(err)
	}
	f.set(func() { f.odd = nil })
	f.add(t, "a.test. 300 IN TXT x")
	if txt, _, err := r.TXT(t.Context(), "a.test"); err != nil || len(txt) != 1 {
		t.Errorf("a call that was broken off is remembered: %v", err)
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []Config{{Servers: []string{"name.test"}}, {Servers: make([]string, 6)}, {Servers: []string{"127.0.0.1"}, TrustAD: "yes"}} {
		_, err := New(c)
		wantKind(t, err, kind.Invalid)
	}
}

func TestStd(t *testing.T) {
	f := start(t, `a.test. 300 IN TXT "v=spf1 mx include:b.test -all"`, "a.test. 300 IN MX 1 m.test.", "m.test. 300 IN A 192.0.2.1", `b.test. 300 IN TXT "v=spf1 ptr:a.test -all"`,
		"7.2.0.192.in-addr.arpa. 300 IN PTR x.a.test.", "x.a.test. 300 IN A 192.0.2.7", "dangling.test. 300 IN CNAME gone.test.")
	f.set(func() { f.rcode["busy.test."] = wire.RcodeServerFailure })
	s := resolver(t, f).Std()
	for ip, want := range map[string]spf.Result{"192.0.2.1": spf.Pass, "192.0.2.7": spf.Pass, "192.0.2.9": spf.Fail} {
		got, err := spf.CheckHostWithSender(net.ParseIP(ip), "h.test", "x@a.test", spf.WithContext(t.Context()), spf.WithResolver(s))
		if got != want {
			t.Errorf("%s: %v, %v; want %v", ip, got, err, want)
		}
	}
	for domain, want := range map[string]spf.Result{"no.test": spf.None, "busy.test": spf.TempError} {
		if got, err := spf.CheckHostWithSender(net.ParseIP("192.0.2.1"), "h.test", "x@"+domain, spf.WithResolver(s)); got != want {
			t.Errorf("%s: %v, %v; want %v", domain, got, err, want)
		}
	}
	for name, want := range map[string]bool{"a.test": true, "no.test": false, "dangling.test": true} {
		if got, err := s.Exists(t.Context(), name); got != want || err != nil {
			t.Errorf("%s exists: %v, %v", name, got, err)
		}
	}
	if _, err := s.Exists(t.Context(), "busy.test"); err == nil {
		t.Error("nobody could tell, and it was told")
	}
}

// TestAnswers: a resolver that says there is no such name works, one that cannot
// say or is silent does not; one of two is enough, and is named.
func TestAnswers(t *testing.T) {
	good, bad := start(t, "mx.example. 60 IN A 192.0.2.1"), start(t)
	bad.set(func() { bad.odd = func(*wire.Msg, bool) (*wire.Msg, bool) { return nil, true } })
	for _, c := range []struct {
		name    string
		servers []string
		ok      bool
		text    string
	}{
		{"mx.example", []string{good.addr}, true, ""},
		{"nobody.example", []string{good.addr}, true, ""},
		{"mx.example", []string{bad.addr}, false, ""},
		{"mx.example", []string{bad.addr, good.addr}, true, bad.addr},
	} {
		r, err := New(Config{Servers: c.servers, Timeout: 100 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		text, err := r.Answers(t.Context(), c.name)
		if (err == nil) != c.ok || !strings.Contains(text, c.text) {
			t.Errorf("%+v: %q, %v", c, text, err)
		}
	}
}
