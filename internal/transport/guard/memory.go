package guard

import (
	"crypto/sha256"
	"math"
	"net/netip"
	"sync"
	"time"
)

// How long things are remembered, and when they count.
const (
	freeFailures  = 5                // of a network, before it is made to wait
	maxFailures   = 40               // counted of a network
	forgiveEvery  = 30 * time.Second // one failure of a network
	maxTarpit     = 20 * time.Second
	greylistRetry = 24 * time.Hour      // in which the second attempt has to come
	greylistPass  = 35 * 24 * time.Hour // for which a triple is known, since its last message
	knownFor      = 35 * 24 * time.Hour // for which a sender domain is known at a network
	familiarFor   = 24 * time.Hour      // for which a login keeps an address out of the tarpit
	fullFor       = 7 * 24 * time.Hour  // longer than senders retry
)

// memory is what was seen, here and at other servers.
type memory struct {
	mu       sync.Mutex // guards all below
	conns    *table[window]
	failures *table[bucket]
	grey     *table[attempt]
	known    *table[time.Time]
	familiar *table[time.Time]
	full     *table[time.Time]
	outside  *table[outward]
	pending  map[seen]int64 // what the others do not know yet
}

// bucket leaks one failure each forgiveEvery.
type bucket struct {
	level float64
	at    time.Time
}

// attempt is a triple of the greylist.
type attempt struct{ first, passed time.Time }

// outward is what one account wrote to the outside.
type outward struct {
	hour, day window
	held      bool // it was said that the account is held back
}

// window counts over a sliding span: what the last span had counts by its part
// that is still inside.
type window struct {
	start     time.Time
	cur, last int64
}

func (w *window) roll(now time.Time, span time.Duration) {
	switch age := now.Sub(w.start); {
	case age >= 2*span || age < 0:
		*w = window{start: now}
	case age >= span:
		*w = window{start: w.start.Add(span), last: w.cur}
	}
}

func (w *window) add(now time.Time, span time.Duration, n int64) int64 {
	w.roll(now, span)
	w.cur += n
	return w.count(now, span)
}

func (w *window) count(now time.Time, span time.Duration) int64 {
	w.roll(now, span)
	left := 1 - float64(now.Sub(w.start))/float64(span)
	return w.cur + int64(left*float64(w.last))
}

func newMemory(size int) *memory {
	return &memory{
		conns: newTable[window](size), failures: newTable[bucket](size), grey: newTable[attempt](size),
		known: newTable[time.Time](size), familiar: newTable[time.Time](size), full: newTable[time.Time](size),
		outside: newTable[outward](size), pending: map[seen]int64{},
	}
}

// network is what counts as one stranger: a /24, or the /64 that one IPv6
// customer has.
func network(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	bits := 24
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return "" // no address: all of them are one
	}
	return p.String()
}

// digest names what takes part in it, without keeping it.
func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return string(h.Sum(nil)[:16])
}

// connected counts a connection and gives those of the last minute. Networks
// that are far from the limit are nothing to tell others of.
func (m *memory) connected(net string, limit int, now time.Time) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.conns.at(net).add(now, time.Minute, 1)
	if n*10 >= int64(limit) {
		m.tell(seen{kindConnection, net}, 1)
	}
	return n
}

func (m *memory) fail(net string, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failures.at(net).add(1, now)
	m.tell(seen{kindFailure, net}, 1)
}

// behaved forgives a failure for a message that was taken: where many people
// send from one network, some of them mistype.
func (m *memory) behaved(net string, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.failures.get(net)
	if !ok {
		return
	}
	if b.add(-1, now); b.level <= 0 {
		m.failures.drop(net)
	}
}

func (b *bucket) add(n float64, now time.Time) {
	*b = bucket{min(b.now(now)+n, maxFailures), now}
}

func (b *bucket) now(now time.Time) float64 {
	return max(0, b.level-max(0, float64(now.Sub(b.at)))/float64(forgiveEvery))
}

// tarpit is how long an answer to this client waits.
func (m *memory) tarpit(net string, client netip.Addr, now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.failures.get(net)
	if !ok {
		return 0
	}
	over := int(math.Ceil(b.now(now))) - freeFailures
	if over < 0 {
		return 0
	}
	if at, ok := m.familiar.get(client.String()); ok && now.Sub(*at) < familiarFor {
		return 0
	}
	return min(time.Second<<min(over, 10), maxTarpit)
}

// loggedIn keeps an address that has just logged in out of the tarpit, which is
// made for a whole network.
func (m *memory) loggedIn(client netip.Addr, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	*m.familiar.at(client.String()) = now
}

// triple tells whether a triple may pass the greylist, and notes that it was
// here.
func (m *memory) triple(key string, delay time.Duration, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.grey.at(key)
	switch {
	case !a.passed.IsZero() && now.Sub(a.passed) < greylistPass:
	case !a.first.IsZero() && now.Sub(a.first) >= delay && now.Sub(a.first) < greylistRetry:
	default:
		if a.first.IsZero() || now.Sub(a.first) >= greylistRetry {
			*a = attempt{first: now}
			m.tell(seen{kindFirst, key}, now.Unix())
		}
		return false
	}
	if now.Sub(a.passed) > time.Hour { // not each message
		m.tell(seen{kindPassed, key}, now.Unix())
	}
	a.passed = now
	return true
}

// know remembers that a sender domain was proven at a network.
func (m *memory) know(key string, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.known.at(key)
	if now.Sub(*at) > time.Hour {
		m.tell(seen{kindKnown, key}, now.Unix())
	}
	*at = now
}

func (m *memory) knows(key string, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, ok := m.known.get(key)
	return ok && now.Sub(*at) < knownFor
}

// wrote counts recipients outside that an account wrote to, and tells whether
// it is over the limits only now.
func (m *memory) wrote(account string, n int64, hour, day int, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.outside.at(account)
	over := o.add(n, now, hour, day)
	m.tell(seen{kindOutside, account}, n)
	first := over && !o.held
	o.held = over
	return first
}

func (o *outward) add(n int64, now time.Time, hour, day int) bool {
	h, d := o.hour.add(now, time.Hour, n), o.day.add(now, 24*time.Hour, n)
	return hour > 0 && h > int64(hour) || day > 0 && d > int64(day)
}

// held tells whether an account is over its limits.
func (m *memory) held(account string, hour, day int, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.outside.get(account)
	return ok && o.add(0, now, hour, day)
}

func (m *memory) release(account string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.outside.drop(account)
}

func (m *memory) filled(id string, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	*m.full.at(id) = now
}

func (m *memory) wasFull(id string, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, ok := m.full.get(id)
	return ok && now.Sub(*at) < fullFor
}

func (m *memory) emptied(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.full.drop(id)
}
