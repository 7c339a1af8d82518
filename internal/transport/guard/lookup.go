package guard

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/settings"
)

const (
	// lookupTimeout bounds what is looked up about a connection.
	lookupTimeout = 2 * time.Second
	// maxBlockLists are asked at most.
	maxBlockLists = 20
	// refusedFrom is the sum of weights at which a client is refused.
	refusedFrom = 10
)

// lookUp finds the name of a client and asks the block lists, all at once.
func (g *Guard) lookUp(ctx context.Context, p *mail.Peer) mail.Verdict {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	client := p.Remote.Unmap().WithZone("")
	var wg sync.WaitGroup
	if p.Reverse == "" {
		wg.Go(func() { p.Reverse = g.reverse(ctx, client) })
	}
	zones := g.deps.Settings.Group().DNSBL
	zones = zones[:min(len(zones), maxBlockLists)]
	weights := make([]int, len(zones))
	if public(client) {
		for i, z := range zones {
			wg.Go(func() { weights[i] = g.listed(ctx, client, z) })
		}
	}
	wg.Wait()
	sum, by := 0, ""
	for i, w := range weights {
		if sum += w; w > 0 {
			by += " " + zones[i]
		}
	}
	if sum < refusedFrom {
		return pass()
	}
	return g.said("dnsbl", closing(refuse("5.7.1", "This address is on a block list", "dnsbl:"+by)))
}

// public tells whether an address can be on a public list.
func public(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.IsPrivate()
}

// reverse is the name of a client that has its address; empty for none.
func (g *Guard) reverse(ctx context.Context, client netip.Addr) string {
	names, _, err := g.deps.Resolver.PTR(ctx, client)
	if err != nil {
		return ""
	}
	for _, n := range names[:min(len(names), 3)] {
		n = strings.ToLower(strings.TrimSuffix(n, "."))
		addrs, _, err := g.deps.Resolver.Addrs(ctx, n)
		if err == nil && slices.Contains(addrs, client) {
			return n
		}
	}
	return ""
}

// listed is the weight of a block list that has the client (RFC 5782). What does
// not answer, or answers other than with its marks, has no weight.
func (g *Guard) listed(ctx context.Context, client netip.Addr, spec string) int {
	zone, weight, err := settings.DNSBLZone(spec)
	if err != nil {
		return 0
	}
	addrs, _, err := g.deps.Resolver.Addrs(ctx, reversed(client)+"."+zone)
	if err != nil {
		res := "error"
		if kind.Is(err, kind.NotFound) {
			res = "pass"
		}
		g.m.guard.WithLabelValues("dnsbl_answer", res).Inc()
		return 0
	}
	for _, a := range addrs {
		// 127.255.255.0/24 says that we may not ask (Spamhaus and others);
		// anything outside of 127.0.0.0/8 is a domain that was parked.
		if !a.Is4() {
			continue
		}
		if b := a.As4(); b[0] == 127 && !(b[1] == 255 && b[2] == 255) {
			g.m.guard.WithLabelValues("dnsbl_answer", "listed").Inc()
			return weight
		}
	}
	g.m.guard.WithLabelValues("dnsbl_answer", "error").Inc()
	return 0
}

// reversed is an address as block lists want it (RFC 5782 section 2).
func reversed(a netip.Addr) string {
	b := a.AsSlice()
	slices.Reverse(b)
	parts := make([]string, 0, 32)
	for _, x := range b {
		if a.Is4() {
			parts = append(parts, strconv.Itoa(int(x)))
			continue
		}
		parts = append(parts, fmt.Sprintf("%x", x&15), fmt.Sprintf("%x", x>>4))
	}
	return strings.Join(parts, ".")
}

// claimsUs tells whether somebody from the Internet says our name.
func (g *Guard) claimsUs(p *mail.Peer) bool {
	return g.cfg.Hostname != "" && strings.EqualFold(strings.TrimSuffix(p.Helo, "."), g.cfg.Hostname) &&
		public(p.Remote.Unmap()) && !g.inForce().allow.network(p.Remote, time.Now())
}
