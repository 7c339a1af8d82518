package agreed

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/postern-mail/postern/internal/base/kind"
)

// guarded reads a member of this process. etcd waits for the calls of other
// processes before it closes its store, but not for those made inside: one that
// reads at that moment panics. Here it is an error, as of a member that is gone.
type guarded struct {
	clientv3.KV
	stopping <-chan struct{}
}

func (g guarded) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (resp *clientv3.GetResponse, err error) {
	defer g.ended(&err)
	return g.KV.Get(ctx, key, opts...)
}

func (g guarded) Do(ctx context.Context, op clientv3.Op) (resp clientv3.OpResponse, err error) {
	defer g.ended(&err)
	return g.KV.Do(ctx, op)
}

// ended makes a panic of a store that is being closed an error; any other goes on.
func (g guarded) ended(err *error) {
	select {
	case <-g.stopping:
	default:
		return // whatever it is, it is not that
	}
	if p := recover(); p != nil {
		*err = kind.Errorf(kind.Busy, "read the agreed state: the member ended meanwhile")
	}
}
