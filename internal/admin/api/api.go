package api

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/internal/admin/audit"
	"github.com/postern-mail/postern/internal/admin/sock"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/netx"
	"github.com/postern-mail/postern/internal/org"
)

// Config of the admin door. Zero values mean the default in brackets.
type Config struct {
	// Server is this server's name, for the audit log.
	Server string
	// Version is the program's, for the API's description.
	Version string
	// Socket is the path of the unix socket; empty for none.
	Socket string
	// AuditFile is the path of audit.jsonl; empty for none.
	AuditFile string
	// MaxBody is the largest request body in bytes [1 MiB].
	MaxBody int64
	// MaxRequests is how many requests run at one time, over TLS and at the
	// socket apart [128].
	MaxRequests int
	// MaxConnections is how many connections are open at one time, likewise [512].
	MaxConnections int
	// ReadTimeout is how long a client may take to send a request [30 s].
	ReadTimeout time.Duration
	// CommandTimeout ends a command that is not a stream [2 min].
	CommandTimeout time.Duration
	// StreamTimeout ends a stream [24 h].
	StreamTimeout time.Duration
	// SessionLife is how long a token is good [12 h].
	SessionLife time.Duration
	// Drain is how long requests may go on after Run was told to end [5 s].
	Drain time.Duration
}

func (c Config) withDefaults() Config {
	or(&c.MaxBody, 1<<20)
	or(&c.MaxRequests, 128)
	or(&c.MaxConnections, 512)
	or(&c.ReadTimeout, 30*time.Second)
	or(&c.CommandTimeout, 2*time.Minute)
	or(&c.StreamTimeout, 24*time.Hour)
	or(&c.SessionLife, 12*time.Hour)
	or(&c.Drain, 5*time.Second)
	return c
}

