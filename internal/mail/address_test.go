package mail

import (
	"errors"
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	long := strings.Repeat("a", 64)
	for _, c := range []struct{ in, str, key string }{
		{"User@Example.COM", "User@example.com", "user@example.com"},
		{"a.b+c@x.org", "a.b+c@x.org", "a.b+c@x.org"},
		{`"a b"@x.org`, `"a b"@x.org`, `"a b"@x.org`},
		{`"simple"@x.org`, `simple@x.org`, `simple@x.org`},
		{`"a\"b\\c"@x.org`, `"a\"b\\c"@x.org`, `"a\"b\\c"@x.org`},
		{`"a@b"@x.org`, `"a@b"@x.org`, `"a@b"@x.org`},
		{"jürgen@Bücher.example", "jürgen@xn--bcher-kva.example", "jürgen@xn--bcher-kva.example"},
		{"JÜRGEN@BÜCHER.example", "JÜRGEN@xn--bcher-kva.example", "jürgen@xn--bcher-kva.example"},
		{"ju\u0308rgen@x.org", "ju\u0308rgen@x.org", "jürgen@x.org"},
		{"u@[192.0.2.1]", "u@[192.0.2.1]", "u@[192.0.2.1]"},
		{"u@[ipv6:2001:DB8::1]", "u@[IPv6:2001:db8::1]", "u@[IPv6:2001:db8::1]"},
		{long + "@x.org", long + "@x.org", long + "@x.org"},
		{"u@under_score.example", "u@under_score.example", "u@under_score.example"},
		{"root@localhost", "root@localhost", "root@localhost"},
	} {
		a, err := ParseAddress(c.in)
		if err != nil {
			t.Errorf("%q: %v", c.in, err)
			continue
		}
		if a.String() != c.str || a.Key() != c.key {
			t.Errorf("%q: string %q key %q, want %q %q", c.in, a.String(), a.Key(), c.str, c.key)
		}
	}
}

func TestParseAddressRefuses(t *testing.T) {
	for _, in := range []string{
		"", "@", "a@", "@x.org", "a", "a b@x.org", ".a@x.org", "a.@x.org", "a..b@x.org", "<a@x.org>",
		"a@x..org", "a@.x.org", "a@x.org.", "a@-x.org", "a@x org", "a@b@c.org", `"a@x.org`, `"a"b@x.org`, `"a\`,
		"\"a\r\nb\"@x.org", "a\x00@x.org", "a\xff@x.org", "a@\xff.org", "a@xn--a.org", "a@[1.2.3]", "a@[IPv6:1.2.3.4]",
		"a@[1.2.3.4", "a@[fe80::1%eth0]", "a@[IPv6:fe80::1%eth0]", "a\u202eb@x.org", `""@x.org`,
		strings.Repeat("a", 65) + "@x.org", "a@" + strings.Repeat("a", 64) + ".org",
		"a@" + strings.Repeat("abcdefgh.", 30) + "org", strings.Repeat("x", 1<<20),
	} {
		a, err := ParseAddress(in)
		if err == nil {
			t.Errorf("%q was taken as %+v", in, a)
		} else if !errors.Is(err, ErrAddress) {
			t.Errorf("%q: %v is not ErrAddress", in, err)
		}
	}
}

func TestDetail(t *testing.T) {
	for in, want := range map[string]string{"a+b@x.org": "a@x.org", "a+b+c@x.org": "a@x.org"} {
		a, _ := ParseAddress(in)
		if b, _, ok := a.Detail(); !ok || b.String() != want {
			t.Errorf("%s: %v %v", in, b, ok)
		}
	}
	for _, in := range []string{"a@x.org", "+a@x.org"} {
		a, _ := ParseAddress(in)
		if _, _, ok := a.Detail(); ok {
			t.Errorf("%s has a detail", in)
		}
	}
}

func TestAddressUnicode(t *testing.T) {
	a, err := ParseAddress("x@xn--bcher-kva.example")
	if err != nil || a.Unicode() != "x@bücher.example" {
		t.Errorf("%q %v", a.Unicode(), err)
	}
}

// FuzzParseAddress: what is taken is within the limits, has no control
// character and comes back from its own text and key as the same.
func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"a@b.c", `"a b\""@x.org`, "ü@bücher.de", "a@[IPv6:::1]", "A+B@xn--bcher-kva.example", "İ@x.org", "a@K.org"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		if strings.ContainsAny(a.String(), "\r\n\x00") || len(a.Local) > MaxLocal || len(a.String()) > MaxAddress {
			t.Fatalf("%q gave %q", s, a)
		}
		b, err := ParseAddress(a.String())
		if err != nil || b != a {
			t.Fatalf("%q: %q came back as %q: %v", s, a, b, err)
		}
		if k, err := ParseAddress(a.Key()); err == nil && k.Key() != a.Key() {
			t.Fatalf("%q: key %q has key %q", s, a.Key(), k.Key())
		}
		_ = a.Unicode()
	})
}
