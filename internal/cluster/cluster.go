package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/netx"
	"github.com/postern-mail/postern/internal/cluster/ca"
	"github.com/postern-mail/postern/internal/cluster/mesh"
	"github.com/postern-mail/postern/internal/cluster/port"
	"github.com/postern-mail/postern/internal/cluster/view"
	"github.com/postern-mail/postern/internal/org"
)

// The protocols of the cluster port that belong to this room. A number in a
// name is the protocol's version; servers that share none refuse each other
// with an error that says so.
const (
	protoGRPC = "h2"
	protoMesh = "postern-mesh/1"
	protoJoin = "postern-join/1"
	// Who was given up has no certificate that anybody takes.
	protoNotice = "postern-notice/1"
	protoEtcd   = "postern-etcd/1" // etcd's client interface, for servers that do not vote
	protoRaft   = port.HTTP1       // etcd's peer interface
)

// View is the agreed state at one point in time; it never changes.
type View = view.View

// Item is a value with the revision of its last change.
type Item = view.Item

// Peer states.
type (
	// PeerState is what this server finds of another.
	PeerState = mesh.State
	// Peer is another member as this server hears it.
	Peer = mesh.Peer
)

// Peer states.
const (
	PeerUp      = mesh.Up
	PeerRefused = mesh.Refused
	PeerSilent  = mesh.Silent
	PeerUnknown = mesh.Unknown
)

// Cluster is one server's part of the group. Open makes it, Run runs it; all
// other methods may be called from any goroutine, before, during and after
// Run.
type Cluster struct {
	cfg      Config
	self     self
	groupKey []byte
	ca       *x509.Certificate
	log      *slog.Logger
	events   *event.Log
	lock     *os.File

	cert  atomic.Pointer[tls.Certificate]
	port  *port.Port
	raft  *port.Slot
	etcd  *port.Slot
	rpc   *port.Slot
	grpc  *grpc.Server
	mesh  *mesh.Mesh
	joins *joinLimits
	// notices are the questions of servers that nobody speaks with.
	notices *joinLimits
	regroup chan struct{} // ends the present way to the agreed state
	newer   atomic.Int64  // the newest generation heard
	ready   chan struct{}
	abrupt  atomic.Bool // tests: end as a killed process does

	mu      sync.Mutex // guards view's replacement, changed and members
	view    atomic.Pointer[View]
	changed chan struct{}
	members chan struct{} // closed when servers or removed servers changed
	back    *backend
	backSet chan struct{} // closed when back changes
	lastOK  time.Time     // last answer of the agreed state
	lease   leaseState
	nudge   chan struct{} // asks the watch for its progress

	connMu   sync.Mutex // guards the rest
	conns    map[org.ServerName]*grpc.ClientConn
	ended    bool
	routes   map[routeKey]string // the networks in use
	pathNews bool                // paths turned since they were published
	nets     *netsOf             // of the newest view
}

// Open reads a data folder made by Init, Join or Restore, and locks it. It
// starts nothing. A Cluster that is never run must be closed.
func Open(cfg Config, log *slog.Logger, events *event.Log) (*Cluster, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	lock, err := lockFolder(cfg.Dir)
	if err != nil {
		return nil, err
	}
	c, err := open(cfg, log, events)
	if err != nil {
		lock.Close()
		return nil, err
	}
	c.lock = lock
	return c, nil
}

func open(cfg Config, log *slog.Logger, events *event.Log) (*Cluster, error) {
	m, err := readFolder(cfg.Dir)
	if err != nil {
		return nil, err
	}
	cert, authority, err := ca.ParseBundle(m.bundle)
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		cfg: cfg, self: m.self, groupKey: m.groupKey, ca: authority, log: log, events: events,
		ready: make(chan struct{}), changed: make(chan struct{}), members: make(chan struct{}),
		backSet: make(chan struct{}), nudge: make(chan struct{}, 1),
		conns: map[org.ServerName]*grpc.ClientConn{}, routes: map[routeKey]string{}, joins: newJoinLimits(),
		notices: newNoticeLimits(), regroup: make(chan struct{}, 1),
	}
	c.cert.Store(&cert)
	c.view.Store(view.Empty())
	for _, name := range []string{viewFile, firstFile} {
		v, err := readSnapshot(filepath.Join(cfg.Dir, name), m.self.Group)
		switch {
		case err == nil:
			c.view.Store(v)
		case !os.IsNotExist(err) && (name == firstFile || kind.Is(err, kind.Invalid)):
			return nil, err
		case !os.IsNotExist(err):
			// The agreed state has all that is in it; only a start without
			// quorum misses it.
			events.Emit(evViewDamaged, "snapshot of the agreed state is damaged and was not used: %v", err)
		}
	}
	c.openPort()
	return c, nil
}