func or[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Account is somebody who may log in, as far as this door cares.
type Account struct {
	Login        string
	Organization org.OrganizationID
	Roles        []command.Role
	// ServerAdmin is an administrator of all servers and organizations.
	ServerAdmin bool
	// Stamp changes when sessions made before should end, as with a new
	// password. It is no secret and need not be set.
	Stamp string
}

// Authenticator knows accounts and passwords.
type Authenticator interface {
	// Authenticate checks a password: kind.Denied if it is wrong or there is
	// no such account, kind.Busy if that cannot be told now.
	Authenticate(ctx context.Context, login, password, service string, remote netip.Addr) (Account, error)
	// Account tells the present roles of an account: kind.NotFound or
	// kind.Denied if it is gone or locked.
	Account(ctx context.Context, login string) (Account, error)
}

// State is what the door needs of the agreed state.
type State interface {
	audit.State
	// Get reads one key from memory.
	Get(key string) (value []byte, ok bool)
}

// Deps is what the door needs from others. Listener and TLS may both be nil:
// then there is only the socket.
type Deps struct {
	// Commands is the table of all rooms; the door adds its own.
	Commands []command.Command
	Auth     Authenticator
	State    State
	Log      *slog.Logger
	Events   *event.Log
	// Listener takes TCP connections; the door does TLS on it.
	Listener net.Listener
	TLS      *tls.Config
	// OrganizationOf tells which organization a domain or an address belongs
	// to (scope is command.ScopeDomain or ScopeAddress), false if it is not
	// known. Nil: nobody bound to an organization may use such parameters.
	OrganizationOf func(scope, value string) (org.OrganizationID, bool)
	// Metrics takes the door's collectors, nil for none.
	Metrics prometheus.Registerer
	// Local serves further paths at the socket only, such as "GET /metrics".
	Local map[string]http.Handler
	// Ready says why the server is not ready, for /readyz at the socket.
	Ready func() error
}

// Server is the admin door.
type Server struct {
	cfg      Config
	deps     Deps
	log      *slog.Logger
	audit    *audit.Log
	sessions *sessions
	table    []command.Command
	openapi  []byte
	met      *collectors

	wrong *buckets // wrong passwords by address
	told  *buckets // events about those
	calls *buckets // requests by caller
	tcp   slots    // requests at one time over TLS
	local slots    // and at the socket

	now func() time.Time
}

// Specs are the door's own entries of the command table, for the CLI. They
// cannot run.
func Specs() []command.Command { return own(nil, nil) }

func own(a *audit.Log, e *event.Log) []command.Command {
	return append(audit.Commands(a), event.Commands(e)...)
}

// New makes the door; it starts nothing. An error means a mistake in the
// table of commands or a listener without TLS.
func New(cfg Config, deps Deps) (*Server, error) {
	cfg = cfg.withDefaults()
	if deps.Listener != nil && deps.TLS == nil {
		return nil, errors.New("admin api: a listener without TLS would show passwords")
	}
	s := &Server{cfg: cfg, deps: deps, log: deps.Log, met: newCollectors(), now: time.Now}
	s.audit = audit.New(audit.Config{Server: cfg.Server, File: cfg.AuditFile}, deps.State, deps.Log)
	s.sessions = &sessions{state: deps.State, auth: deps.Auth, life: cfg.SessionLife, now: time.Now}
	s.table = command.Sort(append(own(s.audit, deps.Events), deps.Commands...))
	if err := command.Check(s.table); err != nil {
		return nil, fmt.Errorf("admin api: %w", err)
	}
	for _, c := range s.table {
		if c.Noun == "session" {
			return nil, fmt.Errorf("admin api: command %s: the noun is taken by logins", c.Name())
		}
	}
	s.wrong = newBuckets(10, time.Minute/10, 10_000)
	s.told = newBuckets(1, 10*time.Minute, 1000)
	s.calls = newBuckets(200, time.Second/50, 10_000)
	s.tcp, s.local = make(slots, cfg.MaxRequests), make(slots, cfg.MaxRequests)
	doc, err := describe(s.table, cfg.Version)
	if err != nil {
		return nil, fmt.Errorf("admin api: describe commands: %w", err)
	}
	s.openapi = doc
	if deps.Metrics != nil {
		if err := s.met.register(deps.Metrics); err != nil {
			return nil, fmt.Errorf("admin api: %w", err)
		}
	}
	return s, nil
}

// Commands returns the whole table, with the door's own entries.
func (s *Server) Commands() []command.Command { return s.table }

// Run serves until ctx ends, then lets running requests end within Drain. It
// returns when the last one is gone.
func (s *Server) Run(ctx context.Context) error {
	var local net.Listener
	if s.cfg.Socket != "" {
		l, err := sock.Listen(ctx, s.cfg.Socket)
		if err != nil {
			return errors.Join(fmt.Errorf("admin socket: %w", err), s.closeListener())
		}
		local = netx.Limit(l, s.cfg.MaxConnections)
	}
	g, ctx := errgroup.WithContext(ctx)
	if s.deps.Listener != nil {
		conf := s.deps.TLS.Clone()
		conf.NextProtos = []string{"h2", "http/1.1"}
		conf.MinVersion = max(conf.MinVersion, tls.VersionTLS12)
		g.Go(func() error {
			return s.serve(ctx, s.handler(false), conf, netx.Limit(s.deps.Listener, s.cfg.MaxConnections))
		})
	}
	if local != nil {
		g.Go(func() error { return s.serve(ctx, s.handler(true), nil, local) })
	}
	g.Go(func() error { return s.sweep(ctx) })
	return g.Wait()
}

func (s *Server) closeListener() error {
	if s.deps.Listener == nil {
		return nil
	}
	return s.deps.Listener.Close()
}

// endKey finds the context that ends with the server in that of a request.
type endKey struct{}

// serve runs one HTTP server on l. What requests do ends at the latest a
// little after Drain, because their context does.
func (s *Server) serve(ctx context.Context, h http.Handler, conf *tls.Config, l net.Listener) error {
	end, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	running := &gate{next: h}
	srv := &http.Server{
		Handler: running, TLSConfig: conf,
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: s.cfg.ReadTimeout, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10,
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		BaseContext:    func(net.Listener) context.Context { return context.WithValue(end, endKey{}, end) },
		ConnContext:    s.connContext,
	}
	ended := make(chan error, 1)
	go func() {
		if conf != nil {
			ended <- srv.ServeTLS(l, "", "")
			return
		}
		ended <- srv.Serve(l)
	}()
	var failed error
	select {
	case err := <-ended:
		failed = fmt.Errorf("admin api: %w", err)
		ended <- err
	case <-ctx.Done():
	}
	drain, stop := context.WithTimeout(end, s.cfg.Drain)
	defer stop()
	if err := srv.Shutdown(drain); err != nil {
		s.log.Warn("admin api: requests cut off at the end", "error", err)
	}
	cancel()
	err := srv.Close()
	<-ended
	running.wait()
	return cmp.Or(failed, err)
}

// gate counts the requests inside, because http.Server does not wait for those
// that it cuts off.
type gate struct {
	next http.Handler

	mu     sync.Mutex // guards closed and the start of a request
	closed bool
	inside sync.WaitGroup
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return // the connection is closed already
	}
	g.inside.Add(1)
	g.mu.Unlock()
	defer g.inside.Done()
	g.next.ServeHTTP(w, r)
}

// wait lets nobody in and waits for those inside.
func (g *gate) wait() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.inside.Wait()
}

type peerKey struct{}

// connContext notes who is at the other end of the socket. A peer that cannot
// be told is nobody.
func (s *Server) connContext(ctx context.Context, c net.Conn) context.Context {
	if n, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = n.NetConn()
	}
	if _, unix := c.(*net.UnixConn); !unix {
		return ctx
	}
	uid, err := sock.Peer(c)
	if err != nil {
		s.log.Warn("admin socket: peer unknown", "error", err)
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, peer{uid, sock.Trusted(uid, os.Geteuid())})
}

type peer struct {
	uid     uint32
	trusted bool
}
