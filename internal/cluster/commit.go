package cluster

import (
	"bytes"
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/postern-mail/postern/internal/base/kind"
)

// Cond is a condition of a transaction on one key.
type Cond struct {
	Key string
	// Revision the key's last change must have; 0: the key must not exist;
	// -1: it must exist.
	Revision int64
}

// Op puts or deletes one key.
type Op struct {
	Key    string
	Value  []byte
	Delete bool
}

// Txn is a change of the agreed state: all of Then if all of If holds, else
// nothing.
type Txn struct {
	If   []Cond
	Then []Op
}

const (
	// attempt is how long one try may wait: a request that was sent to a leader
	// which died is lost without a word.
	attempt = time.Second
	between = 20 * time.Millisecond
)

// Commit changes the agreed state and returns when the local View includes
// the change, with its revision. It rides through a change of leader. The
// error is Conflict if a condition did not hold, Busy without quorum, Full
// when the agreed state's quota is used up.
//
// A try whose answer was lost is repeated; if it had succeeded unseen, Commit
// finds its own values in place and succeeds. Two Commits that write the same
// bytes under the same condition may therefore both succeed: put something of
// your own into a value that claims something.
func (c *Cluster) Commit(ctx context.Context, t Txn) (int64, error) { return c.commit(ctx, t) }

// still is the condition that no key that begins so was put after a revision.
// Deletions are not noticed.
func still(dir string, revision int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(prefix+dir), "<", revision+1).WithPrefix()
}

// commit is Commit, with further conditions.
func (c *Cluster) commit(ctx context.Context, t Txn, more ...clientv3.Cmp) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.CommitTimeout)
	defer cancel()
	req, err := t.request()
	if err != nil {
		return 0, err
	}
	var rev int64
	repeated := false
	err = c.try(ctx, "commit", func(ctx context.Context, cl *clientv3.Client) error {
		resp, err := cl.Txn(ctx).If(append(req.cmps, more...)...).Then(req.ops...).Else(req.reads...).Commit()
		if err != nil {
			repeated = true
			return err
		}
		if rev = resp.Header.Revision; resp.Succeeded {
			return nil
		}
		if repeated {
			if at, ok := t.found(resp); ok {
				rev = at
				return nil
			}
		}
		return kind.Errorf(kind.Conflict, "commit: %s has changed", t.about())
	})
	if err != nil {
		return 0, err
	}
	if err := c.waitFor(ctx, rev); err != nil {
		return rev, kind.Errorf(kind.Busy, "commit: done at revision %d, but the local view is behind: %w", rev, err)
	}
	return rev, nil
}

// request is a Txn in etcd's words.
type request struct {
	cmps  []clientv3.Cmp
	ops   []clientv3.Op
	reads []clientv3.Op
}

func (t Txn) request() (r request, err error) {
	if len(t.Then) == 0 {
		return r, kind.Errorf(kind.Invalid, "commit: nothing to do")
	}
	for _, w := range t.If {
		key := prefix + w.Key
		switch {
		case w.Revision == 0:
			r.cmps = append(r.cmps, clientv3.Compare(clientv3.CreateRevision(key), "=", 0))
		case w.Revision == -1:
			r.cmps = append(r.cmps, clientv3.Compare(clientv3.CreateRevision(key), ">", 0))
		default:
			r.cmps = append(r.cmps, clientv3.Compare(clientv3.ModRevision(key), "=", w.Revision))
		}
	}
	for _, o := range t.Then {
		if o.Key == "" {
			return r, kind.Errorf(kind.Invalid, "commit: empty key")
		}
		if o.Delete {
			r.ops = append(r.ops, clientv3.OpDelete(prefix+o.Key))
		} else {
			r.ops = append(r.ops, clientv3.OpPut(prefix+o.Key, string(o.Value)))
		}
		r.reads = append(r.reads, clientv3.OpGet(prefix+o.Key))
	}
	return r, nil
}

