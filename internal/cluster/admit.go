package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"net"
	"time"

	"golang.org/x/time/rate"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster/joining"
	"github.com/postern-mail/postern/internal/cluster/view"
	"github.com/postern-mail/postern/internal/org"
)

// joinLimits bound what callers without a certificate can cost.
type joinLimits struct {
	rate  *rate.Limiter
	slots chan struct{}
}

func newJoinLimits() *joinLimits {
	return &joinLimits{rate: rate.NewLimiter(5, 20), slots: make(chan struct{}, 8)}
}

// serveJoin answers one caller who wants to be a member.
func (c *Cluster) serveJoin(ctx context.Context, conn net.Conn) {
	select {
	case c.joins.slots <- struct{}{}:
		defer func() { <-c.joins.slots }()
	default:
		return
	}
	if !c.joins.rate.Allow() {
		return
	}
	conn.SetDeadline(time.Now().Add(joinTimeout))
	req, err := joining.ReadRequest(conn)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	answer, err := c.takeIn(ctx, req)
	if err != nil {
		c.events.Emit(evJoinRefused, "%s at %s may not join: %v", req.Name, conn.RemoteAddr(), err)
		answer = joining.Answer{Version: joining.Version, Kind: kind.Of(err), Error: err.Error()}
	}
	joining.Write(conn, answer)
}

// takeIn makes the caller a member: in one transaction the token ends and the
// server's row begins.
func (c *Cluster) takeIn(ctx context.Context, req joining.Request) (a joining.Answer, err error) {
	if req.Version != joining.Version {
		return a, kind.Errorf(kind.Invalid, "join protocol version %d, this server speaks %d", req.Version, joining.Version)
	}
	if err := checkServer(req.Name, req.Site, req.Addr); err != nil {
		return a, err
	}
	if len(req.Volumes) > 256 {
		return a, kind.Errorf(kind.Invalid, "join: %d volumes", len(req.Volumes))
	}
	if err := c.Sync(ctx); err != nil {
		return a, err
	}
	if s, ok := c.View().Server(req.Name); ok && s.Identity == identityOf(req) {
		return c.welcome(req, s) // it is a member since a request whose answer was lost
	}
	token, err := c.checkToken(req)
	if err != nil {
		return a, err
	}
	row := newRow(req.Name, req.Site, req.Addr, req.Program, req.Volumes)
	row.Identity = identityOf(req)
	row.Witness, row.Alternate = req.Witness, req.Witness && req.Alternate
	server, err := c.admission(ctx, org.Server(row), req.Replace)
	if err != nil {
		return a, err
	}
	a, err = c.welcome(req, server.row)
	if err != nil {
		return a, err
	}
	server.txn.If = append(server.txn.If, token)
	server.txn.Then = append(server.txn.Then, Op{Key: token.Key, Delete: true})
	if _, err := c.Commit(ctx, server.txn); err != nil {
		return a, err
	}
	c.events.Emit(evJoined, "server %s joined the group (site %q, address %s)", req.Name, req.Site, req.Addr)
	a.View = view.Encode(c.self.Group, c.View())
	return a, nil
}

// identityOf is the identity of a server that joins. A request that is repeated,
// because its answer was lost, has the same; nobody else can know the token's
// secret, or use the certificate without the key behind the request.
func identityOf(req joining.Request) string {
	h := sha256.New()
	for _, part := range [][]byte{[]byte("server identity"), req.Secret, req.CSR} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write(part)
	}
	return base32.StdEncoding.EncodeToString(h.Sum(nil))[:26]
}

// welcome is the answer to a server with this row.
func (c *Cluster) welcome(req joining.Request, row org.Server) (a joining.Answer, err error) {
	authority, err := c.authority()
	if err != nil {
		return a, err
	}
	cert, err := authority.Issue(req.CSR, subjectOf(row), c.cfg.CertificateLife)
	if err != nil {
		return a, err
	}
	return joining.Answer{
		Version: joining.Version, Group: c.self.Group, Identity: row.Identity, Cert: cert,
		GroupKey: c.groupKey, View: view.Encode(c.self.Group, c.View()),
	}, nil
}

// checkToken finds the token of a request; the answer does not tell a wrong
// secret from one that was used or has expired.
func (c *Cluster) checkToken(req joining.Request) (Cond, error) {
	key := dirTokens + joining.Hash(req.Secret)
	it, ok := c.View().Get(key)
	var row tokenRow
	if !ok || decodeJSON(it.Value, &row) != nil {
		return Cond{}, kind.WithHint(kind.Errorf(kind.Denied, "the token is not known: it was used or has expired"), "make a new one with postern cluster token")
	}
	if row.For != "" && row.For != req.Name {
		return Cond{}, kind.Errorf(kind.Denied, "the token is for another server")
	}
	return Cond{key, it.Revision}, nil
}

// admission is a new server's row and what makes it a member.
type admission struct {
	row org.Server
	txn Txn
}

// admission checks a new row against the present members.
func (c *Cluster) admission(ctx context.Context, row org.Server, replace bool) (ad admission, err error) {
	v := c.View()
	for _, s := range v.Servers() {
		if s.ClusterAddr == row.ClusterAddr && s.Name != row.Name {
			return ad, kind.Errorf(kind.Exists, "server %s has the address %s already", s.Name, row.ClusterAddr)
		}
	}
	key := dirServers + string(row.Name)
	ad.txn.If = []Cond{{key, v.ServerRevision(row.Name)}}
	if old, ok := v.Server(row.Name); ok {
		switch {
		case !replace:
			return ad, kind.WithHint(kind.Errorf(kind.Exists, "server %s is a member already", row.Name), "join with --replace if it is gone for good")
		case c.Alive(row.Name):
			return ad, kind.Errorf(kind.Exists, "server %s is alive and cannot be replaced", row.Name)
		}
		// What administrators have set for the place stays.
		if row.Site == "" {
			row.Site = old.Site
		}
		row.ActivationPolicy, row.AutoDatabaseMountDial = old.ActivationPolicy, old.AutoDatabaseMountDial
		row.MaximumActive, row.MaximumPreferredActive = old.MaximumActive, old.MaximumPreferredActive
		if err := c.dropMember(ctx, old); err != nil {
			return ad, err
		}
		ad.txn.If = append(ad.txn.If, Cond{Key: dirLive + string(row.Name)}) // it was not started meanwhile
		ad.txn.Then = append(ad.txn.Then, tombstone(old))
	}
	if !c.external() && c.votesAtOnce(v, row) {
		r := serverRow(row)
		r.vote()
		row = org.Server(r)
	}
	ad.row = row
	ad.txn.Then = append(ad.txn.Then, Op{Key: key, Value: mustJSON(row)})
	return ad, nil
}

func (c *Cluster) external() bool { return len(c.cfg.External.Endpoints) > 0 }

// votesAtOnce tells whether a new server is to vote from the beginning.
func (c *Cluster) votesAtOnce(v *View, row org.Server) bool {
	servers := []org.Server{row}
	for _, s := range v.Servers() {
		if s.Name != row.Name {
			servers = append(servers, s)
		}
	}
	name, ok := nextVoter(servers, func(s org.ServerName) bool { return s == row.Name })
	return ok && name == row.Name
}
