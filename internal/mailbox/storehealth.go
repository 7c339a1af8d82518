package mailbox

import (
	"context"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/health"
	"github.com/postern-mail/postern/internal/mailbox/store"
	"github.com/postern-mail/postern/internal/org"
)

// storeHealth looks at the databases that are active here: whether they can be
// read, and whether what they were given is confirmed. Neither writes anything,
// so an idle disk stays idle. k may be nil.
func storeHealth(k *Keeper) health.Items {
	seen := &recent{k: k}
	active := func() []string {
		var out []string
		if k != nil {
			for _, s := range seen.statuses() {
				if s.State == org.CopyMounted {
					out = append(out, string(s.Database))
				}
			}
		}
		return out
	}
	look := func(run func(context.Context, *dbCopy) error) health.Look {
		return func(ctx context.Context, db string) (health.Reading, error) {
			c := k.copy(org.DatabaseName(db))
			if c == nil {
				return health.Reading{}, nil // removed meanwhile
			}
			begun := time.Now()
			err := run(ctx, c)
			if kind.Is(err, kind.Elsewhere) {
				err = nil // moved meanwhile
			}
			return health.Reading{Value: time.Since(begun).Seconds()}, err
		}
	}
	return health.StoreItems(active, look(readable), look(confirmed))
}

// readable reads from the index as a client's request does: with the lease held.
func readable(ctx context.Context, c *dbCopy) error {
	_, err := read(ctx, c, func(r *store.Reader) (struct{}, error) {
		_, err := r.At()
		return struct{}{}, err
	})
	return err
}

// confirmed waits until changes are admitted and all that were there before are
// confirmed.
func confirmed(ctx context.Context, c *dbCopy) error {
	l, err := c.leading(ctx)
	if err != nil {
		return err
	}
	if err := l.admit(ctx, false); err != nil {
		return err
	}
	l.mu.Lock()
	end := l.build.to.LSN
	l.mu.Unlock()
	return l.wait(ctx, func() bool { return l.applied >= end })
}
