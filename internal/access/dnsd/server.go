package dnsd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/netx"
)

// Limits of the door.
const (
	maxUDP       = 1232 // bytes; fits any path (DNS flag day 2020)
	maxConns     = 100
	perConn      = 100 // questions of a connection
	tcpPatience  = 5 * time.Second
	listCacheFor = time.Second
)

// Deps are what a Server is built from.
type Deps struct {
	// Servers lists the servers of the group as they are now.
	Servers func() []Server
	Log     *slog.Logger
	Events  *event.Log
	Metrics prometheus.Registerer
}

// Server is the door.

// Door answers questions on UDP and TCP.
type Door struct {
	cfg     Config
	deps    Deps
	limit   *limiter
	counted *prometheus.CounterVec
	ready   chan struct{}

	mu     sync.Mutex // guards cached and at
	cached []Server
	at     time.Time
}

// New builds the door; nothing is opened before Run.
func New(cfg Config, d Deps) (*Door, error) {
	if err := cfg.Validate(); err != nil {
		return nil, kind.Errorf(kind.Invalid, "dns: %w", err)
	}
	s := &Door{cfg: cfg, deps: d, limit: newLimiter(), ready: make(chan struct{}),
		counted: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "postern", Subsystem: "dns", Name: "answers_total",
			Help: "Questions to the DNS door, by transport and by what became of them."}, []string{"transport", "result"})}
	if d.Metrics != nil {
		d.Metrics.MustRegister(s.counted)
	}
	return s, nil
}

// Ready is closed when all addresses are open.
func (s *Door) Ready() <-chan struct{} { return s.ready }

// Run opens the addresses and answers until ctx ends.
func (s *Door) Run(ctx context.Context) error {
	servers, err := s.open(ctx)
	if err != nil {
		return err
	}
	failed := make(chan error, len(servers))
	var wg sync.WaitGroup
	var started sync.WaitGroup
	for _, x := range servers {
		started.Add(1)
		var once sync.Once
		x.NotifyStartedFunc = func() { once.Do(started.Done) }
		wg.Go(func() {
			err := x.ActivateAndServe()
			once.Do(started.Done)
			failed <- err
		})
	}
	started.Wait()
	close(s.ready)
	s.deps.Events.Emit(evOpen, "DNS answers for %s on %v", s.cfg.Zone, s.cfg.Listen)
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("dns: %w", err)
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), tcpPatience)
	defer cancel()
	for _, x := range servers {
		// It is refused only by one that has ended by itself.
		_ = x.ShutdownContext(stop)
	}
	wg.Wait()
	return err
}

// open opens all addresses, or none.
func (s *Door) open(ctx context.Context) (out []*dns.Server, err error) {
	var lc net.ListenConfig
	defer func() {
		if err == nil {
			return
		}
		for _, x := range out {
			if x.PacketConn != nil {
				err = errors.Join(err, x.PacketConn.Close())
			} else {
				err = errors.Join(err, x.Listener.Close())
			}
		}
	}()
	for _, a := range s.cfg.Listen {
		pc, err := lc.ListenPacket(ctx, "udp", a)
		if err != nil {
			return out, kind.Errorf(kind.Invalid, "listen on %s: %w", a, err)
		}
		out = append(out, &dns.Server{PacketConn: pc, Net: "udp", UDPSize: 4096, Handler: s.handler("udp"), ReadTimeout: tcpPatience, WriteTimeout: tcpPatience})
		// An address with port 0, in tests, has the same port for both.
		l, err := lc.Listen(ctx, "tcp", pc.LocalAddr().String())
		if err != nil {
			return out, kind.Errorf(kind.Invalid, "listen on %s: %w", a, err)
		}
		out = append(out, &dns.Server{Listener: netx.Limit(l, maxConns), Net: "tcp", Handler: s.handler("tcp"), ReadTimeout: tcpPatience, WriteTimeout: tcpPatience,
			IdleTimeout: func() time.Duration { return tcpPatience }, MaxTCPQueries: perConn})
	}
	return out, nil
}

// handler answers the questions of one transport.
func (s *Door) handler(transport string) dns.Handler {
	return dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		v := answerIt
		if transport == "udp" {
			v = s.limit.judge(addrOf(w.RemoteAddr()), time.Now())
		}
		if v == dropIt {
			s.counted.WithLabelValues(transport, "dropped").Inc()
			return
		}
		m := s.answer(q, transport == "udp", v == overTCP)
		if err := w.WriteMsg(m); err != nil {
			s.counted.WithLabelValues(transport, "not sent").Inc()
			return
		}
		s.counted.WithLabelValues(transport, outcome(m)).Inc()
	})
}

func outcome(m *dns.Msg) string {
	if m.Truncated {
		return "truncated"
	}
	switch m.Rcode {
	case dns.RcodeSuccess:
		return "answered"
	case dns.RcodeNameError:
		return "no such name"
	}
	return "refused"
}

func addrOf(a net.Addr) netip.Addr {
	if u, ok := a.(*net.UDPAddr); ok {
		return u.AddrPort().Addr()
	}
	return netip.Addr{}
}

// answer is the whole reply: records, EDNS, and not larger than the client takes.
func (s *Door) answer(q *dns.Msg, udp, slip bool) *dns.Msg {
	m := newZone(s.cfg.Zone, s.cfg.TTL.Std(), s.servers(), time.Now()).reply(q)
	size := dns.MaxMsgSize
	if udp {
		size = dns.MinMsgSize
	}
	if o := q.IsEdns0(); o != nil {
		m.SetEdns0(maxUDP, false)
		if o.Version() != 0 {
			m.Rcode = dns.RcodeBadVers // RFC 6891 section 6.1.3
			m.Answer, m.Ns = nil, nil
		}
		if udp {
			size = max(dns.MinMsgSize, min(int(o.UDPSize()), maxUDP))
		}
	}
	if slip {
		m.Answer, m.Ns, m.Truncated = nil, nil, true
		m.Extra = slices.DeleteFunc(m.Extra, func(r dns.RR) bool { return r.Header().Rrtype != dns.TypeOPT })
		return m
	}
	m.Compress = true
	m.Truncate(size)
	return m
}

// servers asks for the list once a second at most.
func (s *Door) servers() []Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.at) >= listCacheFor || s.at.IsZero() {
		s.cached, s.at = s.deps.Servers(), now
	}
	return s.cached
}
