package cluster

import (
	"context"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// keepPeerURLs tells the other voting servers all addresses at which this
// one's member of the agreed state is reached: etcd takes the next when one
// does not answer.
func (c *Cluster) keepPeerURLs(ctx context.Context) error {
	told := false // there may be several from an earlier run
	for ctx.Err() == nil {
		b, _ := c.currentBackend()
		row, ok := c.View().Server(c.self.Name)
		if ok && b != nil && b.member != nil && !b.member.Learner() && (!told || len(row.Interfaces) > 0) {
			if err := c.putPeerURLs(ctx, b, row); err == nil {
				told = true
			} else if ctx.Err() == nil {
				c.log.Debug("cluster: addresses of the agreed state", "error", err)
			}
		}
		changed := c.membersChanged()
		t := time.NewTimer(lookEvery)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-t.C:
		}
		t.Stop()
	}
	return nil
}

func (c *Cluster) putPeerURLs(ctx context.Context, b *backend, row org.Server) error {
	ctx, cancel := context.WithTimeout(ctx, 2*attempt)
	defer cancel()
	list, err := b.client.MemberList(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list.Members, func(m *etcdMember) bool { return m.ID == b.member.ID() })
	if i < 0 {
		return nil
	}
	want := c.peerURLs(row, list.Members[i].PeerURLs)
	if slices.Equal(want, list.Members[i].PeerURLs) {
		return nil
	}
	_, err = b.client.MemberUpdate(ctx, b.member.ID(), want)
	return err
}

// peerURLs are the addresses of this server's member: the one that names it
// first, then those in networks in which somebody has been heard, and in the
// certificate, so that nobody tries in vain.
func (c *Cluster) peerURLs(row org.Server, now []string) []string {
	out := []string{"https://" + c.self.Addr}
	nets, _ := c.networks()
	for _, n := range nets {
		for _, f := range row.Interfaces {
			url := "https://" + f.Addr.String()
			if n.Ignore || !n.Holds(f.Addr.Addr()) || slices.Contains(out, url) || !named(c.cert.Load().Leaf, []string{f.Addr.Addr().String()}) {
				continue
			}
			if slices.Contains(now, url) || slices.ContainsFunc(c.links(), func(l link) bool {
				return l.From == c.self.Name && l.Network == n.Name && l.Up
			}) {
				out = append(out, url)
			}
		}
	}
	return out
}

// manyAddresses tells whether this server has more than one: then connections
// go out from the one that the way there asks for.
func (c *Cluster) manyAddresses() bool {
	list, err := c.interfaces(nil)
	return err == nil && len(list) > 0
}
