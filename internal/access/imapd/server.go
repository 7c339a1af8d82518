package imapd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emersion/go-imap/v2"
	"golang.org/x/sync/semaphore"

	"github.com/postern-mail/postern/internal/access/imapd/imapserver"
	"github.com/postern-mail/postern/internal/access/imapd/imapwire"
	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// caps are what is offered after login beyond what imapserver gives by itself.
var caps = []imap.Cap{imap.CapIMAP4rev1, imap.CapIMAP4rev2, imap.CapNamespace, imap.CapUIDPlus, imap.CapESearch,
	imap.CapSearchRes, imap.CapListExtended, imap.CapListStatus, imap.CapMove, imap.CapStatusSize, imap.CapBinary,
	imap.CapChildren, imap.CapSpecialUse, imap.CapCreateSpecialUse, imap.CapLiteralPlus}

// Limits of a command; faults.md B40 wants at most 64 KiB held before login.
// A rejected command is read to its end to find the next one, for which a
// client that sends a literal without waiting may need a whole message.
var (
	preAuthLimits  = imapwire.Limits{Command: 12 << 10, Literal: 4 << 10, Discard: 64 << 10}
	postAuthLimits = imapwire.Limits{Command: 64 << 10, Literal: 16 << 10}
)

// How many BAD answers in a row end a connection.
const (
	preAuthErrors  = 5
	postAuthErrors = 50
)

// Server is the IMAP door of one server.
type Server struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	events  *event.Log
	metrics *metrics
	imap    *imapserver.Server
	gate    *gate

	appendMemory *semaphore.Weighted
	ctx          context.Context // of all sessions; ends when Run gives up on them
	cancel       context.CancelFunc
	ready        chan struct{} // closed when both doors listen
	warned       atomic.Int64  // Unix seconds of the last event about limits

	mu       sync.Mutex // guards the fields below
	conns    map[*imapserver.Conn]struct{}
	sessions map[org.MailboxID]int
	addrs    map[string][]net.Addr
	stopping bool
	state    org.ComponentState // what the component may do
	open     bool               // the doors listen
}

// New checks the configuration and returns a door that is still shut.
func New(cfg Config, deps Deps) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, kind.Errorf(kind.Invalid, "imap: %w", err)
	}
	cfg = cfg.withDefaults()
	if len(cfg.StartTLS.Listen)+len(cfg.TLS.Listen) > 0 && deps.TLS == nil {
		return nil, kind.Errorf(kind.Invalid, "imap: nobody could log in without TLS, and there is no certificate")
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		cfg: cfg, deps: deps, log: deps.Log.With("part", "imap"), events: deps.Events, metrics: newMetrics(deps.Metrics),
		gate:         newGate(cfg.MaxConnections, cfg.MaxConnectionsPerAddress),
		appendMemory: semaphore.NewWeighted(cfg.AppendMemory),
		ready:        make(chan struct{}),
		conns:        map[*imapserver.Conn]struct{}{}, sessions: map[org.MailboxID]int{}, addrs: map[string][]net.Addr{},
	}
	if s.deps.Listen == nil {
		s.deps.Listen = func(ctx context.Context, addr string) (net.Listener, error) {
			return (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
		}
	}
	s.imap = imapserver.New(s.options())
	return s, nil
}

func (s *Server) options() imapserver.Options {
	set := imap.CapSet{}
	for _, c := range caps {
		set[c] = struct{}{}
	}
	post := postAuthLimits
	post.Discard = 2 * s.cfg.MaxMessageBytes
	return imapserver.Options{
		NewSession: s.welcome,
		Caps:       set,
		TLSConfig:  s.deps.TLS,
		OnCommand:  s.metrics.command,
		OnPanic: func(v any, stack []byte) {
			s.metrics.panics.Inc()
			s.events.Emit(eventPanic, "an IMAP session met a bug and was ended: %v", v)
			s.log.Error("imap session panicked", "panic", fmt.Sprint(v), "stack", string(stack))
		},
		PreAuthTimeout: s.cfg.PreAuthTimeout.Std(), CommandTimeout: s.cfg.CommandTimeout.Std(),
		IdleTimeout: s.cfg.IdleTimeout.Std(), WriteTimeout: s.cfg.WriteTimeout.Std(),
		PreAuth: preAuthLimits, PostAuth: post,
		PreAuthErrors: preAuthErrors, PostAuthErrors: postAuthErrors,
	}
}

