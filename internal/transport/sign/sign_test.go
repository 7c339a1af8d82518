package sign

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"

	"github.com/postern-mail/postern/internal/base/kind"
	header "github.com/postern-mail/postern/internal/base/message"
)

func sum(s string) []byte { h := sha256.Sum256([]byte(s)); return h[:] }

func TestSignedPasses(t *testing.T) {
	keys := twoKeys()
	signed := must(t, letter, keys...)
	v := verify(signed, published(t, keys...))
	if results(v) != "pass pass" {
		t.Fatalf("%+v", v)
	}
	if v[0].Domain != "example.org" || v[0].Identity != "@example.org" || !v[0].Signed.Equal(now) || v[0].Bits != 2048 {
		t.Errorf("%+v", v[0])
	}
	for line := range bytes.Lines(signed[:len(signed)-len(letter)]) {
		if len(line) > 80 || !bytes.HasSuffix(line, crlf) {
			t.Errorf("line of %d bytes: %q", len(line), line)
		}
	}
}

// What we sign is accepted by another implementation.
func TestOthersAcceptOurs(t *testing.T) {
	keys := twoKeys()
	z := published(t, keys...)
	for name, msg := range shapes {
		got, err := dkim.VerifyWithOptions(bytes.NewReader(must(t, msg, keys...)), &dkim.VerifyOptions{
			LookupTXT: func(n string) ([]string, error) { return z.lookup(t.Context(), n) },
		})
		if err != nil || len(got) != 2 {
			t.Fatalf("%s: %d signatures, %v", name, len(got), err)
		}
		for _, v := range got {
			if v.Err != nil {
				t.Errorf("%s: %v", name, v.Err)
			}
		}
	}
}

// shapes are messages whose canonical form is not obvious.
var shapes = map[string][]byte{
	"letter":      letter,
	"no body":     crlfs("From: a@example.org\n\n"),
	"empty lines": crlfs("From: a@example.org\n\n\n\n\n"),
	"blank lines": crlfs("From: a@example.org\n\n \n\t\n \t \n"),
	"no last end": []byte("From: a@example.org\r\n\r\nhello \t"),
	"wide":        crlfs("From: a@example.org\n\n" + strings.Repeat("x \t y  z", 10000) + "\n\n  end\n"),
	"many empty":  crlfs("From: a@example.org\n\n" + strings.Repeat("\n", 40000) + "end\n"),
	"repeated":    crlfs("From: a@example.org\nTo: b@example.net\nTo: c@example.net\nList-Id: 1\nList-Id: 2\n\nx\n"),
	"blank value": crlfs("From: a@example.org\nSubject:\nCc: \n\t\nReply-To : x@example.org\n\nx\n"),
	"8 bit":       crlfs("From: \xc3\xa4@example.org\nSubject: \xe4\xf6\n\n\xff\xfe \xff\n"),
}

// What another implementation signs is accepted by us, in all four forms.
func TestWeAcceptOthers(t *testing.T) {
	for _, k := range twoKeys() {
		z := published(t, k)
		for name, msg := range shapes {
			for _, head := range []dkim.Canonicalization{dkim.CanonicalizationSimple, dkim.CanonicalizationRelaxed} {
				for _, body := range []dkim.Canonicalization{dkim.CanonicalizationSimple, dkim.CanonicalizationRelaxed} {
					signed := signByOthers(t, msg, k, head, body)
					// The other implementation knows no time but the present.
					v := Verify(t.Context(), signed, z.lookup, VerifyOptions{Now: time.Now()})
					if results(v) != "pass" {
						t.Errorf("%s %s %s/%s: %+v", k.Selector, name, head, body, v)
					}
				}
			}
		}
	}
}

