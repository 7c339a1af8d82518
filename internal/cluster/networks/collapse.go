package networks

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/postern-mail/postern/internal/org"
)

// maxNetworks bounds the networks of a group.
const maxNetworks = 64

// at is one server's place in a subnet.
type at struct {
	server org.ServerName
	iface  org.Interface
	order  int // among the server's interfaces that are not the client's
}

// Collapse makes networks of the servers' subnets: one for clients, and one
// for each set of subnets that play the same part on different servers, which
// is to say the same subnet, or the interface of the same name or place where
// no server stands in both. A name once given stays with its subnets, and with
// it what administrators have set; networks whose subnets nobody announces any
// more stay too. In manual mode the old networks are the answer.
func Collapse(servers []org.Server, old []org.Network, s org.NetworkSettings) []org.Network {
	if s.Manual {
		return sorted(old)
	}
	client, rest := roles(servers, s)
	var out []org.Network
	taken := map[netip.Prefix]bool{}
	for _, p := range client {
		taken[p] = true
	}
	groups := join(rest)
	for _, g := range groups {
		for _, p := range g {
			taken[p] = true
		}
	}
	names := map[string]bool{}
	if len(client) > 0 {
		n := inherit(client, org.RoleClient, old, names, taken)
		n.Name = org.ClientNetwork
		names[n.Name] = true
		out = append(out, n)
	}
	var fresh [][]netip.Prefix
	for _, g := range groups {
		n := inherit(g, org.RoleReplication, old, names, taken)
		if n.Name == "" {
			fresh = append(fresh, g)
			continue
		}
		names[n.Name] = true
		out = append(out, n)
	}
	for _, o := range old { // nobody stands in them now
		if !names[o.Name] && len(out)+len(fresh) < maxNetworks {
			if o.Subnets = free(o.Subnets, taken); len(o.Subnets) > 0 {
				names[o.Name] = true
				out = append(out, o)
			}
		}
	}
	for _, g := range fresh {
		if len(out) == maxNetworks {
			break
		}
		n := org.Network{Name: freeName(names), Subnets: g, Role: org.RoleReplication, Replication: true, Auto: true}
		names[n.Name] = true
		out = append(out, n)
	}
	return sorted(out)
}

func freeName(names map[string]bool) string {
	for i := 1; ; i++ {
		if name := fmt.Sprintf("Replication%02d", i); !names[name] {
			return name
		}
	}
}

// roles parts the servers' subnets in those for clients and the others. A
// subnet that is one thing here and another there is what most say.
func roles(servers []org.Server, s org.NetworkSettings) (client []netip.Prefix, rest map[netip.Prefix][]at) {
	shared := map[netip.Addr]int{}
	for _, sv := range servers {
		for _, i := range sv.Interfaces {
			shared[i.Addr.Addr()]++
		}
	}
	votes, all := map[netip.Prefix]int{}, map[netip.Prefix][]at{}
	for _, sv := range servers {
		// An address that two servers have is not one at which either can be
		// told from the other: bridges for containers look like that.
		is := slices.DeleteFunc(slices.Clone(sv.Interfaces), func(i org.Interface) bool {
			return shared[i.Addr.Addr()] > 1 || s.Ignores(i.Addr.Addr())
		})
		c := clientOf(sv, is)
		order := 0
		for n, i := range is {
			a := at{server: sv.Name, iface: i, order: order}
			if n == c {
				votes[i.Prefix]++
			} else {
				votes[i.Prefix]--
				order++
			}
			all[i.Prefix] = append(all[i.Prefix], a)
		}
	}
	for p, v := range votes {
		if v >= 0 {
			client = append(client, p)
			delete(all, p)
		}
	}
	slices.SortFunc(client, comparePrefix)
	return client, all
}

// clientOf finds the interface that clients come in by: the one with the
// default route, else that of the cluster address, else the first.
func clientOf(s org.Server, is []org.Interface) int {
	if n := slices.IndexFunc(is, func(i org.Interface) bool { return i.Default }); n >= 0 {
		return n
	}
	self := hostOf(s.ClusterAddr)
	return max(0, slices.IndexFunc(is, func(i org.Interface) bool { return i.Addr.Addr() == self }))
}

// join puts subnets together that play the same part on different servers.
func join(rest map[netip.Prefix][]at) [][]netip.Prefix {
	ps := make([]netip.Prefix, 0, len(rest))
	for p := range rest {
		ps = append(ps, p)
	}
	slices.SortFunc(ps, comparePrefix)
	type group struct {
		prefixes []netip.Prefix
		members  []at
	}
	var groups []*group
	for _, same := range []func(a, b at) bool{ // the better reason first
		func(a, b at) bool { return a.iface.Name == b.iface.Name },
		func(a, b at) bool { return a.order == b.order },
	} {
		var next []*group
		if groups == nil {
			for _, p := range ps {
				groups = append(groups, &group{[]netip.Prefix{p}, rest[p]})
			}
		}
		for _, g := range groups {
			i := slices.IndexFunc(next, func(n *group) bool {
				return !slices.ContainsFunc(n.members, func(a at) bool {
					return slices.ContainsFunc(g.members, func(b at) bool { return a.server == b.server })
				}) && slices.ContainsFunc(n.members, func(a at) bool {
					return slices.ContainsFunc(g.members, func(b at) bool { return same(a, b) })
				})
			})
			if i < 0 {
				next = append(next, g)
				continue
			}
			next[i].prefixes = append(next[i].prefixes, g.prefixes...)
			next[i].members = slices.Concat(next[i].members, g.members)
		}
		groups = next
	}
	out := make([][]netip.Prefix, 0, len(groups))
	for _, g := range groups {
		slices.SortFunc(g.prefixes, comparePrefix)
		out = append(out, g.prefixes)
	}
	return out
}

// inherit makes a network of subnets, after the old one of its role that has
// most of them. Subnets of the old one that nobody has now stay with it.
func inherit(ps []netip.Prefix, role org.NetworkRole, old []org.Network, used map[string]bool, taken map[netip.Prefix]bool) org.Network {
	n := org.Network{Role: role, Replication: true, Auto: true}
	most := 0
	for _, o := range old {
		if used[o.Name] || o.Role != role {
			continue
		}
		count := 0
		for _, p := range ps {
			if slices.Contains(o.Subnets, p) {
				count++
			}
		}
		if count > most || role == org.RoleClient && n.Name == "" {
			n, most = o, count
		}
	}
	n.Subnets = slices.Concat(ps, free(n.Subnets, taken))
	slices.SortFunc(n.Subnets, comparePrefix)
	return n
}

func free(ps []netip.Prefix, taken map[netip.Prefix]bool) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(ps), func(p netip.Prefix) bool { return taken[p] })
}

func sorted(ns []org.Network) []org.Network {
	out := slices.Clone(ns)
	slices.SortFunc(out, func(a, b org.Network) int {
		return cmp.Or(cmp.Compare(b2i(a.Role != org.RoleClient), b2i(b.Role != org.RoleClient)), natural(a.Name, b.Name), cmp.Compare(a.Name, b.Name))
	})
	return out
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
