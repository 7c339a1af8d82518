package dnsd

import (
	"net/netip"
	"sync"
	"time"
)

// Limits of answers over UDP.
const (
	perSecond   = 20
	maxNetworks = 10000
)

// limiter counts answers by network, so that a forged source address gets little
// traffic out of this door.
type limiter struct {
	mu       sync.Mutex // guards all below
	networks map[netip.Prefix]*bucket
	rest     bucket // of all networks for which there is no room
	forgot   time.Time
}

type bucket struct {
	left  float64
	at    time.Time
	slips int
}

func newLimiter() *limiter { return &limiter{networks: map[netip.Prefix]*bucket{}} }

// verdict is what happens to a question.
type verdict uint8

const (
	answerIt verdict = iota
	overTCP          // tell the client to ask over TCP, which cannot be forged
	dropIt
)

func network(a netip.Addr) netip.Prefix {
	bits := 56
	if a = a.Unmap(); a.Is4() {
		bits = 24
	}
	p, err := a.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// judge counts a question of an address.
func (l *limiter) judge(a netip.Addr, now time.Time) verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := network(a)
	b := l.networks[p]
	if b == nil {
		if len(l.networks) >= maxNetworks {
			l.forget(now)
		}
		if len(l.networks) >= maxNetworks {
			b = &l.rest
		} else {
			b = &bucket{left: perSecond, at: now}
			l.networks[p] = b
		}
	}
	b.left = min(perSecond, b.left+now.Sub(b.at).Seconds()*perSecond)
	b.at = now
	if b.left >= 1 {
		b.left--
		return answerIt
	}
	if b.slips++; b.slips%2 == 0 {
		return overTCP
	}
	return dropIt
}

// forget drops networks that have been silent for a second: their buckets are full.
func (l *limiter) forget(now time.Time) {
	if now.Sub(l.forgot) < time.Second {
		return // a look at all of them for each packet would be an attack's aim
	}
	l.forgot = now
	for p, b := range l.networks {
		if now.Sub(b.at) >= time.Second {
			delete(l.networks, p)
		}
	}
}
