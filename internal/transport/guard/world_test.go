package guard

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	wire "github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"context"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/dns"
	"github.com/postern-mail/postern/internal/transport/settings"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// people is a directory of a few addresses.
type people struct {
	domains map[string]org.OrganizationID
	known   map[string]directory.Destination
	errs    map[string]kind.Kind
}

func (d *people) Hosted(domain string) bool { _, ok := d.domains[domain]; return ok }
func (d *people) OrganizationOf(domain string) (org.OrganizationID, bool) {
	o, ok := d.domains[domain]
	return o, ok
}

func (d *people) Destination(a mail.Address) (directory.Destination, error) {
	if k, ok := d.errs[a.Key()]; ok {
		return directory.Destination{}, kind.Errorf(k, "destination of %s", a)
	}
	if to, ok := d.known[a.Key()]; ok {
		return to, nil
	}
	if a.Domain == "catch.test" { // takes all
		return directory.Destination{Kind: directory.KindMailbox, Organization: "wide", CatchAll: true}, nil
	}
	return directory.Destination{}, kind.Errorf(kind.NotFound, "destination of %s: no such recipient", a)
}

// world is a guard with all it needs.
type world struct {
	*Guard
	people *people
	state  *settings.Memory
	usage  map[org.MailboxID]mail.Usage
	told   chan []byte
	events *event.Log
}

var ann, bea = org.MailboxID{1}, org.MailboxID{2}

func mailbox(id org.MailboxID, address string) directory.Destination {
	a, err := mail.ParseAddress(address)
	if err != nil {
		panic(err)
	}
	return directory.Destination{Kind: directory.KindMailbox, Organization: "example", ID: id, Mailbox: org.MailboxRef{ID: id, Database: "DB01"}, Address: a}
}

