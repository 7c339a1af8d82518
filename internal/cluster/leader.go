package cluster

import (
	"context"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// Leader names the server that leads the agreed state, empty where that is not
// known now.
func (c *Cluster) Leader(ctx context.Context) org.ServerName {
	return org.ServerName(c.Status(ctx).Leader)
}

// Boot is what tells the present run of a server's process from those before
// and after, empty while the server has no lease; version is of its program.
func (c *Cluster) Boot(s org.ServerName) (boot, version string) {
	it, ok := c.View().Get(dirLive + string(s))
	if !ok {
		return "", ""
	}
	row, err := decodeLive(it.Value)
	if err != nil {
		return "", ""
	}
	return row.Boot, row.Version
}

// heldBack tells whether somebody wants a server to have no roles (component
// high_availability, or its site is stopped).
func (c *Cluster) heldBack(s org.ServerName) bool {
	row, _ := c.View().Server(s)
	var site org.Site
	if it, ok := c.View().Get(org.SitePrefix + string(row.Site)); ok && decodeJSON(it.Value, &site) == nil && site.State == org.SiteStopped {
		return true
	}
	state, _ := c.View().Component(s, org.HighAvailability, time.Now())
	return state != org.Active
}

// yieldEvery is how often a server that should not lead the agreed state looks
// whether it does.
const yieldEvery = time.Second

// yieldLead gives the lead of the agreed state away while this server is held
// back. Leading is no matter of safety: where nobody else can lead, it goes on.
func (c *Cluster) yieldLead(ctx context.Context) error {
	for ctx.Err() == nil {
		changed := c.Changed()
		if b, _ := c.currentBackend(); b != nil && b.member != nil && b.member.Leader() == b.member.ID() && c.heldBack(c.self.Name) {
			if err := c.moveLead(ctx, b); err != nil && ctx.Err() == nil {
				c.log.Debug("cluster: give the lead away", "error", err)
			}
			changed = nil
		}
		select {
		case <-ctx.Done():
		case <-changed:
			sleep(ctx, 100*time.Millisecond) // whatever changes, not more often
		case <-time.After(yieldEvery):
		}
	}
	return nil
}

// moveLead asks etcd to let another voting server lead, the first by name that
// lives and is not held back.
func (c *Cluster) moveLead(ctx context.Context, b *backend) error {
	ctx, cancel := context.WithTimeout(ctx, 3*attempt)
	defer cancel()
	list, err := b.client.MemberList(ctx)
	if err != nil {
		return err
	}
	for _, s := range c.View().Servers() {
		if _, dead := c.Dead(s.Name); !s.Voter || s.Name == c.self.Name || dead || !c.Alive(s.Name) || c.heldBack(s.Name) {
			continue
		}
		for _, m := range list.Members {
			if m.Name == string(s.Name) && !m.IsLearner {
				_, err := b.client.MoveLeader(ctx, m.ID)
				return err
			}
		}
	}
	return kind.Errorf(kind.Busy, "no other server that votes can lead")
}
