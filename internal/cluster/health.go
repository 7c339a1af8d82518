package cluster

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// Margin tells how many more voting servers may be lost before the group stops.
// A group of fewer than three servers has never any to spare: it is told as 1, so
// that nobody is called for what is so by design. Errors: Busy without quorum,
// Full where the agreed state has raised an alarm.
func (c *Cluster) Margin(ctx context.Context) (spare int, text string, err error) {
	if c.external() {
		return 1, "the agreed state is kept by an etcd outside", nil
	}
	s := c.Status(ctx)
	if s.Error != "" {
		return 0, "", kind.Errorf(kind.Busy, "%s", s.Error)
	}
	if len(s.Alarms) > 0 {
		return 0, "", kind.Errorf(kind.Full, "the agreed state has raised %s", strings.Join(s.Alarms, ", "))
	}
	voters, heard := 0, 0
	var lost []string
	for _, m := range s.Members {
		if m.Learner {
			continue
		}
		voters++
		if name := org.ServerName(m.Name); name == c.self.Name || c.peerIsUp(name) {
			heard++
		} else {
			lost = append(lost, m.Name)
		}
	}
	spare = heard - (voters/2 + 1)
	text = fmt.Sprintf("%d of %d voters are heard", heard, voters)
	if len(lost) > 0 {
		text += ", missing " + strings.Join(lost, " ")
	}
	if len(c.View().Servers()) < 3 {
		return max(spare, 1), text + "; a group of fewer than three servers has none to spare", nil
	}
	return spare, text, nil
}

func (c *Cluster) peerIsUp(s org.ServerName) bool {
	return slices.ContainsFunc(c.Peers(), func(p Peer) bool { return p.Server == s && p.State == PeerUp })
}

// PathTargets names the paths to the peers that are up, as <server>/<network>,
// where a peer has more than one: a peer that is gone altogether is no broken
// network.
func (c *Cluster) PathTargets() []string {
	var out []string
	for _, p := range c.Peers() {
		if p.State != PeerUp || len(p.Paths) < 2 {
			continue
		}
		for _, q := range p.Paths {
			out = append(out, string(p.Server)+"/"+q.Name)
		}
	}
	return out
}

// LookAtPath tells how a path of PathTargets is. An error says that it is silent
// though its peer is up.
func (c *Cluster) LookAtPath(target string) (text string, err error) {
	server, network, _ := strings.Cut(target, "/")
	for _, p := range c.Peers() {
		if string(p.Server) != server || p.State != PeerUp {
			continue
		}
		for _, q := range p.Paths {
			switch {
			case q.Name != network:
			case q.State == PeerUp:
				return "round trip " + q.RTT.String(), nil
			default:
				return "", kind.Errorf(kind.Busy, "%s is not heard in network %s", server, network)
			}
		}
	}
	return "", nil // gone meanwhile
}

// ClientNetwork fails while this server's interfaces in the networks that clients
// come by are all down, though it has such. Where the group knows no networks, or
// this server has no interface of its own in them (a lab), nobody can say.
func (c *Cluster) ClientNetwork() (text string, err error) {
	nets, _ := c.networks()
	row, ok := c.View().Server(c.self.Name)
	if !ok {
		return "", nil
	}
	var mine []org.Interface
	for _, i := range row.Interfaces {
		if i.Addr.Addr().IsLoopback() {
			continue
		}
		for _, n := range nets {
			if n.Role == org.RoleClient && slices.Contains(n.Subnets, i.Prefix.Masked()) {
				mine = append(mine, i)
			}
		}
	}
	if len(mine) == 0 {
		return "no interface to look at", nil
	}
	var down []string
	for _, i := range mine {
		f, err := net.InterfaceByName(i.Name)
		if err == nil && f.Flags&(net.FlagUp|net.FlagRunning) == net.FlagUp|net.FlagRunning {
			return i.Name + " is up", nil
		}
		down = append(down, i.Name)
	}
	return "", kind.Errorf(kind.Busy, "%s is down: clients cannot reach this server", strings.Join(down, ", "))
}
