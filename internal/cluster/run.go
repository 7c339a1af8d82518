package cluster

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster/ca"
	"github.com/postern-mail/postern/internal/org"
)

// ErrRemoved is the cause when Run ends because this server was removed from
// the group.
var ErrRemoved = errors.New("this server was removed from the group")

// Run opens the port, joins in and serves until ctx ends or this server can be
// a member no longer. All that uses the cluster should have ended before ctx
// does. When Run returns, everything it started is gone and the folder is free.
func (c *Cluster) Run(ctx context.Context) error {
	defer c.lock.Close()
	if err := c.port.Listen(); err != nil {
		return err
	}
	// The port outlives the rest: etcd hands over its leadership through it.
	portCtx, closePort := context.WithCancel(context.WithoutCancel(ctx))
	port := make(chan error, 1)
	go func() { port <- c.port.Serve(portCtx) }()
	defer context.AfterFunc(ctx, func() {
		if c.abrupt.Load() {
			closePort()
		}
	})()
	rpc := make(chan struct{})
	go func() {
		defer close(rpc)
		c.grpc.Serve(c.rpc.Open())
	}()

	g, gctx := errgroup.WithContext(ctx)
	run := func(f func(context.Context) error) { g.Go(func() error { return f(gctx) }) }
	run(c.reach)
	run(c.follow)
	run(c.mesh.Run)
	run(c.keepLease)
	run(c.keepMembers)
	run(c.keepCertificate)
	run(c.keepVoters)
	run(c.yieldLead)
	run(c.save)
	run(c.becomeReady)
	run(c.announce)
	run(c.keepInterfaces)
	run(c.keepNetworks)
	run(c.keepPaths)
	run(c.keepPeerURLs)
	run(c.tellPaths)
	run(c.keepGeneration)
	run(c.watchQuorum)
	run(c.watchAlarms)
	err := g.Wait()

	c.connMu.Lock()
	c.ended = true
	c.connMu.Unlock()
	c.dropConns(func(org.ServerName) bool { return false })
	c.grpc.Stop()
	<-rpc
	closePort()
	if perr := <-port; err == nil {
		err = perr
	}
	return err
}

// becomeReady closes ready once the view is the group's, or, where the last
// run left one, after some seconds without quorum.
func (c *Cluster) becomeReady(ctx context.Context) error {
	patience := time.NewTimer(c.cfg.CommitTimeout)
	defer patience.Stop()
	synced := make(chan struct{})
	go func() {
		for ctx.Err() == nil {
			if _, known := c.View().Server(c.self.Name); c.Sync(ctx) == nil && known && c.View().Revision() > 0 {
				close(synced)
				return
			}
			sleep(ctx, between)
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-synced:
			close(c.ready)
			return nil
		case <-patience.C:
			if _, known := c.View().Server(c.self.Name); known && c.View().Revision() > 0 {
				close(c.ready)
				return nil
			}
			patience.Reset(c.cfg.CommitTimeout)
		}
	}
}

// announce brings this server's row up to date with how it was started.
func (c *Cluster) announce(ctx context.Context) error {
	for ctx.Err() == nil {
		v := c.View()
		row, ok := v.Server(c.self.Name)
		if ok && row.Identity == c.self.Identity {
			same := row.Version == c.cfg.Version
			row.Version = c.cfg.Version
			if c.cfg.Volumes != nil {
				same = same && slices.Equal(row.Volumes, c.cfg.Volumes)
				row.Volumes = c.cfg.Volumes
			}
			if same && isClosed(c.ready) {
				return nil
			}
			if !same && c.putServer(ctx, v, row) == nil {
				return nil
			}
		}
		sleep(ctx, 10*between)
	}
	return nil
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// putServer replaces a server's row as it stands in v.
func (c *Cluster) putServer(ctx context.Context, v *View, row org.Server) error {
	key := dirServers + string(row.Name)
	_, err := c.Commit(ctx, Txn{If: []Cond{{key, v.ServerRevision(row.Name)}}, Then: []Op{{Key: key, Value: mustJSON(row)}}})
	return err
}

// watchQuorum reports when the agreed state stops and begins to answer.
func (c *Cluster) watchQuorum(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-c.ready:
	}
	t := time.NewTicker(c.cfg.Election)
	defer t.Stop()
	had, lost := true, 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		switch has := c.Quorum(); {
		case has && !had:
			c.events.Emit(evQuorumBack, "agreed state answers again")
			had, lost = true, 0
		case has:
			lost = 0
		case had:
			// An election is not a loss.
			if lost++; lost >= 6 {
				c.events.Emit(evQuorumLost, "agreed state does not answer: no majority of the voting servers is reached")
				had = false
			}
		}
	}
}

