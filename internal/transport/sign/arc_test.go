package sign

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
)

func verifyChain(msg []byte, z zone) Chain {
	return VerifyChain(context.Background(), msg, z.lookup, VerifyOptions{Now: now})
}

// hopKey is the key of the nth hop.
func hopKey(n int) Key { return Key{fmt.Sprintf("hop%d.example", n), "arc", rsaKey()} }

// hopZone publishes the keys of the first n hops.
func hopZone(t testing.TB, n int) zone {
	var keys []Key
	for i := range n {
		keys = append(keys, hopKey(i+1))
	}
	return published(t, keys...)
}

// hop lets the nth hop verify, change and seal a message.
func hop(t testing.TB, msg []byte, n int, z zone, change func([]byte) []byte) []byte {
	t.Helper()
	prior := verifyChain(msg, z)
	if change != nil {
		msg = change(msg)
	}
	set, err := Seal(msg, fmt.Sprintf("hop%d.example; spf=pass smtp.mailfrom=example.org; arc=%s", n, prior.Status), hopKey(n), prior, now)
	if err != nil {
		t.Fatalf("hop %d: %v", n, err)
	}
	return append(set, msg...)
}

// hops is letter after n hops.
func hops(t testing.TB, n int, z zone) []byte {
	t.Helper()
	msg := letter
	for i := range n {
		msg = hop(t, msg, i+1, z, nil)
	}
	return msg
}

// footer is what a mailing list does to a message.
func footer(msg []byte) []byte {
	return append(bytes.Replace(msg, []byte("Subject: "), []byte("Subject: [list] "), 1), "-- \r\nthe list\r\n"...)
}

func TestChainOverHops(t *testing.T) {
	z := hopZone(t, 5)
	msg := must(t, letter, hopKey(1))
	if c := verifyChain(msg, z); c.Status != ChainNone || c.Err != nil || c.Instance != 0 {
		t.Fatalf("no hop: %+v", c)
	}
	oldest := []int{0, 0, 3, 3, 3} // the third hop changes the message, so the first two signatures broke
	for i := range oldest {
		var change func([]byte) []byte
		if i == 2 {
			change = footer
		}
		msg = hop(t, msg, i+1, z, change)
		c := verifyChain(msg, z)
		if c.Status != ChainPass || c.Err != nil || c.Instance != i+1 || c.OldestPass != oldest[i] || len(c.Sets) != i+1 {
			t.Fatalf("after hop %d: %+v", i+1, c)
		}
	}
	got := verifyChain(msg, z).Sets[1]
	want := Set{2, "hop2.example", "arc", "hop2.example", "pass", "hop2.example; spf=pass smtp.mailfrom=example.org; arc=pass", time.Unix(now.Unix(), 0)}
	if got != want {
		t.Errorf("set 2: %+v", got)
	}
	if v := verify(msg, z); results(v) != "fail" {
		t.Errorf("the author's signature over a changed message: %+v", v)
	}
}

func TestVerifyAllReadsOnce(t *testing.T) {
	z := hopZone(t, 2)
	v, c := VerifyAll(t.Context(), hop(t, must(t, letter, hopKey(1)), 1, z, nil), z.lookup, VerifyOptions{Now: now})
	if results(v) != "pass" || c.Status != ChainPass {
		t.Errorf("%+v %+v", v, c)
	}
	v, c = VerifyAll(t.Context(), []byte("no header\r\n\r\n"), z.lookup, VerifyOptions{Now: now})
	if results(v) != "permerror" || c.Status != ChainFail {
		t.Errorf("%+v %+v", v, c)
	}
}

// swap replaces old, which must be there, once.
func swap(t testing.TB, msg []byte, old, with string) []byte {
	t.Helper()
	if !bytes.Contains(msg, []byte(old)) {
		t.Fatalf("no %q in\n%s", old, msg)
	}
	return bytes.Replace(msg, []byte(old), []byte(with), 1)
}

