package cluster

import (
	"cmp"
	"context"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster/agreed"
	"github.com/postern-mail/postern/internal/org"
)

// votersWanted is how many of n servers should vote: all of up to three, then
// an odd number up to five. A fourth or sixth vote would not allow one more
// server to be lost.
func votersWanted(n int) int {
	switch {
	case n <= 3:
		return n
	case n == 4:
		return 3
	}
	return 5
}

// nextVoter chooses the server that should begin to vote, if one should:
// witnesses first, then the longest member. Nobody stops voting by itself. An
// alternate witness counts only while no other witness votes.
func nextVoter(servers []org.Server, alive func(org.ServerName) bool) (org.ServerName, bool) {
	if slices.ContainsFunc(servers, func(s org.Server) bool { return s.Witness && s.Voter && !s.Alternate }) {
		servers = slices.DeleteFunc(slices.Clone(servers), func(s org.Server) bool { return s.Alternate && !s.Voter })
	}
	votes := 0
	var free []org.Server
	for _, s := range servers {
		if s.Voter {
			votes++
		} else if alive(s.Name) {
			free = append(free, s)
		}
	}
	if votes >= votersWanted(len(servers)) || len(free) == 0 {
		return "", false
	}
	best := slices.MinFunc(free, func(a, b org.Server) int {
		if a.Witness != b.Witness {
			if a.Witness {
				return -1
			}
			return 1
		}
		return cmp.Or(a.Joined.Compare(b.Joined), cmp.Compare(a.Name, b.Name))
	})
	return best.Name, true
}

// keepVoters runs on every server and works on the one that leads etcd: it
// lets servers vote where votes are missing, and removes from etcd's list
// whoever is no member of the group any more.
func (c *Cluster) keepVoters(ctx context.Context) error {
	strangers := map[uint64]int{}
	for ctx.Err() == nil {
		if b, _ := c.currentBackend(); b != nil && b.member != nil && b.member.Leader() == b.member.ID() {
			if err := c.addVoter(ctx); err != nil && ctx.Err() == nil {
				c.log.Warn("cluster: add a voting server", "error", err)
			}
			if err := c.dropStrangers(ctx, b, strangers); err != nil && ctx.Err() == nil {
				c.log.Debug("cluster: compare etcd's members", "error", err)
			}
		}
		changed := c.membersChanged()
		select {
		case <-ctx.Done():
		case <-changed:
		case <-time.After(2 * time.Second):
		}
	}
	return nil
}

func (c *Cluster) addVoter(ctx context.Context) error {
	v := c.View()
	name, ok := nextVoter(v.Servers(), c.Alive)
	if !ok {
		return nil
	}
	row, _ := v.Server(name)
	r := serverRow(row)
	r.vote()
	err := c.putServer(ctx, v, org.Server(r))
	if kind.Is(err, kind.Conflict) {
		return nil // somebody changed the row; look again
	}
	return err
}

// dropStrangers removes etcd members that have no row, once they were seen
// three times: a removal that was cut short after the row went.
func (c *Cluster) dropStrangers(ctx context.Context, b *backend, seen map[uint64]int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*attempt)
	defer cancel()
	list, err := b.client.MemberList(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, s := range c.View().Servers() {
		known[s.PeerURL] = true
	}
	for _, m := range list.Members {
		if len(m.PeerURLs) == 0 || slices.ContainsFunc(m.PeerURLs, func(u string) bool { return known[u] }) || m.ID == b.member.ID() {
			delete(seen, m.ID)
			continue
		}
		if seen[m.ID]++; seen[m.ID] < 3 {
			continue
		}
		delete(seen, m.ID)
		if _, err := b.client.MemberRemove(ctx, m.ID); err != nil {
			return err
		}
	}
	return nil
}

// becomeVoter adds this server to etcd's members as a learner, starts its
// member and has it promoted. cl is the way to the present voters.
func (c *Cluster) becomeVoter(ctx context.Context, cl *clientv3.Client) (*agreed.Member, error) {
	cfg := c.memberConfig()
	cfg.Join = true
	list, err := c.asLearner(ctx, cl, cfg.PeerURL)
	if err != nil {
		return nil, err
	}
	cfg.Initial = list
	m, err := agreed.Start(cfg, c.raft.Open(), c.etcd.Open())
	if err != nil {
		return nil, err
	}
	if err := promoteBy(ctx, cl, m); err != nil {
		m.Stop(0)
		return nil, err
	}
	return m, nil
}

// asLearner makes sure that etcd lists this server as a member that has not
// started yet, and returns all members' peer URLs by name.
func (c *Cluster) asLearner(ctx context.Context, cl *clientv3.Client, url string) (map[string][]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list, err := cl.MemberList(ctx)
	if err != nil {
		return nil, err
	}
	members := list.Members
	i := slices.IndexFunc(members, func(m *etcdMember) bool { return slices.Contains(m.PeerURLs, url) })
	if i >= 0 && members[i].Name != "" {
		// It ran before, and its data is gone: it must not come back under
		// the old number, which may have voted.
		if _, err := cl.MemberRemove(ctx, members[i].ID); err != nil {
			return nil, err
		}
		i = -1
	}
	if i < 0 {
		added, err := cl.MemberAddAsLearner(ctx, []string{url})
		if err != nil {
			return nil, err
		}
		members = added.Members
	}
	out := map[string][]string{}
	for _, m := range members {
		name := m.Name
		switch {
		case slices.Contains(m.PeerURLs, url):
			name = string(c.self.Name)
		case name == "": // another one that is about to start
			name = m.PeerURLs[0]
		}
		out[name] = m.PeerURLs
	}
	return out, nil
}

// promote has a member promoted that was started again while it learned.
func (c *Cluster) promote(ctx context.Context, m *agreed.Member) {
	cl, err := c.connectVoters()
	if err != nil {
		c.log.Warn("cluster: promote", "error", err)
		return
	}
	defer cl.Close()
	if err := promoteBy(ctx, cl, m); err != nil && ctx.Err() == nil {
		c.log.Warn("cluster: promote", "error", err)
	}
}

// promoteBy asks the voters to let a member vote until they do: they refuse
// while it has not caught up.
func promoteBy(ctx context.Context, cl *clientv3.Client, m *agreed.Member) error {
	for {
		tctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err := cl.MemberPromote(tctx, m.ID())
		cancel()
		if err == nil || rpctypes.Error(err) == rpctypes.ErrMemberNotLearner {
			break
		}
		if rpctypes.Error(err) == rpctypes.ErrMemberNotFound {
			return kind.Errorf(kind.NotFound, "promote: the group does not list this member any more")
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		select {
		case <-m.Done():
			return kind.Errorf(kind.Busy, "promote: member ended")
		default:
			sleep(ctx, 100*time.Millisecond)
		}
	}
	// The promotion has to arrive here too before the member serves.
	for m.Learner() && ctx.Err() == nil {
		sleep(ctx, between)
	}
	return ctx.Err()
}
