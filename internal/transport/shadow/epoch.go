package shadow

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// Start begins an epoch of the queue: first in the agreed state, then in the
// log. Without quorum it is Busy, the queue goes on with the epoch it had, and
// Run tries again; until then nothing is Mine.
func (k *Keeper) Start(ctx context.Context) error {
	if err := k.begin(ctx); err != nil {
		return fmt.Errorf("begin an epoch of the queue: %w", err)
	}
	return nil
}

// Ready is closed when the first epoch has begun.
func (k *Keeper) Ready() <-chan struct{} { return k.ready }

func (k *Keeper) begin(ctx context.Context) error {
	if err := k.d.Queue.Failed(); err != nil {
		return err
	}
	if err := k.d.Group.Sync(ctx); err != nil {
		return err
	}
	row, rev, _ := k.row(k.d.Group.View(), k.me)
	next := row
	next.Server, next.Identity = k.me, k.d.Queue.Identity()
	next.Epoch = max(row.Epoch, k.d.Queue.Epoch()) + 1
	next.Since = k.d.Now().UTC()
	if row.Identity != next.Identity && row.Identity != "" {
		next.TakenUpTo, next.TakenBy, next.TakenAt, next.Why = row.Epoch, k.me, next.Since, "its queue was begun anew"
	}
	if err := k.commit(ctx, next, rev); err != nil {
		return err
	}
	if err := k.d.Queue.Begin(ctx, next.Epoch); err != nil {
		return err
	}
	k.mu.Lock()
	close(k.epochs)
	k.epochs = make(chan struct{})
	k.mu.Unlock()
	if !k.started.Swap(true) {
		close(k.ready)
	}
	k.d.Log.Info("epoch of the queue", "epoch", next.Epoch, "taken_up_to", next.TakenUpTo)
	wake(k.wakeReconcile)
	wake(k.wakeReshadow)
	wake(k.wakeTake)
	return nil
}

// commit writes a queue row by compare and swap.
func (k *Keeper) commit(ctx context.Context, r org.QueueRow, revision int64) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	key := org.QueueKey(r.Server)
	_, err = k.d.Group.Commit(ctx, cluster.Txn{If: []cluster.Cond{{Key: key, Revision: revision}}, Then: []cluster.Op{{Key: key, Value: b}}})
	return err
}

// current tells whether the epoch of the queue is the one in the agreed state
// and not fenced.
func (k *Keeper) current(v *cluster.View) (org.QueueRow, bool) {
	r, _, ok := k.row(v, k.me)
	return r, ok && k.started.Load() && r.Identity == k.d.Queue.Identity() && r.Epoch == k.d.Queue.Epoch() && !r.Fenced()
}

// Mine tells whether this server may send a message to another host, or give
// it back, now: nil, or Elsewhere or Busy. It is to be asked when an attempt
// begins and again immediately before what cannot be undone.
func (k *Keeper) Mine(m queue.Message) error {
	r, ok := k.current(k.d.Group.View())
	switch {
	case m.Primary != "":
		return kind.Errorf(kind.Elsewhere, "message %s is held for %s", m.ID, m.Primary)
	case k.d.Queue.Failed() != nil:
		return k.d.Queue.Failed()
	case !ok:
		return kind.Errorf(kind.Busy, "message %s: the epoch of this server's queue has not begun", m.ID)
	case m.Epoch <= r.TakenUpTo:
		return kind.Errorf(kind.Busy, "message %s: not known whether %s has taken it over", m.ID, r.TakenBy)
	case !k.d.Group.LeaseValid():
		return kind.Errorf(kind.Busy, "message %s: this server is cut off from the group", m.ID)
	}
	return nil
}

// judge looks at all servers, time after time.
func (k *Keeper) judge(ctx context.Context) {
	lost := map[org.ServerName]time.Time{}
	tick := time.NewTicker(k.t.judge)
	defer tick.Stop()
	var seen int64
	for {
		changed, peers := k.d.Group.Changed(), k.d.Group.PeersChanged()
		k.publish()
		if now := k.d.Group.View().Revision(); now != seen {
			seen = now
			wake(k.wakeTake)
		}
		if k.d.Group.Quorum() {
			k.judgeSelf(ctx)
			k.judgeOthers(ctx, lost)
		}
		select {
		case <-changed:
		case <-peers:
		case <-tick.C:
		case <-k.wakeJudge:
		case <-ctx.Done():
			return
		}
	}
}

// judgeSelf begins an epoch where the one before ended.
func (k *Keeper) judgeSelf(ctx context.Context) {
	row, rev, _ := k.row(k.d.Group.View(), k.me)
	if failed := k.d.Queue.Failed(); failed != nil {
		if rev != 0 {
			k.fence(ctx, row, rev, Judge(Facts{Row: row, Self: true, Failed: true}).Why)
		}
		return
	}
	if _, ok := k.current(k.d.Group.View()); ok {
		return
	}
	if row.Fenced() && row.Epoch > 0 && k.started.Load() {
		k.d.Log.Warn("messages of this server were taken over", "by", row.TakenBy, "why", row.Why)
	}
	ctx, cancel := context.WithTimeout(ctx, k.t.call)
	defer cancel()
	if err := k.begin(ctx); err != nil && ctx.Err() == nil {
		k.d.Log.Warn("no epoch of the queue begun", "error", err)
	}
}

// judgeOthers fences servers that are lost.
func (k *Keeper) judgeOthers(ctx context.Context, lost map[org.ServerName]time.Time) {
	if !k.d.Group.LeaseValid() {
		return
	}
	v := k.d.Group.View()
	after := k.d.Settings().TakeoverAfter.Std()
	if k.d.Fast {
		after = min(after, time.Second)
	}
	now := time.Now()
	for key := range v.Prefix(org.QueuePrefix) {
		s := org.ServerName(strings.TrimPrefix(key, org.QueuePrefix))
		row, rev, ok := k.row(v, s)
		if !ok || s == k.me {
			continue
		}
		f := Facts{Row: row, TakeoverAfter: after}
		_, f.Member = v.Server(s)
		why, dead := k.d.Group.Dead(s)
		if dead && !k.d.Group.Alive(s) {
			if lost[s].IsZero() {
				lost[s] = now
			}
			f.Lost, f.WhyDead = max(now.Sub(lost[s]), 1), why
		} else {
			delete(lost, s)
		}
		if d := Judge(f); d.Fence {
			k.fence(ctx, row, rev, d.Why)
		}
	}
}

// fence writes that the messages of a server belong to the holders of copies.
func (k *Keeper) fence(ctx context.Context, row org.QueueRow, rev int64, why string) bool {
	if row.Fenced() {
		return true
	}
	row.TakenUpTo, row.TakenBy, row.TakenAt, row.Why = row.Epoch, k.me, k.d.Now().UTC(), why
	ctx, cancel := context.WithTimeout(ctx, k.t.call)
	defer cancel()
	if err := k.commit(ctx, row, rev); err != nil {
		if !kind.Is(err, kind.Conflict) { // somebody else was first
			k.d.Log.Warn("messages of a server are not taken over yet", "server", row.Server, "error", err)
		}
		return false
	}
	k.d.Log.Warn("messages of a server are taken over", "server", row.Server, "epoch", row.Epoch, "why", why)
	return true
}