// keepMembers lets the other parts follow the list of members, and ends the
// server when it is no longer on it.
func (c *Cluster) keepMembers(ctx context.Context) error {
	for {
		changed := c.membersChanged()
		if c.removed() {
			return c.endRemoved()
		}
		c.mesh.SetPeers(c.pathNames())
		v := c.View()
		c.dropConns(func(s org.ServerName) bool {
			_, ok := v.Server(s)
			return ok
		})
		c.port.Evict(func(sub ca.Subject) bool { return c.admit(sub, "") == nil })
		check := time.NewTimer(c.cfg.LeaseTTL)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-check.C:
		}
		check.Stop()
	}
}

func (c *Cluster) endRemoved() error {
	c.events.Emit(evSelfRemoved, "server %s finds that it was removed from the group", c.self.Name)
	return &kind.Error{Kind: kind.Denied, Err: ErrRemoved, Hint: "to take it in again, empty its cluster data folder and join"}
}

// leaving tells whether somebody is about to remove this server.
func (c *Cluster) leaving() bool {
	_, ok := c.View().Get(dirLeaving + c.self.Identity)
	return ok
}

// removed tells whether the view shows that this server is a member no more.
func (c *Cluster) removed() bool {
	v := c.View()
	if _, ok := v.Get(dirRemoved + c.self.Identity); ok {
		return true
	}
	if row, ok := v.Server(c.self.Name); ok && row.Identity != c.self.Identity {
		return true
	}
	// The connections of a removed server are closed when it is done, so the
	// news may not arrive.
	c.mu.Lock()
	silence := time.Since(c.lastOK)
	c.mu.Unlock()
	return c.leaving() && silence > 2*c.cfg.LeaseTTL
}

// firstBatch is how many rows of a new group are written at once.
const firstBatch = 200

// putFirstRows writes the rows that Init or Restore left, if they did, into
// an agreed state that has none.
func (c *Cluster) putFirstRows(ctx context.Context, cl *clientv3.Client) error {
	path := filepath.Join(c.cfg.Dir, firstFile)
	v, err := readSnapshot(path, c.self.Group)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	var ops []clientv3.Op
	put := func() error {
		defer func() { ops = nil }()
		for ctx.Err() == nil {
			tctx, cancel := context.WithTimeout(ctx, 2*attempt)
			// A group's rows are never written over another's.
			resp, err := cl.Txn(tctx).If(clientv3.Compare(clientv3.CreateRevision(prefix+keyGroup), "=", 0)).Then(ops...).Commit()
			cancel()
			if err == nil && !resp.Succeeded {
				return c.sameGroup(ctx, cl)
			}
			if err == nil {
				return nil
			}
			if k, final := finalKind(err); final {
				return &kind.Error{Kind: k, Text: "write first rows", Err: err}
			}
			sleep(ctx, between)
		}
		return ctx.Err()
	}
	var last clientv3.Op
	for k, it := range v.Prefix("") {
		op := clientv3.OpPut(prefix+k, string(it.Value))
		if k == keyGroup { // comes last: it says that all others are there
			last = op
			continue
		}
		if ops = append(ops, op); len(ops) == firstBatch {
			if err := put(); err != nil {
				return err
			}
		}
	}
	ops = append(ops, last)
	if err := put(); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return syncDir(c.cfg.Dir)
}

// sameGroup is asked when the agreed state has rows already: ours, if an
// earlier start was cut short after the last of them.
func (c *Cluster) sameGroup(ctx context.Context, cl *clientv3.Client) error {
	resp, err := cl.Get(ctx, prefix+keyGroup)
	if err != nil {
		return err
	}
	var g groupRow
	if len(resp.Kvs) == 1 && decodeJSON(resp.Kvs[0].Value, &g) == nil && g.ID == c.self.Group {
		return nil
	}
	return endOfServer{kind.WithHint(kind.Errorf(kind.Exists, "the agreed state at etcd.endpoints belongs to another group"),
		"use an etcd without keys under "+prefix+", or join that group")}
}
