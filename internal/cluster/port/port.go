package port

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/netx"
	"github.com/postern-mail/postern/internal/cluster/ca"
	"github.com/postern-mail/postern/internal/org"
)

// HTTP1 is what etcd's own peer transport speaks; it offers no ALPN.
const HTTP1 = "http/1.1"

// Config is what a port is made of. All fields but Log are required; zero
// limits mean the defaults.
type Config struct {
	Listen      string     // host:port
	Source      netip.Addr // address to dial from
	Certificate func() *tls.Certificate
	Authority   *x509.Certificate
	// Admit tells whether the owner of a certificate of our authority is a
	// present member; it is asked at each connection, in both directions.
	Admit func(sub ca.Subject, proto string) error
	Log   *slog.Logger

	MaxConns         int           // open at a time, 0 = 4096; above it the kernel's backlog holds callers back
	HandshakeTimeout time.Duration // 0 = 5 s
}

// Handler serves one connection and closes nothing: the port does, when it returns.
type Handler func(ctx context.Context, peer org.ServerName, c net.Conn)

// Port listens and dials.
type Port struct {
	cfg      Config
	handlers map[string]Handler
	open     map[string]bool // protocols without client certificate
	listener net.Listener

	mu     sync.Mutex // guards the rest
	conns  map[*Conn]struct{}
	ctx    context.Context // while serving
	extra  map[string]net.Listener
	extras sync.WaitGroup
}

// New makes a port; Handle, HandleOpen and Slot come before Listen.
func New(cfg Config) *Port {
	if cfg.MaxConns == 0 {
		cfg.MaxConns = 4096
	}
	if cfg.HandshakeTimeout == 0 {
		cfg.HandshakeTimeout = 5 * time.Second
	}
	return &Port{cfg: cfg, handlers: map[string]Handler{}, open: map[string]bool{}, conns: map[*Conn]struct{}{}, extra: map[string]net.Listener{}}
}

// Handle registers a protocol between members.
func (p *Port) Handle(proto string, h Handler) {
	if p.handlers[proto] != nil || p.listener != nil {
		panic("cluster port: protocol " + proto + " registered twice or too late")
	}
	p.handlers[proto] = h
}

// HandleOpen registers a protocol for callers without a certificate. It has
// to authenticate and to limit them itself.
func (p *Port) HandleOpen(proto string, h func(ctx context.Context, c net.Conn)) {
	p.Handle(proto, func(ctx context.Context, _ org.ServerName, c net.Conn) { h(ctx, c) })
	p.open[proto] = true
}

// Slot registers a protocol whose server wants a listener.
func (p *Port) Slot(proto string) *Slot {
	s := &Slot{addr: addr(p.cfg.Listen)}
	p.Handle(proto, s.hand)
	return s
}

// Listen opens the port. Nothing is accepted before Serve.
func (p *Port) Listen() error {
	l, err := net.Listen("tcp", p.cfg.Listen)
	if err != nil {
		return &kind.Error{Kind: kind.Busy, Text: "cluster port", Err: err}
	}
	p.listener = netx.Limit(l, p.cfg.MaxConns)
	return nil
}

// Serve accepts until ctx ends, and returns when every handler has.
func (p *Port) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	p.mu.Lock()
	p.ctx = ctx
	p.mu.Unlock()
	err := netx.Serve(ctx, p.listener, p.serve)
	p.mu.Lock()
	p.ctx = nil
	p.mu.Unlock()
	cancel()
	p.extras.Wait()
	return err
}

// Everywhere tells whether the port listens at all addresses of the machine.
func (p *Port) Everywhere() bool {
	a, ok := p.listener.Addr().(*net.TCPAddr)
	return ok && a.IP.IsUnspecified()
}

// Also makes a served port listen at these further addresses, and at no others
// that it was given before. It tells of the first that it could not open; the
// caller tries again.
func (p *Port) Also(addrs []string) (failed error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx == nil || p.Everywhere() {
		return nil
	}
	for addr, l := range p.extra {
		if !slices.Contains(addrs, addr) {
			l.Close()
			delete(p.extra, addr)
		}
	}
	for _, addr := range addrs {
		if p.extra[addr] != nil || addr == p.listener.Addr().String() {
			continue
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			failed = cmp.Or(failed, error(&kind.Error{Kind: kind.Busy, Text: "cluster port", Err: err}))
			continue
		}
		p.extra[addr] = l
		limited, ctx := netx.Limit(l, p.cfg.MaxConns), p.ctx
		p.extras.Go(func() {
			// A listener that breaks is opened anew at the next call.
			_ = netx.Serve(ctx, limited, p.serve)
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.extra[addr] == l {
				delete(p.extra, addr)
			}
		})
	}
	return failed
}

// Close closes the listener of a port that is not served.
func (p *Port) Close() {
	if p.listener != nil {
		p.listener.Close()
	}
}

func (p *Port) serve(ctx context.Context, raw net.Conn) {
	var sub ca.Subject
	t := tls.Server(raw, p.serverConfig(&sub))
	hctx, cancel := context.WithTimeout(ctx, p.cfg.HandshakeTimeout)
	err := t.HandshakeContext(hctx)
	cancel()
	if err != nil {
		p.cfg.Log.Debug("cluster port: handshake refused", "remote", raw.RemoteAddr().String(), "error", err)
		return
	}
	proto := protoOf(t.ConnectionState())
	c := p.track(t, sub, proto)
	defer c.Close()
	p.handlers[proto](ctx, sub.Name, c)
}