func (t Txn) about() string {
	if len(t.If) > 0 {
		return t.If[0].Key
	}
	return t.Then[0].Key
}

// found tells whether the reads of a refused transaction show all of its
// writes in place, made together: an earlier try succeeded unseen.
func (t Txn) found(resp *clientv3.TxnResponse) (revision int64, ok bool) {
	for i, o := range t.Then {
		var kvs = resp.Responses[i].Response.(*pb.ResponseOp_ResponseRange).ResponseRange.Kvs
		switch {
		case o.Delete && len(kvs) == 0:
		case o.Delete || len(kvs) == 0 || !bytes.Equal(kvs[0].Value, o.Value):
			return 0, false
		case revision == 0:
			revision = kvs[0].ModRevision
		case kvs[0].ModRevision != revision:
			return 0, false
		}
	}
	return revision, revision != 0
}

// Sync returns when the local View is at least as new as the agreed state was
// when Sync was called. The error is Busy without quorum.
func (c *Cluster) Sync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.CommitTimeout)
	defer cancel()
	var rev int64
	err := c.try(ctx, "sync", func(ctx context.Context, cl *clientv3.Client) error {
		resp, err := cl.Get(ctx, prefix+keyGroup, clientv3.WithCountOnly())
		if err == nil {
			rev = resp.Header.Revision
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := c.waitFor(ctx, rev); err != nil {
		return kind.Errorf(kind.Busy, "sync: the local view is behind: %w", err)
	}
	return nil
}

// try runs f against the agreed state until it succeeds, fails for good or
// ctx ends. It gives up a try when a new leader is elected, because what was
// sent to the old one may be lost.
func (c *Cluster) try(ctx context.Context, what string, f func(ctx context.Context, cl *clientv3.Client) error) error {
	var last error
	for ctx.Err() == nil {
		b, err := c.backend(ctx)
		if err != nil {
			break
		}
		last = c.once(ctx, b, f)
		if last == nil {
			c.answered()
			return nil
		}
		if k, final := finalKind(last); final {
			return &kind.Error{Kind: k, Err: last}
		}
		sleep(ctx, between)
	}
	if last == nil {
		last = context.Cause(ctx)
	}
	return &kind.Error{Kind: kind.Busy, Text: what + ": the agreed state does not answer", Err: last,
		Hint: "postern cluster status shows which servers are missing"}
}

func (c *Cluster) once(ctx context.Context, b *backend, f func(ctx context.Context, cl *clientv3.Client) error) error {
	leader := b.newLeader()
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-leader:
		case <-b.ctx.Done():
		case <-done:
		}
		cancel()
	}()
	return f(ctx, b.client)
}

// finalKind sorts out the errors that trying again does not mend.
func finalKind(err error) (kind.Kind, bool) {
	var ke *kind.Error
	if errors.As(err, &ke) {
		return ke.Kind, ke.Kind != kind.Busy
	}
	switch rpctypes.Error(err) {
	case rpctypes.ErrNoSpace:
		return kind.Full, true
	case rpctypes.ErrRequestTooLarge, rpctypes.ErrTooManyOps, rpctypes.ErrDuplicateKey, rpctypes.ErrEmptyKey:
		return kind.Invalid, true
	case rpctypes.ErrPermissionDenied, rpctypes.ErrAuthFailed, rpctypes.ErrUserEmpty:
		return kind.Denied, true
	case rpctypes.ErrLeaseNotFound:
		return kind.NotFound, true
	}
	return kind.Busy, false
}

// waitFor waits until the view includes a revision.
func (c *Cluster) waitFor(ctx context.Context, rev int64) error {
	patience := time.NewTicker(50 * time.Millisecond)
	defer patience.Stop()
	for {
		changed := c.Changed()
		if c.View().Revision() >= rev {
			return nil
		}
		select {
		case <-changed:
		case <-patience.C:
			// Keys outside our prefix move etcd's revision without an event.
			select {
			case c.nudge <- struct{}{}:
			default:
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
