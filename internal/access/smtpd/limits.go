package smtpd

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
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

// fullBoxes remembers mailboxes that refused a message for lack of space, to
// ask them at RCPT next time.
type fullBoxes struct {
	mu    sync.Mutex // guards boxes
	boxes map[org.MailboxID]time.Time
}

const (
	maxFullBoxes = 10000
	fullFor      = 7 * 24 * time.Hour // longer than senders retry
)

func (f *fullBoxes) add(id org.MailboxID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.boxes == nil || len(f.boxes) >= maxFullBoxes {
		f.boxes = map[org.MailboxID]time.Time{}
	}
	f.boxes[id] = time.Now()
}

func (f *fullBoxes) has(id org.MailboxID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, ok := f.boxes[id]
	return ok && time.Since(at) < fullFor
}

func (f *fullBoxes) forget(id org.MailboxID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.boxes, id)
}

// retries remembers how messages ended that are likely to be sent again: for
// the window in which mailboxes know doubles, and in this server only.
type retries struct {
	mu   sync.Mutex // guards seen
	seen map[[32]byte]retry
}

type retry struct {
	key mail.Key
	at  time.Time
}

const (
	maxRetries = 10000
	retryFor   = 48 * time.Hour // the duplicate window
)

// has gives the key that was put with id.
func (r *retries) has(id [32]byte) (mail.Key, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, ok := r.seen[id]
	return old.key, ok && time.Since(old.at) < retryFor
}

// put remembers. When there are too many, all are forgotten: that is after an
// outage, and most have been sent again by then.
func (r *retries) put(id [32]byte, k mail.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen == nil || len(r.seen) >= maxRetries {
		r.seen = map[[32]byte]retry{}
	}
	r.seen[id] = retry{k, time.Now()}
}

func (r *retries) forget(id [32]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.seen, id)
}
