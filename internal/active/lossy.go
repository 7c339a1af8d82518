package active

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

// lossyMargin is by how much the clocks of servers may differ: the newest
// record was timed by the former active copy, deliveries by those who made them.
const lossyMargin = 10 * time.Minute

// lossy is the mark of a lossy mount of target, and what asks for that which is
// missing. gathered is where its log ends if it was brought log since it last
// reported.
func (m *Manager) lossy(mt org.Mount, target org.ServerName, gathered org.LSN) (*org.LossyMark, []cluster.Op) {
	mark := &org.LossyMark{Former: mt.Active, From: gathered, Time: time.Now().UTC()}
	if st, ok := m.status(target, mt.Database); ok {
		mark.From = max(mark.From, st.Copied)
		if st.LastTime != 0 {
			mark.Since = time.Unix(0, st.LastTime).UTC().Add(-lossyMargin)
		}
	}
	if old := mt.Lossy; old != nil && old.Since.Before(mark.Since) {
		mark.Since = old.Since // what the mount before lacked may not have come yet
	}
	if m.deps.SafetyNet == nil {
		return mark, nil
	}
	id, op := m.deps.SafetyNet(mt.Database, mark.Since, fmt.Sprintf("lossy mount on %s, term %d", target, mt.Term+1))
	mark.Request = id
	return mark, []cluster.Op{op}
}

// settleLossy forgets a lossy mount once the former active copy follows
// again, as what it held beyond is offered by it, or once Safety Net delivered
// all of that again.
func (m *Manager) settleLossy(ctx context.Context, mt org.Mount) {
	if mt.Lossy == nil {
		return
	}
	def, _ := m.group.View().Database(mt.Database)
	_, there := def.Copy(mt.Lossy.Former)
	st, ok := m.status(mt.Active, mt.Database)
	mounted := ok && st.State == org.CopyMounted && st.Term >= mt.Term
	back := !there || mt.IsInSync(mt.Lossy.Former)
	if !mounted || !back && !m.answered(mt.Lossy.Request) {
		return
	}
	n := mt
	n.Lossy = nil
	b, err := json.Marshal(n)
	if err != nil {
		return
	}
	key := mailbox.MountKey(mt.Database)
	_, err = m.group.Commit(ctx, cluster.Txn{If: []cluster.Cond{{Key: key, Revision: mt.Revision}}, Then: []cluster.Op{{Key: key, Value: b}}})
	if err != nil && !kind.Is(err, kind.Conflict) {
		m.deps.Log.Warn("settle lossy mount", "database", mt.Database, "err", err)
	}
}

// answered tells whether a Safety Net request is completed.
func (m *Manager) answered(request string) bool {
	return request != "" && m.deps.Completed != nil && m.deps.Completed(request)
}
