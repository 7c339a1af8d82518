package cluster

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/netx"
	"github.com/postern-mail/postern/internal/cluster/agreed"
	"github.com/postern-mail/postern/internal/org"
)

// prefix is where all keys are in etcd; v1 is the format of the rows.
const prefix = "/postern/v1/"

// backend is the present way to the agreed state: a member in this process, or
// a client of the voting servers or of the user's etcd.
type backend struct {
	client *clientv3.Client
	member *agreed.Member // nil where this server does not vote
	ctx    context.Context
	end    context.CancelFunc
}

// newLeader is closed when the group elects its next leader, nil if unknown.
func (b *backend) newLeader() <-chan struct{} {
	if b.member == nil {
		return nil
	}
	return b.member.NewLeader()
}

func (c *Cluster) setBackend(b *backend) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.back = b
	close(c.backSet)
	c.backSet = make(chan struct{})
}

func (c *Cluster) currentBackend() (*backend, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.back, c.backSet
}

// backend waits for a way to the agreed state.
func (c *Cluster) backend(ctx context.Context) (*backend, error) {
	for {
		b, next := c.currentBackend()
		if b != nil {
			return b, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-next:
		}
	}
}

// reach keeps a way to the agreed state until ctx ends. The error is one that
// ends the server.
func (c *Cluster) reach(ctx context.Context) error {
	defer c.setBackend(nil)
	if len(c.cfg.External.Endpoints) > 0 {
		return c.reachExternal(ctx)
	}
	for ctx.Err() == nil {
		err := c.setAside()
		if err != nil {
			c.log.Warn("cluster: agreed state of an older generation", "error", err)
			sleep(ctx, 500*time.Millisecond)
			continue
		}
		if c.mayVote() {
			err = c.reachMember(ctx)
		} else {
			err = c.reachVoters(ctx)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			var end endOfServer
			if errors.As(err, &end) {
				return end.error
			}
			c.log.Warn("cluster: agreed state", "error", err)
		}
		if !errors.Is(err, errRegroup) {
			sleep(ctx, 500*time.Millisecond)
		}
	}
	return nil
}

// errRegroup ends the way to the agreed state of an older generation.
var errRegroup = errors.New("the agreed state begins a new generation")

// endOfServer is an error after which the process must not go on.
type endOfServer struct{ error }