func newWorld(t *testing.T, zone ...string) *world {
	t.Helper()
	w := &world{
		people: &people{
			domains: map[string]org.OrganizationID{"example.test": "example", "other.test": "other", "wide.test": "wide", "catch.test": "wide"},
			known: map[string]directory.Destination{
				"ann@example.test": mailbox(ann, "ann@example.test"),
				"bea@example.test": mailbox(bea, "bea@example.test"),
			},
			errs: map[string]kind.Kind{},
		},
		state: settings.NewMemory(), usage: map[org.MailboxID]mail.Usage{}, told: make(chan []byte, 16),
		events: event.NewLog(slog.New(slog.DiscardHandler)),
	}
	r, err := dns.New(dns.Config{Servers: []string{serve(t, zone...)}, Timeout: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	w.Guard = New(Config{Hostname: "mx.example.test"}, Deps{
		View: w.state.View, Settings: settings.New(w.state, slog.New(slog.DiscardHandler)), Directory: w.people, Resolver: r,
		Usage: func(_ context.Context, at org.MailboxRef) (mail.Usage, error) {
			u, ok := w.usage[at.ID]
			if !ok {
				return u, kind.Errorf(kind.Busy, "usage of %s", at.ID)
			}
			return u, nil
		},
		Broadcast: func(b []byte) { w.told <- b },
		Log:       slog.New(slog.DiscardHandler), Events: w.events, Metrics: prometheus.NewRegistry(),
	})
	return w
}

// put writes a row.
func (w *world) put(t *testing.T, key string, row any) {
	t.Helper()
	b, err := json.Marshal(row)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.state.Commit(t.Context(), cluster.Txn{Then: []cluster.Op{{Key: key, Value: b}}}); err != nil {
		t.Fatal(err)
	}
	w.rows.mu.Lock()
	w.rows.last = nil // do not wait until lists are decoded again
	w.rows.mu.Unlock()
}

func (w *world) group(t *testing.T, g settings.Group) {
	t.Helper()
	w.put(t, settings.GroupKey, g)
}

// serve is a resolver with a zone, over UDP on loopback.
func serve(t *testing.T, zone ...string) string {
	t.Helper()
	rows := map[string][]wire.RR{}
	for _, s := range zone {
		rr, err := wire.NewRR(s)
		if err != nil {
			t.Fatal(err)
		}
		rows[strings.ToLower(rr.Header().Name)] = append(rows[strings.ToLower(rr.Header().Name)], rr)
	}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	up := make(chan struct{})
	s := &wire.Server{PacketConn: pc, NotifyStartedFunc: func() { close(up) }, Handler: wire.HandlerFunc(func(w wire.ResponseWriter, q *wire.Msg) {
		m := new(wire.Msg)
		m.SetReply(q)
		m.RecursionAvailable = true
		name := strings.ToLower(q.Question[0].Name)
		if strings.Contains(name, "silent.") {
			return
		}
		for _, rr := range rows[name] {
			if rr.Header().Rrtype == q.Question[0].Qtype {
				m.Answer = append(m.Answer, rr)
			}
		}
		if strings.Contains(name, "broken.") {
			m.Rcode = wire.RcodeServerFailure
		} else if len(m.Answer) == 0 {
			soa, _ := wire.NewRR("test. 60 IN SOA ns.test. root.test. 1 1 1 1 40")
			m.Ns = []wire.RR{soa}
			if len(rows[name]) == 0 {
				m.Rcode = wire.RcodeNameError
			}
		}
		w.WriteMsg(m)
	})}
	var wg sync.WaitGroup
	wg.Go(func() { s.ActivateAndServe() })
	<-up
	t.Cleanup(func() { s.Shutdown(); wg.Wait() })
	return pc.LocalAddr().String()
}

// authority issues certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a := &authority{key: key, pool: x509.NewCertPool()}
	a.cert = issue(t, c, c, key, key)
	a.pool.AddCert(a.cert)
	return a
}

func issue(t *testing.T, c, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// tls is a connection whose client shows a certificate for the names.
func (a *authority) tls(t *testing.T, names ...string) *tls.ConnectionState {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: names, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{issue(t, c, a.cert, key, a.key)}}
}

func peerAt(addr string) *mail.Peer {
	return &mail.Peer{Remote: netip.MustParseAddr(addr), Door: doorReceive, Helo: "client.test"}
}

func to(addresses ...string) []mail.EnvelopeRecipient {
	var out []mail.EnvelopeRecipient
	for _, a := range addresses {
		out = append(out, mail.EnvelopeRecipient{Address: a})
	}
	return out
}

// connectors are those of the relay corpus.
func connectors() []settings.Connector {
	nets := func(s ...string) (out []netip.Prefix) {
		for _, n := range s {
			out = append(out, netip.MustParsePrefix(n))
		}
		return out
	}
	return []settings.Connector{
		{Name: "branch", Organization: "example", Enabled: true, Direction: settings.DirectionIn, Kind: settings.KindSMTP, Networks: nets("203.0.113.0/28", "209.85.128.0/17")},
		{Name: "cert", Organization: "example", Enabled: true, Direction: settings.DirectionBoth, Kind: settings.KindSMTP, CertificateNames: []string{"mail.example.test"}},
		{Name: "google", Organization: "example", Enabled: true, Direction: settings.DirectionIn, Kind: settings.KindGoogle, Networks: nets("209.85.128.0/17")},
		{Name: "exchange", Organization: "example", Enabled: true, Direction: settings.DirectionIn, Kind: settings.KindExchangeOnline,
			Networks: nets("40.107.0.0/16"), CertificateNames: []string{"mail.protection.outlook.com"}},
		{Name: "off", Organization: "example", Direction: settings.DirectionIn, Kind: settings.KindSMTP, Networks: nets("198.51.100.0/24")},
		{Name: "out", Organization: "example", Enabled: true, Direction: settings.DirectionOut, Kind: settings.KindSMTP, Networks: nets("198.51.100.0/24")},
		{Name: "wide", Organization: "wide", Enabled: true, Direction: settings.DirectionIn, Kind: settings.KindSMTP, Networks: nets("192.0.0.0/2", "::/0")},
	}
}
