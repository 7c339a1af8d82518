package sign

import (
	"bytes"
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
)

// base are the tags of a good signature of twoKeys' Ed25519 key.
const base = "v=1; a=ed25519-sha256; d=example.org; s=e1; h=from:to:subject; c=relaxed/simple"

func TestSignaturesOfOthers(t *testing.T) {
	k := twoKeys()[1]
	z := published(t, k)
	at := func(d time.Duration) string { return fmt.Sprint(now.Add(d).Unix()) }
	for tags, want := range map[string]string{
		base:                                                      "pass",
		base + "; x_new=1":                                        "pass",
		base + "; q=dns/txt":                                      "pass",
		base + "; q=x : dns/txt":                                  "pass",
		base + "; i=ann@example.org":                              "pass",
		base + "; i=@a.Example.Org":                               "pass",
		base + "; i=a=3Db@example.org":                            "pass",
		base + "; z=From:x|To:y":                                  "pass",
		base + "; t=" + at(-time.Hour):                            "pass",
		base + "; t=" + at(4*time.Minute):                         "pass",
		base + "; x=" + at(time.Hour):                             "pass",
		base + "; x=" + at(-4*time.Minute):                        "pass",
		base + "; x=999999999999":                                 "pass",
		strings.Replace(base, "c=relaxed/simple", "c=relaxed", 1): "pass",
		strings.Replace(base, "; c=relaxed/simple", "", 1):        "pass",
		strings.Replace(base, "h=from:to:subject", "h= From :\r\n To\t: from", 1): "pass",
		strings.Replace(base, "example.org", "EXAMPLE.org", 1):                    "pass",
		base + "; l=5":                                              "policy: l=",
		base + "; l=":                                               "policy: l=",
		base + "; t=" + at(6*time.Minute):                           "fail: future",
		base + "; x=" + at(-6*time.Minute):                          "fail: expired",
		base + "; bh=" + strings.Repeat("A", 43) + "=":              "fail: body was changed",
		base + "; bh=AAAA":                                          "neutral: bh= is no SHA-256",
		base + "; bh=" + strings.Repeat("*", 44):                    "neutral: bh= is not base64",
		base + "; t=" + at(0) + "; x=" + at(0):                      "neutral: x= is not after t=",
		base + "; t=1234567890123":                                  "neutral: t=",
		base + "; x=-1":                                             "neutral: x=",
		base + "; x=":                                               "neutral: x=",
		base + "; q=http":                                           "neutral: q=",
		base + "; i=ann":                                            "neutral: i= without @",
		base + "; i=@example.net":                                   "neutral: i= is not of d=",
		base + "; i=@notexample.org":                                "neutral: i= is not of d=",
		base + "; i=a=0D=0Ab@example.org":                           "neutral: control character in i=",
		base + "; i=@.example.org":                                  "neutral: i=: bad name",
		strings.Replace(base, "v=1", "v=2", 1):                      "neutral: unknown version",
		strings.Replace(base, "v=1; ", "", 1):                       "neutral: no v=",
		strings.Replace(base, "ed25519-sha256", "rsa-sha1", 1):      "policy: SHA-1",
		strings.Replace(base, "ed25519-sha256", "rsa-sha256", 1):    "permerror: key is for ed25519",
		strings.Replace(base, "ed25519-sha256", "ed25519", 1):       "neutral: unknown algorithm",
		strings.Replace(base, "relaxed/simple", "loose", 1):         "neutral: unknown canonicalisation",
		strings.Replace(base, "relaxed/simple", "relaxed/nofws", 1): "neutral: unknown canonicalisation",
		strings.Replace(base, "h=from:", "h=", 1):                   "neutral: h= without From",
		strings.Replace(base, "h=from:", "h=from::", 1):             "neutral: h=: empty name",
		strings.Replace(base, "h=from:", "h="+strings.Repeat("from:", maxNames-2), 1):   "pass",
		strings.Replace(base, "h=from:", "h="+strings.Repeat("from:", maxNames-1), 1):   "neutral: h=: more than 100",
		strings.Replace(base, "s=e1", "s=e2", 1):                                        "permerror: no key at e2._domainkey.example.org",
		strings.Replace(base, "s=e1", "s=e 1", 1):                                       "neutral: s=",
		strings.Replace(base, "s=e1", "s=e1.", 1):                                       "neutral: s=",
		strings.Replace(base, "d=example.org", "d=ex\u00e4mple\u2028.org", 1):           "neutral: d=",
		strings.Replace(base, "d=example.org", "d=ex/ample.org", 1):                     "neutral: d=",
		strings.Replace(base, "d=example.org", "d="+strings.Repeat("a.", 127), 1):       "neutral: d=",
		strings.Replace(base, "d=example.org", "d="+strings.Repeat("a.", 120)+"org", 1): "neutral: name of the key",
	} {
		v := verify(craft(t, letter, k, tags), z)
		if len(v) != 1 {
			t.Fatalf("%s: %d verifications", tags, len(v))
		}
		result, text, _ := strings.Cut(want, ": ")
		if v[0].Result != Result(result) || (v[0].Err == nil) != (result == "pass") {
			t.Errorf("%s: %s %v", tags, v[0].Result, v[0].Err)
		} else if text != "" && !strings.Contains(v[0].Err.Error(), text) {
			t.Errorf("%s: %v, want %q", tags, v[0].Err, text)
		}
	}
}

