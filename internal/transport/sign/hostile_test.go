package sign

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash"
	"strings"
	"testing"
	"time"

	header "github.com/postern-mail/postern/internal/base/message"
)

// longest is how long anything hostile may take on a slow and busy machine;
// what grows with the square of its input takes minutes.
const longest = 5 * time.Second

// hostile are messages made to cost as much as they can, with keys that exist.
func hostile(t testing.TB) map[string][]byte {
	k := twoKeys()[1]
	many := strings.Repeat("a:b\r\n", header.MaxHeaderLines-300)
	names := strings.Replace(base, "to:subject", strings.Repeat("a:", 90)+"b", 1)
	arc := func(n int, field string) string {
		var s strings.Builder
		for i := range n {
			fmt.Fprintf(&s, field, i+1)
		}
		return s.String()
	}
	set := "ARC-Seal: i=%[1]d; a=ed25519-sha256; cv=pass; d=example.org; s=e1; b=AAAA\r\n" +
		"ARC-Message-Signature: i=%[1]d; a=ed25519-sha256; d=example.org; s=e1; h=from; bh=" + strings.Repeat("A", 43) + "=; b=AAAA\r\n" +
		"ARC-Authentication-Results: i=%[1]d; x\r\n"
	msgs := map[string][]byte{
		"lines":          append([]byte(many), letter...),
		"lines and arc":  append([]byte(arc(maxSets, set)+many), letter...),
		"seals":          append([]byte(strings.Repeat("ARC-Seal: i=1\r\n", header.MaxHeaderLines-300)), letter...),
		"one field":      append([]byte("A: "+strings.Repeat("x ", header.MaxHeader/2-1000)+"\r\n"), letter...),
		"long tags":      append([]byte("DKIM-Signature: "+strings.Repeat("v=1;", header.MaxHeader/4-1000)+"\r\n"), letter...),
		"long b":         append([]byte("DKIM-Signature: "+base+"; bh=AAAA; b="+strings.Repeat("A", header.MaxHeader-2000)+"\r\n"), letter...),
		"long h":         append([]byte("DKIM-Signature: v=1; h="+strings.Repeat("a:", header.MaxHeader/2-1000)+"\r\n"), letter...),
		"blanks in b":    append([]byte("DKIM-Signature: "+base+"; bh=AAAA; b="+strings.Repeat(" ", header.MaxHeader-2000)+"\r\n"), letter...),
		"folds":          append([]byte("DKIM-Signature: v=1"+strings.Repeat("\r\n ;", header.MaxHeaderLines-300)+"\r\n"), letter...),
		"no end":         []byte(strings.Repeat("a", 8<<20)),
		"no end of line": []byte("A:" + strings.Repeat("a", 8<<20)),
		"colons":         []byte(strings.Repeat(":", 8<<20)),
	}
	signed := append([]byte(many), letter...)
	for range 200 {
		signed = craft(t, signed, k, names)
	}
	msgs["200 signatures"] = signed
	for name, body := range map[string]string{
		"blank runs":  strings.Repeat("x  ", 1<<20) + "\r\n",
		"tabs":        strings.Repeat("x\t", 2<<20) + "\r\n",
		"all blank":   strings.Repeat(" ", 4<<20),
		"empty lines": strings.Repeat("\r\n", 2<<20),
		"and an end":  strings.Repeat("\r\n", 2<<20) + "x",
		"bare CR":     strings.Repeat("\r", 4<<20),
		"short lines": strings.Repeat(" \tx \r\n", 1<<20),
	} {
		msgs["body of "+name] = craft(t, append(crlfs("From: a@example.org\nTo:x\nSubject:\n\n"), body...), k,
			strings.Replace(base, "relaxed/simple", "relaxed/relaxed", 1))
	}
	return msgs
}

func TestHostileMessages(t *testing.T) {
	k := twoKeys()[1]
	z := published(t, k)
	for name, msg := range hostile(t) {
		begun := time.Now()
		v, c := VerifyAll(t.Context(), msg, z.lookup, VerifyOptions{Now: now})
		if took := time.Since(begun); took > longest {
			t.Errorf("%s: took %v", name, took)
		}
		if len(v) > maxSignatures || c.Status == ChainPass {
			t.Errorf("%s: %d signatures, chain %s", name, len(v), c.Status)
		}
		if strings.HasPrefix(name, "body of") || name == "200 signatures" {
			if !strings.HasPrefix(results(v), "pass") {
				t.Errorf("%s: %+v", name, v[0])
			}
		}
	}
}

// slowRelaxed is hashRelaxed by the letter of RFC 6376 section 3.4.4, slowly.
func slowRelaxed(body []byte) string {
	lines := strings.Split(string(body), "\r\n")
	for i, l := range lines {
		f := strings.FieldsFunc(l, func(r rune) bool { return r == ' ' || r == '\t' })
		if len(f) > 0 && (l[0] == ' ' || l[0] == '\t') {
			f[0] = " " + f[0]
		}
		lines[i] = strings.Join(f, " ")
	}
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	if len(lines) == 0 {
		return ""
	}
	return strings.Join(lines, "\r\n") + "\r\n"
}

