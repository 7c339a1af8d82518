package shadow

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// Reconciling is how many messages of this server wait until it is known
// whether another one took them over.
func (k *Keeper) Reconciling() int { return int(k.waiting.Load()) }

// reconcile settles whose the own messages are that are fenced, until ctx ends.
func (k *Keeper) reconcile(ctx context.Context) {
	var since time.Time
	told, known := false, 0
	for {
		wait := time.Hour
		upto := k.takenUpTo(k.me)
		if ids := k.fenced(upto); len(ids) > 0 {
			if since.IsZero() {
				since, known = time.Now(), 0
			}
			if len(ids) > known {
				k.d.Gone(ids)
			}
			k.waiting.Store(int64(len(ids)))
			left := 0
			for len(ids) > 0 && ctx.Err() == nil {
				n := min(len(ids), maxIDs)
				left += k.reconcileBatch(ctx, ids[:n])
				ids = ids[n:]
			}
			k.waiting.Store(int64(left))
			known = left
			switch {
			case left == 0:
				k.d.Events.Emit(EventReconciled, "This server knows again which messages are its own, after %v.", time.Since(since).Round(time.Millisecond))
				since, told = time.Time{}, false
			case time.Since(since) > stuckAfter && !told:
				told = true
				k.d.Events.Emit(EventReconciling, "%d messages of this server wait to be reconciled for %v.", left, time.Since(since).Round(time.Second))
			}
			if wait = k.t.retry; left == 0 {
				wait = 0 // until there is none
			}
		} else {
			k.waiting.Store(0)
			k.reconciled.Store(upto)
			since, told = time.Time{}, false
		}
		select {
		case <-time.After(wait):
		case <-k.wakeReconcile:
		case <-ctx.Done():
			return
		}
	}
}

// fenced lists own messages that are not finished and that others may have
// taken over.
func (k *Keeper) fenced(upto uint64) (ids []mail.TraceID) {
	if upto == 0 {
		return nil
	}
	var last mail.TraceID
	for j, err := range k.d.Queue.Unfinished() {
		if err != nil {
			k.d.Log.Error("messages cannot be read", "error", err)
			return ids
		}
		if j.ID == last {
			continue
		}
		last = j.ID
		if m, _, err := k.d.Queue.Message(j.ID); err == nil && m.Primary == "" && m.Finished.IsZero() && m.Epoch <= upto {
			ids = append(ids, j.ID)
		}
	}
	return ids
}

// reconcileBatch decides about some own messages; left are those that wait.
func (k *Keeper) reconcileBatch(ctx context.Context, ids []mail.TraceID) (left int) {
	if _, ok := k.current(k.d.Group.View()); !ok || !k.d.Group.LeaseValid() {
		return len(ids)
	}
	epoch := k.d.Queue.Epoch()
	s, err := k.ask(ctx, ids)
	if err != nil {
		return len(ids)
	}
	now := k.d.Now().UnixNano()
	var yield []queue.Change
	var ours []mail.TraceID
	holders := map[mail.TraceID]org.ServerName{}
	tell := map[org.ServerName][]notice{}
	for i, id := range ids {
		said := s.of(i)
		m, rows, err := k.d.Queue.Message(id)
		if err != nil {
			left++
			continue
		}
		what, by := weighOwn(k.me, said)
		switch {
		case what == stepYield || what == stepFinish:
			yield = append(yield, takenBy(id, by, now, rows))
			tell[by] = append(tell[by], notice{ID: id[:], Fate: queue.FateProgress, At: now, Rows: progress(rows)})
		case what == stepGo && len(s.missed) == 0 && !k.isBusy(id):
			ours = append(ours, id)
			holders[id] = m.Shadow
			if c, ok := said[m.Shadow]; !ok || c.State != claimHeld || c.Primary != k.me {
				holders[id] = ""
			}
		default:
			left++
		}
	}
	left += k.giveWay(ctx, yield, tell)
	return left + k.goOn(ctx, s, ours, holders, epoch)
}

