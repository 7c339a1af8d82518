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

// memDirectory is a directory that works, in memory: one organization that
// hosts example.test.
type memDirectory struct {
	mu    sync.Mutex // guards busy
	busy  bool
	boxes map[string][]string // address -> mailboxes
}

func newDirectory() *memDirectory {
	return &memDirectory{boxes: map[string][]string{
		"ann@example.test": {"ann"}, "bob@example.test": {"bob"}, "alias@example.test": {"ann"},
		"all@example.test": {"ann", "bob"}, "öl@example.test": {"oil"},
		"postmaster@example.test": {"ann"}, "full@example.test": {"full"}, "two@example.test": {"ann", "full"},
	}}
}

func (d *memDirectory) Authenticate(_ context.Context, login, password, _ string, _ netip.Addr) (directory.Account, error) {
	if d.isBusy() {
		return directory.Account{}, kind.Errorf(kind.Busy, "directory is busy")
	}
	name, ok := strings.CutSuffix(login, "@example.test")
	if !ok || password != "secret-"+name {
		return directory.Account{}, kind.Errorf(kind.Denied, "wrong name or password")
	}
	return directory.Account{Organization: "o1", ID: boxOf(name).ID, Login: mail.Address{Local: name, Domain: "example.test"}, Mailbox: boxOf(name)}, nil
}

func (d *memDirectory) isBusy() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.busy
}

func (d *memDirectory) setBusy(v bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.busy = v
}

func (d *memDirectory) Resolve(_ context.Context, a mail.Address) (directory.Resolution, error) {
	if d.isBusy() {
		return directory.Resolution{}, kind.Errorf(kind.Busy, "directory is busy")
	}
	if a.Key() == "disabled@example.test" {
		return directory.Resolution{}, kind.Errorf(kind.Denied, "disabled")
	}
	names, ok := d.boxes[a.Key()]
	if !ok {
		return directory.Resolution{}, kind.Errorf(kind.NotFound, "no such recipient")
	}
	var r directory.Resolution
	for _, n := range names {
		r.Mailboxes = append(r.Mailboxes, directory.Target{Mailbox: boxOf(n), Address: a})
	}
	return r, nil
}

func (d *memDirectory) Hosted(domain string) bool { return domain == "example.test" }

func (d *memDirectory) MaySendAs(acc directory.Account, a mail.Address) bool {
	return a.Key() == acc.Login.Key() || acc.Login.Local == "ann" && a.Key() == "alias@example.test"
}

func boxOf(name string) org.MailboxRef {
	h := sha256.Sum256([]byte(name))
	return org.MailboxRef{ID: org.MailboxID(h[:16]), Database: "DB01"}
}

// memStore is a store that works, in memory, with duplicate detection and a
// quota: the mailbox "full" takes nothing while isFull.
type memStore struct {
	mu       sync.Mutex // guards all below
	boxes    map[org.MailboxID][]mail.Delivery
	seen     map[string]bool
	isFull   bool
	busy     bool
	block    chan struct{} // deliveries wait for it where set
	arrived  chan struct{} // told of each delivery where set
	keys     []mail.Key    // of all calls
	askUsage int
}

func newStore() *memStore {
	return &memStore{boxes: map[org.MailboxID][]mail.Delivery{}, seen: map[string]bool{}, isFull: true}
}

func (s *memStore) Deliver(ctx context.Context, d mail.Delivery) ([]mail.Delivered, error) {
	if s.arrived != nil {
		s.arrived <- struct{}{}
	}
	if s.block != nil {
		select {
		case <-s.block:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = append(s.keys, d.Key)
	if s.busy {
		return nil, kind.Errorf(kind.Busy, "database moves")
	}
	var out []mail.Delivered
	for _, r := range d.Recipients {
		res := mail.Delivered{Mailbox: r.Mailbox}
		key := r.Mailbox.ID.String() + string(d.Identity[:])
		switch {
		case r.Mailbox.ID == boxOf("full").ID && s.isFull:
			res.Refused, res.RefusedKind = "mailbox is full", uint8(kind.Full)
		case d.Identity != [32]byte{} && s.seen[key]:
			res.Duplicate = true
		default:
			s.seen[key] = true
			s.boxes[r.Mailbox.ID] = append(s.boxes[r.Mailbox.ID], d)
		}
		out = append(out, res)
	}
	return out, nil
}

func (s *memStore) Usage(_ context.Context, at org.MailboxRef) (mail.Usage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.askUsage++
	if at.ID == boxOf("full").ID && s.isFull {
		return mail.Usage{Bytes: 100, QuotaBytes: 100}, nil
	}
	return mail.Usage{}, nil
}

// mailbox lists the bodies in a mailbox.
func (s *memStore) mailbox(name string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, d := range s.boxes[boxOf(name).ID] {
		out = append(out, string(d.Body))
	}
	return out
}

func (s *memStore) set(f func(*memStore)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

// world is a server with all doors open on loopback.
type world struct {
	*Server
	dir   *memDirectory
	store *memStore
	stop  func() // ends Run and waits for it
}

// open starts a server; change may alter the configuration.
func open(t testing.TB, change func(*Config)) *world {
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
	w := &world{dir: newDirectory(), store: newStore()}
	var err error
	w.Server, err = New(cfg, Deps{Directory: w.dir, Store: w.store, TLS: testTLS(t)})
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
