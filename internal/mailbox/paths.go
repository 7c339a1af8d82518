package mailbox

import (
	"context"
	"net"
	"time"

	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// Paths is the choice of networks that log streams have; *cluster.Cluster is
// one.
type Paths interface {
	// Route names the network by which a server is reached best now.
	Route(s org.ServerName, use cluster.Use) string
	// RouteBy is Route where a network is wished for: that one, while the server
	// is heard there.
	RouteBy(s org.ServerName, use cluster.Use, wish string) string
	// Carries tells whether there is a network of a name that carries log.
	Carries(network string) bool
	// DialOn connects by that network.
	DialOn(ctx context.Context, s org.ServerName, proto, network string) (net.Conn, error)
	// Compresses tells whether log on a connection is to be compressed.
	Compresses(peer org.ServerName, conn net.Conn, seed bool) bool
}

// line is a connection for log, and the network it is in.
type line struct {
	conn    net.Conn
	network string
}

func (l *line) close() {
	if l != nil {
		l.conn.Close()
	}
}

// movedError ends a stream that goes on on another connection.
type movedError struct{ to *line }

func (e *movedError) Error() string { return "log stream moves to network " + e.to.network }

const (
	dialWait = 2 * time.Second
	// lookAtPaths is how often a stream looks for a better path where nothing
	// tells it to.
	lookAtPaths = time.Second
	// moveAgain is the pause after a try to move that did not succeed.
	moveAgain = 100 * time.Millisecond
)

// routeTo names the network by which log of this copy should come now: while it
// is seeded, the one that was asked for.
func (c *dbCopy) routeTo(source org.ServerName, seeding bool) string {
	c.mu.Lock()
	mine, _ := c.def.Copy(c.k.me)
	c.mu.Unlock()
	if seeding && mine.SeedNetwork != "" {
		return c.k.deps.Paths.RouteBy(source, cluster.ForReplication, mine.SeedNetwork)
	}
	return c.k.deps.Paths.Route(source, cluster.ForReplication)
}

// isSeeding tells whether a seed is coming in.
func (c *dbCopy) isSeeding() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seed.active
}

// dialLog connects to a source of log, by the best network or, where that does
// not answer, by any.
func (c *dbCopy) dialLog(ctx context.Context, source org.ServerName) (*line, error) {
	k := c.k
	ctx, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	if p := k.deps.Paths; p != nil {
		network := c.routeTo(source, c.seedUnfinished())
		try, done := context.WithTimeout(ctx, dialWait/2)
		conn, err := p.DialOn(try, source, logProto, network)
		done()
		if err == nil {
			return &line{conn, network}, nil
		}
	}
	conn, err := k.group.Dial(ctx, source, logProto)
	if err != nil {
		return nil, err
	}
	return &line{conn, ""}, nil
}

// betterPath waits until the stream should go on in another network, because
// its own fell silent or a better one has worked for long enough, and returns a
// connection there. The old one is used until then, so log arrives all the
// time; where the new one does not come about, it stays. It returns nil when
// ctx ends.
func (f *follower) betterPath(ctx context.Context) *line {
	k := f.c.k
	tick := time.NewTimer(0)
	defer tick.Stop()
	for ctx.Err() == nil {
		changed := k.group.PeersChanged()
		if to := f.c.routeTo(f.source, f.c.isSeeding()); to != f.network {
			dctx, cancel := context.WithTimeout(ctx, dialWait/2)
			conn, err := k.deps.Paths.DialOn(dctx, f.source, logProto, to)
			cancel()
			if err == nil {
				f.c.log.Info("log stream moves", "source", f.source, "from", f.network, "to", to)
				return &line{conn, to}
			}
			f.c.log.Debug("log stream stays", "source", f.source, "network", f.network, "not", to, "err", err)
			sleep(ctx, moveAgain)
			continue
		}
		tick.Reset(k.tillNext(lookAtPaths))
		select {
		case <-ctx.Done():
		case <-changed:
		case <-tick.C:
		}
	}
	return nil
}