// mayVote tells whether this server has, or is to begin, etcd data of its own.
func (c *Cluster) mayVote() bool {
	return agreed.HasData(filepath.Join(c.cfg.Dir, etcdDir)) || fileExists(filepath.Join(c.cfg.Dir, firstFile))
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func (c *Cluster) reachExternal(ctx context.Context) error {
	client, err := agreed.ConnectExternal(c.cfg.External, c.log)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := c.putFirstRows(ctx, client); err != nil {
		return err
	}
	b := &backend{client: client}
	b.ctx, b.end = context.WithCancel(ctx)
	defer b.end()
	c.setBackend(b)
	<-ctx.Done()
	c.withdraw()
	return nil
}

// memberConfig says how this server's etcd runs.
func (c *Cluster) memberConfig() agreed.Config {
	cfg := agreed.Config{
		Name: string(c.self.Name), Dir: filepath.Join(c.cfg.Dir, etcdDir), PeerURL: "https://" + c.self.Addr,
		BundleFile: filepath.Join(c.cfg.Dir, bundleFile), CAFile: filepath.Join(c.cfg.Dir, caFile),
		Heartbeat: c.cfg.Heartbeat, Election: c.cfg.Election, Founding: c.self.Group + "/" + c.self.Identity, NoSync: c.cfg.NoSync, Log: c.log,
	}
	if src := netx.SourceOf(c.self.Addr); src.IsValid() && !c.manyAddresses() {
		cfg.Source = src.String()
	}
	return cfg
}

// reachMember runs a member that has data, or the first one of a group.
func (c *Cluster) reachMember(ctx context.Context) error {
	cfg := c.memberConfig()
	force := filepath.Join(c.cfg.Dir, forceFile)
	forced, err := readForce(force)
	if err != nil {
		return err
	}
	cfg.ForceNew = forced != nil
	m, err := agreed.Start(cfg, c.raft.Open(), c.etcd.Open())
	if err != nil {
		return err
	}
	if m.Learner() {
		go c.promote(ctx, m) // ends with ctx or the member
	} else if err := c.putFirstRows(ctx, m.Client()); err != nil {
		m.Stop(0)
		return err
	}
	if cfg.ForceNew {
		if err := untilLed(ctx, m, func() error {
			if forced.Site == "" {
				return c.forceAlone(ctx, m.Client())
			}
			return c.forceGroup(ctx, m.Client(), *forced)
		}); err != nil {
			m.Stop(0)
			return err
		}
		os.Remove(force)
	}
	return c.serveMember(ctx, m)
}

// untilLed runs f once the member has a leader, and again when leadership
// changed meanwhile, as it does while a group of one finds itself.
func untilLed(ctx context.Context, m *agreed.Member, f func() error) error {
	for {
		if m.Leader() != 0 {
			err := f()
			switch rpctypes.Error(err) {
			case rpctypes.ErrLeaderChanged, rpctypes.ErrNoLeader, rpctypes.ErrTimeout, rpctypes.ErrTimeoutDueToLeaderFail:
			default:
				return err
			}
		}
		select {
		case <-m.Done():
			return kind.Errorf(kind.Internal, "the member ended while it waited for a leader")
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// serveMember makes a running member the way to the agreed state until it or
// ctx ends, and stops it.
func (c *Cluster) serveMember(ctx context.Context, m *agreed.Member) error {
	b := &backend{client: m.Client(), member: m}
	b.ctx, b.end = context.WithCancel(ctx)
	defer b.end()
	c.setBackend(b)
	var err error
	select {
	case <-ctx.Done():
	case <-m.Done():
		if c.leaving() {
			m.Stop(0)
			return endOfServer{c.endRemoved()}
		}
		err = kind.Errorf(kind.Busy, "member ended")
	case <-c.regroup:
		err = errRegroup
	case <-m.Failed():
		c.events.Emit(evMemberFailed, "agreed state on this server failed: %s", m.Failure())
		err = kind.Errorf(kind.Busy, "member failed: %s", m.Failure())
	}
	b.end()
	if ctx.Err() != nil {
		c.withdraw()
	}
	c.setBackend(nil)
	grace := time.Second
	if c.abrupt.Load() {
		grace = 0
	}
	if !m.Stop(grace) {
		return endOfServer{kind.Errorf(kind.Internal, "agreed state on this server failed and cannot be stopped: %s", m.Failure())}
	}
	return err
}

// reachVoters is the way of a server that does not vote (yet).
func (c *Cluster) reachVoters(ctx context.Context) error {
	client, err := c.connectVoters()
	if err != nil {
		return err
	}
	defer client.Close()
	b := &backend{client: client}
	b.ctx, b.end = context.WithCancel(ctx)
	defer b.end()
	c.setBackend(b)
	for {
		members, retry := c.membersChanged(), 2*time.Second
		if row, ok := c.View().Server(c.self.Name); ok && row.Voter && !c.behind() {
			m, err := c.becomeVoter(ctx, client)
			if err == nil {
				c.setBackend(nil)
				b.end()
				client.Close()
				c.events.Emit(evVoter, "server %s votes now", c.self.Name)
				return c.serveMember(ctx, m)
			}
			if ctx.Err() == nil {
				c.log.Debug("cluster: become a voting member", "error", err)
			}
			if agreed.HasData(filepath.Join(c.cfg.Dir, etcdDir)) {
				return err // it began; go on with what it has
			}
			retry = 300 * time.Millisecond
		}
		if voters := c.voters(); len(voters) > 0 && !slices.Equal(voters, client.Endpoints()) {
			client.SetEndpoints(voters...)
		}
		select {
		case <-ctx.Done():
			c.withdraw()
			c.setBackend(nil)
			return nil
		case <-c.regroup: // it has no agreed state of its own to leave
		case <-members:
		case <-time.After(retry):
		}
	}
}

// connectVoters makes a client of the voting servers; its endpoints are their names.
func (c *Cluster) connectVoters() (*clientv3.Client, error) {
	return agreed.Connect(c.voters(), func(ctx context.Context, name string) (net.Conn, error) {
		return c.Dial(ctx, org.ServerName(name), protoEtcd)
	}, c.log)
}

// voters lists the other voting servers by name.
func (c *Cluster) voters() []string {
	var out []string
	for _, s := range c.View().Servers() {
		if s.Voter && s.Name != c.self.Name {
			out = append(out, string(s.Name))
		}
	}
	return out
}

// Quorum tells, without asking, whether the agreed state can be changed now.
func (c *Cluster) Quorum() bool {
	b, _ := c.currentBackend()
	if b == nil {
		return false
	}
	if b.member != nil {
		return b.member.Leader() != 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.lastOK) < c.cfg.LeaseTTL
}

// answered notes that the agreed state answered a request.
func (c *Cluster) answered() {
	c.mu.Lock()
	c.lastOK = time.Now()
	c.mu.Unlock()
}
