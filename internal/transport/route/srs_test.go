package route

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
)

func TestSRS(t *testing.T) {
	secret, now := []byte("secret"), time.Unix(1_700_000_000, 0)
	from := addr("ann@else.example")
	one := Rewrite(from, "red.example", secret, now)
	if !strings.HasPrefix(one.Local, "SRS0=") || one.Domain != "red.example" {
		t.Fatal(one)
	}
	for name, c := range map[string]struct {
		a    mail.Address
		at   time.Time
		kind kind.Kind
	}{
		"same day":      {one, now, 0},
		"small letters": {mail.Address{Local: strings.ToLower(one.Local), Domain: one.Domain}, now, 0},
		"three weeks":   {one, now.Add(SRSDays * 24 * time.Hour), 0},
		"a clock ahead": {one, now.Add(-24 * time.Hour), 0},
		"too old":       {one, now.Add((SRSDays + 1) * 24 * time.Hour), kind.Denied},
		"too new":       {one, now.Add(-3 * 24 * time.Hour), kind.Denied},
		"another":       {addr(strings.Replace(one.String(), "=ann", "=bob", 1)), now, kind.Denied},
		"not one":       {from, now, kind.NotFound},
		"cut":           {addr("SRS0=abc@red.example"), now, kind.Denied},
	} {
		back, err := Reverse(c.a, secret, c.at)
		if c.kind != 0 && !kind.Is(err, c.kind) || c.kind == 0 && (err != nil || back != from) {
			t.Errorf("%s: %s leads to %s, %v", name, c.a, back, err)
		}
	}
	if _, err := Reverse(one, nil, now); !kind.Is(err, kind.Denied) {
		t.Errorf("without a secret: %v", err)
	}
	// Forwarded on by others, and on.
	two := Rewrite(one, "blue.example", []byte("other"), now)
	three := Rewrite(two, "green.example", []byte("third"), now)
	for _, c := range []struct {
		a      mail.Address
		secret string
	}{{three, "third"}, {two, "other"}} {
		if !strings.HasPrefix(c.a.Local, "SRS1=") {
			t.Errorf("%s is no SRS1", c.a)
		}
		if back, err := Reverse(c.a, []byte(c.secret), now); err != nil || back != one {
			t.Errorf("%s leads to %s, %v", c.a, back, err)
		}
	}
	if long := addr(strings.Repeat("x", 60) + "@else.example"); Rewrite(long, "red.example", secret, now) != long {
		t.Error("a sender too long to rewrite was")
	}
}

func TestSRSLeadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		local := rapid.StringMatching(`[a-zA-Z0-9.=+_-]{1,20}`).Draw(t, "local")
		a, err := mail.ParseAddress(local + "@" + rapid.StringMatching(`[a-z0-9]{1,10}\.example`).Draw(t, "domain"))
		if err != nil {
			t.Skip()
		}
		now := time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "now"), 0)
		out := Rewrite(a, "red.example", []byte("s"), now)
		if out == a {
			return
		}
		if tag, _ := srsTag(a.Local); tag != "" {
			return
		}
		back, err := Reverse(out, []byte("s"), now.Add(time.Duration(rapid.IntRange(0, SRSDays).Draw(t, "days"))*24*time.Hour))
		if err != nil || back != a {
			t.Fatalf("%s became %s, leads to %s: %v", a, out, back, err)
		}
	})
}

func FuzzReverse(f *testing.F) {
	f.Add("SRS0=abcdefgh=aa=else.example=x")
	f.Add("SRS1=abcdefgh=host.example==abcdefgh=aa=else.example=x")
	f.Fuzz(func(t *testing.T, local string) {
		now := time.Unix(1_700_000_000, 0)
		a := mail.Address{Local: local, Domain: "red.example"}
		if _, err := Reverse(a, []byte("s"), now); err == nil {
			t.Fatalf("%q was made here", local)
		}
		// With the hash that it would have, what it leads to is an address.
		if tag, rest := srsTag(local); tag != "" {
			a.Local = tag + "=" + srsHash([]byte("s"), rest) + "=" + rest
			if back, err := Reverse(a, []byte("s"), now); err == nil {
				if _, err := mail.ParseAddress(back.String()); err != nil {
					t.Fatalf("%q leads to %q: %v", a.Local, back, err)
				}
			}
		}
	})
}
