package tlspolicy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/transport/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// zone is a DNS in memory. Names in busy have no answer.
type zone struct {
	mu     sync.Mutex
	txt    map[string][]string
	tlsa   map[string][]dns.TLSA
	addrs  map[string][]netip.Addr
	busy   map[string]bool
	secure bool
	asked  []string
}

func look[T any](z *zone, m map[string][]T, name string) ([]T, dns.Info, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.asked = append(z.asked, name)
	if z.busy[name] {
		return nil, dns.Info{}, kind.Errorf(kind.Busy, "no answer for %s", name)
	}
	info := dns.Info{Authentic: z.secure, TTL: time.Minute, Name: name}
	if len(m[name]) == 0 {
		return nil, info, kind.Errorf(kind.NotFound, "nothing at %s", name)
	}
	return m[name], info, nil
}

func (z *zone) TXT(_ context.Context, name string) ([]string, dns.Info, error) {
	return look(z, z.txt, name)
}
func (z *zone) TLSA(_ context.Context, name string) ([]dns.TLSA, dns.Info, error) {
	return look(z, z.tlsa, name)
}
func (z *zone) Addrs(_ context.Context, name string) ([]netip.Addr, dns.Info, error) {
	return look(z, z.addrs, name)
}

func (z *zone) set(fn func()) {
	z.mu.Lock()
	defer z.mu.Unlock()
	fn()
}

// authority issues certificates.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

var serial atomic.Int64

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(serial.Add(1)), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{key, cert}
}

// issue makes a certificate for a name that ends at a time.
func (a *authority) issue(t *testing.T, name string, until time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(serial.Add(1)), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// world is a domain a.test with a web server for its policy.
type world struct {
	zone    *zone
	p       *Policies
	now     time.Time
	fetched atomic.Int32
	page    atomic.Pointer[http.HandlerFunc]
	store   *memStore
}

type memStore struct {
	mu sync.Mutex
	m  map[string][]byte
}

func (s *memStore) LoadPolicy(d string) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.m[d]
	return b, ok
}

func (s *memStore) SavePolicy(d string, b []byte, _ time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.m[d] = b
}

func text(s string) *http.HandlerFunc {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Write([]byte(s))
	})
	return &h
}

const enforce = "version: STSv1\r\nmode: enforce\r\nmx: *.mx.test\r\nmx: one.test\r\nmax_age: 604800\r\n"

func newWorld(t *testing.T, certName string) *world {
	t.Helper()
	ca := newAuthority(t)
	w := &world{now: time.Now(), store: &memStore{m: map[string][]byte{}}, zone: &zone{
		txt: map[string][]string{"_mta-sts.a.test": {"v=STSv1; id=1;"}}, tlsa: map[string][]dns.TLSA{},
		addrs: map[string][]netip.Addr{"mta-sts.a.test": {netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("192.0.2.80")}}, busy: map[string]bool{}}}
	w.page.Store(text(enforce))
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.fetched.Add(1)
		if r.URL.Path != wellKnown || r.Host != "mta-sts.a.test" {
			http.NotFound(rw, r)
			return
		}
		(*w.page.Load())(rw, r)
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{ca.issue(t, certName, time.Now().Add(time.Hour))}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	w.p = w.policies(Options{Roots: poolOf(ca.cert), Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr != "192.0.2.80:443" {
			t.Errorf("connects to %s", addr)
		}
		return (&net.Dialer{}).DialContext(ctx, network, srv.Listener.Addr().String())
	}})
	return w
}

func (w *world) policies(o Options) *Policies {
	o.Resolver, o.Store = w.zone, w.store
	p := New(o)
	p.now = func() time.Time { return w.now }
	return p
}
