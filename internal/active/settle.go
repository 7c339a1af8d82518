package active

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// settleMoves notes the end of moves whose targets report the database mounted,
// and drops what is kept about databases that are gone.
func (m *Manager) settleMoves(ctx context.Context, sc *scene) {
	var t cluster.Txn
	for key, it := range sc.v.Prefix(movesPrefix) {
		db := org.DatabaseName(strings.TrimPrefix(key, movesPrefix))
		if m.watch.isSettled(db, it.Revision) {
			continue
		}
		if _, ok := sc.v.Database(db); !ok {
			t.If = append(t.If, cluster.Cond{Key: key, Revision: it.Revision})
			t.Then = append(t.Then, cluster.Op{Key: key, Delete: true})
			m.watch.drop(db)
			for k := range sc.v.Prefix(decisionsPrefix + string(db) + "/") {
				t.Then = append(t.Then, cluster.Op{Key: k, Delete: true})
			}
		} else if ops, open := sc.settle(db); len(ops) > 0 {
			t.If = append(t.If, cluster.Cond{Key: key, Revision: it.Revision})
			t.Then = append(t.Then, ops...)
		} else if !open {
			m.watch.settle(db, it.Revision)
		}
		if len(t.If) == swapTogether {
			break
		}
	}
	if len(t.Then) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if _, err := m.group.Commit(ctx, t); err != nil && !kind.Is(err, kind.Conflict) {
		m.deps.Log.Warn("note the ends of moves", "err", err)
	}
}

// settle is what notes the end of the last move of a database, and whether it
// is still open.
func (sc *scene) settle(db org.DatabaseName) (ops []cluster.Op, open bool) {
	h, _ := historyOf(sc.v, db)
	last := h.open()
	if last == nil {
		return nil, false
	}
	result := leftBefore
	mt, _ := sc.v.Mount(db)
	st := sc.server(mt.Active).copies[db]
	switch {
	case mt.Active != last.To:
		last.Result = leftBefore
	case st.State == org.CopyMounted && st.Term >= last.Term:
		last.Result, last.Took = mounted, max(sc.now.Sub(last.At), 0)
		result = fmt.Sprintf("mounted on %s after %s", last.To, last.Took.Round(time.Millisecond))
	default:
		return nil, true
	}
	b, err := json.Marshal(h)
	if err != nil {
		return nil, true
	}
	ops = append(ops, cluster.Op{Key: movesPrefix + string(db), Value: b})
	ops = append(ops, closed(sc.v, last.Recovery, result, sc.now.UTC())...)
	for _, e := range decisionsOf(sc.v, db) {
		if e.Number != last.Decision || e.Term != last.Term {
			continue
		}
		e.Result, e.Took = last.Result, last.Took
		if b, err := json.Marshal(e); err == nil {
			ops = append(ops, cluster.Op{Key: decisionKey(db, e.Number), Value: b})
		}
	}
	return ops, true
}
