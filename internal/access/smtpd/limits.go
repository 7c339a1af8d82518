package smtpd

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// gate counts connections, in all and per network.
type gate struct {
	max, perNet int

	mu    sync.Mutex // guards the two below
	total int
	nets  map[netip.Prefix]int
}

func newGate(max, perNet int) *gate {
	return &gate{max: max, perNet: perNet, nets: map[netip.Prefix]int{}}
}

// enter counts a connection. It is called before the address is known, since
// that may take reading from the connection.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.total >= g.max {
		return false
	}
	g.total++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total--
}

// enterFrom counts a connection of an address.
func (g *gate) enterFrom(n netip.Prefix) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.nets[n] >= g.perNet {
		return false
	}
	g.nets[n]++
	return true
}

func (g *gate) leaveFrom(n netip.Prefix) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.nets[n]--; g.nets[n] <= 0 {
		delete(g.nets, n)
	}
}

// network is what counts as one client: an IPv4 address or an IPv6 /64.
func network(a netip.Addr) netip.Prefix {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // an invalid address gives the zero prefix, also one client
	return p
}

// rates limits what accounts submit.
type rates struct {
	perMinute, perHour int // below zero: no limit

	mu       sync.Mutex // guards accounts
	accounts map[string]*accountRate
}

type accountRate struct {
	messages, recipients *rate.Limiter
	used                 time.Time
}

// maxRates bounds the accounts remembered; those unused for an hour are full
// again and may go.
const maxRates = 100000

func newRates(perMinute, perHour int) *rates {
	return &rates{perMinute: perMinute, perHour: perHour, accounts: map[string]*accountRate{}}
}

func (r *rates) of(key string) *accountRate {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	a := r.accounts[key]
	if a == nil {
		if len(r.accounts) >= maxRates {
			r.sweep(now)
		}
		a = &accountRate{
			messages:   limiter(r.perMinute, time.Minute),
			recipients: limiter(r.perHour, time.Hour),
		}
		r.accounts[key] = a
	}
	a.used = now
	return a
}

// sweep forgets idle accounts, or all when every one was busy in the last
// hour: forgetting is generous, growing without end is not.
func (r *rates) sweep(now time.Time) {
	for k, a := range r.accounts {
		if now.Sub(a.used) > time.Hour {
			delete(r.accounts, k)
		}
	}
	if len(r.accounts) >= maxRates {
		clear(r.accounts)
	}
}

func limiter(n int, per time.Duration) *rate.Limiter {
	if n < 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	return rate.NewLimiter(rate.Limit(float64(n)/per.Seconds()), n)
}

func (r *rates) message(account string) bool   { return r.of(account).messages.Allow() }
func (r *rates) recipient(account string) bool { return r.of(account).recipients.Allow() }