// takenBy ends the rows of a message that another server owns.
func takenBy(id mail.TraceID, by org.ServerName, now int64, rows []queue.RecipientRow) queue.Change {
	c := queue.Change{ID: id, At: now, By: by}
	for i := range rows {
		if !rows[i].State.Finished() {
			c.Rows = append(c.Rows, queue.RowChange{N: rows[i].N, State: queue.StateTaken})
		}
	}
	return c
}

// giveWay tells the new owners what was done here, and then gives the messages
// up. Those whose owner cannot be told wait.
func (k *Keeper) giveWay(ctx context.Context, cs []queue.Change, tell map[org.ServerName][]notice) (left int) {
	deaf := map[org.ServerName]bool{}
	for s, ns := range tell {
		cctx, cancel := context.WithTimeout(ctx, k.t.call)
		in := &noticeBatch{Queue: k.d.Queue.Identity(), Epoch: k.d.Queue.Epoch(), Notices: ns}
		deaf[s] = k.peers(cctx, s, "Notify", in, &noticeAnswer{}) != nil
		cancel()
	}
	var given []queue.Change
	var ids []mail.TraceID
	for _, c := range cs {
		if deaf[c.By] {
			left++
			continue
		}
		given = append(given, c)
		ids = append(ids, c.ID)
	}
	if !k.applyEach(ctx, given) {
		return left + len(given)
	}
	if len(ids) > 0 {
		k.d.Gone(ids)
		k.note("GiveUpMessages", k.me, "other servers took them over while this one was away", fmt.Sprintf("owned now by %v", owners(given)),
			fmt.Sprintf("%d messages are no longer sent from here", len(ids)))
	}
	return left
}

// owners names the servers that own messages now.
func owners(cs []queue.Change) []org.ServerName {
	by := map[org.ServerName]bool{}
	for _, c := range cs {
		by[c.By] = true
	}
	return slices.Sorted(maps.Keys(by))
}

// goOn makes messages this server's work again that nobody else has.
func (k *Keeper) goOn(ctx context.Context, s *survey, ids []mail.TraceID, holders map[mail.TraceID]org.ServerName, epoch uint64) (left int) {
	if len(ids) == 0 {
		return 0
	}
	k.setOurs(ids, true)
	defer k.setOurs(ids, false)
	if !k.still(ctx, s) {
		return len(ids)
	}
	// Somebody may have found a copy before this server said that it goes on.
	again, err := k.ask(ctx, ids)
	if err != nil || len(again.missed) > 0 {
		return len(ids)
	}
	now := k.d.Now().UnixNano()
	var cs []queue.Change
	var mine []mail.TraceID
	for i, id := range ids {
		said := again.of(i)
		if what, _ := weighOwn(k.me, said); what != stepGo {
			left++
			continue
		}
		c := queue.Change{ID: id, At: now, Epoch: epoch}
		h := holders[id]
		if m, rows, err := k.d.Queue.Message(id); err == nil && m.Shadow != h {
			c.Shadow = &h
			if _, silent := again.silent[m.Shadow]; silent {
				c.Rows = k.doubted(rows)
			}
		}
		cs = append(cs, c)
		mine = append(mine, id)
	}
	if !k.still(ctx, again) || !k.applyEach(ctx, cs) {
		return len(ids)
	}
	if len(mine) > 0 {
		k.d.Taken(ctx, mine)
		wake(k.wakeReshadow)
	}
	return left
}

// doubted are the rows that the holder of the copy may have sent before it was
// lost as well: they wait for it to come back, and are marked.
func (k *Keeper) doubted(rows []queue.RecipientRow) (out []queue.RowChange) {
	next := k.d.Now().Add(k.d.Settings().InDoubtWait.Std()).UnixNano()
	for i := range rows {
		r := &rows[i]
		if r.State.Finished() || strings.HasPrefix(r.Dest, "db:") {
			continue
		}
		c := queue.RowChange{N: r.N, Repeat: true}
		if r.Dest != "" {
			c.Next = next
		}
		out = append(out, c)
	}
	return out
}
