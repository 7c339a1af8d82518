package agreed

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/client/pkg/v3/types"
	clientv3 "go.etcd.io/etcd/client/v3"
	etcdconfig "go.etcd.io/etcd/server/v3/config"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/etcdhttp"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3compactor"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"go.etcd.io/etcd/server/v3/features"
	"google.golang.org/grpc"

	"github.com/postern-mail/postern/internal/base/kind"
)

const (
	quotaBytes      = 2 << 30
	maxTxnOps       = 1024
	maxRequestBytes = 8 << 20
	// compaction keeps this much history for watchers that reconnect.
	compaction = 10 * time.Minute
)

// Config says how to run a voting member.
type Config struct {
	Name    string
	Dir     string // etcd's data folder
	PeerURL string // https://host:port of the cluster port
	Source  string // local IP address for connections to peers, empty = any
	// BundleFile and CAFile are PEM files; etcd reads the bundle at each handshake.
	BundleFile, CAFile string
	Heartbeat          time.Duration
	Election           time.Duration
	// Founding names the group and its first server; etcd makes its own
	// number of the group from it, so that a restored group is another one.
	Founding string
	// Join says that the group exists and has this member in its list already:
	// Initial names all members and their peer URLs. Both are only used on an
	// empty Dir.
	Join    bool
	Initial map[string][]string
	// ForceNew makes a group of one out of a member whose group lost its quorum
	// for good. Never use it while another member may be alive.
	ForceNew bool
	NoSync   bool // tests only: no fsync
	Log      *slog.Logger
}

// Member is a running voting member.
type Member struct {
	srv    *etcdserver.EtcdServer
	client *clientv3.Client
	grpc   *grpc.Server
	http   *http.Server
	wg     sync.WaitGroup
	fatal  *fatal
}

// HasData tells whether a data folder belongs to a member that ran before.
func HasData(dir string) bool {
	names, err := filepath.Glob(filepath.Join(dir, "member", "wal", "*.wal"))
	return err == nil && len(names) > 0
}

// Start runs a member. peers and clients are the listeners of the cluster
// port for etcd's two protocols; they belong to the member until Stop.
func Start(cfg Config, peers, clients net.Listener) (*Member, error) {
	m := &Member{fatal: newFatal()}
	sc, err := cfg.server(m.fatal)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	if m.srv, err = etcdserver.NewServer(sc); err != nil {
		return nil, &kind.Error{Kind: kind.Internal, Text: "start etcd member", Err: err}
	}
	m.srv.Start()
	m.client = v3client.New(m.srv)
	m.client.KV = guarded{m.client.KV, m.srv.StoppingNotify()}
	m.http = &http.Server{Handler: etcdhttp.NewPeerHandler(sc.Logger, m.srv), ReadHeaderTimeout: 10 * time.Second, ErrorLog: discard()}
	m.grpc = v3rpc.Server(m.srv, nil, nil)
	m.wg.Go(func() { m.http.Serve(peers) })
	m.wg.Go(func() { m.grpc.Serve(clients) })
	return m, nil
}

