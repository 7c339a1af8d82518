package tlspolicy

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/dns"
)

// Resolver is what is asked of DNS; *dns.Resolver is one.
type Resolver interface {
	TXT(ctx context.Context, name string) ([]string, dns.Info, error)
	TLSA(ctx context.Context, name string) ([]dns.TLSA, dns.Info, error)
	Addrs(ctx context.Context, host string) ([]netip.Addr, dns.Info, error)
}

// Store keeps policies over a restart: one that was seen has to hold for its
// max_age (RFC 8461 section 5.1). Losing it does no other harm.
type Store interface {
	LoadPolicy(domain string) ([]byte, bool)
	SavePolicy(domain string, policy []byte, until time.Time)
}

// Options say what Policies work with.
type Options struct {
	Resolver Resolver
	Store    Store // nil: memory only
	// Roots verify web servers and, for MTA-STS, MX hosts; nil: the system's.
	Roots *x509.CertPool
	// Dial opens connections to addresses; nil is a plain net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Private allows policies to be fetched from addresses that are not
	// public, for groups whose partners are in their own network.
	Private bool
}

const (
	maxDomains   = 20_000
	maxFetches   = 16
	retryAfter   = 5 * time.Minute // RFC 8461 section 3.3
	refreshAfter = 24 * time.Hour
)

// Policies knows and remembers what domains and hosts promise. It is safe for
// concurrent use.
type Policies struct {
	o     Options
	slots chan struct{}
	now   func() time.Time

	mu      sync.Mutex // guards domains
	domains map[string]*domain
}

// domain is what is remembered of one.
type domain struct {
	turn chan struct{} // held by the one who fetches

	mu      sync.Mutex // guards the rest
	sts     STS        // Mode is empty: none
	tried   time.Time  // the last fetch that failed
	problem error      // of it
}

// New makes Policies; it starts and asks nothing.
func New(o Options) *Policies {
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	return &Policies{o: o, slots: make(chan struct{}, maxFetches), now: time.Now, domains: map[string]*domain{}}
}

// For returns the MTA-STS policy of a domain; Mode is empty where there is
// none. err tells what is wrong with what the domain publishes, for reports
// (RFC 8460 section 4.3): the policy returned with it holds all the same.
func (p *Policies) For(ctx context.Context, name string) (STS, error) {
	name, err := mail.NormalizeDomain(name)
	if err != nil || name[0] == '[' {
		return STS{}, nil // literals publish nothing
	}
	txts, _, err := p.o.Resolver.TXT(ctx, "_mta-sts."+name)
	id := ""
	if err == nil {
		id, err = parseRecord(txts)
	}
	if kind.Is(err, kind.NotFound) || err == errNoRecord {
		err = nil
	}
	d := p.domain(name, id != "")
	if d == nil {
		return STS{}, err
	}
	// Without a record or an answer, what is remembered holds (section 3.3).
	if s, fresh := d.known(p.now(), id); fresh || id == "" {
		return s, err
	}
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	case <-ctx.Done():
		s, _ := d.known(p.now(), "")
		return s, context.Cause(ctx)
	}
	return p.renew(ctx, name, id, d)
}

// renew fetches the policy, unless somebody did while this call waited.
func (p *Policies) renew(ctx context.Context, name, id string, d *domain) (STS, error) {
	s, fresh := d.known(p.now(), id)
	if fresh {
		return s, nil
	}
	d.mu.Lock()
	wait, problem := p.now().Sub(d.tried) < retryAfter, d.problem
	d.mu.Unlock()
	if wait && problem != nil {
		return s, problem
	}
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return s, context.Cause(ctx)
	}
	got, err := p.fetch(ctx, name)
	if err != nil {
		err = kind.Errorf(kind.Busy, "mta-sts %s: %w", name, err)
		if ctx.Err() == nil { // the caller's time says nothing about the domain
			d.mu.Lock()
			d.tried, d.problem = p.now(), err
			d.mu.Unlock()
		}
		return s, err
	}
	got.ID, got.Fetched = id, p.now()
	d.mu.Lock()
	d.sts, d.problem = got, nil
	d.mu.Unlock()
	if p.o.Store != nil {
		if b, err := json.Marshal(got); err == nil {
			p.o.Store.SavePolicy(name, b, got.expires())
		}
	}
	return got, nil
}

// known returns the policy that holds now, and whether it is the one of id and
// young enough to do without another look.
func (d *domain) known(now time.Time, id string) (STS, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sts.Mode == "" || !now.Before(d.sts.expires()) {
		return STS{}, false
	}
	return d.sts, d.sts.ID == id && now.Sub(d.sts.Fetched) < refreshAfter
}

// domain finds what is remembered, here or in the store. Nil: nothing, and
// nothing to begin.
func (p *Policies) domain(name string, begin bool) *domain {
	p.mu.Lock()
	d := p.domains[name]
	p.mu.Unlock()
	if d != nil {
		return d
	}
	s, ok := p.load(name)
	if !ok && !begin {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if d := p.domains[name]; d != nil {
		return d
	}
	for other, d := range p.domains { // any: the store has them
		if len(p.domains) < maxDomains {
			break
		}
		if len(d.turn) == 0 {
			delete(p.domains, other)
		}
	}
	d = &domain{turn: make(chan struct{}, 1), sts: s}
	p.domains[name] = d
	return d
}

func (p *Policies) load(name string) (STS, bool) {
	if p.o.Store == nil {
		return STS{}, false
	}
	b, ok := p.o.Store.LoadPolicy(name)
	var s STS
	if !ok || json.Unmarshal(b, &s) != nil {
		return STS{}, false
	}
	return s, true
}
