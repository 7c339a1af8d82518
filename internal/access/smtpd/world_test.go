package smtpd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/conf"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// memDirectory is a directory that works, in memory: the accounts of
// example.test, whose passwords are easy.
type memDirectory struct{}

func (memDirectory) Authenticate(_ context.Context, login, password, _ string, _ netip.Addr) (directory.Account, error) {
	name, ok := strings.CutSuffix(login, "@example.test")
	if name == "busy" {
		return directory.Account{}, kind.Errorf(kind.Busy, "directory is busy")
	}
	if !ok || password != "secret-"+name {
		return directory.Account{}, kind.Errorf(kind.Denied, "wrong name or password")
	}
	h := sha256.Sum256([]byte(name))
	return directory.Account{Organization: "o1", ID: org.MailboxID(h[:16]), Name: login, Login: mail.Address{Local: name, Domain: "example.test"}}, nil
}

func (memDirectory) MaySendAs(acc directory.Account, a mail.Address) bool {
	return a.Key() == acc.Login.Key() || acc.Login.Local == "ann" && a.Key() == "alias@example.test"
}

// memGuard is a policy that works: it hosts example.test, lets accounts and the
// proven connector "c1" relay, and obeys the rules of a test first.
type memGuard struct {
	mu      sync.Mutex              // guards all below
	rules   map[string]mail.Verdict // stage and what it is about -> verdict
	prove   string                  // envelope sender that proves connector c1
	reverse string                  // name of every client
	failed  []string
	peers   []mail.Peer // as Content saw them
	bodies  [][]byte    // as Content saw them
}

// addresses are the mailboxes behind the addresses of example.test.
func addresses(address string) []string {
	switch address {
	case "alias@example.test", "postmaster@example.test":
		return []string{"ann"}
	case "all@example.test":
		return []string{"ann", "bob"}
	case "öl@example.test":
		return []string{"oil"}
	case "ann@example.test", "bob@example.test", "full@example.test":
		return []string{strings.TrimSuffix(address, "@example.test")}
	}
	return nil
}

func (g *memGuard) ruled(stage, about string) (mail.Verdict, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	v, ok := g.rules[stage+" "+about]
	return v, ok
}

func (g *memGuard) rule(about string, v mail.Verdict) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.rules == nil {
		g.rules = map[string]mail.Verdict{}
	}
	g.rules[about] = v
}

func (g *memGuard) Connect(_ context.Context, p *mail.Peer) mail.Verdict {
	g.mu.Lock()
	p.Reverse = g.reverse
	g.mu.Unlock()
	v, _ := g.ruled("connect", p.Door)
	return v
}

func (g *memGuard) Hello(_ context.Context, p *mail.Peer) mail.Verdict {
	v, _ := g.ruled("hello", p.Helo)
	return v
}

func (g *memGuard) Sender(_ context.Context, p *mail.Peer, e *mail.Envelope) mail.Verdict {
	g.mu.Lock()
	if g.prove != "" && e.From == g.prove {
		p.Connector, p.Organization = "c1", "o2"
	}
	g.mu.Unlock()
	v, _ := g.ruled("sender", e.From)
	return v
}

func (g *memGuard) Recipient(_ context.Context, p *mail.Peer, _ *mail.Envelope, r mail.EnvelopeRecipient) mail.Verdict {
	if v, ok := g.ruled("recipient", r.Address); ok {
		return v
	}
	a, err := mail.ParseAddress(r.Address)
	switch {
	case err != nil:
		return mail.Verdict{Action: mail.ActionDefer, Why: err.Error()}
	case a.Domain != "example.test" && (p.Account != "" || p.Connector != ""):
		return mail.Verdict{}
	case a.Domain != "example.test":
		return mail.Verdict{Action: mail.ActionRefuse, Status: "5.7.1", Text: "Relaying is not allowed"}
	case a.Key() == "disabled@example.test":
		return mail.Verdict{Action: mail.ActionRefuse, Status: "5.2.1", Text: "Recipient is disabled"}
	case addresses(a.Key()) == nil:
		return mail.Verdict{Action: mail.ActionRefuse, Status: "5.1.1", Text: "No such mailbox here"}
	}
	return mail.Verdict{}
}

