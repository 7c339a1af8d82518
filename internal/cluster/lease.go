package cluster

import (
	"context"
	"encoding/json"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/postern-mail/postern/internal/base/kind"
)

// leaseState is this server's sign of life in the agreed state.
type leaseState struct {
	id    clientv3.LeaseID
	valid time.Time // until then, by the monotonic clock
}

// liveRow is the value of live/<name>.
type liveRow struct {
	Identity string    `json:"identity"`
	Boot     string    `json:"boot"`
	Version  string    `json:"version,omitempty"`
	Since    time.Time `json:"since"`
}

func decodeLive(b []byte) (row liveRow, err error) { return row, json.Unmarshal(b, &row) }

// LeaseValid tells whether this server's lease certainly still counts: the
// last keep-alive that succeeded was sent less than the lease's time ago, less
// a margin of a tenth for clocks that run at different speed. Wall clocks
// play no part.
func (c *Cluster) LeaseValid() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Before(c.lease.valid)
}

// keepLease keeps live/<name> in the agreed state.
func (c *Cluster) keepLease(ctx context.Context) error {
	since := time.Now().UTC()
	for ctx.Err() == nil {
		if c.isMember() {
			if err := c.renewLease(ctx, since); err != nil && ctx.Err() == nil {
				c.log.Debug("cluster: lease", "error", err)
				sleep(ctx, between)
				continue
			}
		}
		sleep(ctx, c.cfg.LeaseTTL/5)
	}
	return nil
}

func (c *Cluster) isMember() bool {
	row, ok := c.View().Server(c.self.Name)
	return ok && row.Identity == c.self.Identity
}

// renewLease makes one keep-alive, or grants a new lease where there is none.
func (c *Cluster) renewLease(ctx context.Context, since time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.LeaseTTL)
	defer cancel()
	c.mu.Lock()
	id := c.lease.id
	c.mu.Unlock()
	if id == 0 {
		return c.grantLease(ctx, since)
	}
	var sent time.Time
	err := c.try(ctx, "lease", func(ctx context.Context, cl *clientv3.Client) error {
		sent = time.Now()
		_, err := cl.KeepAliveOnce(ctx, id)
		return err
	})
	if kind.Is(err, kind.NotFound) {
		c.setLease(0, time.Time{})
		return err
	}
	if err == nil {
		c.setLease(id, sent)
	}
	return err
}

func (c *Cluster) setLease(id clientv3.LeaseID, sent time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lease.id = id
	if id == 0 {
		c.lease.valid = time.Time{}
	} else {
		c.lease.valid = sent.Add(c.cfg.LeaseTTL * 9 / 10)
	}
}

func (c *Cluster) grantLease(ctx context.Context, since time.Time) error {
	b, err := c.backend(ctx)
	if err != nil {
		return err
	}
	value, err := json.Marshal(liveRow{c.self.Identity, c.mesh.Boot(), c.cfg.Version, since})
	if err != nil {
		return err
	}
	sent := time.Now()
	granted, err := b.client.Grant(ctx, int64(c.cfg.LeaseTTL/time.Second))
	if err != nil {
		return err
	}
	if _, err := b.client.Put(ctx, prefix+dirLive+string(c.self.Name), string(value), clientv3.WithLease(granted.ID)); err != nil {
		return err
	}
	c.answered()
	c.setLease(granted.ID, sent)
	return nil
}

// withdraw ends the lease at a clean stop, so that the others need not wait
// for it to run out. It works on the present backend, which is about to end.
func (c *Cluster) withdraw() {
	c.mu.Lock()
	id, b := c.lease.id, c.back
	c.lease = leaseState{}
	c.mu.Unlock()
	if id == 0 || b == nil || c.abrupt.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, err := b.client.Revoke(ctx, id); err != nil {
		c.log.Debug("cluster: end the lease", "error", err)
	}
}