// Names in the letters of the world (RFC 8616): the key is under A-labels.
func TestInternationalSignature(t *testing.T) {
	k := Key{"xn--exmple-cua.org", "e1", edKey()}
	v := verify(craft(t, letter, k, strings.Replace(base, "example.org", "ex\u00e4mple.org; i=\u00fc@ex\u00e4mple.org", 1)), published(t, k))
	if results(v) != "pass" || v[0].Domain != "xn--exmple-cua.org" {
		t.Errorf("%+v", v)
	}
}

// Keys that a good signature meets.
func TestKeysOfOthers(t *testing.T) {
	signed := craft(t, letter, twoKeys()[1], base+"; i=@a.example.org")
	good := published(t, twoKeys()...)["e1._domainkey.example.org"].(string)
	other, _ := FormatKeyRecord(rsaKey().Public())
	for name, c := range map[string]struct {
		answer any
		want   string
	}{
		"good":             {good, "pass"},
		"second of two":    {[]string{"v=spf1 -all", good}, "pass"},
		"testing":          {good + "; t=y", "pass"},
		"hashes":           {good + "; h=sha1 : sha256", "pass"},
		"services":         {good + "; s=tlsrpt:email", "pass"},
		"any service":      {good + "; s=*", "pass"},
		"notes and blanks": {strings.ReplaceAll(good, ";", " ; ") + "; n=x y; unknown=z;", "pass"},
		"no record":        {[]string{}, "permerror: no key"},
		"NXDOMAIN":         {&net.DNSError{Err: "no such host", IsNotFound: true}, "permerror: no key"},
		"not found":        {kind.Errorf(kind.NotFound, "NODATA"), "permerror: no key"},
		"SERVFAIL":         {errors.New("SERVFAIL"), "temperror: SERVFAIL"},
		"time-out":         {&net.DNSError{Err: "time-out", IsTimeout: true}, "temperror: time-out"},
		"other record":     {"v=spf1 -all", "permerror"},
		"eleventh record":  {append(make([]string, 10), good), "permerror"},
		"revoked":          {"v=DKIM1; k=ed25519; p=", "permerror: revoked"},
		"other algorithm":  {other, "permerror: key is for rsa"},
		"other key":        {"k=ed25519; p=" + strings.Repeat("A", 43) + "=", "fail: key is another"},
		"sha1 only":        {good + "; h=sha1", "permerror: sha256"},
		"other service":    {good + "; s=tlsrpt", "permerror: not for email"},
		"strict":           {good + "; t=s", "permerror: subdomains"},
	} {
		v := verify(signed, zone{"e1._domainkey.example.org": c.answer})
		result, text, _ := strings.Cut(c.want, ": ")
		if results(v) != result || text != "" && !strings.Contains(v[0].Err.Error(), text) {
			t.Errorf("%s: %+v", name, v)
		}
		if v[0].Testing != (name == "testing") {
			t.Errorf("%s: testing %v", name, v[0].Testing)
		}
	}
}

