package cluster

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster/mesh"
	"github.com/postern-mail/postern/internal/cluster/networks"
	"github.com/postern-mail/postern/internal/cluster/port"
	"github.com/postern-mail/postern/internal/org"
)

// Use is what a path is wanted for.
type Use = networks.Use

// Uses of paths.
const (
	// ForClients is calls on behalf of somebody who waits.
	ForClients = networks.Client
	// ForReplication is log shipping and seeding.
	ForReplication = networks.Replication
)

// routeKey is who is reached for what.
type routeKey struct {
	to  org.ServerName
	use Use
}

// pathsTo lists the ways to a member.
func (c *Cluster) pathsTo(to org.Server) []networks.Path {
	me, _ := c.View().Server(c.self.Name)
	nets, _ := c.networks()
	return networks.Paths(me, to, nets)
}

// pathNames are the names of the ways to all other members, for the mesh.
func (c *Cluster) pathNames() map[org.ServerName][]string {
	out := map[org.ServerName][]string{}
	for _, s := range c.View().Servers() {
		if s.Name == c.self.Name {
			continue
		}
		for _, p := range c.pathsTo(s) {
			out[s.Name] = append(out[s.Name], p.Network)
		}
	}
	return out
}

// Route names the network by which a member is reached best now. It does no
// I/O. It keeps to what it said before while that works and until something
// better has worked for the failback time.
func (c *Cluster) Route(s org.ServerName, use Use) string { return c.order(s, use)[0] }

// RouteBy is Route for a stream that is wanted in a certain network: that one,
// while the member is heard there.
func (c *Cluster) RouteBy(s org.ServerName, use Use, wish string) string {
	for _, p := range c.mesh.Paths(s) {
		if p.Name == wish && p.State == PeerUp {
			return wish
		}
	}
	return c.Route(s, use)
}

// Carries tells whether there is a network of a name that carries log.
func (c *Cluster) Carries(network string) bool {
	nets, _ := c.networks()
	return slices.ContainsFunc(nets, func(n org.Network) bool { return n.Name == network && n.Replication && !n.Ignore })
}

// order is all networks by which a member may be reached, the best first.
func (c *Cluster) order(s org.ServerName, use Use) []string {
	row, ok := c.View().Server(s)
	if !ok {
		return []string{org.ClientNetwork}
	}
	paths := c.pathsTo(row)
	if len(paths) == 1 {
		return []string{paths[0].Network}
	}
	heard := c.mesh.Paths(s)
	states := make([]networks.PathState, 0, len(paths))
	for _, p := range paths {
		st := networks.PathState{Network: p.Network}
		if i := slices.IndexFunc(heard, func(h mesh.Path) bool { return h.Name == p.Network }); i >= 0 {
			st.Up, st.For, st.RTT = heard[i].State == PeerUp, time.Since(heard[i].Since), heard[i].RTT
		}
		states = append(states, st)
	}
	nets, settings := c.networks()
	failback := settings.Failback
	if failback == 0 {
		failback = c.cfg.Failback
	}
	c.connMu.Lock()
	defer c.connMu.Unlock()
	key := routeKey{s, use}
	out := networks.Order(states, nets, use, c.routes[key], failback)
	if i := slices.IndexFunc(states, func(p networks.PathState) bool { return p.Network == out[0] }); states[i].Up {
		c.routes[key] = out[0]
	}
	return out
}

// Dial connects to a member (also to this one) for a protocol, with both ends
// authenticated, by the best of the networks that both stand in. A server that
// refuses this one's certificate says so at the first read only (TLS 1.3).
func (c *Cluster) Dial(ctx context.Context, s org.ServerName, proto string) (net.Conn, error) {
	row, ok := c.View().Server(s)
	if !ok {
		return nil, kind.Errorf(kind.NotFound, "dial %s: not a member of the group", s)
	}
	paths := c.pathsTo(row)
	if len(paths) == 1 {
		return c.dialPath(ctx, s, paths[0], proto)
	}
	var last error
	for _, name := range c.order(s, ForClients) {
		i := slices.IndexFunc(paths, func(p networks.Path) bool { return p.Network == name })
		if i < 0 {
			continue // the networks have changed
		}
		tctx, cancel := context.WithTimeout(ctx, c.cfg.SilentAfter)
		conn, err := c.dialPath(tctx, s, paths[i], proto)
		cancel()
		if err == nil || ctx.Err() != nil {
			return conn, err
		}
		last = err
	}
	if last == nil {
		last = kind.Errorf(kind.Busy, "dial %s: its networks are changing", s)
	}
	return nil, last
}

