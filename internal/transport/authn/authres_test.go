package authn

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/emersion/go-msgauth/authres"
	"go.uber.org/goleak"

	"github.com/postern-mail/postern/internal/base/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestParseAuthResults holds the examples of RFC 8601 appendix B, as far as
// their methods tell something, and malformed ones.
func TestParseAuthResults(t *testing.T) {
	for _, c := range []struct{ value, want string }{
		{"example.org 1; none", "example.org; none"},
		{"example.com;\r\n spf=pass smtp.mailfrom=example.net", "example.com; spf=pass smtp.mailfrom=example.net"},
		{"example.com;\r\n auth=pass (cram-md5) smtp.auth=sender@example.net;\r\n spf=fail smtp.mailfrom=example.net", "example.com; auth=pass smtp.auth=sender@example.net; spf=fail smtp.mailfrom=example.net"},
		{"example.com;\r\n dkim=pass (good signature) header.d=example.com;\r\n dkim=fail reason=\"bad (really) signature\" header.i=@mail-router.example.net;", `example.com; dkim=pass header.d=example.com; dkim=fail reason="bad (really) signature" header.i=@mail-router.example.net`},
		{"foo.example.net (foobar) 1 (baz);\r\n dkim (Because I like it) / 1 (One yay) = (wait for it) fail\r\n policy (A dot can go here) . (like that) expired\r\n (this surprised me) = (as I wasn't expecting it) 1362471462", "foo.example.net; dkim=fail policy.expired=1362471462"},
		{"\"example.com\"; SPF=Pass smtp.mailfrom=\"a b\"@example.com", `example.com; spf=pass smtp.mailfrom="\"a b\"@example.com"`},
		{"x; dkim=pass header.b=abc+/d== header.d=y", `x; dkim=pass header.b="abc+/d==" header.d=y`},
		{"x; dkim/1=pass", "x; dkim=pass"},
		{"x 2; spf=pass", "!"}, {"", "!"}, {"; spf=pass", "!"}, {"x; spf", "!"}, {"x; spf=", "!"}, {"x; spf=pass smtp.mailfrom", "!"},
		{"x; spf=pass mailfrom=y", "!"}, {"x; spf=pass (", "!"}, {"x; spf=pass reason=\"", "!"}, {"x; dkim/2=pass", "!"},
		{"x" + strings.Repeat(";a=b", maxMethods+1), "!"}, {strings.Repeat("x", MaxField+1), "!"},
	} {
		a, err := ParseAuthResults(c.value)
		got := a.String()
		if err != nil {
			got = "!"
		}
		if got != c.want {
			t.Errorf("%.80q:\n got %s (%v)\nwant %s", c.value, got, err, c.want)
		}
	}
}

func TestHeader(t *testing.T) {
	r := Results{
		MailFrom: SPF{Result: Pass, Domain: "example.com", Sender: "joe@example.com"},
		Helo:     SPF{Result: None, Domain: "mx.example.com"},
		DKIM: []DKIM{
			{Result: Pass, Domain: "example.com", Selector: "s1", Identity: "@example.com", Algorithm: "rsa-sha256", Signature: "dGVzdHRlc3Q="},
			{Result: Fail, Domain: "evil.example; dmarc=pass", Selector: "a\r\nX-Injected: yes", Identity: "\"x\"\x00@\u00e4.example"},
		},
		DMARC:  DMARC{Result: Fail, From: "other.example", Domain: "other.example", Published: DispositionReject, Applied: DispositionNone, Override: "arc"},
		Others: []DMARC{{Result: None, From: "nobody.example", Applied: DispositionNone}},
		ARC:    ARC{Result: Pass},
	}
	want := "Authentication-Results: mx.here.example;\r\n" +
		"\tspf=pass smtp.mailfrom=joe@example.com;\r\n" +
		"\tspf=none smtp.helo=mx.example.com;\r\n" +
		"\tdkim=pass header.d=example.com header.i=@example.com header.s=s1\r\n" +
		"\theader.a=rsa-sha256 header.b=dGVzdHRl;\r\n" +
		"\tdkim=fail header.d=\"evil.example  dmarc=pass\" header.i=\"\\\"x\\\"?@\u00e4.example\"\r\n" +
		"\theader.s=\"a??X-Injected: yes\";\r\n" +
		"\tdmarc=fail (p=reject arc) header.from=other.example policy.dmarc=none;\r\n" +
		"\tdmarc=none header.from=nobody.example;\r\n" +
		"\tarc=pass header.oldest-pass=0\r\n"
	if got := string(r.Header("mx.here.example")); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	null := Results{MailFrom: SPF{Result: Pass, Domain: "mx.example.com", Sender: "postmaster@mx.example.com"}, DMARC: DMARC{Result: PermError}}
	if got, want := null.Report("x").String(), "x; spf=pass smtp.helo=mx.example.com; dkim=none (no signature); dmarc=permerror"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := string(AuthResults{Server: "x"}.Field()); got != "Authentication-Results: x;\r\n\tnone\r\n" {
		t.Errorf("empty: %q", got)
	}
}

