package remote

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/deliver"
	"github.com/postern-mail/postern/internal/transport/dns"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/tlspolicy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// zone is a DNS in memory.
type zone struct {
	mx     map[string][]dns.MX
	addrs  map[string][]string
	txt    map[string][]string
	tlsa   map[string][]dns.TLSA
	errs   map[string]error
	secure bool
}

func (z *zone) info(name string) dns.Info {
	return dns.Info{Authentic: z.secure, TTL: time.Minute, Name: name}
}

func (z *zone) MX(_ context.Context, name string) ([]dns.MX, dns.Info, error) {
	if err := z.errs[name]; err != nil {
		return nil, dns.Info{}, err
	}
	return append([]dns.MX(nil), z.mx[name]...), z.info(name), nil
}

func (z *zone) Addrs(_ context.Context, name string) ([]netip.Addr, dns.Info, error) {
	var out []netip.Addr
	for _, a := range z.addrs[name] {
		out = append(out, netip.MustParseAddr(a))
	}
	if err := z.errs[name]; err != nil || out == nil {
		return nil, dns.Info{}, errors.Join(err, kind.Errorf(kind.NotFound, "no address of %s", name))
	}
	return out, z.info(name), nil
}

func (z *zone) TXT(_ context.Context, name string) ([]string, dns.Info, error) {
	if len(z.txt[name]) == 0 {
		return nil, dns.Info{}, kind.Errorf(kind.NotFound, "no text at %s", name)
	}
	return z.txt[name], z.info(name), nil
}

func (z *zone) TLSA(_ context.Context, name string) ([]dns.TLSA, dns.Info, error) {
	if len(z.tlsa[name]) == 0 {
		return nil, dns.Info{}, kind.Errorf(kind.NotFound, "no TLSA at %s", name)
	}
	return z.tlsa[name], z.info(name), nil
}

// policies is the real thing without a web to fetch from: MTA-STS policies are
// given.
type policies struct {
	*tlspolicy.Policies
	sts map[string]tlspolicy.STS
}

func (p policies) For(_ context.Context, domain string) (tlspolicy.STS, error) {
	return p.sts[domain], nil
}

// world is some hosts, a DNS and the agent under test.
type world struct {
	t      *testing.T
	zone   *zone
	ca     *authority
	sts    map[string]tlspolicy.STS
	deps   Deps
	a      *Agent
	events *event.Log

	mu     sync.Mutex
	peers  map[string]*peer // by address
	dialed []string
	from   []netip.Addr
	notes  []string
	// session is the last one of notes.
	session Session
	steps   []string
}

// newWorld has a domain a.test with the host mx.a.test at 192.0.2.1.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, ca: newAuthority(t), peers: map[string]*peer{}, events: event.NewLog(slog.New(slog.DiscardHandler)), sts: map[string]tlspolicy.STS{},
		zone: &zone{mx: map[string][]dns.MX{"a.test": {{Host: "mx.a.test", Preference: 10}}},
			addrs: map[string][]string{"mx.a.test": {"192.0.2.1"}}, txt: map[string][]string{}, tlsa: map[string][]dns.TLSA{}, errs: map[string]error{}}}
	w.deps = Deps{Resolver: w.zone, Hostname: "out.test", Dial: w.dial, Events: w.events, Roots: w.ca.pool(),
		Policies: policies{tlspolicy.New(tlspolicy.Options{Resolver: w.zone, Roots: w.ca.pool()}), w.sts},
		Note: func(s Session) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.notes = append(w.notes, s.Domain+" "+s.Policy+" "+s.Result)
			w.session = s
		}}
	return w
}

// host adds a peer at an address.
func (w *world) host(addr string) *peer {
	p := &peer{ext: []string{"PIPELINING", "8BITMIME", "SIZE 1000000"}, act: map[string]string{}}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.peers[addr] = p
	return p
}

func (w *world) agent() *Agent {
	if w.a == nil {
		w.a = New(w.deps)
	}
	return w.a
}

