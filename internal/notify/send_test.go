package notify

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// selfSigned is a certificate for 127.0.0.1 and the pool that trusts it.
func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// mailHost is a mail server that writes down what it gets.
type mailHost struct {
	addr  string
	cert  tls.Certificate
	mode  string // "", "hang", "babble", "refuse", "notls", "quiet-dot"
	got   chan string
	quit  chan struct{}
	login string // expected AUTH PLAIN
}

func startMailHost(t *testing.T, mode string) (*mailHost, *x509.CertPool) {
	t.Helper()
	cert, pool := selfSigned(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &mailHost{addr: l.Addr().String(), cert: cert, mode: mode, got: make(chan string, 10), quit: make(chan struct{}),
		login: base64.StdEncoding.EncodeToString([]byte("\x00postern\x00secret"))}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h.serve(c)
		}
	}()
	t.Cleanup(func() { close(h.quit); l.Close(); <-done })
	return h, pool
}

func (h *mailHost) serve(c net.Conn) {
	defer func() { c.Close() }()
	if h.mode == "hang" {
		<-h.quit
		return
	}
	c.SetDeadline(time.Now().Add(20 * time.Second))
	say := func(s string) { io.WriteString(c, s+"\r\n") }
	if h.mode == "babble" {
		for {
			if _, err := io.WriteString(c, "220-"+strings.Repeat("x", 1000)+"\r\n"); err != nil {
				return
			}
		}
	}
	say("220 hello")
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSpace(line)
		switch word, rest, _ := strings.Cut(line, " "); strings.ToUpper(word) {
		case "EHLO":
			if h.mode == "notls" {
				say("250 hello")
			} else {
				say("250-hello\r\n250-AUTH PLAIN\r\n250 STARTTLS")
			}
		case "STARTTLS":
			say("220 go")
			tc := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{h.cert}})
			c, r = tc, bufio.NewReader(tc)
		case "AUTH":
			if rest == "PLAIN "+h.login {
				say("235 fine")
			} else {
				say("535 who?")
			}
		case "RCPT":
			if h.mode == "refuse" {
				say("550 5.1.1 nobody here")
			} else {
				say("250 ok")
			}
		case "DATA":
			say("354 go")
			var b strings.Builder
			for {
				l, err := r.ReadString('\n')
				if err != nil || l == ".\r\n" {
					break
				}
				b.WriteString(l)
			}
			if h.mode == "quiet-dot" {
				<-h.quit
				return
			}
			h.got <- b.String()
			say("250 taken")
		case "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}

func message() Message {
	at := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	a := Alert{ID: "0123456789", State: Open, Report: Report{Code: 1202, Name: "copy_failed", Level: LevelError, Object: "DB01 MBX2",
		Sentence: "DB01 on MBX2: Platte <kaputt> für immer", Action: "postern copy reseed"}, Servers: []org.ServerName{"MBX2"}, Opened: at, Last: at, Count: 3}
	return Message{Channel: "ops", Reason: NewAlert, Alerts: []Alert{a}, Server: "MBX1", Time: at}
}

