package sign

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/internal/base/kind"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)

// zone is DNS for tests: TXT records, and errors, by name.
type zone map[string]any

func (z zone) lookup(_ context.Context, name string) ([]string, error) {
	switch v := z[name].(type) {
	case string:
		return []string{v}, nil
	case []string:
		return v, nil
	case error:
		return nil, v
	}
	return nil, kind.Errorf(kind.NotFound, "look up %s: no such name", name)
}

// with is a copy of z with one more name.
func (z zone) with(name string, v any) zone {
	c := zone{name: v}
	for n, v := range z {
		if n != name {
			c[n] = v
		}
	}
	return c
}

var rsaKey = sync.OnceValue(func() crypto.Signer { return newRSA(2048) })

func newRSA(bits int) crypto.Signer {
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		panic(err)
	}
	return k
}

var edKey = sync.OnceValue(func() crypto.Signer { return ed25519.NewKeyFromSeed([]byte(strings.Repeat("postern.", 4))) })

// twoKeys are an RSA and an Ed25519 key of example.org.
func twoKeys() []Key {
	return []Key{{"example.org", "r1", rsaKey()}, {"example.org", "e1", edKey()}}
}

// published is the zone with the records of keys.
func published(t testing.TB, keys ...Key) zone {
	t.Helper()
	z := zone{}
	for _, k := range keys {
		txt, err := FormatKeyRecord(k.Signer.Public())
		if err != nil {
			t.Fatal(err)
		}
		z[k.Selector+"._domainkey."+k.Domain] = txt
	}
	return z
}

// crlfs writes a text of the source with the line ends of mail.
func crlfs(s string) []byte { return []byte(strings.ReplaceAll(s, "\n", "\r\n")) }

var letter = crlfs(`Received: from client.example.org (client.example.org [192.0.2.1])
	by mx.example.org; Sat, 21 Nov 2026 08:00:00 +0000
From: Ann <ann@example.org>
To: Bob <bob@example.net>,
  Carl <carl@example.net>
Subject: A	plan   for
 tomorrow
Date: Sat, 21 Nov 2026 08:00:00 +0000
Message-ID: <1@example.org>
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8
List-Unsubscribe: <https://example.org/u>

Dear Bob,

  let us   meet	at noon. 
	Ann


`)

// must signs letter.
func must(t testing.TB, msg []byte, keys ...Key) []byte {
	t.Helper()
	f, err := Sign(msg, keys, SignOptions{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return append(f, msg...)
}

func verify(msg []byte, z zone) []Verification {
	return Verify(context.Background(), msg, z.lookup, VerifyOptions{Now: now})
}

// results are the results of verifications, joined.
func results(vs []Verification) string {
	var s []string
	for _, v := range vs {
		s = append(s, string(v.Result))
	}
	return strings.Join(s, " ")
}

// craft signs msg with a field of the tester's own making: tags without bh=
// and b=, or with bh= to have it wrong.
func craft(t testing.TB, msg []byte, k Key, tags string) []byte {
	t.Helper()
	m, err := read(msg)
	if err != nil {
		t.Fatal(err)
	}
	list, err := parseTags(tags)
	if err != nil {
		t.Fatal(err)
	}
	s := signature{}
	if c, ok := list.get("c"); ok {
		head, body, _ := strings.Cut(c, "/")
		s.header, _ = parseForm(head)
		s.bodyAs, _ = parseForm(body)
	}
	h, _ := list.get("h")
	for n := range strings.SplitSeq(strings.ToLower(h), ":") {
		s.names = append(s.names, trim(n))
	}
	raw := "DKIM-Signature: " + tags
	if _, ok := list.get("bh"); !ok {
		raw += "; bh=" + base64.StdEncoding.EncodeToString(m.bodyHash(s.bodyAs))
	}
	s.field = field{"dkim-signature", []byte(raw + "; b="), len("DKIM-Signature")}
	sig, err := k.sign(s.digest(m))
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte(raw+"; b="+base64.StdEncoding.EncodeToString(sig)+"\r\n"), msg...)
}
