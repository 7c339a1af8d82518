package imapd

import (
	"net/netip"
	"sync"
)

// gate counts connections, all of them and by address.
type gate struct {
	max, maxPer int

	mu  sync.Mutex // guards the fields below
	all int
	per map[netip.Prefix]int
}

func newGate(max, maxPer int) *gate {
	return &gate{max: max, maxPer: maxPer, per: map[netip.Prefix]int{}}
}

// open takes one of all places.
func (g *gate) open() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all >= g.max {
		return false
	}
	g.all++
	return true
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all--
}

// neighbours are counted as one: an IPv6 client has a /64 to choose from.
func neighbours(a netip.Addr) netip.Prefix {
	bits := 64
	if a.Is4() {
		bits = 32
	}
	p, _ := a.Prefix(bits) // the invalid address has the invalid prefix
	return p
}

// enter takes one of the places of an address.
func (g *gate) enter(a netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := neighbours(a)
	if g.per[p] >= g.maxPer {
		return false
	}
	g.per[p]++
	return true
}

func (g *gate) leave(a netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := neighbours(a)
	if g.per[p]--; g.per[p] <= 0 {
		delete(g.per, p)
	}
}
