package cluster

import (
	"context"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/postern-mail/postern/internal/cluster/view"
	"github.com/postern-mail/postern/internal/org"
)

const loadPage = 2000

// follow keeps the view up to date until ctx ends.
func (c *Cluster) follow(ctx context.Context) error {
	for ctx.Err() == nil {
		b, err := c.backend(ctx)
		if err != nil {
			return nil
		}
		bctx, cancel := context.WithCancel(b.ctx)
		stop := context.AfterFunc(ctx, cancel)
		err = c.followOne(bctx, b)
		stop()
		cancel()
		if err != nil && ctx.Err() == nil && b.ctx.Err() == nil {
			c.log.Debug("cluster: watch", "error", err)
		}
		sleep(ctx, between)
	}
	return nil
}

// followOne loads all keys and applies changes until the watch breaks.
func (c *Cluster) followOne(ctx context.Context, b *backend) error {
	v, err := c.load(ctx, b)
	if err != nil {
		return err
	}
	now := c.View()
	switch {
	case v.Revision() >= now.Revision():
		c.setView(v, true)
	case b.member == nil:
		// A member's own store may lag behind what it saw before it was
		// started again, but the group's answer cannot.
		c.events.Emit(evStateReplaced, "agreed state is at revision %d, this server saw %d before", v.Revision(), now.Revision())
		c.setView(v, true)
	}
	wctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if b.member == nil {
		wctx = clientv3.WithRequireLeader(wctx)
	}
	events := b.client.Watch(wctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(c.View().Revision()+1), clientv3.WithFragment())
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.nudge:
			if err := b.client.RequestProgress(wctx); err != nil {
				return err
			}
		case resp, ok := <-events:
			if !ok {
				return ctx.Err()
			}
			if err := resp.Err(); err != nil {
				return err
			}
			c.apply(resp)
		}
	}
}

// load reads all keys at one revision: from the own member's disk, which
// needs no quorum, or from the group.
func (c *Cluster) load(ctx context.Context, b *backend) (*View, error) {
	end := clientv3.GetPrefixRangeEnd(prefix)
	from, rev := prefix, int64(0)
	var pages []*clientv3.GetResponse
	for {
		opts := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(loadPage), clientv3.WithRev(rev)}
		if b.member != nil {
			opts = append(opts, clientv3.WithSerializable())
		}
		pctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		resp, err := b.client.Get(pctx, from, opts...)
		cancel()
		if err != nil {
			return nil, err
		}
		if rev == 0 {
			rev = resp.Header.Revision
		}
		pages = append(pages, resp)
		if !resp.More {
			break
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
	return view.New(rev, func(yield func(string, Item) bool) {
		for _, p := range pages {
			for _, kv := range p.Kvs {
				if !yield(string(kv.Key[len(prefix):]), Item{Value: kv.Value, Revision: kv.ModRevision}) {
					return
				}
			}
		}
	}), nil
}

func (c *Cluster) apply(resp clientv3.WatchResponse) {
	if len(resp.Events) == 0 {
		if v := c.View(); resp.IsProgressNotify() && resp.Header.Revision > v.Revision() {
			c.setView(v.Apply(resp.Header.Revision, nil), false)
		}
		return
	}
	changes := make([]view.Change, 0, len(resp.Events))
	var rev int64
	members := false
	for _, e := range resp.Events {
		key := string(e.Kv.Key[len(prefix):])
		rev = max(rev, e.Kv.ModRevision)
		members = members || strings.HasPrefix(key, dirServers) || strings.HasPrefix(key, dirRemoved) || strings.HasPrefix(key, dirLeaving) || strings.HasPrefix(key, dirNetworks) || key == org.GenerationKey
		changes = append(changes, view.Change{
			Key: key, Delete: e.Type == clientv3.EventTypeDelete,
			Item: Item{Value: e.Kv.Value, Revision: e.Kv.ModRevision},
		})
	}
	c.setView(c.View().Apply(rev, changes), members)
}

// setView publishes a view; only follow calls it.
func (c *Cluster) setView(v *View, members bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.view.Store(v)
	close(c.changed)
	c.changed = make(chan struct{})
	if members {
		close(c.members)
		c.members = make(chan struct{})
	}
}

func (c *Cluster) membersChanged() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.members
}

// save writes the view to disk, not more often than SnapshotEvery and not
// for more than a small part of the time, and once more at the end.
func (c *Cluster) save(ctx context.Context) error {
	saved := int64(-1)
	write := func() time.Duration {
		v, begin := c.View(), time.Now()
		if v.Revision() == saved || v.Revision() == 0 {
			return 0
		}
		if err := writeFile(filepath.Join(c.cfg.Dir, viewFile), view.Encode(c.self.Group, v)); err != nil {
			c.log.Warn("cluster: save the view", "error", err)
		} else {
			saved = v.Revision()
		}
		return time.Since(begin)
	}
	for {
		changed := c.Changed()
		took := write()
		sleep(ctx, max(c.cfg.SnapshotEvery, 20*took))
		select {
		case <-ctx.Done():
			write()
			return nil
		case <-changed:
		}
	}
}