// without leaves the fields of a name out whose value is not to be kept.
func without(t testing.TB, msg []byte, name string, keep func(value string) bool) []byte {
	t.Helper()
	m, err := read(msg)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for _, f := range m.fields {
		if f.name != name || keep(string(f.value())) {
			out = append(out, f.raw...)
		}
	}
	return append(append(out, crlf...), m.body...)
}

func drop(i int) func(string) bool {
	return func(v string) bool { return !strings.HasPrefix(v, fmt.Sprintf(" i=%d;", i)) }
}

func TestBrokenChains(t *testing.T) {
	z := hopZone(t, 4)
	msg := hops(t, 3, z)
	last := "ARC-Seal: i=3; a=rsa-sha256; t=" + fmt.Sprint(now.Unix()) + "; cv=pass;"
	for name, c := range map[string]struct {
		msg  []byte
		zone zone
		want string
	}{
		"body":                 {append(bytes.Clone(msg), "x\r\n"...), z, "message signature 3: body"},
		"subject":              {footer(msg)[:len(msg)+7], z, "message signature 3"},
		"second From":          {append([]byte("From: x@example.org\r\n"), msg...), z, "message signature 3: header was changed"},
		"older results":        {swap(t, msg, "i=1; hop1.example; spf=pass", "i=1; hop1.example; spf=fail"), z, "seal 1"},
		"middle results":       {swap(t, msg, "i=2; hop2.example; spf=pass", "i=2; hop2.example; spf=none"), z, "seal 2"},
		"newest results":       {swap(t, msg, "i=3; hop3.example; spf=pass", "i=3; hop3.example; spf=none"), z, "seal 3"},
		"seal removed":         {without(t, msg, nameSeal, drop(2)), z, "set 2 is not complete"},
		"signature removed":    {without(t, msg, nameMessage, drop(1)), z, "set 1 is not complete"},
		"results removed":      {without(t, msg, nameResults, drop(3)), z, "set 3 is not complete"},
		"first set removed":    {without(t, without(t, without(t, msg, nameSeal, drop(1)), nameMessage, drop(1)), nameResults, drop(1)), z, "set 1 is not complete"},
		"newest set removed":   {without(t, without(t, without(t, msg, nameSeal, drop(3)), nameMessage, drop(3)), nameResults, drop(3)), z, ""},
		"seal twice":           {append([]byte("ARC-Seal: i=1; a=rsa-sha256; cv=none; d=x.example; s=s; b=AAAA\r\n"), msg...), z, "arc-seal 1 twice"},
		"results twice":        {append([]byte("ARC-Authentication-Results: i=2; x.example; none\r\n"), msg...), z, "arc-authentication-results 2 twice"},
		"no instance":          {append([]byte("ARC-Authentication-Results: x.example; i=2; none\r\n"), msg...), z, "no i="},
		"instance 0":           {swap(t, msg, "ARC-Seal: i=1;", "ARC-Seal: i=0;"), z, "i= is not 1 to 50"},
		"instance 51":          {swap(t, msg, "ARC-Seal: i=1;", "ARC-Seal: i=51;"), z, "i= is not 1 to 50"},
		"instance word":        {swap(t, msg, "ARC-Seal: i=1;", "ARC-Seal: i=one;"), z, "i= is not 1 to 50"},
		"cv none in the chain": {swap(t, msg, last, strings.Replace(last, "pass", "none", 1)), z, "seal 3 says cv=none"},
		"cv fail":              {swap(t, msg, last, strings.Replace(last, "pass", "fail", 1)), z, "cv=fail"},
		"cv unknown":           {swap(t, msg, last, strings.Replace(last, "pass", "good", 1)), z, "unknown cv="},
		"seal with h":          {swap(t, msg, last, last+" h=from;"), z, "may not have h="},
		"seal of sha1":         {swap(t, msg, "ARC-Seal: i=2; a=rsa-sha256", "ARC-Seal: i=2; a=rsa-sha1"), z, "seal 2: SHA-1"},
		"signature of sha1":    {swap(t, msg, "ARC-Message-Signature: i=3; a=rsa-sha256", "ARC-Message-Signature: i=3; a=rsa-sha1"), z, "message signature 3: SHA-1"},
		"signs seals":          {swap(t, msg, "h=from:from", "h=from:arc-seal:from"), z, "h= names ARC-Seal"},
		"no key":               {msg, hopZone(t, 2), "no key at arc._domainkey.hop3.example"},
		"no key of a seal":     {msg, z.with("arc._domainkey.hop1.example", []string{}), "seal 1: no key"},
		"key revoked":          {msg, z.with("arc._domainkey.hop2.example", "v=DKIM1; p="), "seal 2: key revoked"},
		"other key":            {msg, z.with("arc._domainkey.hop2.example", published(t, Key{"x", "y", edKey()})["y._domainkey.x"]), "seal 2: key is for ed25519"},
		"DNS down":             {msg, z.with("arc._domainkey.hop2.example", errors.New("SERVFAIL")), "seal 2: key arc._domainkey.hop2.example: SERVFAIL"},
		"strict key":           {msg, z.with("arc._domainkey.hop3.example", z["arc._domainkey.hop3.example"].(string)+"; t=s"), ""},
	} {
		got := verifyChain(c.msg, c.zone)
		if c.want == "" {
			if got.Status != ChainPass {
				t.Errorf("%s: %+v", name, got)
			}
			continue
		}
		if got.Status != ChainFail || got.Err == nil || !strings.Contains(got.Err.Error(), c.want) {
			t.Errorf("%s: status %s, error %v", name, got.Status, got.Err)
		}
		if got.Temporary != (name == "DNS down") || got.Ended != (name == "cv fail") {
			t.Errorf("%s: temporary %v, ended %v", name, got.Temporary, got.Ended)
		}
	}
}

