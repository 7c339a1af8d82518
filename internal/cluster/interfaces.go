package cluster

import (
	"context"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster/networks"
	"github.com/postern-mail/postern/internal/org"
)

// lookEvery is the pause between two looks at this machine's interfaces.
const lookEvery = 5 * time.Second

// keepInterfaces listens at all of this server's addresses, and tells them the
// others in its row.
func (c *Cluster) keepInterfaces(ctx context.Context) error {
	told := ""
	for ctx.Err() == nil {
		v := c.View()
		row, ok := v.Server(c.self.Name)
		ok = ok && row.Identity == c.self.Identity
		mine, err := c.interfaces(row.Interfaces)
		if err == nil {
			var addrs []string
			for _, i := range mine {
				addrs = append(addrs, i.Addr.String())
			}
			err = c.port.Also(addrs)
		}
		if err != nil && err.Error() != told {
			told = err.Error()
			c.log.Warn("cluster: listen in all networks", "error", err)
		}
		if ok && !slices.Equal(row.Interfaces, mine) {
			row.Interfaces = mine
			if err := c.putServer(ctx, v, row); err != nil && !kind.Is(err, kind.Conflict) && ctx.Err() == nil {
				c.log.Debug("cluster: announce interfaces", "error", err)
			}
		}
		changed := c.membersChanged()
		select {
		case <-ctx.Done():
		case <-changed:
		case <-time.After(lookEvery):
		}
	}
	return nil
}

// interfaces finds this server's addresses in its networks. Those that were
// announced stay while the machine has the address, also when their link is
// down for now: whether anybody is heard there is the mesh's to say.
func (c *Cluster) interfaces(announced []org.Interface) ([]org.Interface, error) {
	if c.cfg.Interfaces != nil {
		return c.cfg.Interfaces(), nil
	}
	listen := c.cfg.Listen
	if listen == "" {
		listen = c.self.Addr
	}
	host, p, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, err
	}
	if ip, err := netip.ParseAddr(host); c.cfg.Listen != "" && (err != nil || !ip.IsUnspecified()) {
		return nil, nil // told to listen there and nowhere else
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return nil, err
	}
	found, err := lookAround()
	if err != nil {
		return nil, err
	}
	for i, f := range found {
		if slices.ContainsFunc(announced, func(a org.Interface) bool {
			return slices.ContainsFunc(f.Prefixes, func(p netip.Prefix) bool { return p.Addr() == a.Addr.Addr() })
		}) {
			found[i].Flags |= net.FlagUp | net.FlagRunning
		}
	}
	_, settings := c.networks()
	return networks.Usable(found, c.self.Addr, uint16(n), settings.Ignores), nil
}

// lookAround lists this machine's network interfaces.
func lookAround() ([]networks.Found, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, &kind.Error{Kind: kind.Internal, Text: "list network interfaces", Err: err}
	}
	byDefault := ""
	if f, err := os.Open("/proc/self/net/route"); err == nil {
		byDefault = networks.DefaultInterface(f)
		f.Close()
	}
	var out []networks.Found
	for _, i := range list {
		f := networks.Found{Name: i.Name, Flags: i.Flags, MTU: i.MTU, Default: i.Name == byDefault}
		addrs, err := i.Addrs()
		if err != nil {
			continue // it went away meanwhile
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				f.Prefixes = append(f.Prefixes, p)
			}
		}
		out = append(out, f)
	}
	return out, nil
}

// ownHosts are all addresses at which etcd's members dial this server, for its
// certificate: etcd checks the address it dialed.
func ownHosts(row org.Server) []string {
	var out []string
	for _, i := range row.Interfaces {
		out = append(out, i.Addr.Addr().String())
	}
	return out
}