// TestOthersRead: another reader finds the same in what we write.
func TestOthersRead(t *testing.T) {
	r := Results{
		MailFrom: SPF{Result: SoftFail, Sender: "joe@example.com"}, Helo: SPF{Result: Neutral, Domain: "mx.example.com"},
		DKIM:  []DKIM{{Result: Pass, Domain: "example.com", Identity: "@example.com", Selector: "s1"}},
		DMARC: DMARC{Result: Pass, From: "example.com"},
	}
	id, got, err := authres.Parse(strings.TrimPrefix(string(r.Header("mx.here.example")), "Authentication-Results: "))
	want := []authres.Result{
		&authres.SPFResult{Value: authres.ResultSoftFail, From: "joe@example.com"}, &authres.SPFResult{Value: authres.ResultNeutral, Helo: "mx.example.com"},
		&authres.DKIMResult{Value: authres.ResultPass, Domain: "example.com", Identifier: "@example.com"},
		&authres.DMARCResult{Value: authres.ResultPass, From: "example.com"},
	}
	if err != nil || id != "mx.here.example" || !reflect.DeepEqual(got, want) {
		t.Errorf("%s %v", id, err)
		for _, g := range got {
			t.Errorf("%+v", g)
		}
	}
}

func TestRemoveForged(t *testing.T) {
	const ours = "mx.here.example"
	for _, forged := range []string{
		"Authentication-Results: mx.here.example; dmarc=pass\r\n",
		"authentication-results : MX.Here.Example; dmarc=pass\r\n",
		"Authentication-Results:\r\n\tmx.here.example 1;\r\n dmarc=pass\r\n",
		"Authentication-Results: (a (b) ;) \"mx.here.example\" (c); dmarc=pass\r\n",
		"Authentication-Results: \"mx.\\here.example\"; dmarc=pass\r\n",
		"Authentication-Results: mx.here.example.; dmarc=pass\r\n",
		"Authentication-Results: mx.here.example\r\n",
		"Authentication-Results: mx.here.example 2; dmarc=pass\r\n",
		"Authentication-Results: mx.here.example/1; dmarc=pass\r\n",
		"Authentication-Results: mx(\r\n\t).here.example; dmarc=pass\r\n",
		"Authentication-Results: (mx.here.example; dmarc=pass\r\n",
		"Authentication-Results: \"mx.here.example; dmarc=pass\r\n",
		"Authentication-Results: second.here.example; dmarc=pass\r\n",
		"Authentication-Results: xn--bcher-kva.example; dmarc=pass\r\n",
		"Authentication-Results:\r\n",
	} {
		const a, b = "Received: x\r\nAuthentication-Results: elsewhere.example; dmarc=fail\r\n", "Subject: y\r\n\r\nAuthentication-Results: mx.here.example; body\r\n"
		msg := []byte(forged + a + forged + forged + b)
		if got := string(RemoveForged(msg, ours, "second.here.example", "b\u00fccher.example")); got != a+b {
			t.Errorf("%q:\n%q", forged, got)
		}
	}
	clean := []byte("ARC-Authentication-Results: i=1; mx.here.example; dmarc=pass\r\nAuthentication-Results: notmx.here.example; spf=pass\r\n\r\n")
	if got := RemoveForged(bytes.Clone(clean), ours); !bytes.Equal(got, clean) {
		t.Errorf("%q", got)
	}
}

func FuzzAuthResults(f *testing.F) {
	f.Add("example.com; dkim=pass (good) header.d=example.com; spf=fail reason=\"a;b\" smtp.mailfrom=\"a b\"@example.com")
	f.Add("x 1; dkim/1=pass header.b=a==")
	f.Fuzz(func(t *testing.T, value string) {
		a, err := ParseAuthResults(value)
		if err != nil {
			return
		}
		for _, line := range strings.Split(strings.TrimSuffix(string(a.Field()), "\r\n"), "\r\n") {
			if len(line) > 998 || strings.ContainsAny(line, "\r\n\x00") {
				t.Fatalf("line %q", line)
			}
		}
		// What we write says the same to us again, from the second time on:
		// the first one cleans.
		b, err := ParseAuthResults(a.String())
		if err != nil {
			t.Fatalf("%q: %v", a.String(), err)
		}
		c, err := ParseAuthResults(strings.TrimPrefix(string(b.Field()), "Authentication-Results:"))
		if err != nil || !reflect.DeepEqual(b, c) {
			t.Fatalf("%+v\n%+v\n%v", b, c, err)
		}
	})
}

func FuzzRemoveForged(f *testing.F) {
	f.Add([]byte("Authentication-Results: mx.here.example; x\r\nA: b\r\n\r\nbody"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		before := bytes.Clone(msg)
		got := RemoveForged(msg, "mx.here.example")
		if _, body, ok := bytes.Cut(before, []byte("\r\n\r\n")); ok && !bytes.HasSuffix(got, body) {
			t.Fatal("body changed")
		}
		left := bytes.Clone(got)
		for _, f := range message.Named(left, "authentication-results") {
			if strings.HasPrefix(strings.ToLower(f.Value(left)), "mx.here.example;") {
				t.Fatalf("left %q", left[f.Start:f.End])
			}
		}
	})
}
