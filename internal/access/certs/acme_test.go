package certs

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/event"
)

// authority is an ACME authority (RFC 8555) that works: it checks HTTP
// challenges and signs. Signatures of requests are taken on trust.
type authority struct {
	t         *testing.T
	url       string
	challenge string // where HTTP challenges are asked for, host:port
	key       *ecdsa.PrivateKey
	cert      *x509.Certificate

	mu     sync.Mutex // guards all below
	name   string
	valid  bool
	chain  []byte
	issued int
}

const token = "token-of-the-test"

func newAuthority(t *testing.T, challenge string) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, challenge: challenge, key: key}
	a.cert, _ = x509.ParseCertificate(der)
	srv := httptest.NewServer(a)
	t.Cleanup(srv.Close)
	a.url = srv.URL
	return a
}

// payload is the part of a signed request that was signed.
func payload(r *http.Request, into any) {
	var jws struct{ Payload string }
	json.NewDecoder(r.Body).Decode(&jws)
	b, _ := base64.RawURLEncoding.DecodeString(jws.Payload)
	json.Unmarshal(b, into)
}

func (a *authority) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w.Header().Set("Replay-Nonce", rand.Text())
	switch r.URL.Path {
	case "/":
		a.say(w, 200, map[string]any{"newNonce": a.url + "/nonce", "newAccount": a.url + "/account", "newOrder": a.url + "/order",
			"revokeCert": a.url + "/revoke", "keyChange": a.url + "/key"})
	case "/account":
		w.Header().Set("Location", a.url+"/account/1")
		a.say(w, 201, map[string]any{"status": "valid"})
	case "/order":
		var in struct{ Identifiers []struct{ Value string } }
		payload(r, &in)
		a.name = in.Identifiers[0].Value
		w.Header().Set("Location", a.url+"/order/1")
		a.say(w, 201, a.order())
	case "/order/1":
		a.say(w, 200, a.order())
	case "/authz/1":
		status := "pending"
		if a.valid {
			status = "valid"
		}
		a.say(w, 200, map[string]any{"status": status, "identifier": map[string]string{"type": "dns", "value": a.name},
			"challenges": []any{map[string]string{"type": "http-01", "url": a.url + "/challenge/1", "token": token, "status": status}}})
	case "/challenge/1":
		a.valid = a.ask()
		a.say(w, 200, map[string]string{"type": "http-01", "url": a.url + "/challenge/1", "token": token, "status": "processing"})
	case "/finalize/1":
		var in struct{ CSR string }
		payload(r, &in)
		a.sign(in.CSR)
		a.say(w, 200, a.order())
	case "/cert/1":
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		w.Write(a.chain)
	}
}

func (a *authority) say(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(v)
}

func (a *authority) order() map[string]any {
	o := map[string]any{"status": "pending", "authorizations": []string{a.url + "/authz/1"}, "finalize": a.url + "/finalize/1",
		"identifiers": []any{map[string]string{"type": "dns", "value": a.name}}}
	if a.valid {
		o["status"] = "ready"
	}
	if a.chain != nil {
		o["status"], o["certificate"] = "valid", a.url+"/cert/1"
	}
	return o
}

// ask fetches the answer to the challenge from the server.
func (a *authority) ask() bool {
	req, _ := http.NewRequest("GET", "http://"+a.challenge+"/.well-known/acme-challenge/"+token, nil)
	req.Host = a.name
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		a.t.Log(err)
		return false
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return strings.HasPrefix(string(b), token+".")
}

func (a *authority) sign(csr string) {
	der, _ := base64.RawURLEncoding.DecodeString(csr)
	req, err := x509.ParseCertificateRequest(der)
	if err != nil || !a.valid {
		a.t.Error("finalize:", err, a.valid)
		return
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: req.DNSNames, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour)}
	leaf, err := x509.CreateCertificate(rand.Reader, tpl, a.cert, req.PublicKey, a.key)
	if err != nil {
		a.t.Error(err)
		return
	}
	a.issued++
	a.chain = append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})...)
}

// Two servers share the agreed state: until the authority has answered both
// show their own certificate; then both show the one that one of them obtained.
func TestACMEForTheGroup(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	challenge := l.Addr().String()
	l.Close()
	a := newAuthority(t, challenge)
	kv := newKV()
	events := event.NewLog(slog.New(slog.DiscardHandler))
	start := func() (*Source, func()) {
		cfg := Default()
		cfg.Source, cfg.Names = SourceACME, []string{"mx.example.test"}
		cfg.ACME = ACME{Directory: a.url + "/", Email: "admin@example.test", Agree: true, HTTPListen: challenge}
		s, err := New(cfg, Deps{KV: kv, Issue: ownCA(t, time.Hour), Events: events})
		if err != nil {
			t.Fatal(err)
		}
		if shown(t, s).Issuer.CommonName != "mx.example.test" {
			t.Fatal("own certificate is not shown at first")
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		return s, sync.OnceFunc(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
	one, stop := start()
	defer stop()
	signed := func(s *Source) func() bool {
		return func() bool { return shown(t, s).Issuer.CommonName == "test CA" }
	}
	waitFor(t, "certificate", events, signed(one))
	if left := time.Until(one.End()); left < 80*24*time.Hour {
		t.Fatal("end of the wrong certificate:", left)
	}
	stop() // its port is needed by the other: the servers of this test share a host
	two, stopTwo := start()
	defer stopTwo()
	waitFor(t, "certificate of the group", events, signed(two))
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.issued != 1 {
		t.Fatal(a.issued, "certificates for one group")
	}
	if keys, _ := kv.List(context.Background(), lockPrefix); len(keys) != 0 {
		t.Fatal("locks left", keys)
	}
	for _, name := range []string{"", "other.test"} {
		if got := shownTo(t, two, name).Issuer.CommonName; got != "test CA" {
			t.Errorf("a client that asks for %q is shown %s", name, got)
		}
	}
}

// waitFor polls until ok.
func waitFor(t *testing.T, what string, events *event.Log, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatal("never: "+what, fmt.Sprint(events.Recent(20)))
		}
	}
}
