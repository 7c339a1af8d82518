package cluster

import (
	"context"
	"encoding/json"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster/ca"
	"github.com/postern-mail/postern/internal/cluster/joining"
	"github.com/postern-mail/postern/internal/org"
)

const (
	tokenTTL    = time.Hour
	maxTokenTTL = 7 * 24 * time.Hour
)

// TokenOptions say what a join token is good for.
type TokenOptions struct {
	TTL time.Duration  // 0 = 1 h, at most 7 days
	For org.ServerName // only a server of this name may use it; empty: any
}

// tokenRow is kept under the hash of the secret, with an etcd lease: the group
// lets it end, no server's wall clock does. Expires is for people.
type tokenRow struct {
	For     org.ServerName `json:"for,omitempty"`
	Expires time.Time      `json:"expires"`
}

func decodeJSON(b []byte, v any) error { return json.Unmarshal(b, v) }

// CreateToken makes a one-time join token. It carries the secret, the CA's
// fingerprint and the members' addresses; the group keeps only a hash.
func (c *Cluster) CreateToken(ctx context.Context, o TokenOptions) (string, time.Time, error) {
	or(&o.TTL, tokenTTL)
	if o.TTL < time.Second || o.TTL > maxTokenTTL {
		return "", time.Time{}, kind.Errorf(kind.Invalid, "join token: time to live must be between 1s and %s", maxTokenTTL)
	}
	if o.For != "" {
		if err := org.ValidName(string(o.For)); err != nil {
			return "", time.Time{}, kind.Errorf(kind.Invalid, "join token: %w", err)
		}
	}
	addrs := []string{c.self.Addr}
	for _, s := range c.View().Servers() {
		if s.Name != c.self.Name {
			addrs = append(addrs, s.ClusterAddr)
		}
	}
	t := joining.NewToken(ca.Fingerprint(c.ca), addrs)
	row := tokenRow{o.For, time.Now().Add(o.TTL).UTC()}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.CommitTimeout)
	defer cancel()
	var rev int64
	err := c.try(ctx, "join token", func(ctx context.Context, cl *clientv3.Client) error {
		lease, err := cl.Grant(ctx, int64((o.TTL+time.Second-1)/time.Second))
		if err != nil {
			return err
		}
		put, err := cl.Put(ctx, prefix+dirTokens+joining.Hash(t.Secret), string(mustJSON(row)), clientv3.WithLease(lease.ID))
		if err == nil {
			rev = put.Header.Revision
		}
		return err
	})
	if err != nil {
		return "", time.Time{}, err
	}
	return t.String(), row.Expires, c.waitFor(ctx, rev)
}
