package api_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/postern-mail/postern/internal/admin/admintest"
	"github.com/postern-mail/postern/internal/admin/api"
	"github.com/postern-mail/postern/internal/admin/sock"
	"github.com/postern-mail/postern/internal/admin/wire"
	"github.com/postern-mail/postern/internal/base/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a running door with its surroundings.
type world struct {
	t        *testing.T
	state    *admintest.State
	accounts *admintest.Accounts
	library  *admintest.Library
	events   *event.Log
	reg      *prometheus.Registry
	dir      string
	addr     string
	log      *lockedBuffer
	tcp      *http.Client
	local    *http.Client
	stop     func()
}

type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// selfSigned makes a certificate for 127.0.0.1 and a pool that trusts it.
func selfSigned(t *testing.T) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, pool
}

func newWorld(t *testing.T, change func(*api.Config, *api.Deps)) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "admin") // short, for the socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{t: t, state: admintest.NewState(), accounts: admintest.NewAccounts(), library: &admintest.Library{}, dir: dir, log: &lockedBuffer{}, reg: prometheus.NewRegistry()}
	log := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.events = event.NewLog(log)
	conf, pool := selfSigned(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = l.Addr().String()
	cfg := api.Config{Server: "MBX1", Version: "test", Socket: sock.Path(dir), AuditFile: filepath.Join(dir, "audit.jsonl")}
	deps := api.Deps{
		Commands: admintest.Commands(w.library), Auth: w.accounts, State: w.state, Log: log, Events: w.events,
		Listener: l, TLS: conf, OrganizationOf: admintest.OrganizationOf, Metrics: w.reg,
	}
	if change != nil {
		change(&cfg, &deps)
	}
	s, err := api.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.stop = cancel
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	w.tcp = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}}
	w.local = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return sock.Dial(ctx, cfg.Socket) }}}
	t.Cleanup(func() {
		w.tcp.CloseIdleConnections()
		w.local.CloseIdleConnections()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	w.await("socket", func() bool { _, err := os.Stat(cfg.Socket); return err == nil })
	return w
}

// await polls until a condition holds.
func (w *world) await(what string, ok func() bool) {
	w.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(end) {
			w.t.Fatalf("%s: did not happen", what)
		}
		<-tick.C
	}
}

type answer struct {
	status  int
	header  http.Header
	body    []byte
	problem wire.Problem
}

// do sends a request over TLS as user ("" for nobody).
func (w *world) do(user, method, path, body string, change ...func(*http.Request)) answer {
	w.t.Helper()
	return w.send(w.tcp, "https://"+w.addr, user, method, path, body, change...)
}

// atSocket sends a request at the unix socket.
func (w *world) atSocket(method, path, body string) answer {
	w.t.Helper()
	return w.send(w.local, "http://local", "", method, path, body)
}

func (w *world) send(c *http.Client, base, user, method, path, body string, change ...func(*http.Request)) answer {
	w.t.Helper()
	req, err := http.NewRequest(method, base+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", wire.JSON)
	}
	if user != "" {
		req.SetBasicAuth(user, "open sesame")
	}
	for _, f := range change {
		f(req)
	}
	res, err := c.Do(req)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	a := answer{status: res.StatusCode, header: res.Header, body: b}
	if res.Header.Get("Content-Type") == wire.ProblemJSON {
		if err := json.Unmarshal(b, &a.problem); err != nil {
			w.t.Fatalf("problem %s: %v", b, err)
		}
	}
	return a
}

func (w *world) want(a answer, status int) answer {
	w.t.Helper()
	if a.status != status {
		w.t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	return a
}
