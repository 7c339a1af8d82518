package sign

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"testing"
	"time"
)

// rfcZone has the keys of RFC 6376 appendix C and RFC 8463 appendix A.2.
var rfcZone = zone{
	"brisbane._domainkey.example.com": rfcRSA,
	"test._domainkey.football.example.com": "v=DKIM1; k=rsa; p=" +
		"MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3id" +
		"Y6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ" +
		"/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2Ee" +
		"C3Ip3G+2kryOTIKT+l/K4w3QIDAQAB",
	"brisbane._domainkey.football.example.com": "v=DKIM1; k=ed25519; p=" +
		"11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
}

const rfcRSA = "v=DKIM1; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQ" +
	"KBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYt" +
	"IxN2SnFCjxOCKG9v3b4jYfcTNh5ijSsq631uBItLa7od+v" +
	"/RtdC2UzJ1lWT947qR+Rcac2gbto/NMqJ0fzfVjH4OuKhi" +
	"tdY9tf6mcwGjaNBcWToIMmPSPDdQPNUYckcQ2QIDAQAB"

// rfc6376 is the signed message of RFC 6376 appendix A.2.
const rfc6376 = `DKIM-Signature: v=1; a=rsa-sha256; s=brisbane; d=example.com;
      c=simple/simple; q=dns/txt; i=joe@football.example.com;
      h=Received : From : To : Subject : Date : Message-ID;
      bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
      b=AuUoFEfDxTDkHlLXSZEpZj79LICEps6eda7W3deTVFOk4yAUoqOB
      4nujc7YopdG5dWLSdNg6xNAZpOPr+kHxt1IrE+NahM6L/LbvaHut
      KVdkLLkpVaVVQPzeRDI009SO2Il5Lu7rDNH6mZckBdrIx0orEtZV
      4bmp/YzhwvcubU4=;
Received: from client1.football.example.com  [192.0.2.1]
      by submitserver.example.com with SUBMISSION;
      Fri, 11 Jul 2003 21:01:54 -0700 (PDT)
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game. Are you hungry yet?

Joe.
`

// rfc8463 is the signed message of RFC 8463 appendix A.3.
const rfc8463 = `DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus
 Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=test; t=1528637909; h=from : to : subject :
 date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3
 DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz
 dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game.  Are you hungry yet?

Joe.
`

func TestRFC6376AppendixA(t *testing.T) {
	v := verify(crlfs(rfc6376), rfcZone)
	if results(v) != "pass" {
		t.Fatalf("%+v", v)
	}
	want := Verification{Result: Pass, Domain: "example.com", Selector: "brisbane", Identity: "joe@football.example.com",
		Algorithm: "rsa-sha256", Bits: 1024, Signature: "AuUoFEfD"}
	if v[0] != want {
		t.Errorf("%+v", v[0])
	}
}

func TestRFC8463AppendixA(t *testing.T) {
	v := verify(crlfs(rfc8463), rfcZone)
	if results(v) != "pass pass" {
		t.Fatalf("%+v", v)
	}
	if v[0].Algorithm != "ed25519-sha256" || v[0].Bits != 256 || !v[0].Signed.Equal(time.Unix(1528637909, 0)) || v[1].Bits != 1024 {
		t.Errorf("%+v", v)
	}
}

// The private key of RFC 8463 appendix A.1 (it is the first of RFC 8032
// section 7.1) over the same fields gives the very signature of A.3, because
// Ed25519 knows no chance.
func TestRFC8463SameSignature(t *testing.T) {
	seed, _ := base64.StdEncoding.DecodeString("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
	m, err := read(crlfs(rfc8463))
	if err != nil {
		t.Fatal(err)
	}
	s, err := parseSignature(m.fields[0], dkimField)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Key{Signer: ed25519.NewKeyFromSeed(seed)}.sign(s.digest(m))
	if err != nil || !bytes.Equal(got, s.sig) {
		t.Errorf("signature %x, error %v", got, err)
	}
}

// The examples of RFC 6376 section 3.4.5.
func TestRFC6376Canonicalisation(t *testing.T) {
	m, err := read([]byte("A: X\r\nB : Y\t\r\n\tZ  \r\n\r\n C \r\nD \t E\r\n\r\n\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	var head [forms]string
	for f := range forms {
		for _, h := range m.fields {
			head[f] += string(f.appendField(nil, h)) + "\r\n"
		}
	}
	if head[relaxed] != "a:X\r\nb:Y Z\r\n" {
		t.Errorf("relaxed header %q", head[relaxed])
	}
	if head[simple] != "A: X\r\nB : Y\t\r\n\tZ  \r\n" {
		t.Errorf("simple header %q", head[simple])
	}
	bodies := map[form]string{relaxed: " C\r\nD E\r\n", simple: " C \r\nD \t E\r\n"}
	for f, want := range bodies {
		if !bytes.Equal(m.bodyHash(f), sum(want)) {
			t.Errorf("form %d: body is not hashed as %q", f, want)
		}
	}
}
