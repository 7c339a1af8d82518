package networks

import (
	"net/netip"
	"slices"

	"github.com/postern-mail/postern/internal/org"
)

// Path is one way from this server to another.
type Path struct {
	Network string
	Addr    string     // host:port to dial
	Source  netip.Addr // address to dial from, invalid for the server's usual one
}

// Paths lists the ways from one server to another, the client network first.
// That one is always there: where it is not known, or made by hand without one
// of the two, it is the other's cluster address.
func Paths(from, to org.Server, nets []org.Network) []Path {
	var out []Path
	for _, n := range nets {
		if n.Ignore {
			continue
		}
		mine, ok := place(from, n)
		if !ok {
			continue
		}
		theirs, ok := place(to, n)
		if !ok || mine.Addr.Addr() == theirs.Addr.Addr() {
			continue
		}
		p := Path{Network: n.Name, Addr: theirs.Addr.String(), Source: mine.Addr.Addr()}
		if n.Role == org.RoleClient {
			if !hostOf(to.ClusterAddr).IsValid() { // a name, which may mean another address tomorrow
				p.Addr = to.ClusterAddr
			}
			out = slices.Insert(out, 0, p)
			continue
		}
		out = append(out, p)
	}
	if !slices.ContainsFunc(out, func(p Path) bool { return p.Network == org.ClientNetwork }) {
		out = slices.Insert(out, 0, Path{Network: org.ClientNetwork, Addr: to.ClusterAddr})
	}
	return out
}

// place is a server's interface in a network.
func place(s org.Server, n org.Network) (org.Interface, bool) {
	i := slices.IndexFunc(s.Interfaces, func(i org.Interface) bool { return n.Holds(i.Addr.Addr()) })
	if i < 0 {
		return org.Interface{}, false
	}
	return s.Interfaces[i], true
}
