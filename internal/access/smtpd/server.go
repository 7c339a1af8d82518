package smtpd

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Deps is what the doors need from others. Directory, Queue and Guard must be
// there.
type Deps struct {
	Directory Directory
	Queue     Queue
	Guard     Guard
	TLS       *tls.Config // nil: no STARTTLS, and the doors for users cannot open
	// Component tells what the components org.SMTPComponent (the door receive)
	// and org.Submission (those for users) may do, and gives a channel that is
	// closed when that may have changed. nil: always Active.
	Component func(org.Component) (org.ComponentState, <-chan struct{})
	// Listen opens an address; nil: the network of this machine.
	Listen  func(ctx context.Context, addr string) (net.Listener, error)
	Log     *slog.Logger
	Events  *event.Log
	Metrics prometheus.Registerer
}

// door is one of the three services.
type door struct {
	name     string
	origin   string // the name in mail.Origin: it tells who may come, not how TLS begins
	users    bool   // logins are needed and offered
	implicit bool   // TLS from the first byte
	tls      *tls.Config
	cfg      Door
	from     []netip.Prefix // load balancers
	part     org.Component  // what holds it back
}

// Server is the SMTP doors of one server.
type Server struct {
	cfg     Config
	deps    Deps
	tls     *tls.Config
	log     *slog.Logger
	doors   []*door
	gate    *gate
	rates   *rates
	memory  budget
	blocks  blocks
	metrics *metrics

	stopping chan struct{} // closed when Run begins to drain
	ready    chan struct{} // closed when all doors listen

	mu     sync.Mutex // guards those below
	conns  map[*conn]struct{}
	addrs  map[string][]net.Addr
	warned map[int]time.Time // event code -> when it was last told
	states map[org.Component]org.ComponentState
	open   map[org.Component]bool // its doors listen
}

// New checks the configuration and returns doors that are still shut.
func New(cfg Config, deps Deps) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, kind.Errorf(kind.Invalid, "smtp: %w", err)
	}
	cfg = cfg.withDefaults()
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		cfg: cfg, deps: deps, tls: deps.TLS, log: deps.Log.With("part", "smtp"),
		gate:     newGate(cfg.MaxConnections, cfg.MaxConnectionsPerAddress),
		rates:    newRates(cfg.AccountMessagesPerMinute, cfg.AccountRecipientsPerHour),
		stopping: make(chan struct{}), ready: make(chan struct{}),
		conns: map[*conn]struct{}{}, addrs: map[string][]net.Addr{}, warned: map[int]time.Time{},
		states: map[org.Component]org.ComponentState{}, open: map[org.Component]bool{},
	}
	if s.deps.Listen == nil {
		s.deps.Listen = func(ctx context.Context, addr string) (net.Listener, error) {
			return (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
		}
	}
	s.memory.max = cfg.MessageMemory
	s.metrics = newMetrics(deps.Metrics, &s.memory)
	s.doors = []*door{
		{name: "receive", origin: "receive", tls: askForCertificate(s.tls), cfg: cfg.Receive, part: org.SMTPComponent},
		{name: "submission", origin: "submission", users: true, tls: s.tls, cfg: cfg.Submission, part: org.Submission},
		{name: "submissions", origin: "submission", users: true, implicit: true, tls: s.tls, cfg: cfg.Submissions, part: org.Submission},
	}
	for _, d := range s.doors {
		if d.users && len(d.cfg.Listen) > 0 && s.tls == nil {
			return nil, kind.WithHint(kind.Errorf(kind.Invalid, "smtp: %s listens but there is no certificate", d.name), "set [tls] or remove the addresses")
		}
		d.from, _ = d.cfg.networks() // Validate has read them
	}
	return s, nil
}

// Ready is closed when all doors listen that may.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Addrs tells where a door ("receive", "submission", "submissions") listens,
// in the order of the configuration. Valid once Ready is closed.
func (s *Server) Addrs(door string) []net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addrs[door]
}

// Run opens the doors and serves until ctx ends; then it stops listening,
// lets messages under way finish within the drain timeout and returns when no
// connection is left. Doors whose component is held back are shut meanwhile. It
// may be called once.
func (s *Server) Run(ctx context.Context) error {
	// Messages under way outlive ctx by the drain timeout.
	live, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	var serving sync.WaitGroup
	parts := s.parts(live, &serving)
	for _, p := range parts {
		if err := p.begin(ctx); err != nil {
			for _, open := range parts {
				open.shut()
			}
			return err
		}
	}
	close(s.ready)
	if len(parts) > 0 {
		s.deps.Events.Emit(eventOpen, "SMTP is open as %s", s.cfg.Hostname)
	}
	var following sync.WaitGroup
	for _, p := range parts {
		following.Go(func() { p.follow(ctx) })
	}
	<-ctx.Done()
	close(s.stopping)
	following.Wait()
	s.drain(&serving, kill)
	if len(parts) > 0 {
		s.deps.Events.Emit(eventClosed, "SMTP is closed")
	}
	return nil
}

