package maintain

import (
	"context"
	"encoding/json"

	"github.com/postern-mail/postern/internal/active/plan"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// Ordered is what a plan ordered of the host of a server, false where it did not.
func (l *Library) Ordered(plan string, s org.ServerName, do string) (x org.HostOrder, ok bool) {
	it, ok := l.World.View().Get(org.HostOrderKey(s))
	ok = ok && json.Unmarshal(it.Value, &x) == nil && x.Plan == plan && x.Do == do
	return x, ok
}

// OrderHost orders something of the host of the step's server, once for each plan.
// It names the run of the mail worker that it is meant for, so that another does
// not obey it again. The error is Busy where the server is not heard.
func (l *Library) OrderHost(ctx context.Context, pen *plan.Pen, do, boot, by string) error {
	s := pen.Step().Server
	if _, ok := l.Ordered(pen.Plan.ID, s, do); ok {
		return nil
	}
	if boot == "" {
		return kind.Errorf(kind.Busy, "%s is not heard", s)
	}
	b, err := json.Marshal(org.HostOrder{Do: do, Boot: boot, At: l.Now().UTC(), By: by, Plan: pen.Plan.ID, Step: pen.At})
	if err != nil {
		return err
	}
	return pen.Commit(ctx, cluster.Txn{Then: []cluster.Op{{Key: org.HostOrderKey(s), Value: b}}})
}
