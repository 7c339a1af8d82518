package dns

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	wire "github.com/miekg/dns"
	"github.com/postern-mail/postern/internal/base/kind"
)

// When the word of a resolver that it validated an answer (the AD bit) counts.
const (
	TrustAuto   = "auto"   // resolvers on a loopback address
	TrustAlways = "always" // all: the way to them is safe
	TrustNever  = "never"
)

// Config says whom to ask and how.
type Config struct {
	// Servers are addresses of resolvers, with a port or without (53). Empty:
	// those of /etc/resolv.conf. At most 5.
	Servers []string
	TrustAD string        // TrustAuto when empty
	Timeout time.Duration // of one question to one resolver, 3 s
	// CacheSize is how many answers are remembered, 50,000; they have at most
	// 64 MiB together.
	CacheSize int
}

const (
	maxServers = 5
	rounds     = 2   // each resolver is asked so often
	inFlight   = 256 // questions at the same time
	cacheBytes = 64 << 20
)

// Resolver asks, remembers and is safe for concurrent use.
type Resolver struct {
	servers []server
	timeout time.Duration
	first   atomic.Uint32 // the resolver that answered last
	slots   chan struct{}
	now     func() time.Time

	mu    sync.Mutex // guards cache
	cache cache
}

type server struct {
	addr    string
	trusted bool // its AD bit counts
}

// New makes a resolver; it starts and asks nothing.
func New(c Config) (*Resolver, error) {
	if len(c.Servers) == 0 {
		f, err := wire.ClientConfigFromFile("/etc/resolv.conf")
		if err != nil {
			return nil, kind.Errorf(kind.Invalid, "resolvers of this host: %w", err)
		}
		c.Servers = f.Servers[:min(len(f.Servers), maxServers)]
	}
	if len(c.Servers) == 0 || len(c.Servers) > maxServers {
		return nil, kind.Errorf(kind.Invalid, "resolvers: %d, want 1 to %d", len(c.Servers), maxServers)
	}
	switch c.TrustAD {
	case "":
		c.TrustAD = TrustAuto
	case TrustAuto, TrustAlways, TrustNever:
	default:
		return nil, kind.Errorf(kind.Invalid, "trust in DNSSEC answers: %q, want auto, always or never", c.TrustAD)
	}
	if c.Timeout <= 0 {
		c.Timeout = 3 * time.Second
	}
	if c.CacheSize <= 0 {
		c.CacheSize = 50_000
	}
	r := &Resolver{timeout: c.Timeout, slots: make(chan struct{}, inFlight), now: time.Now, cache: newCache(c.CacheSize, cacheBytes)}
	for _, s := range c.Servers {
		srv, err := parseServer(s, c.TrustAD)
		if err != nil {
			return nil, err
		}
		r.servers = append(r.servers, srv)
	}
	return r, nil
}

func parseServer(s, trust string) (server, error) {
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		ip, iperr := netip.ParseAddr(s)
		if iperr != nil {
			return server{}, kind.Errorf(kind.Invalid, "resolver %q: want an IP address, with a port or without", s)
		}
		ap = netip.AddrPortFrom(ip, 53)
	}
	trusted := trust == TrustAlways || trust == TrustAuto && ap.Addr().Unmap().IsLoopback()
	return server{addr: ap.String(), trusted: trusted}, nil
}
