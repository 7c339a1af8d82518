package bubble

import (
	"bytes"
	"context"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// commitTimeout is the longest wait for quorum.
const commitTimeout = 5 * time.Second

// member is one process's part of the group, as the rooms see it.
type member struct {
	p   *process
	w   *world
	a   *agreed
	l   *links
	rpc *grpc.Server

	mu       sync.Mutex // guards the rest
	view     *cluster.View
	changed  chan struct{}
	late     time.Duration // how old the view may be
	lease    time.Time     // until then it certainly counts
	renewed  time.Time
	handlers map[string]func(context.Context, org.ServerName, net.Conn)
	conns    map[org.ServerName]*grpc.ClientConn
	hungUp   bool // there will be no more of them
	sections map[string][]byte
	peers    map[org.ServerName]*neighbour
	turned   chan struct{}
	deaf     time.Time
}

func newMember(p *process) *member {
	m := &member{p: p, w: p.srv.w, a: p.srv.w.agreed, l: p.srv.w.links, view: cluster.NewView(0, nil),
		changed: make(chan struct{}), handlers: map[string]func(context.Context, org.ServerName, net.Conn){},
		conns: map[org.ServerName]*grpc.ClientConn{}, sections: map[string][]byte{},
		peers: map[org.ServerName]*neighbour{}, turned: make(chan struct{})}
	m.rpc = grpc.NewServer(grpc.ForceServerCodec(cborCodec{}), grpc.MaxRecvMsgSize(128<<20))
	now := time.Now()
	for _, s := range m.a.names {
		if s != p.srv.name {
			m.peers[s] = &neighbour{state: cluster.PeerUnknown, since: now, watched: now}
		}
	}
	return m
}

// cborCodec is the encoding the servers speak.
type cborCodec struct{}

func (cborCodec) Marshal(v any) ([]byte, error)      { return codec.Marshal(v) }
func (cborCodec) Unmarshal(data []byte, v any) error { return codec.Unmarshal(data, v) }
func (cborCodec) Name() string                       { return "cbor" }

// Name implements the rooms' Group.
func (m *member) Name() org.ServerName { return m.p.srv.name }

// View implements the rooms' Group.
func (m *member) View() *cluster.View {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.view
}

// Changed implements the rooms' Group.
func (m *member) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// learn takes a view over, if it is newer.
func (m *member) learn(v *cluster.View) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v.Revision() > m.view.Revision() {
		m.view = v
		close(m.changed)
		m.changed = make(chan struct{})
	}
}

// reach waits until the agreed state can be asked.
func (m *member) reach(ctx context.Context) error {
	for !m.a.reached(m.Name()) {
		if m.p.over() || !rest(ctx, 20*time.Millisecond) {
			return kind.Errorf(kind.Busy, "no quorum")
		}
	}
	if m.p.over() {
		return kind.Errorf(kind.Busy, "this process is over")
	}
	return nil
}

// travel is the way to the leader, or back.
func (m *member) travel(ctx context.Context) error {
	if err := m.reach(ctx); err != nil {
		return err
	}
	if !rest(ctx, m.w.rnd.between(300*time.Microsecond, 3*time.Millisecond)) {
		return kind.Errorf(kind.Busy, "no answer from the agreed state: %w", ctx.Err())
	}
	return m.reach(ctx)
}

// awaitView waits until the view has a revision.
func (m *member) awaitView(ctx context.Context, rev int64) error {
	for {
		m.mu.Lock()
		ok, ch := m.view.Revision() >= rev, m.changed
		m.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return kind.Errorf(kind.Busy, "the local view is behind: %w", ctx.Err())
		}
	}
}

// Commit implements the rooms' Group. The change may have been made although
// the answer is an error, unless that is a conflict.
func (m *member) Commit(ctx context.Context, t cluster.Txn) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	if err := m.travel(ctx); err != nil {
		return 0, err
	}
	rev, err := m.a.commit(t)
	if err == nil {
		m.w.spread(rev)
	}
	if terr := m.travel(ctx); terr != nil {
		return 0, terr
	}
	if err != nil {
		return 0, err
	}
	return rev, m.awaitView(ctx, rev)
}

// Sync implements the rooms' Group.
func (m *member) Sync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	if err := m.travel(ctx); err != nil {
		return err
	}
	rev := m.a.revision()
	if err := m.travel(ctx); err != nil {
		return err
	}
	return m.awaitView(ctx, rev)
}

// Quorum implements the rooms' Group.
func (m *member) Quorum() bool {
	ok := m.a.reached(m.Name())
	if !ok {
		m.w.noQuorum()
	}
	return ok
}

// Alive implements the rooms' Group.
func (m *member) Alive(s org.ServerName) bool {
	_, ok := m.View().Get(liveKey(s))
	return ok
}

// LeaseValid implements the rooms' Group.
func (m *member) LeaseValid() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Now().Before(m.lease)
}

// keepLease renews the lease where it is time.
func (m *member) keepLease(now time.Time) {
	m.mu.Lock()
	due := now.Sub(m.renewed) >= leaseTTL/5
	m.mu.Unlock()
	if !due || !m.a.reached(m.Name()) {
		return
	}
	m.a.renew(m.Name(), now)
	m.mu.Lock()
	m.renewed, m.lease = now, now.Add(leaseTTL*9/10)
	m.mu.Unlock()
}

// catchUp takes over what it missed, as late as this member is.
func (m *member) catchUp(now time.Time) {
	if m.a.reached(m.Name()) {
		m.mu.Lock()
		late := m.late
		m.mu.Unlock()
		m.learn(m.a.newest(now.Add(-late)))
	}
}

// Publish implements the rooms' Group.
func (m *member) Publish(section string, v []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sections[section] = bytes.Clone(v)
}

// RegisterService implements the rooms' Group.
func (m *member) RegisterService(d *grpc.ServiceDesc, impl any) { m.rpc.RegisterService(d, impl) }

// Handle implements the rooms' Group.
func (m *member) Handle(proto string, h func(context.Context, org.ServerName, net.Conn)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.handlers[proto] = h
}

// Dial implements the rooms' Group.
func (m *member) Dial(ctx context.Context, s org.ServerName, proto string) (net.Conn, error) {
	return m.l.dial(ctx, m.p, s, proto)
}

// protoRPC is the protocol of calls.
const protoRPC = "rpc"

// Conn implements the rooms' Group, with the settings of cluster.Conn.
func (m *member) Conn(s org.ServerName) (*grpc.ClientConn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.conns[s]; c != nil {
		return c, nil
	}
	if m.hungUp || m.p.over() {
		return nil, kind.Errorf(kind.Busy, "this process is over")
	}
	c, err := grpc.NewClient("passthrough:///"+string(s),
		grpc.WithContextDialer(func(ctx context.Context, name string) (net.Conn, error) {
			return m.l.dial(ctx, m.p, org.ServerName(name), protoRPC)
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(cborCodec{}), grpc.MaxCallRecvMsgSize(128<<20)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 200 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
		grpc.WithIdleTimeout(0))
	if err != nil {
		return nil, err
	}
	m.conns[s] = c
	return c, nil
}

// hangUp closes all connections for calls, for good.
func (m *member) hangUp() {
	m.mu.Lock()
	m.hungUp = true
	conns := m.conns
	m.conns = map[org.ServerName]*grpc.ClientConn{}
	m.mu.Unlock()
	for _, c := range conns {
		_ = c.Close() // it is over either way
	}
}