// kept is a hash that keeps what it was given.
type kept struct {
	hash.Hash
	bytes.Buffer
}

func (k *kept) Write(p []byte) (int, error) { return k.Buffer.Write(p) }
func (k *kept) Reset()                      { k.Buffer.Reset() }

func FuzzBody(f *testing.F) {
	for _, msg := range shapes {
		f.Add(msg)
	}
	f.Add([]byte(strings.Repeat("x", flushAt) + "  y\r\n\r\n" + strings.Repeat(" ", flushAt)))
	f.Add([]byte(strings.Repeat("a b", 400) + "\t c"))
	f.Fuzz(func(t *testing.T, body []byte) {
		k := kept{Hash: sha256.New()}
		hashRelaxed(&k, body)
		if got, want := k.String(), slowRelaxed(body); got != want {
			t.Errorf("%q is hashed as %q, want %q", body, got, want)
		}
	})
}

func FuzzTags(f *testing.F) {
	for _, s := range []string{base, rfcRSA, "a=1;;", " a = b ; c=\r\n d;", "a=\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list, err := parseTags(s)
		if err != nil {
			return
		}
		var b strings.Builder
		for _, tag := range list {
			b.WriteString(tag.name + "=" + tag.value + ";")
		}
		again, err := parseTags(b.String())
		if err != nil || fmt.Sprint(again) != fmt.Sprint(list) {
			t.Errorf("%q is read as %q, and that as %q (%v)", s, list, again, err)
		}
	})
}

func FuzzKeyRecord(f *testing.F) {
	f.Add(rfcRSA)
	f.Add("v=DKIM1; k=ed25519; t=y:s; h=sha256; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
	f.Add("p=;s=*;n=")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseKeyRecord(s)
		if err != nil || r.Public == nil {
			return
		}
		txt, err := FormatKeyRecord(r.Public)
		if err != nil {
			t.Fatalf("%+v: %v", r, err)
		}
		if again, err := ParseKeyRecord(txt); err != nil || again.Bits != r.Bits || again.Algorithm != r.Algorithm {
			t.Errorf("%q: %+v, %v", txt, again, err)
		}
	})
}

// FuzzVerify changes signed and sealed messages: nothing panics, and what
// passes still has the From that was signed.
func FuzzVerify(f *testing.F) {
	k := twoKeys()[1]
	z := published(f, append(twoKeys(), hopKey(1), hopKey(2))...)
	for n, txt := range rfcZone {
		z[n] = txt
	}
	f.Add(must(f, letter, twoKeys()...))
	f.Add(craft(f, letter, k, base))
	f.Add(craft(f, letter, k, strings.Replace(base, "relaxed/simple", "simple/relaxed", 1)))
	f.Add(hops(f, 2, z))
	f.Add(crlfs(rfc6376))
	f.Add(crlfs(rfc8463))
	f.Fuzz(func(t *testing.T, msg []byte) {
		v, c := VerifyAll(t.Context(), msg, z.lookup, VerifyOptions{Now: now})
		for _, v := range v {
			if (v.Result == Pass) != (v.Err == nil) {
				t.Errorf("%+v", v)
			}
			if v.Result == Pass && !bytes.Contains(bytes.ToLower(msg), []byte("joe@football.example.com")) &&
				!bytes.Contains(msg, []byte("ann@example.org")) {
				t.Errorf("another From passes: %+v", v)
			}
		}
		if (c.Status == ChainFail) != (c.Err != nil) || len(c.Sets) > maxSets {
			t.Errorf("%+v", c)
		}
		if set, err := Seal(msg, "hop3.example; none", hopKey(3), c, now); err == nil && set != nil {
			again := verifyChain(append(set, msg...), zone{})
			if again.Instance != c.Instance+1 {
				t.Errorf("sealed after %d: %+v", c.Instance, again)
			}
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	keys := twoKeys()
	z := published(b, keys...)
	for name, body := range map[string]string{
		"4KiB": strings.Repeat("an ordinary line of text, as people write them\r\n", 90),
		"4MiB": strings.Repeat(strings.Repeat("QUJD", 19)+"\r\n", 54000),
	} {
		msg := must(b, append(bytes.Clone(letter), body...), keys...)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(msg)))
			for b.Loop() {
				Verify(b.Context(), msg, z.lookup, VerifyOptions{Now: now})
			}
		})
	}
}

func BenchmarkSign(b *testing.B) {
	keys := twoKeys()
	for b.Loop() {
		if _, err := Sign(letter, keys, SignOptions{Now: now}); err != nil {
			b.Fatal(err)
		}
	}
}
