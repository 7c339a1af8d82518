package shadow

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// queueRows goes through the queue rows of a view.
func (k *Keeper) queueRows(v *cluster.View) iter.Seq2[org.ServerName, org.QueueRow] {
	return func(yield func(org.ServerName, org.QueueRow) bool) {
		for key := range v.Prefix(org.QueuePrefix) {
			name := org.ServerName(strings.TrimPrefix(key, org.QueuePrefix))
			if row, _, ok := k.row(v, name); ok && !yield(name, row) {
				return
			}
		}
	}
}

// takeover makes copies own messages whose servers are fenced, until ctx ends.
func (k *Keeper) takeover(ctx context.Context) {
	done := map[org.ServerName]uint64{} // all copies up to that epoch are dealt with
	for {
		wait := time.Hour
		if k.late.Swap(false) {
			clear(done)
		}
		if !k.takeAll(ctx, done) {
			wait = k.t.retry
		}
		select {
		case <-k.wakeTake:
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// takeAll deals with the copies of all servers that are fenced, but those that
// are done. It is false where some have to wait.
func (k *Keeper) takeAll(ctx context.Context, done map[org.ServerName]uint64) bool {
	v := k.d.Group.View()
	_, able := k.current(v)
	able = able && k.d.Group.Quorum() && k.d.Group.LeaseValid()
	all := true
	for name, row := range k.queueRows(v) {
		if name == k.me || done[name] == row.TakenUpTo {
			continue
		}
		if able && k.takeFrom(ctx, row) {
			done[name] = row.TakenUpTo
		} else {
			all = false
		}
	}
	return all
}

// takeFrom deals with the copies held for a server that is fenced. It is false
// where some have to wait.
func (k *Keeper) takeFrom(ctx context.Context, row org.QueueRow) bool {
	all, taken := true, 0
	var batch []queue.HeldCopy
	settle := func() {
		if len(batch) == 0 {
			return
		}
		n, ok := k.takeBatch(ctx, row, batch)
		taken += n
		all = all && ok
		batch = batch[:0]
	}
	var behind mail.TraceID
	for more := true; more && ctx.Err() == nil; {
		more = false
		for h, err := range k.d.Queue.Held(row.Server, behind) {
			if err != nil {
				k.d.Log.Error("copies cannot be read", "server", row.Server, "error", err)
				return false
			}
			behind = h.ID
			if h.Epoch > row.TakenUpTo {
				continue
			}
			if batch = append(batch, h); len(batch) == maxIDs {
				more = true // the iterator is not to stay open
				break
			}
		}
		settle()
	}
	if taken > 0 {
		k.metrics.takeovers.Inc()
		k.note("TakeOverQueue", row.Server, row.Why, fmt.Sprintf("fenced, up to epoch %d", row.TakenUpTo), fmt.Sprintf("%d messages are sent by %s", taken, k.me))
		k.d.Events.Emit(EventTakeover, "This server took over %d messages of %s: %s.", taken, row.Server, row.Why)
		wake(k.wakeReshadow)
	}
	return all && ctx.Err() == nil
}

// takeBatch decides about some copies by asking the others.
func (k *Keeper) takeBatch(ctx context.Context, row org.QueueRow, copies []queue.HeldCopy) (taken int, all bool) {
	ids := make([]mail.TraceID, len(copies))
	for i, h := range copies {
		ids[i] = h.ID
	}
	s, err := k.ask(ctx, ids)
	if err != nil || len(s.missed) > 0 {
		return 0, false
	}
	all = true
	var take []mail.TraceID
	var changes []queue.Change
	now := k.d.Now().UnixNano()
	for i, h := range copies {
		said := s.of(i)
		what, by := weighHeld(copyRank{h.Epoch, h.Try, k.me}, said)
		c := queue.Change{ID: h.ID, At: now, By: by}
		switch what {
		case stepWait:
			all = false
			continue
		case stepGo:
			take = append(take, h.ID)
			c.Rows = k.merged(h.ID, said)
			if len(c.Rows) == 0 {
				continue
			}
		case stepYield:
			c.Fate = queue.FateSuperseded
		case stepFinish:
			c.Fate, c.Rows = queue.FateFinished, k.merged(h.ID, said)
		case stepVoid:
			c.Fate = queue.FateVoid
		}
		changes = append(changes, c)
	}
	if !k.applyEach(ctx, changes) {
		return 0, false
	}
	if len(take) == 0 {
		return 0, all
	}
	k.setOurs(take, true)
	defer k.setOurs(take, false)
	if !k.still(ctx, s) {
		return 0, false
	}
	if err := k.d.Queue.Take(ctx, row.Server, row.Identity, row.TakenUpTo, take); err != nil {
		k.d.Log.Error("copies cannot be taken over", "server", row.Server, "error", err)
		return 0, false
	}
	k.holdBack(ctx, take)
	k.d.Taken(ctx, take)
	return len(take), all
}

// merged is what other servers said of the ends of rows, in the form for a
// change of a message or copy here.
func (k *Keeper) merged(id mail.TraceID, said map[org.ServerName]claim) []queue.RowChange {
	_, rows, err := k.d.Queue.Message(id)
	if err != nil {
		return nil
	}
	var best []queue.RowChange
	ends := map[uint16]queue.RowChange{}
	for _, from := range sortedNames(said) {
		cs := fitting(rows, said[from].Rows)
		if len(cs) > len(best) {
			best = cs
		}
		for _, c := range cs {
			if final(c.State) {
				ends[c.N] = c
			}
		}
	}
	known := map[uint16]bool{}
	var out []queue.RowChange
	for n := range rows {
		c, ok := ends[uint16(n)]
		if known[uint16(n)] = true; ok && !rows[n].State.Finished() {
			out = append(out, c)
		}
	}
	for _, c := range best { // rows that were added, as one server has them
		if !known[c.N] {
			out = append(out, c)
		}
	}
	return out
}

// holdBack has rows wait whose attempt was cut short: the server that tried may
// come back and tell.
func (k *Keeper) holdBack(ctx context.Context, ids []mail.TraceID) {
	next := k.d.Now().Add(k.d.Settings().InDoubtWait.Std()).UnixNano()
	var cs []queue.Change
	for _, id := range ids {
		m, rows, err := k.d.Queue.Message(id)
		if err != nil || m.Primary != "" {
			continue
		}
		c := queue.Change{ID: id, At: k.d.Now().UnixNano()}
		for i := range rows {
			if rows[i].State == queue.StateDoubtful {
				c.Rows = append(c.Rows, queue.RowChange{N: rows[i].N, Next: next, Repeat: true})
			}
		}
		if len(c.Rows) > 0 {
			cs = append(cs, c)
		}
	}
	k.applyEach(ctx, cs)
}

// applyEach applies changes, and where they do not all fit, those that do.
func (k *Keeper) applyEach(ctx context.Context, cs []queue.Change) bool {
	err := k.d.Queue.Apply(ctx, cs, queue.Wait)
	if err == nil {
		return true
	}
	if !settled(err) {
		k.d.Log.Error("queue does not change", "error", err)
		return false
	}
	for _, c := range cs {
		err := k.d.Queue.Apply(ctx, []queue.Change{c}, queue.Wait)
		if err != nil && !settled(err) {
			k.d.Log.Error("queue does not change", "error", err)
			return false
		}
		if err != nil {
			k.d.Log.Warn("change does not fit", "message", c.ID.String(), "error", kind.Of(err), "cause", err)
		}
	}
	return true
}