func (g *memGuard) Content(_ context.Context, p *mail.Peer, s *mail.Submission) mail.Verdict {
	g.mu.Lock()
	g.peers = append(g.peers, *p)
	g.bodies = append(g.bodies, s.Body)
	g.mu.Unlock()
	v, _ := g.ruled("content", "")
	return v
}

func (g *memGuard) Failed(p *mail.Peer, what string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failed = append(g.failed, p.Door+" "+what)
}

// memQueue is a queue that works, in memory: it keeps submissions, and tells
// what the mailboxes have after they were delivered, once per identity.
type memQueue struct {
	mu      sync.Mutex // guards all below
	kept    []mail.Submission
	err     error         // answered instead of keeping, where set
	block   chan struct{} // Accept waits for it where set
	arrived chan struct{} // told of each submission where set
}

func (q *memQueue) Accept(ctx context.Context, s mail.Submission) (mail.Receipt, error) {
	if q.arrived != nil {
		q.arrived <- struct{}{}
	}
	if q.block != nil {
		select {
		case <-q.block:
		case <-ctx.Done():
			return mail.Receipt{}, ctx.Err()
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return mail.Receipt{}, q.err
	}
	q.kept = append(q.kept, s)
	return mail.Receipt{Trace: s.Trace, Shadow: "s2"}, nil
}

func (q *memQueue) fail(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.err = err
}

// all lists what was kept.
func (q *memQueue) all() []mail.Submission {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.kept)
}

// mailbox lists the bodies in a mailbox of example.test, or those for an address
// elsewhere.
func (q *memQueue) mailbox(name string) []string {
	var out []string
	had := map[[32]byte]bool{}
	for _, s := range q.all() {
		for _, r := range s.Envelope.Recipients {
			a, err := mail.ParseAddress(r.Address)
			if err != nil || had[s.Identity] || r.Address != name && !slices.Contains(addresses(a.Key()), name) {
				continue
			}
			had[s.Identity] = true
			out = append(out, string(s.Body))
		}
	}
	return out
}

// world is a server with all doors open on loopback.
type world struct {
	*Server
	guard *memGuard
	queue *memQueue
	stop  func() // ends Run and waits for it
}

// open starts a server; change may alter the configuration.
func open(t testing.TB, change func(*Config)) *world {
	t.Helper()
	return openWith(t, change, func(*Deps) {})
}

func openWith(t testing.TB, change func(*Config), with func(*Deps)) *world {
	t.Helper()
	cfg := Default()
	cfg.Hostname = "mx.example.test"
	cfg.Postmaster = "postmaster@example.test"
	cfg.ErrorDelay = conf.Duration(time.Millisecond)
	for _, d := range []*Door{&cfg.Receive, &cfg.Submission, &cfg.Submissions} {
		d.Listen = []string{"127.0.0.1:0"}
	}
	if change != nil {
		change(&cfg)
	}
	w := &world{guard: &memGuard{}, queue: &memQueue{}}
	deps := Deps{Directory: memDirectory{}, Queue: w.queue, Guard: w.guard, TLS: testTLS(t)}
	with(&deps)
	var err error
	w.Server, err = New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(w.stop)
	select {
	case <-w.Ready():
	case err := <-ended:
		ended <- err
		t.Fatal(err)
	}
	return w
}

func (w *world) addr(door string) string { return w.Addrs(door)[0].String() }

// testTLS makes a certificate for mx.example.test that nobody has signed.
func testTLS(t testing.TB) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mx.example.test"}, DNSNames: []string{"mx.example.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
}
