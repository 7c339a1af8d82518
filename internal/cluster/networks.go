package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster/networks"
	"github.com/postern-mail/postern/internal/org"
)

// Keys of the rows about networks.
const (
	dirNetworks        = "networks/"
	dirNetwork         = "networks/net/" // by name
	keyNetworkSettings = "networks/settings"
)

// NetworkKey is the key of a network's row, an org.Network.
func NetworkKey(name string) string { return dirNetwork + name }

// Works tells whether all servers hear each other on the network.
func (n NetworkInfo) Works() bool { return n.State == networks.StateUp }

// netsOf is what a view says about networks.
type netsOf struct {
	view     *View
	nets     []org.Network
	settings org.NetworkSettings
}

// networks returns the group's networks and what holds for all of them. There
// are none where no server has more than one address.
func (c *Cluster) networks() ([]org.Network, org.NetworkSettings) {
	v := c.View()
	c.connMu.Lock()
	defer c.connMu.Unlock()
	if c.nets == nil || c.nets.view != v {
		nets, settings := networksIn(v)
		c.nets = &netsOf{v, nets, settings}
	}
	return c.nets.nets, c.nets.settings
}

func networksIn(v *View) (nets []org.Network, settings org.NetworkSettings) {
	for _, it := range v.Prefix(dirNetwork) {
		var n org.Network
		if json.Unmarshal(it.Value, &n) == nil {
			nets = append(nets, n)
		}
	}
	if it, ok := v.Get(keyNetworkSettings); ok {
		_ = json.Unmarshal(it.Value, &settings) // a newer version's row: defaults
	}
	return nets, settings
}

// keepNetworks collapses the servers' subnets into networks. The first live
// server by name does it.
func (c *Cluster) keepNetworks(ctx context.Context) error {
	for ctx.Err() == nil {
		changed := c.membersChanged()
		if c.isFirst() {
			if _, err := c.collapse(ctx, false); err != nil && ctx.Err() == nil && !kind.Is(err, kind.Conflict) {
				c.log.Debug("cluster: networks", "error", err)
			}
		}
		t := time.NewTimer(2 * lookEvery)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-t.C:
		}
		t.Stop()
	}
	return nil
}

func (c *Cluster) isFirst() bool {
	for _, s := range c.View().Servers() {
		if c.Alive(s.Name) {
			return s.Name == c.self.Name
		}
	}
	return false
}

// collapse writes the networks as the servers' interfaces show them, where
// that is news; forget leaves out networks in which nobody stands any more.
func (c *Cluster) collapse(ctx context.Context, forget bool) ([]org.Network, error) {
	v := c.View()
	old, settings := networksIn(v)
	now := networks.Collapse(v.Servers(), old, settings)
	if forget {
		now = slices.DeleteFunc(now, func(n org.Network) bool {
			return n.Role != org.RoleClient && !slices.ContainsFunc(v.Servers(), func(s org.Server) bool {
				return slices.ContainsFunc(s.Interfaces, func(i org.Interface) bool { return n.Holds(i.Addr.Addr()) && !settings.Ignores(i.Addr.Addr()) })
			})
		})
	}
	if len(old) == 0 && len(now) < 2 || reflect.DeepEqual(old, now) {
		return now, nil
	}
	if err := c.putNetworks(ctx, v, old, now); err != nil {
		return nil, err
	}
	c.events.Emit(evNetworks, "networks are now: %s", describe(now))
	return now, nil
}

func describe(ns []org.Network) string {
	var out []string
	for _, n := range ns {
		out = append(out, fmt.Sprintf("%s %v", n.Name, n.Subnets))
	}
	return strings.Join(out, ", ")
}

// putNetworks replaces the rows of networks that stood in v.
func (c *Cluster) putNetworks(ctx context.Context, v *View, old, now []org.Network) error {
	var t Txn
	row := func(name string) (string, Cond) {
		key := dirNetwork + name
		it, _ := v.Get(key)
		return key, Cond{key, it.Revision}
	}
	for _, n := range now {
		i := slices.IndexFunc(old, func(o org.Network) bool { return o.Name == n.Name })
		if i >= 0 && reflect.DeepEqual(old[i], n) {
			continue
		}
		key, cond := row(n.Name)
		t.If = append(t.If, cond)
		t.Then = append(t.Then, Op{Key: key, Value: mustJSON(n)})
	}
	for _, o := range old {
		if !slices.ContainsFunc(now, func(n org.Network) bool { return n.Name == o.Name }) {
			key, cond := row(o.Name)
			t.If = append(t.If, cond)
			t.Then = append(t.Then, Op{Key: key, Delete: true})
		}
	}
	if len(t.Then) == 0 {
		return nil
	}
	_, err := c.Commit(ctx, t)
	return err
}

// sectionPaths is what a server publishes of the paths to the others.
const sectionPaths = "paths"

// pathReport is one path as a server hears it.
type pathReport struct {
	To      org.ServerName `cbor:"1,keyasint"`
	Network string         `cbor:"2,keyasint"`
	State   PeerState      `cbor:"3,keyasint"`
	RTT     int64          `cbor:"4,keyasint"` // microseconds
}

// tellPaths publishes how the paths to the others are: a change within a
// second, round trips every lookEvery.
func (c *Cluster) tellPaths(ctx context.Context) error {
	var last time.Time
	for ctx.Err() == nil {
		c.connMu.Lock()
		news := c.pathNews
		c.pathNews = false
		c.connMu.Unlock()
		if nets, _ := c.networks(); len(nets) > 0 && (news || time.Since(last) >= lookEvery) {
			last = time.Now()
			c.Publish(sectionPaths, codec.MustMarshal(c.ownPaths()))
		}
		sleep(ctx, time.Second)
	}
	return nil
}

func (c *Cluster) ownPaths() (out []pathReport) {
	for _, p := range c.Peers() {
		for _, q := range p.Paths {
			out = append(out, pathReport{p.Server, q.Name, q.State, q.RTT.Microseconds()})
		}
	}
	return out
}

// link is a path as the server at its beginning hears it.
type link struct {
	networks.Link
	state PeerState
	rtt   time.Duration
}

// links gathers what all servers have published about their paths.
func (c *Cluster) links() (out []link) {
	for _, s := range c.View().Servers() {
		var rs []pathReport
		if s.Name == c.self.Name {
			rs = c.ownPaths()
		} else if b, _, ok := c.Published(s.Name, sectionPaths); !ok || codec.Unmarshal(b, &rs) != nil || c.states()[s.Name].State != PeerUp {
			continue // what a lost server said last is not how it is
		}
		for _, r := range rs {
			out = append(out, link{networks.Link{From: s.Name, To: r.To, Network: r.Network, Up: r.State == PeerUp}, r.State, time.Duration(r.RTT) * time.Microsecond})
		}
	}
	return out
}

// Compresses tells whether log on a connection to a member is to be
// compressed, as the group has set it.
func (c *Cluster) Compresses(peer org.ServerName, conn net.Conn, seed bool) bool {
	_, settings := c.networks()
	switch settings.Compression {
	case org.CompressDisabled:
		return false
	case org.CompressEnabled:
		return true
	case org.CompressSeedOnly:
		return seed
	}
	a, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil || a.Addr().IsLoopback() {
		return false
	}
	me, _ := c.View().Server(c.self.Name)
	other, _ := c.View().Server(peer)
	near := len(me.Interfaces) == 0 || slices.ContainsFunc(me.Interfaces, func(i org.Interface) bool { return i.Prefix.Contains(a.Addr().Unmap()) })
	return me.Site != other.Site || !near
}