func (cfg Config) server(f *fatal) (etcdconfig.ServerConfig, error) {
	peer, err := types.NewURLs([]string{cfg.PeerURL})
	if err != nil {
		return etcdconfig.ServerConfig{}, kind.Errorf(kind.Invalid, "peer url %q: %w", cfg.PeerURL, err)
	}
	initial := types.URLsMap{}
	for name, u := range cfg.Initial {
		if initial[name], err = types.NewURLs(u); err != nil {
			return etcdconfig.ServerConfig{}, kind.Errorf(kind.Invalid, "peer url %q: %w", u, err)
		}
	}
	if len(initial) == 0 {
		initial[cfg.Name] = peer
	}
	lg := zapLogger(cfg.Log, f)
	return etcdconfig.ServerConfig{
		Name:     cfg.Name,
		PeerURLs: peer,
		// Members are reached through the cluster port; the URL only has to exist.
		ClientURLs:          types.URLs{url.URL{Scheme: "https", Host: peer[0].Host}},
		DataDir:             cfg.Dir,
		InitialPeerURLsMap:  initial,
		InitialClusterToken: cfg.Founding,
		NewCluster:          !cfg.Join,
		ForceNewCluster:     cfg.ForceNew,
		UnsafeNoFsync:       cfg.NoSync,
		PeerTLSInfo: transport.TLSInfo{
			CertFile: cfg.BundleFile, KeyFile: cfg.BundleFile, TrustedCAFile: cfg.CAFile,
			ClientCertAuth: true, Logger: lg, LocalAddr: cfg.Source,
		},
		LocalAddress:                cfg.Source,
		TickMs:                      uint(cfg.Heartbeat.Milliseconds()),
		ElectionTicks:               int(cfg.Election / cfg.Heartbeat),
		InitialElectionTickAdvance:  true,
		PreVote:                     true,
		StrictReconfigCheck:         true,
		SnapshotCount:               etcdserver.DefaultSnapshotCount,
		SnapshotCatchUpEntries:      etcdserver.DefaultSnapshotCatchUpEntries,
		MaxSnapFiles:                embed.DefaultMaxSnapshots,
		MaxWALFiles:                 embed.DefaultMaxWALs,
		BackendFreelistType:         bbolt.FreelistMapType,
		AutoCompactionMode:          v3compactor.ModePeriodic,
		AutoCompactionRetention:     compaction,
		QuotaBackendBytes:           quotaBytes,
		MaxTxnOps:                   maxTxnOps,
		MaxRequestBytes:             maxRequestBytes,
		MaxConcurrentStreams:        1 << 12,
		WarningApplyDuration:        time.Second,
		WarningUnaryRequestDuration: time.Second,
		CompactHashCheckTime:        time.Minute,
		DowngradeCheckTime:          5 * time.Second,
		MaxLearners:                 1 << 3,
		AuthToken:                   "simple",
		BcryptCost:                  10,
		TokenTTL:                    300,
		CORS:                        map[string]struct{}{},
		HostWhitelist:               map[string]struct{}{},
		Metrics:                     "basic",
		Logger:                      lg,
		ServerFeatureGate:           features.NewDefaultServerFeatureGate(cfg.Name, lg),
	}, nil
}

// Client speaks with the group through this member, inside the process.
func (m *Member) Client() *clientv3.Client { return m.client }

// ID is etcd's number for this member.
func (m *Member) ID() uint64 { return uint64(m.srv.MemberID()) }

// Leader is etcd's number of the present leader, 0 when there is none.
func (m *Member) Leader() uint64 { return m.srv.Lead() }

// NewLeader is closed when a leader is elected next; take it before Leader.
func (m *Member) NewLeader() <-chan struct{} { return m.srv.LeaderChangedNotify() }

// Learner tells whether the member does not vote yet. A member that does not
// know itself yet (it learns its own addition from the log) does not.
func (m *Member) Learner() bool {
	self := m.srv.Cluster().Member(m.srv.MemberID())
	return self == nil || self.IsLearner
}

// Applied is the raft index this member has applied.
func (m *Member) Applied() uint64 { return m.srv.AppliedIndex() }

// Done is closed when the member ended by itself: it was removed from the
// group, or it could not write its log.
func (m *Member) Done() <-chan struct{} { return m.srv.StopNotify() }

// Failed is closed when etcd met an error it cannot go on after, for example
// a full disk under its log; Failure tells which.
func (m *Member) Failed() <-chan struct{} { return m.fatal.ch }

// Failure is the error behind Failed.
func (m *Member) Failure() string { return m.fatal.text() }

// Stop ends the member; a leader hands over first, for at most grace. It
// returns false if etcd did not come to its end in time, after an error of
// its own: the process has to end then.
func (m *Member) Stop(grace time.Duration) bool {
	m.grpc.Stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if grace > 0 && m.fatal.text() == "" && m.Leader() == m.ID() {
			m.handOver(grace)
		}
		m.srv.HardStop()
	}()
	select {
	case <-ended:
	case <-time.After(grace + 10*time.Second):
		return false
	}
	m.client.Close()
	m.http.Close()
	m.wg.Wait()
	return true
}

// handOver moves the leadership to the voter that has the longest list of
// applied entries, so that the group is not without a leader for an election.
func (m *Member) handOver(grace time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	for _, other := range m.srv.Cluster().Members() {
		if uint64(other.ID) == m.ID() || other.IsLearner {
			continue
		}
		try, done := context.WithTimeout(ctx, grace/2)
		err := m.srv.MoveLeader(try, m.Leader(), uint64(other.ID))
		done()
		if err == nil || ctx.Err() != nil {
			return
		}
	}
}
