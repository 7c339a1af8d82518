package health

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/health/respond"
	"github.com/postern-mail/postern/internal/org"
)

// Bounds of the recovery log.
const (
	tidyEvery   = 10 * time.Second
	keepRows    = 5000
	keepFor     = 30 * 24 * time.Hour
	dropAtOnce  = 50
	dropMost    = 1000 // where the log is longer than it may be
	dropBatch   = 100  // rows in one transaction
	writeAtOnce = 20
)

// tidy uploads what was done without quorum, and, at the first server by name
// that is up, drops what is old: rows of the log, overrides and repairs that ended.
func (d *Desk) tidy(ctx context.Context) {
	if !d.deps.Rows.Quorum() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	waiting := d.journal.Waiting()
	for _, row := range waiting[:min(len(waiting), writeAtOnce)] {
		raw, err := json.Marshal(row)
		if err == nil {
			err = d.deps.Rows.Commit(ctx, []Op{{Key: respond.RowKey(row.ID), Value: raw}})
		}
		if err == nil {
			err = d.journal.Written(row)
		}
		if err != nil {
			return // next time
		}
	}
	for _, m := range d.deps.Mesh.Members() {
		if m == d.deps.Server {
			break
		}
		if d.deps.Mesh.Up(m) {
			return
		}
	}
	if ok, _ := d.deps.Clock.Trusted(); !ok {
		return
	}
	for ops := range slices.Chunk(d.stale(d.deps.Clock.Now()), dropBatch) {
		if err := d.deps.Rows.Commit(ctx, ops); err != nil {
			d.deps.Log.Debug("old rows of health were not dropped", "error", err)
			return
		}
	}
}

// stale lists rows that nobody needs any more, a bounded number.
func (d *Desk) stale(now time.Time) []Op {
	ops := d.staleLog(now)
	most := len(ops) + dropAtOnce
	expired := func(prefix string, endless bool) {
		for k := range d.deps.Rows.Prefix(prefix) {
			if len(ops) == most {
				return
			}
			// The revision that was judged: a row that is renewed meanwhile stays.
			raw, revision, ok := d.deps.Rows.Get(k)
			var x struct {
				Until time.Time `json:"until"`
			}
			if ok && json.Unmarshal(raw, &x) == nil && now.After(x.Until) && !(endless && x.Until.IsZero()) {
				ops = append(ops, Op{Key: k, If: true, Revision: revision})
			}
		}
	}
	expired(overridePrefix, true)
	expired(repairingPrefix, false)
	expired(modePrefix, true)
	return ops
}

// staleLog lists the rows of the recovery log that are old or too many: at most
// dropAtOnce, and where they are too many as many as that takes, up to dropMost.
// Of those that are not old the notes go first: deeds are few, and what a disk
// that comes and goes makes of them must not push those out.
func (d *Desk) staleLog(now time.Time) (ops []Op) {
	rows := 0
	for range d.deps.Rows.Prefix(org.RecoveryPrefix) {
		rows++
	}
	over := min(rows-keepRows, dropMost)
	old := org.RecoveryPrefix + now.Add(-keepFor).UTC().Format("20060102T150405.000")
	var deeds []string // the oldest that are kept, as many as may have to go
	for k, raw := range d.deps.Rows.Prefix(org.RecoveryPrefix) {
		var row struct {
			Note bool `json:"note"`
		}
		switch {
		case len(ops) >= max(over, dropAtOnce), k >= old && len(ops) >= over:
			return ops
		case k < old || json.Unmarshal(raw, &row) == nil && row.Note:
			ops = append(ops, Op{Key: k})
		case len(deeds) < over:
			deeds = append(deeds, k)
		}
	}
	for _, k := range deeds[:min(len(deeds), max(0, over-len(ops)))] {
		ops = append(ops, Op{Key: k})
	}
	return ops
}

// closeOpen writes the end of deeds that an earlier process of this server began:
// the restart of the mail worker ends the process that ordered it.
func (d *Desk) closeOpen(ctx context.Context) bool {
	if !d.deps.Rows.Quorum() {
		return false
	}
	if err := d.gate.CloseOpen(ctx, d.deps.Clock.Now().Add(-time.Since(d.began))); err != nil {
		d.deps.Log.Warn("the end of former repairs was not written", "error", err)
		return false
	}
	return true
}