// TestEmail gives messages to a real mail server: with a good certificate, with
// one that nobody vouches for, and to hosts that hang, babble or refuse.
func TestEmail(t *testing.T) {
	for _, c := range []struct {
		mode string
		tls  TLS
		user string
		// trusted says whether the host's certificate is good
		trusted bool
		want    string // in the error; empty for success
	}{
		{"", TLSVerify, "postern", true, ""},
		{"", TLSEncrypt, "postern", false, ""},
		{"", TLSNone, "", false, ""},
		{"", TLSVerify, "postern", false, "certificate"},
		{"", TLSVerify, "mallory", true, "535 who?"},
		{"notls", TLSVerify, "", true, "does not offer TLS"},
		{"notls", TLSVerify, "", true, "--tls none"},
		{"", TLSVerify, "postern", false, "--tls encrypt"},
		{"refuse", TLSVerify, "", true, "nobody here"},
		{"hang", TLSVerify, "", true, "mail to"},
		{"babble", TLSVerify, "", true, "mail to"},
		{"quiet-dot", TLSVerify, "", true, "mail to"},
	} {
		t.Run(fmt.Sprintf("%s-%s-%s-%t", c.mode, c.tls, c.user, c.trusted), func(t *testing.T) {
			h, pool := startMailHost(t, c.mode)
			if !c.trusted {
				pool = x509.NewCertPool()
			}
			s := &sender{hello: "mbx1.example.com", roots: pool, outside: func(context.Context, Channel) error { return nil }}
			ch := Channel{Name: "ops", Kind: Email, Address: h.addr, TLS: c.tls, From: "postern@example.com", To: []string{"ops@other.example"}, User: c.user, Timeout: 2 * time.Second}.withDefaults()
			if err := ch.validate(); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			err := s.send(t.Context(), ch, "secret", message())
			if took := time.Since(began); took > 8*time.Second {
				t.Errorf("took %s", took)
			}
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("error %v, want one with %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := <-h.got
			for _, want := range []string{"To: ops@other.example\r\n", "Auto-Submitted: auto-generated\r\n", "Subject: =?utf-8?q?", "=C3=BC", "postern alert ack 0123456789"} {
				if !strings.Contains(got, want) {
					t.Errorf("%q is not in\n%s", want, got)
				}
			}
		})
	}
}

// TestWebhook posts to a real HTTPS server and checks the signature as a
// receiver does; redirects, refusals, endless answers and silence are failures or
// bounded.
func TestWebhook(t *testing.T) {
	var signed, body string
	redirected := false
	quit := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(rw http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		body, signed = string(b), r.Header.Get(HeaderSignature)
		if signed != Sign("key", r.Header.Get(HeaderTime), b) {
			t.Errorf("signature %s does not fit", signed)
		}
	})
	mux.HandleFunc("/away", func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, "/stolen", http.StatusTemporaryRedirect)
	})
	mux.HandleFunc("/stolen", func(http.ResponseWriter, *http.Request) { redirected = true })
	mux.HandleFunc("/no", func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "go\x00 away", http.StatusForbidden) })
	mux.HandleFunc("/mute", func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusInternalServerError) })
	mux.HandleFunc("/endless", func(rw http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := rw.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-quit:
		case <-r.Context().Done():
		}
	})
	srv := httptest.NewTLSServer(mux)
	defer srv.Close()
	defer close(quit)
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	for _, c := range []struct {
		path    string
		trusted bool
		want    string
	}{
		{"/ok", true, ""}, {"/ok", false, "certificate"}, {"/away", true, "redirects are not followed"}, {"/no", true, "go  away"},
		{"/mute", true, "it answers 500 Internal Server Error"}, {"/endless", true, ""}, {"/hang", true, "deadline exceeded"},
	} {
		s := &sender{roots: pool}
		if !c.trusted {
			s.roots = x509.NewCertPool()
		}
		ch := Channel{Name: "ops", Kind: Webhook, Address: srv.URL + c.path, Timeout: time.Second}.withDefaults()
		if err := ch.validate(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), ch.Timeout)
		err := s.send(ctx, ch, "key", message())
		cancel()
		if err != nil && strings.HasSuffix(err.Error(), ": ") {
			t.Errorf("%s: %q says nothing at its end", c.path, err)
		}
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: error %v, want %q", c.path, err, c.want)
		}
	}
	if redirected {
		t.Error("a redirect was followed")
	}
	var p payload
	if err := json.Unmarshal([]byte(body), &p); err != nil || p.Version != 1 || len(p.Alerts) != 1 || p.Alerts[0].Object != "DB01 MBX2" || p.Server != "MBX1" {
		t.Errorf("payload %s: %v", body, err)
	}
}

// TestSMS posts the fields that were set, one request for each receiver.
func TestSMS(t *testing.T) {
	var got []string
	srv := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		got = append(got, r.PostForm.Get("recipient")+" "+r.PostForm.Get("key")+" "+r.PostForm.Get("msg"))
		if r.PostForm.Get("recipient") == "+1" {
			http.Error(rw, "bad number", http.StatusBadRequest)
		}
	}))
	defer srv.Close()
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	s := &sender{roots: pool}
	ch := Channel{Name: "phone", Kind: SMS, Address: srv.URL, To: []string{"+1", "+49170"}, Form: []string{"recipient={to}", "key={secret}", "msg={text}"}}.withDefaults()
	if err := ch.validate(); err != nil {
		t.Fatal(err)
	}
	if err := s.send(t.Context(), ch, "k&y", message()); err != nil {
		t.Fatal(err)
	}
	want := "+49170 k&y Postern MBX1: error: DB01 on MBX2: Platte <kaputt> für immer"
	if len(got) != 2 || got[1] != want {
		t.Errorf("got %q, want %q", got, want)
	}
	ch.To = ch.To[:1]
	if err := s.send(t.Context(), ch, "k", message()); err == nil || !strings.Contains(err.Error(), "bad number") {
		t.Errorf("error %v", err)
	}
}

