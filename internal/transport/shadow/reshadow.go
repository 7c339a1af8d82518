package shadow

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// downAfter is how many looks a holder is not heard before its copies count as
// lost.
const downAfter = 1

// reshadowers are how many messages are copied at a time.
const reshadowers = 16

// reshadow has messages held again whose copy is lost, or that never had one.
func (k *Keeper) reshadow(ctx context.Context) {
	down := map[org.ServerName]int{} // looks since it was heard
	seen := ""
	var audit, rested time.Time
	pass := uint8(0)
	tick := time.NewTicker(k.t.reshadow)
	defer tick.Stop()
	asked := true
	for {
		k.lookDown(down)
		now, able := k.holders(down), len(k.candidates()) > 0
		due := now != seen || time.Now().After(audit) || able && (asked || k.single.Load() > 0 && time.Now().After(rested))
		if _, ok := k.current(k.d.Group.View()); due && ok {
			if pass < 150 {
				pass++
			}
			began := time.Now()
			k.reshadowAll(ctx, down, 100+pass)
			seen, asked = now, asked && !able
			audit = time.Now().Add(10 * k.d.Settings().ShadowHeartbeat.Std())
			rested = time.Now().Add(10 * time.Since(began)) // a look at a million messages takes its time
		}
		select {
		case <-tick.C:
		case <-k.wakeReshadow:
			asked = true
			select { // many messages may ask
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

func (k *Keeper) lookDown(down map[org.ServerName]int) {
	for _, p := range k.d.Group.Peers() {
		if p.State == cluster.PeerUp {
			delete(down, p.Server)
		} else {
			down[p.Server]++
		}
	}
}

// holders describes who could hold copies and with which queue.
func (k *Keeper) holders(down map[org.ServerName]int) string {
	var b strings.Builder
	v := k.d.Group.View()
	for _, s := range k.others(v) {
		row, _, _ := k.row(v, s.Name)
		fmt.Fprintf(&b, "%s %s %d %t\n", s.Name, row.Identity, row.Epoch, down[s.Name] > downAfter)
	}
	return b.String()
}

// reshadowAll looks at all own messages that are not finished.
func (k *Keeper) reshadowAll(ctx context.Context, down map[org.ServerName]int, try uint8) {
	members := map[org.ServerName]bool{}
	for _, s := range k.others(k.d.Group.View()) {
		members[s.Name] = true
	}
	g := k.d.Settings()
	if g.ShadowEnabled != nil && !*g.ShadowEnabled || len(members) == 0 {
		k.single.Store(0)
		return
	}
	began := time.Now()
	var single, bytes atomic.Int64
	var last mail.TraceID
	var batch []mail.TraceID
	flush := func() {
		var wg sync.WaitGroup
		slots := make(chan struct{}, reshadowers)
		for _, id := range k.unheld(ctx, batch, members, down) {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				n, ok := k.reshadowOne(ctx, id, try)
				if !ok {
					single.Add(1)
				}
				bytes.Add(n)
			})
			pace(ctx, began, bytes.Load())
		}
		wg.Wait()
		batch = batch[:0]
	}
	for j, err := range k.d.Queue.Unfinished() {
		if err != nil || ctx.Err() != nil {
			break
		}
		if j.ID == last {
			continue
		}
		last = j.ID
		if batch = append(batch, j.ID); len(batch) == maxIDs {
			flush()
		}
	}
	flush()
	k.single.Store(single.Load())
}

// pace waits as long as so many bytes should have taken.
func pace(ctx context.Context, began time.Time, bytes int64) {
	want := time.Duration(float64(bytes) / reshadowRate * float64(time.Second))
	if wait := want - time.Since(began); wait > 10*time.Millisecond {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// unheld are those of the messages that nobody holds a copy of.
func (k *Keeper) unheld(ctx context.Context, ids []mail.TraceID, members map[org.ServerName]bool, down map[org.ServerName]int) (out []mail.TraceID) {
	by := map[org.ServerName][]mail.TraceID{}
	for _, id := range ids {
		m, _, err := k.d.Queue.Message(id)
		if err != nil || !m.Finished.IsZero() || k.Mine(m) != nil || k.isBusy(id) {
			continue
		}
		if m.Shadow == "" || !members[m.Shadow] || down[m.Shadow] > downAfter {
			out = append(out, id)
		} else {
			by[m.Shadow] = append(by[m.Shadow], id)
		}
	}
	for s, ids := range by {
		if down[s] > 0 {
			continue // it is seen soon
		}
		cctx, cancel := context.WithTimeout(ctx, k.t.call)
		cs, err := k.askOne(cctx, s, k.d.Group.View(), ids)
		cancel()
		if err != nil {
			continue
		}
		for i, c := range cs {
			if c.State != claimHeld && c.State != claimFenced {
				out = append(out, ids[i])
			}
		}
	}
	slices.SortFunc(out, func(a, b mail.TraceID) int { return slices.Compare(a[:], b[:]) })
	return out
}

// reshadowOne has one message held by another server. It is false where nobody
// can.
func (k *Keeper) reshadowOne(ctx context.Context, id mail.TraceID, try uint8) (size int64, ok bool) {
	defer k.mark(id)()
	m, rows, err := k.d.Queue.Message(id)
	if err != nil || !m.Finished.IsZero() || k.Mine(m) != nil {
		return 0, true
	}
	to := Order(k.candidates(), "", k.d.Settings())
	if len(to) == 0 {
		return 0, false
	}
	body, err := k.d.Queue.Body(ctx, id)
	if err != nil {
		k.d.Log.Warn("no second copy of a message", "message", id.String(), "error", err)
		return 0, true
	}
	a := queue.Accepted{ID: id, Identity: m.Identity, Received: nanos(m.Received), Expires: nanos(m.Expires), Origin: m.Origin,
		Envelope: m.Envelope, Priority: m.Priority, Flags: m.Flags, Parent: m.Parent, Subject: m.Subject, MessageID: m.MessageID}
	// How far it is comes with the copy, in one record: whoever takes over a copy
	// that does not know would send again what was sent.
	if known := stand(rows, nil); len(known) > 0 {
		a.Also = []queue.Change{{ID: id, At: k.d.Now().UnixNano(), Rows: known}}
	}
	for _, s := range to {
		epoch, err := k.offer(ctx, s, a, body, try, k.d.Settings().ShadowTimeout.Std())
		if err != nil {
			k.d.Log.Debug("copy refused", "message", id.String(), "server", s, "error", err)
			continue
		}
		if err := k.d.Queue.Apply(ctx, []queue.Change{{ID: id, At: k.d.Now().UnixNano(), Shadow: &s, Epoch: epoch}}, queue.Wait); err != nil {
			k.d.Log.Warn("holder of a copy not noted", "message", id.String(), "error", err)
			return int64(len(body)), kind.Is(err, kind.NotFound)
		}
		if _, now, err := k.d.Queue.Message(id); err == nil {
			if err := k.tellRows(ctx, s, id, now, rows); err != nil {
				k.d.Log.Debug("progress not told", "message", id.String(), "server", s, "error", err)
			}
		}
		if k.alone.Swap(false) {
			k.d.Events.Emit(EventTwo, "Messages have a second copy again, on %s.", s)
		}
		return int64(len(body)), true
	}
	return 0, false
}

// stand is how far the rows of a message are, where that is not what was told
// before.
func stand(rows, before []queue.RecipientRow) (out []queue.RowChange) {
	for i := range rows {
		r := &rows[i]
		if r.State == queue.StateNew && r.Why == 0 || i < len(before) && before[i] == *r {
			continue
		}
		out = append(out, change(r))
	}
	return out
}

// tellRows tells a new holder what changed while it got its copy.
func (k *Keeper) tellRows(ctx context.Context, s org.ServerName, id mail.TraceID, rows, before []queue.RecipientRow) error {
	n := notice{ID: id[:], Fate: queue.FateProgress, At: k.d.Now().UnixNano(), Rows: stand(rows, before)}
	if len(n.Rows) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, k.t.call)
	defer cancel()
	return k.peers(ctx, s, "Notify", &noticeBatch{Queue: k.d.Queue.Identity(), Epoch: k.d.Queue.Epoch(), Notices: []notice{n}}, &noticeAnswer{})
}