func protoOf(st tls.ConnectionState) string {
	if st.NegotiatedProtocol == "" {
		return HTTP1
	}
	return st.NegotiatedProtocol
}

func (p *Port) serverConfig(sub *ca.Subject) *tls.Config {
	protos := make([]string, 0, len(p.handlers))
	for proto := range p.handlers {
		protos = append(protos, proto)
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.cfg.Certificate(), nil },
		NextProtos:     protos,
		// The chain is verified below: who needs one depends on the protocol.
		ClientAuth:             tls.RequestClientCert,
		SessionTicketsDisabled: true,
		VerifyConnection: func(st tls.ConnectionState) (err error) {
			proto := protoOf(st)
			if p.handlers[proto] == nil {
				return kind.Errorf(kind.Invalid, "protocol %q is not served here", proto)
			}
			if p.open[proto] {
				return nil
			}
			*sub, err = p.verify(st, proto, x509.ExtKeyUsageClientAuth)
			return err
		},
	}
}

func (p *Port) verify(st tls.ConnectionState, proto string, use x509.ExtKeyUsage) (ca.Subject, error) {
	sub, err := ca.Verify(p.cfg.Authority, st.PeerCertificates, use)
	if err != nil {
		return sub, err
	}
	return sub, p.cfg.Admit(sub, proto)
}

// Dial connects to a member at an address for a protocol. The error is Denied
// if who answers is not that member, Invalid if it does not speak the
// protocol (another version), Busy otherwise; netx.Refused sees through it.
func (p *Port) Dial(ctx context.Context, name org.ServerName, addr, proto string) (net.Conn, error) {
	return p.dial(ctx, netx.Dialer{Source: p.cfg.Source}, name, addr, proto)
}

// userTimeout ends connections on a path that acknowledges nothing. It also
// tells them from etcd's (Abort).
const userTimeout = 20 * time.Second

// DialFrom is Dial from another of this server's addresses.
func (p *Port) DialFrom(ctx context.Context, source netip.Addr, name org.ServerName, addr, proto string) (net.Conn, error) {
	return p.dial(ctx, netx.Dialer{Source: source, UserTimeout: userTimeout}, name, addr, proto)
}

func (p *Port) dial(ctx context.Context, d netx.Dialer, name org.ServerName, addr, proto string) (net.Conn, error) {
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, &kind.Error{Kind: kind.Busy, Text: "dial " + string(name), Err: err}
	}
	hctx, cancel := context.WithTimeout(ctx, p.cfg.HandshakeTimeout)
	defer cancel()
	var sub ca.Subject
	t := tls.Client(raw, p.clientConfig(name, proto, &sub))
	if err := t.HandshakeContext(hctx); err != nil {
		raw.Close()
		return nil, handshakeError(name, proto, err)
	}
	if got := t.ConnectionState().NegotiatedProtocol; got != proto && proto != HTTP1 {
		t.Close()
		return nil, kind.Errorf(kind.Invalid, "dial %s: it does not speak %s", name, proto)
	}
	return p.track(t, sub, proto), nil
}

func handshakeError(name org.ServerName, proto string, err error) error {
	var alert tls.AlertError
	if errors.As(err, &alert) && alert == 120 { // no_application_protocol, RFC 7301 3.2
		return &kind.Error{Kind: kind.Invalid, Text: "dial " + string(name), Err: err,
			Hint: "it does not speak " + proto + ": its version of postern may be too old or too new"}
	}
	k := kind.Busy
	if kind.Is(err, kind.Denied) {
		k = kind.Denied
	}
	return &kind.Error{Kind: k, Text: "dial " + string(name), Err: err}
}

func (p *Port) clientConfig(name org.ServerName, proto string, sub *ca.Subject) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{proto},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return p.cfg.Certificate(), nil
		},
		// Servers are known by name and identity, not by address; the chain
		// is verified below, against the group's authority alone.
		InsecureSkipVerify: true,
		VerifyConnection: func(st tls.ConnectionState) (err error) {
			*sub, err = p.verify(st, proto, x509.ExtKeyUsageServerAuth)
			if err == nil && sub.Name != name {
				err = kind.Errorf(kind.Denied, "%s answers instead of %s", sub.Name, name)
			}
			return err
		},
	}
}

// Evict closes the connections of every peer that keep refuses.
func (p *Port) Evict(keep func(ca.Subject) bool) {
	p.mu.Lock()
	var out []*Conn
	for c := range p.conns {
		if c.sub.Name != "" && !keep(c.sub) {
			out = append(out, c)
		}
	}
	p.mu.Unlock()
	for _, c := range out {
		c.Close()
	}
}

// Cut closes the connections of some protocols with a peer at one of this
// server's addresses, on whichever side they were opened, and counts them.
func (p *Port) Cut(peer org.ServerName, here netip.Addr, protos ...string) int {
	p.mu.Lock()
	var out []*Conn
	for c := range p.conns {
		a, err := netip.ParseAddrPort(c.LocalAddr().String())
		if c.sub.Name == peer && err == nil && a.Addr().Unmap() == here && slices.Contains(protos, c.proto) {
			out = append(out, c)
		}
	}
	p.mu.Unlock()
	for _, c := range out {
		c.Close()
	}
	return len(out)
}

// Protocols lists what is served, sorted.
func (p *Port) Protocols() []string {
	out := make([]string, 0, len(p.handlers))
	for proto := range p.handlers {
		out = append(out, proto)
	}
	slices.Sort(out)
	return out
}
