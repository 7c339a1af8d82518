package active

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"time"

	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// Active Manager does by itself what nobody ordered: it activates another copy
// where one is gone, takes the primary role, moves databases back where they
// should be. Each of these has an entry in the recovery log, which is written in
// the same transaction as the deed.

// Actions of Active Manager in the recovery log.
const (
	actFailover = "Failover"
	actBalance  = "Balance"
	actPrimary  = "TakePrimary"
)

// byManager is the responder of these entries.
const byManager = "ActiveManager"

// Recovery modes, as Deps.Recovery names them.
const (
	recoveryDryRun = "dry-run"
	recoveryOff    = "off"
)

// recoveryMode is the recovery mode that holds for a part of this server.
func (m *Manager) recoveryMode(part string) string {
	if m.deps.Recovery == nil {
		return ""
	}
	return m.deps.Recovery(part)
}

// entry begins an entry of the recovery log.
func (m *Manager) entry(action, target, cause string, now time.Time) org.Recovery {
	return org.Recovery{ID: org.RecoveryID(now, m.me, rand.Text()[:6]), Server: m.me, Action: action, Target: target, Responder: byManager,
		Begun: now, Cause: cut(cause, 512), Allowed: true}
}

// entryOp is the row of an entry.
func entryOp(r org.Recovery) (cluster.Op, error) {
	b, err := json.Marshal(r)
	return cluster.Op{Key: org.RecoveryPrefix + r.ID, Value: b}, err
}

// entryOf is the entry of a change of the active copy, with what was known of
// the source and of the copies that were passed over as evidence.
func (m *Manager) entryOf(c verdict, decision string, now time.Time) org.Recovery {
	action := actFailover
	if c.q.Purpose == Rebalance {
		action = actBalance
	}
	r := m.entry(action, string(c.mt.Database), c.why, now)
	r.Decision = decision
	proof := func(target org.ServerName, result, text string) {
		if len(r.Evidence) < 10 {
			r.Evidence = append(r.Evidence, org.RecoveryEvidence{At: now, Item: byManager, Target: string(target), Result: result, Text: cut(text, 256)})
		}
	}
	proof(c.mt.Active, "source", c.why)
	if c.d.Target != "" {
		proof(c.d.Target, "chosen", c.d.Why)
	}
	for _, p := range c.d.Passed {
		if p.Server != c.mt.Active {
			proof(p.Server, "passed over", p.Why)
		}
	}
	return r
}

// closed is the row of an entry whose deed has ended, if there is one.
func closed(v *cluster.View, id, result string, now time.Time) []cluster.Op {
	it, ok := v.Get(org.RecoveryPrefix + id)
	var r org.Recovery
	if id == "" || !ok || json.Unmarshal(it.Value, &r) != nil {
		return nil
	}
	r.Ended, r.Result = now, cut(result, 512)
	op, err := entryOp(r)
	if err != nil {
		return nil
	}
	return []cluster.Op{op}
}

// wouldMove writes down which databases would go where they should be, and
// nothing else.
func (m *Manager) wouldMove(ctx context.Context, os []Order) {
	now := time.Now().UTC()
	var t cluster.Txn
	for _, o := range os[:min(len(os), swapTogether)] {
		r := m.entry(actBalance, string(o.Database), o.Why, now)
		r.DryRun, r.Ended, r.Result = true, now, fmt.Sprintf("it would be moved to %s", cmp.Or(o.To, "the best copy"))
		r.Evidence = []org.RecoveryEvidence{{At: now, Item: byManager, Target: string(o.To), Result: "chosen", Text: cut(o.Why, 256)}}
		op, err := entryOp(r)
		if err != nil {
			return
		}
		t.Then = append(t.Then, op)
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if _, err := m.group.Commit(ctx, t); err != nil {
		m.deps.Log.Warn("write what would be moved", "err", err)
	}
}