// run lets the agent keep connections until the test ends.
func (w *world) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	a := w.agent()
	a.pool.mu.Lock()
	a.pool.open = true // as Run does, but before anything else
	a.pool.mu.Unlock()
	go func() {
		defer close(done)
		if err := a.Run(ctx); err != nil {
			w.t.Error(err)
		}
	}()
	w.t.Cleanup(func() { cancel(); <-done })
}

func (w *world) dial(ctx context.Context, source netip.Addr, address string) (net.Conn, error) {
	host, _, _ := net.SplitHostPort(address)
	w.mu.Lock()
	w.dialed = append(w.dialed, address)
	w.from = append(w.from, source)
	p := w.peers[host]
	w.mu.Unlock()
	if p == nil {
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
	if p.at("connect") == hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	ours, theirs := net.Pipe()
	b := &buffered{Conn: theirs, out: make(chan []byte, 1024), done: make(chan struct{})}
	go b.pump()
	go p.serve(b)
	return ours, nil
}

// buffered is a pipe that takes writes before they are read, as a network does.
type buffered struct {
	net.Conn
	out  chan []byte
	done chan struct{} // the other side is gone
	once sync.Once
}

func (b *buffered) pump() {
	defer b.Conn.Close()
	defer close(b.done)
	for p := range b.out {
		if _, err := b.Conn.Write(p); err != nil {
			return
		}
	}
}

func (b *buffered) Write(p []byte) (int, error) {
	select {
	case b.out <- bytes.Clone(p):
		return len(p), nil
	case <-b.done:
		return 0, net.ErrClosed
	}
}

func (b *buffered) Close() error {
	b.once.Do(func() { close(b.out) })
	return nil
}

// work is a message for recipients, by the destination.
func (w *world) work(dest, body string, to ...string) deliver.Work {
	m := queue.Message{ID: mail.NewTraceID(time.Now()), Size: int64(len(body)), Envelope: mail.Envelope{From: "sender@out.test"}}
	work := deliver.Work{Message: m, Dest: dest,
		Body: func(context.Context) ([]byte, error) { return []byte(body), nil },
		Mine: func() error { w.step("mine"); return nil },
		Begun: func(_ context.Context, host string) error {
			w.step("begun " + host)
			return nil
		}}
	for i, r := range to {
		work.Rows = append(work.Rows, queue.RecipientRow{ID: m.ID, N: uint16(i), Address: r, State: queue.StateReady, Dest: dest})
	}
	return work
}

func (w *world) step(s string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.steps = append(w.steps, s)
}

func (w *world) send(work deliver.Work) []deliver.Result {
	return w.agent().Deliver(context.Background(), work)
}

// one sends a message to one recipient.
func (w *world) one(dest string) deliver.Result {
	w.t.Helper()
	rs := w.send(w.work(dest, letter, "user@a.test"))
	if len(rs) != 1 {
		w.t.Fatalf("%d results", len(rs))
	}
	return rs[0]
}

const letter = "From: <sender@out.test>\r\nSubject: hello\r\n\r\nHello.\r\n"

// peer is an SMTP server that follows the protocol but where act says
// otherwise: by verb, or by the whole command, the text to answer with or one
// of the things below.
type peer struct {
	mu       sync.Mutex
	ext      []string
	act      map[string]string
	tls      *tls.Config
	said     []string
	bodies   [][]byte
	sessions int
	shown    []string // names of client certificates
	hung     func()   // called when it stops answering
}

const (
	hang    = "(hang)"
	drop    = "(drop)"
	endless = "(endless)"
)

var errDrop = errors.New("dropped")

func (p *peer) serve(c net.Conn) {
	p.mu.Lock()
	p.sessions++
	p.mu.Unlock()
	s := &side{p: p, c: c, br: bufio.NewReaderSize(c, 256<<10)}
	defer func() { s.c.Close() }()
	if s.answer("greeting", "220 peer.test ESMTP") != nil {
		return
	}
	for {
		line, err := s.br.ReadString('\n')
		if err != nil {
			return
		}
		if err := s.command(strings.TrimSuffix(line, "\r\n")); err != nil {
			return
		}
	}
}

// side is one session of a peer.
type side struct {
	p  *peer
	c  net.Conn
	br *bufio.Reader
}

func (s *side) command(line string) error {
	p := s.p
	p.mu.Lock()
	p.said = append(p.said, line)
	whole := p.act[line]
	p.mu.Unlock()
	if whole != "" {
		return s.do(whole)
	}
	verb, _, _ := strings.Cut(line, " ")
	switch verb {
	case "EHLO":
		lines := append([]string{"peer.test"}, p.ext...)
		for i, l := range lines {
			lines[i] = "250-" + l
		}
		last := &lines[len(lines)-1]
		*last = strings.Replace(*last, "250-", "250 ", 1)
		return s.answer(verb, strings.Join(lines, "\r\n"))
	case "STARTTLS":
		if err := s.answer(verb, "220 go ahead"); err != nil || p.tls == nil {
			return err
		}
		if p.at("tls") != "" {
			return s.answer("tls", "")
		}
		tc := tls.Server(s.c, p.tls)
		if err := tc.Handshake(); err != nil {
			return err
		}
		p.mu.Lock()
		for _, c := range tc.ConnectionState().PeerCertificates {
			p.shown = append(p.shown, c.DNSNames...)
		}
		p.mu.Unlock()
		s.c, s.br = tc, bufio.NewReaderSize(tc, 256<<10)
		return nil
	case "AUTH":
		return s.answer(verb, "235 2.7.0 welcome")
	case "MAIL", "RCPT", "RSET":
		return s.answer(verb, "250 2.0.0 ok")
	case "QUIT":
		s.answer(verb, "221 2.0.0 bye")
		return errDrop
	case "DATA":
		if err := s.answer(verb, "354 go"); err != nil || p.at(verb) != "" {
			return err
		}
		return s.content()
	}
	return s.answer(verb, "500 5.5.1 what")
}

func (s *side) content() error {
	var body []byte
	for {
		line, err := s.br.ReadBytes('\n')
		if err != nil {
			return err
		}
		if a := s.p.at("body"); a != "" {
			return s.do(a)
		}
		if string(line) == ".\r\n" {
			break
		}
		body = append(body, bytes.TrimPrefix(line, []byte("."))...)
	}
	s.p.mu.Lock()
	s.p.bodies = append(s.p.bodies, body)
	s.p.mu.Unlock()
	return s.answer(".", "250 2.6.0 kept")
}

func (s *side) answer(verb, text string) error { return s.do(cmp.Or(s.p.at(verb), text)) }

// at is what is done in place of an answer.
func (p *peer) at(verb string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.act[verb]
}

func (s *side) do(text string) error {
	switch text {
	case drop:
		return errDrop
	case hang:
		if s.p.hung != nil {
			s.p.hung()
		}
		s.br.ReadString(0) // until the other side closes
		return errDrop
	case endless:
		for {
			if _, err := s.c.Write([]byte("250-and so on\r\n")); err != nil {
				return err
			}
		}
	}
	_, err := s.c.Write([]byte(text + "\r\n"))
	if strings.HasPrefix(text, "421") {
		return errDrop
	}
	return err
}

func (p *peer) set(verb, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.act[verb] = text
}

// got are the messages that were taken.
func (p *peer) got() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, b := range p.bodies {
		out = append(out, string(b))
	}
	return out
}

func (p *peer) heard(prefix string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.said {
		if strings.HasPrefix(l, prefix) {
			n++
		}
	}
	return n
}

// secure lets a peer offer TLS with a certificate for names.
func (w *world) secure(p *peer, names ...string) {
	p.ext = append(p.ext, "STARTTLS")
	p.tls = &tls.Config{Certificates: []tls.Certificate{w.ca.issue(w.t, names...)}, ClientAuth: tls.RequestClientCert}
}

// authority issues certificates.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	n    int64
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(100, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.cert = a.sign(t, tpl, tpl, &a.key.PublicKey)
	return a
}

func (a *authority) sign(t *testing.T, tpl, parent *x509.Certificate, pub *ecdsa.PublicKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tpl, parent, pub, a.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func (a *authority) issue(t *testing.T, names ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.n++
	c := a.sign(t, &x509.Certificate{SerialNumber: big.NewInt(1 + a.n), DNSNames: names, NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(100, 0, 0),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, a.cert, &key.PublicKey)
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key, Leaf: c}
}