// RSA keys under 1024 bits are refused, of 1024 they pass.
func TestSizeOfRSA(t *testing.T) {
	t.Setenv("GODEBUG", "rsa1024min=0")
	for bits, want := range map[int]string{768: "policy", 1023: "policy", 1024: "pass"} {
		k := Key{"example.org", "e1", newRSA(bits)}
		v := verify(craft(t, letter, k, strings.Replace(base, "ed25519", "rsa", 1)), published(t, k))
		if results(v) != want || v[0].Bits != bits {
			t.Errorf("%d bits: %+v", bits, v)
		}
	}
}

// A key of absurd size is refused before anything is computed with it.
func TestHugeRSA(t *testing.T) {
	n := new(big.Int).Lsh(big.NewInt(1), maxBits)
	txt, err := FormatKeyRecord(&rsa.PublicKey{N: n.SetBit(n, 0, 1), E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	signed := craft(t, letter, twoKeys()[0], strings.NewReplacer("ed25519", "rsa", "s=e1", "s=r1").Replace(base))
	if v := verify(signed, zone{"r1._domainkey.example.org": txt}); results(v) != "policy" || v[0].Bits != maxBits+1 {
		t.Errorf("%+v", v)
	}
}

// Any byte of what is signed, changed, breaks the signature, unless the form
// says that it does not count.
func TestTampering(t *testing.T) {
	keys := twoKeys()[1:]
	z := published(t, keys...)
	signed := must(t, letter, keys...)
	for name, c := range map[string]struct {
		old, with, want string
	}{
		"received is not signed":  {"client.example.org (", "client.example.net (", "pass"},
		"case of a name":          {"Subject:", "SUBJECT:", "pass"},
		"blanks in a value":       {"A\tplan   for\r\n tomorrow", "A plan\r\n\tfor  tomorrow \t", "pass"},
		"blanks in the body":      {"let us   meet\tat", "let us meet at", "pass"},
		"blanks at a line's end":  {"noon. \r\n", "noon.\t\t\r\n", "pass"},
		"empty lines at the end":  {"Ann\r\n\r\n\r\n", "Ann\r\n", "pass"},
		"blanks in b=":            {"b=", "b= \r\n ", "pass"},
		"letter of a value":       {"A\tplan", "A\tplay", "fail"},
		"case of a value":         {"A\tplan", "a\tplan", "fail"},
		"blank gone from a value": {"A\tplan", "Aplan", "fail"},
		"address":                 {"ann@example.org>\r\nTo", "eve@example.org>\r\nTo", "fail"},
		"bare LF in a value":      {"A\tplan", "A\nplan", "permerror"},
		"bare CR in a value":      {"A\tplan", "A\rplan", "fail"},
		"NUL in a value":          {"A\tplan", "A\x00plan", "fail"},
		"8 bit in a value":        {"A\tplan", "A\tpl\xe4n", "fail"},
		"field gone":              {"Message-ID: <1@example.org>\r\n", "", "fail"},
		"field added":             {"MIME-Version", "Reply-To: eve@example.net\r\nMIME-Version", "fail"},
		"second field":            {"MIME-Version", "Subject: other\r\nMIME-Version", "fail"},
		"second type":             {"MIME-Version", "Content-Type: text/html\r\nMIME-Version", "fail"},
		"fields swapped":          {"Subject: A", "Subject: B\r\nSubject: A", "fail"},
		"letter of the body":      {"noon", "moon", "fail"},
		"blank added to the body": {"Dear", " Dear", "fail"},
		"blank gone from body":    {"  let", "let", "fail"},
		"line joined":             {"Dear Bob,\r\n\r\n", "Dear Bob,\r\n", "fail"},
		"text added":              {"Ann\r\n\r\n\r\n", "Ann\r\n\r\n\r\n-- \r\nfooter\r\n", "fail"},
		"bare LF in the body":     {"noon. \r\n", "noon. \n", "fail"},
		"bare CR in the body":     {"noon. \r\n", "noon. \r", "fail"},
		"NUL in the body":         {"noon", "no\x00n", "fail"},
		"tag added":               {"v=1;", "v=1; n=x;", "fail"},
		"time":                    {"t=1", "t=2", "fail"},
		"domain":                  {"d=example.org;", "d=example.net;", "permerror"},
		"names":                   {"h=from:from:", "h=from:", "fail"},
		"part only":               {"v=1;", "v=1; l=1;", "policy"},
		"tag twice":               {"v=1;", "v=1; d=example.org;", "neutral"},
		"signature":               {"b=", "b=AA", "neutral"},
	} {
		if v := verify(swap(t, signed, c.old, c.with), z); results(v) != c.want {
			t.Errorf("%s: %+v", name, v)
		}
	}
	// Each byte of the body and of the signed fields, one bit.
	start := bytes.Index(signed, []byte("From: "))
	for i := start; i < len(signed); i++ {
		msg := bytes.Clone(signed)
		msg[i] ^= 1
		if bytes.EqualFold(signed[i:i+1], msg[i:i+1]) || bytes.HasPrefix(signed[lineStart(signed, i):], []byte("List-")) {
			continue
		}
		if v := verify(msg, z); results(v) == "pass" && !blank(signed[i]) {
			t.Errorf("byte %d (%q) as %q passes", i, signed[i], msg[i])
		}
	}
}

func lineStart(msg []byte, i int) int { return bytes.LastIndexByte(msg[:i], '\n') + 1 }

// A signature that covers one From says nothing of a second.
func TestUncoveredFrom(t *testing.T) {
	k := twoKeys()[1]
	signed := craft(t, letter, k, base)
	for name, msg := range map[string][]byte{
		"above": append([]byte("From: eve@example.net\r\n"), signed...),
		"below": swap(t, signed, "To: Bob", "From : eve@example.net\r\nTo: Bob"),
	} {
		if v := verify(msg, published(t, k)); results(v) != "policy" {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

func TestNoSignature(t *testing.T) {
	for _, msg := range []string{"", "\r\n", "From: x@example.org\r\n\r\nhi\r\n", "From: x@example.org", string(letter)} {
		if v := verify([]byte(msg), nil); v != nil {
			t.Errorf("%q: %+v", msg, v)
		}
	}
	if v := verify([]byte("no header at all\r\n"), nil); results(v) != "permerror" {
		t.Errorf("%+v", v)
	}
}

// The topmost ten signatures are looked at, no more.
func TestTenSignatures(t *testing.T) {
	k := twoKeys()[1]
	msg := letter
	for range 11 {
		msg = craft(t, msg, k, base)
	}
	asked := 0
	v := Verify(t.Context(), msg, func(ctx context.Context, name string) ([]string, error) {
		asked++ // by one goroutine: it is one name
		return published(t, k).lookup(ctx, name)
	}, VerifyOptions{Now: now})
	if results(v) != strings.TrimSpace(strings.Repeat("pass ", 10)) || asked != 1 {
		t.Errorf("%d look-ups: %s", asked, results(v))
	}
}

// A domain whose DNS hangs costs the others nothing, and the caller no more
// than the time of its context.
func TestSlowKeys(t *testing.T) {
	k := twoKeys()[1]
	msg := craft(t, letter, k, base)
	for i := range 9 {
		msg = craft(t, msg, k, strings.Replace(base, "s=e1", fmt.Sprintf("s=slow%d", i), 1))
	}
	z := published(t, k)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		begun := time.Now()
		v := Verify(ctx, msg, func(ctx context.Context, name string) ([]string, error) {
			if strings.HasPrefix(name, "slow") {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return z.lookup(ctx, name)
		}, VerifyOptions{Now: now})
		if took := time.Since(begun); took != 10*time.Second {
			t.Errorf("took %v", took)
		}
		if results(v) != strings.Repeat("temperror ", 9)+"pass" {
			t.Errorf("%+v", v)
		}
		if v := Verify(ctx, msg, z.lookup, VerifyOptions{Now: now}); results(v) != strings.TrimSpace(strings.Repeat("temperror ", 10)) {
			t.Errorf("after the end of its context: %+v", v)
		}
	})
}