// accept takes connections until the listener is closed.
func (s *Server) accept(ctx context.Context, l net.Listener, d *door, serving *sync.WaitGroup) {
	for pause := time.Duration(0); ; {
		nc, err := l.Accept()
		if err == nil {
			pause = 0
			s.admit(ctx, nc, d, serving)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		// Out of file handles, mostly: wait for some to be closed.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		s.warn(eventAccept, "%s cannot take connections: %v", d.name, err)
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-s.stopping:
			t.Stop()
		}
	}
}

// admit starts serving a connection, or turns it away.
func (s *Server) admit(ctx context.Context, nc net.Conn, d *door, serving *sync.WaitGroup) {
	if !s.gate.enter() {
		s.metrics.connections.WithLabelValues(d.name, "full").Inc()
		s.warn(eventFull, "%d connections are open, no more are taken", s.cfg.MaxConnections)
		turnAway(nc, d, "Too many connections")
		return
	}
	serving.Go(func() {
		defer s.gate.leave()
		defer nc.Close()
		s.serve(ctx, nc, d)
	})
}

// turnAway says why, if it can be said in clear, without waiting for anybody.
func turnAway(nc net.Conn, d *door, why string) {
	defer nc.Close()
	if d.implicit || nc.SetWriteDeadline(time.Now().Add(time.Second)) != nil {
		return
	}
	nc.Write(goodbye("4.7.0", why).append(nil)) // an error changes nothing
}

// serve is the life of one connection.
func (s *Server) serve(ctx context.Context, nc net.Conn, d *door) {
	remote := addrOf(nc.RemoteAddr()) // may read a PROXY header
	net := network(remote)
	if !s.gate.enterFrom(net) {
		s.metrics.connections.WithLabelValues(d.name, "address").Inc()
		turnAway(nc, d, "Too many connections from your address")
		return
	}
	defer s.gate.leaveFrom(net)
	s.metrics.connections.WithLabelValues(d.name, "served").Inc()
	s.metrics.open.WithLabelValues(d.name).Inc()
	defer s.metrics.open.WithLabelValues(d.name).Dec()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &conn{srv: s, door: d, raw: nc, nc: nc, remote: remote, ctx: ctx,
		peer: mail.Peer{Remote: remote, Door: d.origin},
		log:  s.log.With("door", d.name, "remote", remote.String())}
	c.in = newInput(nc)
	s.enlist(c)
	defer s.delist(c)
	defer c.reset()
	defer s.survive(c)
	if d.implicit && c.handshake() != nil {
		return
	}
	c.serve()
}

// survive keeps a bug that one client has found from ending the service for
// all.
func (s *Server) survive(c *conn) {
	if p := recover(); p != nil {
		s.log.Error("panic in a connection", "remote", c.remote.String(), "panic", p, "stack", string(debug.Stack()))
		s.warn(eventPanic, "a connection from %s ended by an internal error: %v", c.remote, p)
	}
}

func (s *Server) enlist(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = struct{}{}
	select {
	case <-s.stopping:
		c.drain()
	default:
		c.obey(s.states[c.door.part])
	}
}

func (s *Server) delist(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// drain ends all connections: politely at first, by force after the timeout.
func (s *Server) drain(serving *sync.WaitGroup, kill context.CancelFunc) {
	s.mu.Lock()
	for c := range s.conns {
		c.drain()
	}
	s.mu.Unlock()
	gone := make(chan struct{})
	go func() {
		serving.Wait()
		close(gone)
	}()
	t := time.NewTimer(s.cfg.DrainTimeout.Std())
	defer t.Stop()
	select {
	case <-gone:
		return
	case <-t.C:
	}
	kill()
	s.mu.Lock()
	for c := range s.conns {
		c.raw.Close()
	}
	s.mu.Unlock()
	<-gone
}

// warn emits an event about limits, each at most once a minute: those who
// cause them could cause thousands.
func (s *Server) warn(d event.Definition, format string, args ...any) {
	now := time.Now()
	s.mu.Lock()
	told := now.Sub(s.warned[d.Code]) < time.Minute
	if !told {
		s.warned[d.Code] = now
	}
	s.mu.Unlock()
	if !told {
		s.deps.Events.Emit(d, format, args...)
	}
}

// addrOf is the address of a client, IPv4 in its own form.
func addrOf(a net.Addr) netip.Addr {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	ip, _ := netip.AddrFromSlice(t.IP)
	return ip.Unmap()
}