// TestOutside refuses mail servers of the group.
func TestOutside(t *testing.T) {
	c := Channel{Name: "ops", Kind: Email, Address: "mx.example.com:25"}
	for _, x := range []struct {
		addrs, own string
		ok         bool
	}{
		{"192.0.2.1", "10.0.0.1", true}, {"10.0.0.1", "10.0.0.1", false}, {"127.0.0.1", "10.0.0.1", false}, {"192.0.2.1", "MX.example.com", false}, {"2001:db8::1", "::1", true},
	} {
		err := c.outside([]netip.Addr{netip.MustParseAddr(x.addrs)}, []string{x.own})
		if (err == nil) != x.ok || err != nil && !kind.Is(err, kind.Invalid) {
			t.Errorf("%+v: %v", x, err)
		}
	}
}

// TestValidate goes through what channels and rules are refused for.
func TestValidate(t *testing.T) {
	good := Channel{Name: "ops", Kind: Email, Address: "mx.example.com:587", From: "a@example.com", To: []string{"b@example.org"}}.withDefaults()
	for name, f := range map[string]func(*Channel){
		"name":            func(c *Channel) { c.Name = "a/b" },
		"kind":            func(c *Channel) { c.Kind = "pigeon" },
		"address":         func(c *Channel) { c.Address = "mx.example.com" },
		"to":              func(c *Channel) { c.To = nil },
		"receiver":        func(c *Channel) { c.To = []string{"x"} },
		"header":          func(c *Channel) { c.From = "a@example.com\r\nBcc: c@example.org" },
		"tls":             func(c *Channel) { c.TLS = "maybe" },
		"clear password":  func(c *Channel) { c.TLS, c.User = TLSNone, "u" },
		"timeout":         func(c *Channel) { c.Timeout = time.Hour },
		"limit":           func(c *Channel) { c.PerHour = -1 },
		"clear webhook":   func(c *Channel) { c.Kind, c.Address = Webhook, "http://example.com" },
		"scheme":          func(c *Channel) { c.Kind, c.Address = Webhook, "file:///etc/passwd" },
		"user in the URL": func(c *Channel) { c.Kind, c.Address = Webhook, "https://u:p@example.com" },
		"no number":       func(c *Channel) { c.Kind, c.Address, c.To = SMS, "https://example.com", []string{"+49170", "abc"} },
		"only a plus":     func(c *Channel) { c.Kind, c.Address, c.To = SMS, "https://example.com", []string{"+"} },
		"no text": func(c *Channel) {
			c.Kind, c.Address, c.Form = SMS, "https://example.com", []string{"to={to}"}
			c.To = []string{"+49170"}
		},
	} {
		c := good
		if f(&c); c.validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := good.validate(); err != nil {
		t.Error(err)
	}
	known := func(s string) bool { return s == "ops" }
	rule := Rule{Name: "all", Level: LevelWarn, Channels: []string{"ops"}}
	if err := rule.validate(known); err != nil {
		t.Error(err)
	}
	for name, f := range map[string]func(*Rule){
		"unknown channel": func(r *Rule) { r.Channels = []string{"nobody"} },
		"no channel":      func(r *Rule) { r.Channels = nil },
		"level":           func(r *Rule) { r.Level = "info" },
		"repeat":          func(r *Rule) { r.Repeat = time.Second },
		"escalation":      func(r *Rule) { r.After, r.Escalate = time.Hour, []Escalation{{time.Minute, []string{"ops"}}} },
		"quiet":           func(r *Rule) { r.Quiet = "22-7" },
		"zone":            func(r *Rule) { r.Quiet, r.Zone = "22:00-07:00", "Moon/Base" },
	} {
		r := rule
		if f(&r); r.validate(known) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
