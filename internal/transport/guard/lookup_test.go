package guard

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/settings"
)

func TestReversed(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.99":  "99.2.0.192",
		"2001:db8::1": "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2",
	} {
		if got := reversed(netip.MustParseAddr(in)); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

// TestBlockLists asks a fake DNS: weights add up, faults have none.
func TestBlockLists(t *testing.T) {
	w := newWorld(t,
		"7.100.51.198.full.test. 60 IN A 127.0.0.2",
		"7.100.51.198.half.test. 60 IN A 127.0.0.10", "7.100.51.198.half2.test. 60 IN A 127.0.0.4",
		"7.100.51.198.limit.test. 60 IN A 127.255.255.254", "7.100.51.198.parked.test. 60 IN A 203.0.113.80",
		"7.100.51.198.six.test. 60 IN AAAA 2001:db8::1",
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.full.test. 60 IN A 127.0.0.2")
	for _, c := range []struct {
		name, from string
		lists      []string
		want       mail.Action
	}{
		{"none", "198.51.100.7", nil, mail.ActionPass},
		{"listed", "198.51.100.7", []string{"full.test"}, mail.ActionRefuse},
		{"mapped", "::ffff:198.51.100.7", []string{"full.test"}, mail.ActionRefuse},
		{"IPv6", "2001:db8::1", []string{"full.test"}, mail.ActionRefuse},
		{"not listed", "198.51.100.8", []string{"full.test"}, mail.ActionPass},
		{"too light", "198.51.100.7", []string{"half.test=5"}, mail.ActionPass},
		{"two light ones", "198.51.100.7", []string{"half.test=5", "half2.test=5"}, mail.ActionRefuse},
		{"says that we may not ask", "198.51.100.7", []string{"limit.test"}, mail.ActionPass},
		{"parked", "198.51.100.7", []string{"parked.test"}, mail.ActionPass},
		{"no mark", "198.51.100.7", []string{"six.test"}, mail.ActionPass},
		{"broken and silent", "198.51.100.7", []string{"broken.test", "silent.test"}, mail.ActionPass},
		{"broken beside listed", "198.51.100.7", []string{"broken.test", "full.test"}, mail.ActionRefuse},
		{"private", "10.1.2.3", []string{"full.test"}, mail.ActionPass},
	} {
		w.group(t, settings.Group{DNSBL: c.lists})
		began := time.Now()
		v := w.Connect(t.Context(), peerAt(c.from))
		if v.Action != c.want || v.Close != (c.want == mail.ActionRefuse) {
			t.Errorf("%s: %+v", c.name, v)
		}
		if d := time.Since(began); d > lookupTimeout+time.Second {
			t.Errorf("%s took %s", c.name, d)
		}
	}
	w.group(t, settings.Group{DNSBL: []string{"full.test"}})
	if v := w.Connect(t.Context(), &mail.Peer{Remote: netip.MustParseAddr("198.51.100.7"), Door: doorSubmission}); v.Action != mail.ActionPass {
		t.Errorf("submission: %+v", v)
	}
}

func TestReverse(t *testing.T) {
	w := newWorld(t,
		"7.100.51.198.in-addr.arpa. 60 IN PTR Mail.friend.test.", "mail.friend.test. 60 IN A 198.51.100.7",
		"8.100.51.198.in-addr.arpa. 60 IN PTR mail.friend.test.", // not true
		"9.100.51.198.in-addr.arpa. 60 IN PTR nothing.test.")
	for addr, want := range map[string]string{"198.51.100.7": "mail.friend.test", "198.51.100.8": "", "198.51.100.9": "", "198.51.100.10": ""} {
		p := peerAt(addr)
		if v := w.Connect(t.Context(), p); v.Action != mail.ActionPass || p.Reverse != want {
			t.Errorf("%s: %q, %+v", addr, p.Reverse, v)
		}
	}
}

func TestNormalizeValue(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.77/24": "192.0.2.0/24", "192.0.2.1": "192.0.2.1/32", "::ffff:192.0.2.1": "192.0.2.1/32", "2001:DB8::1": "2001:db8::1/128",
		" Friend.Test ": "friend.test", "@friend.test": "friend.test", "X@Friend.test": "x@friend.test", "münchen.test": "xn--mnchen-3ya.test",
		"": "", "word": "", "[192.0.2.1]": "", "x@[192.0.2.1]": "", "a b": "", "192.0.2.0/33": "", "@": "", "x@": "", "fe80::1%eth0": "", "::ffff:192.0.2.0/120": "",
	} {
		got, err := NormalizeValue(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
}

// FuzzNormalizeValue: what comes out goes in again, and matches as what it is.
func FuzzNormalizeValue(f *testing.F) {
	for _, s := range []string{"192.0.2.0/24", "2001:db8::/32", "friend.test", "x@friend.test", `"a b"@friend.test`, "::ffff:1.2.3.4"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := NormalizeValue(s)
		if err != nil {
			return
		}
		if again, err := NormalizeValue(v); err != nil || again != v {
			t.Errorf("%q, then %q: %v", v, again, err)
		}
		l := newLists()
		l.add(Entry{Value: v})
		if p, err := netip.ParsePrefix(v); err == nil {
			if !l.network(p.Addr(), time.Now()) {
				t.Errorf("%q does not match itself", v)
			}
		} else if a, err := mail.ParseAddress(v); err == nil && !l.sender(a, time.Now()) {
			t.Errorf("%q does not match itself", v)
		}
	})
}

func FuzzBatch(f *testing.F) {
	m := newMemory(10)
	m.fail("192.0.2.0/24", time.Now())
	m.know("key", time.Now())
	f.Add(m.batch())
	f.Add([]byte{0xa1, 1, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		batch, err := parseBatch(b)
		if err != nil {
			return
		}
		m := newMemory(10)
		m.remember(batch, time.Now())
		if len(m.failures.m) > 10 || len(m.grey.m) > 10 || m.batch() != nil {
			t.Error("a table grew over its limit, or what was told is told on")
		}
	})
}

func TestTable(t *testing.T) {
	tb := newTable[int](3)
	for i, k := range []string{"a", "b", "c"} {
		*tb.at(k) = i
	}
	tb.get("a")
	*tb.at("d") = 3
	if _, ok := tb.get("b"); ok || len(tb.m) != 3 || tb.used.Len() != 3 {
		t.Error("not the one that was unused for longest")
	}
	tb.drop("a")
	tb.drop("a")
	if _, ok := tb.get("a"); ok || tb.used.Len() != 2 {
		t.Error("dropped entry is there")
	}
}

func TestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w window
		add := func(n, want int64) {
			t.Helper()
			if got := w.add(time.Now(), time.Minute, n); got != want {
				t.Errorf("count is %d, want %d", got, want)
			}
		}
		add(10, 10)
		time.Sleep(59 * time.Second)
		add(1, 11)
		time.Sleep(31 * time.Second) // half of the last minute is inside
		add(0, 5)
		time.Sleep(30 * time.Second)
		add(0, 0)
		add(7, 7)
		time.Sleep(10 * time.Minute)
		add(1, 1)
	})
}
