package directory

import (
	"net/netip"
	"sync"
	"time"
)

// ThrottleOptions bound password guessing. A limit is how many failures may
// come at once; one is forgiven each period. Zero fields take the default.
type ThrottleOptions struct {
	Account       int           // failures of one account from strange addresses; default 20
	AccountPeriod time.Duration // default 30 s
	Address       int           // failures from one address over all accounts; default 60
	AddressPeriod time.Duration // default 10 s
	Familiar      int           // failures of one account from an address it succeeded from; default 30
	FamiliarEvery time.Duration // default 20 s
	Entries       int           // counters kept; default 65536
	FamiliarPairs int           // accounts x addresses remembered; default 65536
	FamiliarFor   time.Duration // how long; default 30 days
}

func (o ThrottleOptions) withDefaults() ThrottleOptions {
	def(&o.Account, 20)
	def(&o.AccountPeriod, 30*time.Second)
	def(&o.Address, 60)
	def(&o.AddressPeriod, 10*time.Second)
	def(&o.Familiar, 30)
	def(&o.FamiliarEvery, 20*time.Second)
	def(&o.Entries, 1<<16)
	def(&o.FamiliarPairs, 1<<16)
	def(&o.FamiliarFor, 30*24*time.Hour)
	return o
}

// addressesPerAccount is how many addresses of one account are familiar, so that
// an account in the wrong hands cannot push out those of others.
const addressesPerAccount = 16

// throttle counts failed logins. Where an account has succeeded from an
// address before, only failures of that pair count: what others do elsewhere, or
// to other accounts from the same network, does not keep that person out.
type throttle struct {
	opt ThrottleOptions

	mu       sync.Mutex // guards all below
	failures map[string]bucket
	familiar map[string]map[netip.Addr]time.Time // account -> address -> last success
	pairs    int
}

// bucket leaks one failure per period.
type bucket struct {
	level float64
	at    time.Time
}

func newThrottle(o ThrottleOptions) *throttle {
	return &throttle{opt: o, failures: map[string]bucket{}, familiar: map[string]map[netip.Addr]time.Time{}}
}

// network is what counts as one address: an IPv4 address, or the /64 that one
// IPv6 customer has.
func network(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		p, _ := a.Prefix(64) // 64 is in range for IPv6
		return p.Addr()
	}
	return a
}

// counter is one bucket that a login is charged to.
type counter struct {
	key    string
	limit  int
	period time.Duration
}

// counters tells which buckets a login belongs to. The caller holds mu.
func (t *throttle) counters(account string, net netip.Addr, now time.Time) []counter {
	if at, ok := t.familiar[account][net]; ok && now.Sub(at) < t.opt.FamiliarFor {
		return []counter{{"p\x00" + account + "\x00" + net.String(), t.opt.Familiar, t.opt.FamiliarEvery}}
	}
	return []counter{
		{"a\x00" + account, t.opt.Account, t.opt.AccountPeriod},
		{"n\x00" + net.String(), t.opt.Address, t.opt.AddressPeriod},
	}
}

// level is a bucket's level now. The caller holds mu.
func (t *throttle) level(c counter, now time.Time) float64 {
	b, ok := t.failures[c.key]
	if !ok {
		return 0
	}
	return max(0, b.level-float64(now.Sub(b.at))/float64(c.period))
}

// allowed tells whether a login may be tried, without counting it.
func (t *throttle) allowed(account string, remote netip.Addr, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.counters(account, network(remote), now) {
		if t.level(c, now)+1 > float64(c.limit) {
			return false
		}
	}
	return true
}

// begin counts a login as a failure before its password is checked, so that
// many at once do not slip through; succeeded takes it back. The charge is what succeeded
// or cancelled needs.
func (t *throttle) begin(account string, remote netip.Addr, now time.Time) (charge []counter, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	charge = t.counters(account, network(remote), now)
	for _, c := range charge {
		if t.level(c, now)+1 > float64(c.limit) {
			return nil, false
		}
	}
	for _, c := range charge {
		level := t.level(c, now) + 1
		t.room(now)
		t.failures[c.key] = bucket{level, now}
	}
	return charge, true
}

// room makes place for one more counter: of a handful, the lowest goes. The
// caller holds mu.
func (t *throttle) room(now time.Time) {
	if len(t.failures) < t.opt.Entries {
		return
	}
	var victim string
	lowest, seen := 0.0, 0
	for key, b := range t.failures { // begins anywhere
		// The slowest period: good enough to compare by.
		left := b.level - float64(now.Sub(b.at))/float64(t.opt.AccountPeriod)
		if seen == 0 || left < lowest {
			victim, lowest = key, left
		}
		if seen++; seen == 8 {
			break
		}
	}
	delete(t.failures, victim)
}

// cancel takes a charge back: the password was not judged.
func (t *throttle) cancel(charge []counter, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range charge {
		level := t.level(c, now) - 1
		if level <= 0 {
			delete(t.failures, c.key)
			continue
		}
		t.failures[c.key] = bucket{level, now}
	}
}

// succeeded takes the charge back and remembers that the account was here.
func (t *throttle) succeeded(account string, remote netip.Addr, charge []counter, now time.Time) {
	t.cancel(charge, now)
	net := network(remote)
	t.mu.Lock()
	defer t.mu.Unlock()
	addrs := t.familiar[account]
	if _, ok := addrs[net]; !ok {
		switch {
		case len(addrs) >= addressesPerAccount:
			t.forgetOldest(addrs)
		case t.pairs >= t.opt.FamiliarPairs:
			t.forgetAny()
		}
		t.pairs++
	}
	if addrs = t.familiar[account]; addrs == nil {
		addrs = map[netip.Addr]time.Time{}
		t.familiar[account] = addrs
	}
	addrs[net] = now
}

func (t *throttle) forgetOldest(addrs map[netip.Addr]time.Time) {
	var oldest netip.Addr
	for a, at := range addrs {
		if !oldest.IsValid() || at.Before(addrs[oldest]) {
			oldest = a
		}
	}
	delete(addrs, oldest)
	t.pairs--
}

// forgetAny drops the oldest address of some account.
func (t *throttle) forgetAny() {
	for account, addrs := range t.familiar {
		t.forgetOldest(addrs)
		if len(addrs) == 0 {
			delete(t.familiar, account)
		}
		return
	}
}