// Ready is closed when both doors listen, if they may.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Addrs tells where a door ("starttls", "tls") listens, in the order of the
// configuration. Valid once Ready is closed.
func (s *Server) Addrs(door string) []net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addrs[door]
}

// Run opens the doors and serves until ctx ends. Then it tells all clients
// BYE, gives commands under way drain_timeout to finish, and returns when all
// connections are closed. While its component is held back the doors are shut.
func (s *Server) Run(ctx context.Context) error {
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer s.cancel()
	var serving sync.WaitGroup
	d := &doors{s: s, serving: &serving}
	if err := d.begin(ctx); err != nil {
		return err
	}
	close(s.ready)
	d.follow(ctx)
	s.drain(&serving)
	s.events.Emit(eventStopped, "the IMAP door is shut")
	return nil
}

func (s *Server) accept(ctx context.Context, l listener, serving *sync.WaitGroup) {
	for pause := time.Duration(0); ; {
		c, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			serving.Go(func() { s.serve(c, l.implicitTLS) })
			continue
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return
		}
		// Out of file descriptors or the like: it passes.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// serve handles one connection.
func (s *Server) serve(c net.Conn, implicitTLS bool) {
	if !s.gate.open() { // before anything is read
		s.refuse(c, "total")
		return
	}
	defer s.gate.close()
	s.metrics.connections.Inc()
	defer s.metrics.connections.Dec()
	remote := remoteOf(c) // may wait for a load balancer
	if !s.gate.enter(remote) {
		s.refuse(c, "address")
		return
	}
	defer s.gate.leave(remote)
	conn := s.imap.NewConn(c, implicitTLS)
	s.mu.Lock()
	stopping := s.stopping
	if !stopping {
		s.conns[conn] = struct{}{}
	}
	if s.state == org.Inactive {
		conn.Shutdown(offline)
	}
	s.mu.Unlock()
	if stopping {
		c.Close()
		return
	}
	conn.Serve()
	s.mu.Lock()
	delete(s.conns, conn)
	s.mu.Unlock()
}

// refuse closes a connection that is one too many.
func (s *Server) refuse(c net.Conn, reason string) {
	s.metrics.refused.WithLabelValues(reason).Inc()
	if now := time.Now().Unix(); reason == "total" && now-s.warned.Swap(now) >= 60 {
		s.events.Emit(eventFull, "IMAP has %d connections and refuses more", s.cfg.MaxConnections)
	}
	c.Close()
}

// welcome makes the session of a connection.
func (s *Server) welcome(c *imapserver.Conn) (imapserver.Session, error) {
	return s.newSession(c, remoteOf(c.NetConn())), nil
}

func remoteOf(c net.Conn) netip.Addr {
	if t, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// enter counts a session of an account, unless it has too many.
func (s *Server) enter(id org.MailboxID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[id] >= s.cfg.MaxSessionsPerAccount {
		return false
	}
	s.sessions[id]++
	return true
}

func (s *Server) leave(id org.MailboxID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[id]--; s.sessions[id] <= 0 {
		delete(s.sessions, id)
	}
}

// drain ends all sessions: first those that wait for their client, then the
// waits for databases, and what is left by closing the connection.
func (s *Server) drain(serving *sync.WaitGroup) {
	s.mu.Lock()
	s.stopping = true
	for c := range s.conns {
		c.Shutdown("The server is being stopped, connect again")
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		serving.Wait()
		close(done)
	}()
	patience := time.NewTimer(s.cfg.DrainTimeout.Std())
	defer patience.Stop()
	select {
	case <-done:
		return
	case <-patience.C:
	}
	s.cancel()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	<-done
}