func signByOthers(t *testing.T, msg []byte, k Key, head, body dkim.Canonicalization) []byte {
	t.Helper()
	var out bytes.Buffer
	err := dkim.Sign(&out, bytes.NewReader(msg), &dkim.SignOptions{
		Domain: k.Domain, Selector: k.Selector, Signer: k.Signer, Identifier: "ann=40x@sub.example.org",
		HeaderCanonicalization: head, BodyCanonicalization: body, Expiration: time.Now().Add(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestSignRefuses(t *testing.T) {
	good := twoKeys()[1]
	small := Key{"example.org", "s", newRSA(1024)}
	for name, c := range map[string]struct {
		msg  string
		keys []Key
	}{
		"no From":        {"To: x@example.org\n\nhi\n", []Key{good}},
		"no header":      {"\nhi\n", []Key{good}},
		"no field":       {"From: x@example.org\nhello\n\nhi\n", []Key{good}},
		"long header":    {"From: x@example.org\n" + strings.Repeat("A: "+strings.Repeat("x", 900)+"\n", 1200) + "\nhi\n", []Key{good}},
		"many lines":     {"From: x@example.org\n" + strings.Repeat("A:\n", header.MaxHeaderLines) + "\nhi\n", []Key{good}},
		"many folds":     {"From: x@example.org\nA: x\n" + strings.Repeat(" x\n", header.MaxHeaderLines) + "\nhi\n", []Key{good}},
		"many names":     {"From: x@example.org\n" + strings.Repeat("To: y\n", 100) + "\nhi\n", []Key{good}},
		"small key":      {"From: x@example.org\n\nhi\n", []Key{small}},
		"no signer":      {"From: x@example.org\n\nhi\n", []Key{{"example.org", "s", nil}}},
		"injection":      {"From: x@example.org\n\nhi\n", []Key{{"example.org;x=1", "s", edKey()}}},
		"selector":       {"From: x@example.org\n\nhi\n", []Key{{"example.org", "s\r\n", edKey()}}},
		"U-label":        {"From: x@example.org\n\nhi\n", []Key{{"ex\u00e4mple.org", "s", edKey()}}},
		"eleven of them": {"From: x@example.org\n\nhi\n", make([]Key, 11)},
	} {
		if f, err := Sign(crlfs(c.msg), c.keys, SignOptions{Now: now}); !kind.Is(err, kind.Invalid) || f != nil {
			t.Errorf("%s: %q, %v", name, f, err)
		}
	}
}

// failing is a key in a module that does not answer.
type failing struct{ crypto.Signer }

func (failing) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, io.ErrClosedPipe
}

func TestSignerFails(t *testing.T) {
	k := Key{"example.org", "s", failing{edKey()}}
	if _, err := Sign(letter, []Key{k}, SignOptions{Now: now}); err == nil || !strings.Contains(err.Error(), io.ErrClosedPipe.Error()) {
		t.Errorf("error %v", err)
	}
}

func TestNoSuchKey(t *testing.T) {
	if txt, err := FormatKeyRecord("a key"); !kind.Is(err, kind.Invalid) {
		t.Errorf("%q, %v", txt, err)
	}
	if _, err := Sign(letter, []Key{{"example.org", "s", odd{edKey()}}}, SignOptions{Now: now}); !kind.Is(err, kind.Invalid) {
		t.Error(err)
	}
}

// odd is a signer of an algorithm that mail does not know.
type odd struct{ crypto.Signer }

func (odd) Public() crypto.PublicKey { return "an odd key" }

// Long results are folded, and read as they were.
func TestLongResults(t *testing.T) {
	results := "mx.example; " + strings.TrimSpace(strings.Repeat("dkim=pass header.d=example.org; ", 100))
	set, err := Seal(letter, results, hopKey(1), Chain{}, now)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(set) {
		if len(line) > 80 {
			t.Errorf("line of %d bytes: %q", len(line), line)
		}
	}
	c := verifyChain(append(set, letter...), hopZone(t, 1))
	if c.Status != ChainPass || c.Sets[0].Results != results {
		t.Errorf("%+v", c)
	}
}

// h= stays within its limit, whatever a message repeats.
func TestManyFieldsToSign(t *testing.T) {
	k := twoKeys()[1]
	msg := must(t, append([]byte(strings.Repeat("Resent-To: b@example.net\r\n", 200)), letter...), k)
	if v := verify(msg, published(t, k)); results(v) != "pass" {
		t.Errorf("%+v", v)
	}
}