// DialOn is Dial by one network, as Route names it, and by no other. It is for
// streams that choose and leave their path themselves: the cluster does not end
// them when the path falls silent.
func (c *Cluster) DialOn(ctx context.Context, s org.ServerName, proto, network string) (net.Conn, error) {
	row, ok := c.View().Server(s)
	if !ok {
		return nil, kind.Errorf(kind.NotFound, "dial %s: not a member of the group", s)
	}
	paths := c.pathsTo(row)
	i := slices.IndexFunc(paths, func(p networks.Path) bool { return p.Network == network })
	if i < 0 {
		return nil, kind.Errorf(kind.NotFound, "dial %s: no way to it in network %s", s, network)
	}
	return c.dialPath(ctx, s, paths[i], proto)
}

func (c *Cluster) dialPath(ctx context.Context, s org.ServerName, p networks.Path, proto string) (net.Conn, error) {
	if !p.Source.IsValid() {
		return c.port.Dial(ctx, s, p.Addr, proto)
	}
	return c.port.DialFrom(ctx, p.Source, s, p.Addr, proto)
}

// dialMesh connects for the mesh, on the path it names.
func (c *Cluster) dialMesh(ctx context.Context, s org.ServerName, network string) (net.Conn, error) {
	conn, err := c.DialOn(ctx, s, protoMesh, network)
	if kind.Is(err, kind.NotFound) {
		return nil, &kind.Error{Kind: kind.Busy, Err: err} // the networks are changing
	}
	return conn, err
}

// pathTurned ends what this room sends over a path that has fallen silent, so
// that it is sent again over another, and says so.
func (c *Cluster) pathTurned(s org.ServerName, network string, from, to PeerState, after time.Duration) {
	c.connMu.Lock() // the publisher of paths
	c.pathNews = true
	c.connMu.Unlock()
	switch {
	case c.states()[s].State != PeerUp: // it is the server, and said so
	case to == PeerUp && from != PeerUnknown:
		c.events.Emit(evPathUp, "server %s is heard in network %s (was %s for %s)", s, network, from, after.Round(time.Millisecond))
	case to == PeerSilent && from != PeerUnknown:
		n := 0
		if here, ok := c.placeIn(network); ok {
			n = c.port.Cut(s, here, protoGRPC, protoEtcd, protoRaft)
		}
		c.events.Emit(evPathDown, "server %s is not heard in network %s any more (was %s for %s), %d connections ended there", s, network, from, after.Round(time.Millisecond), n)
	}
}

// placeIn is this server's address in a network.
func (c *Cluster) placeIn(network string) (netip.Addr, bool) {
	me, _ := c.View().Server(c.self.Name)
	nets, _ := c.networks()
	for _, n := range nets {
		if n.Name != network {
			continue
		}
		for _, i := range me.Interfaces {
			if n.Holds(i.Addr.Addr()) {
				return i.Addr.Addr(), true
			}
		}
	}
	return netip.Addr{}, false
}

// Pauses of keepPaths.
const (
	abortEvery = 100 * time.Millisecond // while a path fell silent just now
	abortFor   = 5 * time.Second
	abortSlow  = 2 * time.Second
)

// keepPaths ends etcd's connections on paths that have fallen silent while
// their server is heard on another, and its attempts there: etcd would wait
// for minutes on a connection that was cut. It then takes the next of the
// member's addresses.
func (c *Cluster) keepPaths(ctx context.Context) error {
	for ctx.Err() == nil {
		changed := c.PeersChanged()
		addrs, fresh := c.silentAddrs()
		if n := port.Abort(addrs); n > 0 {
			c.log.Debug("cluster: connections of the agreed state ended on silent paths", "connections", n)
		}
		pause := lookEvery
		switch {
		case fresh:
			pause, changed = abortEvery, nil
		case len(addrs) > 0:
			pause, changed = abortSlow, nil
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-t.C:
		}
		t.Stop()
	}
	return nil
}

// silentAddrs lists where servers that are up on another path are not heard;
// fresh tells that one of them fell silent a moment ago.
func (c *Cluster) silentAddrs() (addrs []netip.AddrPort, fresh bool) {
	for _, p := range c.Peers() {
		row, ok := c.View().Server(p.Server)
		if !ok || len(p.Paths) < 2 || p.State != PeerUp {
			continue
		}
		for _, w := range c.pathsTo(row) {
			i := slices.IndexFunc(p.Paths, func(h mesh.Path) bool { return h.Name == w.Network })
			if i < 0 || p.Paths[i].State == PeerUp {
				continue
			}
			if a, err := netip.ParseAddrPort(w.Addr); err == nil {
				addrs = append(addrs, a)
				fresh = fresh || time.Since(p.Paths[i].Since) < abortFor
			}
		}
	}
	return addrs, fresh
}
