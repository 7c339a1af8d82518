package remote

import (
	"hash/fnv"
	"math/rand/v2"
	"net/netip"

	"github.com/postern-mail/postern/internal/transport/dns"
)

// reserved are networks that are no way to a host of somebody else on the
// Internet, besides those netip knows.
var reserved = [...]netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"), // RFC 6598
	netip.MustParsePrefix("192.0.0.0/24"),  // RFC 6890
	netip.MustParsePrefix("198.18.0.0/15"), // RFC 2544
	netip.MustParsePrefix("240.0.0.0/4"),
}

// public tells whether an address may be one of the Internet.
func public(ip netip.Addr) bool {
	ip = ip.Unmap()
	if !ip.IsGlobalUnicast() || ip.IsPrivate() {
		return false
	}
	for _, p := range reserved {
		if p.Contains(ip) {
			return false
		}
	}
	return true
}

// allowed takes out what mail for the Internet may not go to.
func (a *Agent) allowed(ips []netip.Addr) []netip.Addr {
	if a.d.Private {
		return ips
	}
	var out []netip.Addr
	for _, ip := range ips {
		if public(ip) && !a.own(ip) {
			out = append(out, ip)
		}
	}
	return out
}

func (a *Agent) own(ip netip.Addr) bool {
	ip = ip.Unmap()
	for _, s := range a.d.Sources {
		if s.Address == ip {
			return true
		}
	}
	return a.d.Own != nil && a.d.Own(ip)
}

// alternate puts addresses of both families in turn, IPv6 first, each in an
// order of chance: a family that does not work costs one try, not all of them.
func alternate(ips []netip.Addr) []netip.Addr {
	var six, four, out []netip.Addr
	for _, ip := range ips {
		if ip = ip.Unmap(); ip.Is4() {
			four = append(four, ip)
		} else {
			six = append(six, ip)
		}
	}
	for _, l := range [][]netip.Addr{six, four} {
		rand.Shuffle(len(l), func(i, j int) { l[i], l[j] = l[j], l[i] })
	}
	for i := range max(len(six), len(four)) {
		if i < len(six) {
			out = append(out, six[i])
		}
		if i < len(four) {
			out = append(out, four[i])
		}
	}
	return out
}

// shuffle brings hosts of one preference, which stand together, into an order
// of chance (RFC 5321 section 5.1).
func shuffle(hosts []dns.MX) []dns.MX {
	for i := 0; i < len(hosts); {
		n := i
		for n < len(hosts) && hosts[n].Preference == hosts[i].Preference {
			n++
		}
		same := hosts[i:n]
		rand.Shuffle(len(same), func(x, y int) { same[x], same[y] = same[y], same[x] })
		i = n
	}
	return hosts
}

// source chooses the address and the name to send with. A destination always
// sees the same, as greylists want it.
func (a *Agent) source(to netip.Addr, dest string) (netip.Addr, string) {
	var fit []Source
	for _, s := range a.d.Sources {
		if s.Address.Unmap().Is4() == to.Unmap().Is4() {
			fit = append(fit, s)
		}
	}
	if len(fit) == 0 {
		return netip.Addr{}, a.d.Hostname
	}
	h := fnv.New32a()
	h.Write([]byte(dest))
	s := fit[h.Sum32()%uint32(len(fit))]
	if s.Hello == "" {
		s.Hello = a.d.Hostname
	}
	return s.Address, s.Hello
}
