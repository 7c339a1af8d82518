package networks

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/org"
)

// Found is a network interface of this machine.
type Found struct {
	Name     string
	Flags    net.Flags
	MTU      int // bytes
	Prefixes []netip.Prefix
	Default  bool // carries the default route
}

// maxInterfaces bounds what a server announces.
const maxInterfaces = 16

// Usable chooses the interfaces at which a server can be reached by the
// others: up, no loopback, no tunnel, one address each (that of clusterAddr, else IPv4
// before IPv6), none of the link's own. port is the cluster port. It returns
// nothing where the server has a single address, or speaks on loopback: then
// clusterAddr says all there is.
func Usable(found []Found, clusterAddr string, port uint16, ignores func(netip.Addr) bool) []org.Interface {
	self := hostOf(clusterAddr)
	if self.IsLoopback() {
		return nil
	}
	var out []org.Interface
	for _, f := range found {
		if f.Flags&net.FlagUp == 0 || f.Flags&net.FlagRunning == 0 || f.Flags&(net.FlagLoopback|net.FlagPointToPoint) != 0 {
			continue
		}
		p, ok := pick(f.Prefixes, self, ignores)
		if !ok {
			continue
		}
		out = append(out, org.Interface{Name: f.Name, Prefix: p.Masked(), Addr: netip.AddrPortFrom(p.Addr(), port), Default: f.Default, MTU: f.MTU})
	}
	slices.SortFunc(out, func(a, b org.Interface) int { return natural(a.Name, b.Name) })
	if len(out) < 2 {
		return nil
	}
	return out[:min(len(out), maxInterfaces)]
}

// pick chooses an interface's address.
func pick(ps []netip.Prefix, self netip.Addr, ignores func(netip.Addr) bool) (netip.Prefix, bool) {
	var best netip.Prefix
	for _, p := range ps {
		a := p.Addr().Unmap()
		if !a.IsGlobalUnicast() || a.IsLinkLocalUnicast() || ignores(a) {
			continue
		}
		if a == self {
			return netip.PrefixFrom(a, p.Bits()), true
		}
		if !best.IsValid() || a.Is4() && !best.Addr().Is4() {
			best = netip.PrefixFrom(a, p.Bits())
		}
	}
	return best, best.IsValid()
}

// hostOf is the IP address in host:port, invalid for a name.
func hostOf(hostport string) netip.Addr {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap()
}

// natural orders names so that eth2 comes before eth10.
func natural(a, b string) int {
	for a != "" && b != "" {
		da, db := digits(a), digits(b)
		if da > 0 && db > 0 {
			na, nb := strings.TrimLeft(a[:da], "0"), strings.TrimLeft(b[:db], "0")
			if c := cmp.Or(cmp.Compare(len(na), len(nb)), cmp.Compare(na, nb)); c != 0 {
				return c
			}
			a, b = a[da:], b[db:]
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}
