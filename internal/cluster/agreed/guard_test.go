package agreed

import (
	"context"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/postern-mail/postern/internal/base/kind"
)

// closedStore reads as etcd does when its store was closed.
type closedStore struct{ clientv3.KV }

func (closedStore) Get(context.Context, string, ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	var tx *clientv3.GetResponse
	_ = tx.Header.Revision
	return tx, nil
}

// TestReadWhileEnding: a read that meets a member at its end is an error; what
// panics at any other time still does.
func TestReadWhileEnding(t *testing.T) {
	stopping := make(chan struct{})
	g := guarded{closedStore{}, stopping}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a panic of a running member was hidden")
			}
		}()
		_, _ = g.Get(t.Context(), "x")
	}()
	close(stopping)
	if _, err := g.Get(t.Context(), "x"); !kind.Is(err, kind.Busy) {
		t.Errorf("%v, want Busy", err)
	}
}