func TestSealOfTheFuture(t *testing.T) {
	set, err := Seal(letter, "hop1.example; none", hopKey(1), Chain{}, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	msg := append(set, letter...)
	if c := verifyChain(msg, hopZone(t, 1)); c.Status != ChainFail || !strings.Contains(c.Err.Error(), "message signature 1: signed in the future") {
		t.Errorf("%+v", c)
	}
	// A seal alone cannot be ahead of its message signature by honest means.
	s := &signature{signed: now.Add(time.Hour)}
	if err := sealable(s, key{}, now); resultOf(err) != Fail {
		t.Errorf("seal of the future: %v", err)
	}
	c := VerifyChain(t.Context(), hops(t, 1, hopZone(t, 1)), hopZone(t, 1).lookup, VerifyOptions{Now: now.Add(-4 * time.Minute)})
	if c.Status != ChainPass {
		t.Errorf("four minutes early: %+v", c)
	}
}

func TestChainOfNoHeader(t *testing.T) {
	if c := verifyChain([]byte("hello\r\n"), nil); c.Status != ChainFail || c.Err == nil {
		t.Errorf("%+v", c)
	}
}

// A broken chain is sealed once more, with cv=fail over the new set alone,
// and nobody adds to it after that.
func TestFailedChainEnds(t *testing.T) {
	z := hopZone(t, 4)
	msg := hop(t, append(hops(t, 2, z), "x\r\n"...), 3, z, nil)
	if !bytes.Contains(msg, []byte("cv=fail;")) {
		t.Fatalf("no cv=fail in\n%s", msg)
	}
	c := verifyChain(msg, z)
	if c.Status != ChainFail || !c.Ended || c.Instance != 3 {
		t.Fatalf("%+v", c)
	}
	if set, err := Seal(msg, "hop4.example; none", hopKey(4), c, now); set != nil || err != nil {
		t.Errorf("sealed on: %q, %v", set, err)
	}
	m, _ := read(msg)
	sets, _, err := m.sets()
	if err != nil {
		t.Fatal(err)
	}
	k, _ := ParseKeyRecord(z["arc._domainkey.hop3.example"].(string))
	digest, err := sets[2].extend(newChain())
	if err != nil || !k.verify(digest, sets[2].seal.sig) {
		t.Errorf("the last seal does not cover its own set alone (%v)", err)
	}
}

func TestFiftySets(t *testing.T) {
	k := hopKey(3)
	z := published(t, k)
	msg := letter
	for range maxSets {
		c := verifyChain(msg, z)
		set, err := Seal(msg, "hop3.example; none", k, c, now)
		if err != nil || set == nil {
			t.Fatalf("%+v: %v", c, err)
		}
		msg = append(set, msg...)
	}
	c := verifyChain(msg, z)
	if c.Status != ChainPass || c.Instance != maxSets {
		t.Fatalf("%+v", c)
	}
	if set, err := Seal(msg, "hop3.example; none", k, c, now); set != nil || err != nil {
		t.Errorf("set 51: %q, %v", set, err)
	}
	if c := verifyChain(append([]byte("ARC-Seal: i=1\r\n"), msg...), z); c.Status != ChainFail || c.Instance != maxSets {
		t.Errorf("51 seals: %+v", c)
	}
}

func TestSealRefuses(t *testing.T) {
	z := hopZone(t, 2)
	msg := hops(t, 1, z)
	good := verifyChain(msg, z)
	for name, c := range map[string]struct {
		msg     []byte
		results string
		key     Key
		prior   Chain
		want    kind.Kind
	}{
		"other message":   {letter, "x.example; none", hopKey(1), good, kind.Invalid},
		"chain unknown":   {msg, "x.example; none", hopKey(1), verifyChain(msg, zone{"arc._domainkey.hop1.example": errors.New("SERVFAIL")}), kind.Busy},
		"bad key":         {msg, "x.example; none", Key{}, good, kind.Invalid},
		"Ed25519":         {msg, "x.example; none", Key{"hop1.example", "arc", edKey()}, good, kind.Invalid},
		"injection":       {msg, "x.example; none\r\nX: y", hopKey(1), good, kind.Invalid},
		"NUL":             {msg, "x.example; \x00", hopKey(1), good, kind.Invalid},
		"not UTF-8":       {msg, "x.example; \xff", hopKey(1), good, kind.Invalid},
		"no results":      {msg, " ", hopKey(1), good, kind.Invalid},
		"long word":       {msg, strings.Repeat("x", 901), hopKey(1), good, kind.Invalid},
		"long results":    {msg, strings.Repeat("x ", maxResults), hopKey(1), good, kind.Invalid},
		"no From":         {crlfs("To: x@example.org\n\n"), "x.example; none", hopKey(1), Chain{}, kind.Invalid},
		"no header":       {crlfs("hello\n\n"), "x.example; none", hopKey(1), Chain{}, kind.Invalid},
		"broken meantime": {without(t, msg, nameMessage, drop(1)), "x.example; none", hopKey(1), good, kind.Invalid},
	} {
		if set, err := Seal(c.msg, c.results, c.key, c.prior, now); !kind.Is(err, c.want) || set != nil {
			t.Errorf("%s: %q, %v", name, set, err)
		}
	}
	failing := Key{"hop1.example", "arc", failing{rsaKey()}}
	if _, err := Seal(msg, "x.example; none", failing, good, now); err == nil {
		t.Error("a signer's error got lost")
	}
}

// Seals of others may be of Ed25519; nothing in RFC 8617 forbids it.
func TestEd25519Seal(t *testing.T) {
	m, err := read(letter)
	if err != nil {
		t.Fatal(err)
	}
	k := Key{"hop1.example", "arc", edKey()}
	s := sealer{m, k, "1", "ed25519-sha256", fmt.Sprint(now.Unix())}
	set, err := s.set("hop1.example; none")
	if err != nil {
		t.Fatal(err)
	}
	seal, err := s.seal([]arcSet{set}, "none")
	if err != nil {
		t.Fatal(err)
	}
	msg := slices.Concat(seal, set.message.field.raw, set.results.raw, letter)
	if c := verifyChain(msg, published(t, k)); c.Status != ChainPass {
		t.Errorf("%+v", c)
	}
}