// openPort makes the port, the RPC server and the mesh.
func (c *Cluster) openPort() {
	listen := c.cfg.Listen
	if listen == "" {
		listen = c.self.Addr
	}
	c.port = port.New(port.Config{
		Listen: listen, Source: netx.SourceOf(c.self.Addr),
		Certificate: c.cert.Load, Authority: c.ca, Admit: c.admit, Log: c.log,
	})
	c.mesh = mesh.New(mesh.Config{
		Self: c.self.Name, Interval: c.cfg.MeshInterval, SilentAfter: c.cfg.SilentAfter,
		Dial: c.dialMesh, Refused: netx.Refused, Turned: c.peerTurned, PathTurned: c.pathTurned, Log: c.log,
	})
	c.port.Handle(protoMesh, c.mesh.Serve)
	c.port.HandleOpen(protoJoin, c.serveJoin)
	c.port.HandleOpen(protoNotice, c.serveNotice)
	c.raft = c.port.Slot(protoRaft)
	c.etcd = c.port.Slot(protoEtcd)
	c.rpc = c.port.Slot(protoGRPC)
	c.grpc = newRPCServer()
	c.mesh.SetPeers(c.pathNames())
}

// Close gives the data folder free; only for a Cluster that is not run.
func (c *Cluster) Close() error { return c.lock.Close() }

// Name is this server's name.
func (c *Cluster) Name() org.ServerName { return c.self.Name }

// Group is the group's id.
func (c *Cluster) Group() string { return c.self.Group }

// Site is this server's site, as the agreed state has it now.
func (c *Cluster) Site() org.SiteName {
	row, _ := c.View().Server(c.self.Name)
	return row.Site
}

// CA is the group's own certificate authority.
func (c *Cluster) CA() *x509.Certificate { return c.ca }

// Certificate is this server's present certificate, issued by CA.
func (c *Cluster) Certificate() *tls.Certificate { return c.cert.Load() }

// View returns the agreed state as last heard. It does no I/O and never fails.
func (c *Cluster) View() *View { return c.view.Load() }

// Changed is closed at the next change of the view. Take it before View.
func (c *Cluster) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// Ready is closed when the view is as new as the group's, or when the group
// has no quorum for some seconds and the view of the last run has to do.
func (c *Cluster) Ready() <-chan struct{} { return c.ready }

// Peers lists the other members and how they are heard here.
func (c *Cluster) Peers() []Peer { return c.mesh.Peers() }

// PeersChanged is closed at the next change of what is known about a peer.
// Take it before Peers or Dead.
func (c *Cluster) PeersChanged() <-chan struct{} { return c.mesh.Changed() }

// Dead tells whether a server is judged dead by this server and by the
// majority of the members that can be heard, and in one sentence why or why
// not. The rule stands in the mesh package; safety never depends on it.
func (c *Cluster) Dead(s org.ServerName) (why string, dead bool) { return c.mesh.Dead(s) }

// Alive tells whether the server's lease is in the view.
func (c *Cluster) Alive(s org.ServerName) bool {
	_, ok := c.View().Get(dirLive + string(s))
	return ok
}

// Publish tells all peers a small value within one heartbeat; it replaces the
// section's former value. Values over 1 MiB are dropped with a warning.
func (c *Cluster) Publish(section string, v []byte) { c.mesh.Publish(section, v) }

// Published returns what a server (also this one) published last, and when
// it was last heard to be so.
func (c *Cluster) Published(s org.ServerName, section string) (v []byte, heard time.Time, ok bool) {
	return c.mesh.Published(s, section)
}

// Came tells when the present value of a server's section was first heard here:
// its age where the server is heard but says nothing new.
func (c *Cluster) Came(s org.ServerName, section string) (came time.Time, ok bool) {
	return c.mesh.Came(s, section)
}

// Handle registers a protocol of the cluster port; before Run only. The
// connection is closed when h returns; ctx ends when the cluster stops.
func (c *Cluster) Handle(proto string, h func(ctx context.Context, peer org.ServerName, conn net.Conn)) {
	c.port.Handle(proto, h)
}

// admit says whether the owner of a certificate is a member now. A server
// whose view may be old, because it has no quorum, lets etcd speak with
// members it has not heard of yet: else a server that was away while the others
// were replaced could never learn of them. Removed identities stay refused.
func (c *Cluster) admit(sub ca.Subject, proto string) error {
	v := c.View()
	if _, removed := v.Get(dirRemoved + sub.Identity); removed {
		return kind.Errorf(kind.Denied, "server %s was removed from the group", sub.Name)
	}
	row, ok := v.Server(sub.Name)
	if ok && row.Identity == sub.Identity {
		return nil
	}
	if (proto == protoRaft || proto == protoEtcd) && !c.Quorum() {
		return nil
	}
	if ok {
		return kind.Errorf(kind.Denied, "server %s is another one now", sub.Name)
	}
	return kind.Errorf(kind.Denied, "server %s is not a member of the group", sub.Name)
}

func (c *Cluster) peerTurned(s org.ServerName, from, to PeerState, after time.Duration) {
	switch {
	case to == PeerUp:
		c.events.Emit(evPeerUp, "server %s is heard (was %s for %s)", s, from, after.Round(time.Millisecond))
	case to == PeerRefused:
		c.events.Emit(evPeerGone, "server %s: its process is gone (was %s for %s)", s, from, after.Round(time.Millisecond))
	case to == PeerSilent:
		c.events.Emit(evPeerGone, "server %s is silent (was %s for %s)", s, from, after.Round(time.Millisecond))
	}
}
