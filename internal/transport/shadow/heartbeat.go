package shadow

import (
	"context"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// heartbeat compares what is held here with the servers it is held for: now and
// then, and when one of them was started anew. It mends lost notices.
func (k *Keeper) heartbeat(ctx context.Context) {
	boots := map[org.ServerName]string{}
	next := map[org.ServerName]time.Time{}
	tick := time.NewTicker(k.t.reshadow)
	defer tick.Stop()
	for {
		peers := k.d.Group.PeersChanged()
		every := k.d.Settings().ShadowHeartbeat.Std()
		for _, p := range k.d.Group.Peers() {
			if p.State != cluster.PeerUp || p.Server == k.me {
				continue
			}
			now := time.Now()
			if boots[p.Server] == p.Boot && now.Before(next[p.Server]) {
				continue
			}
			if err := k.compare(ctx, p.Server); err != nil {
				k.d.Log.Debug("copies not compared", "server", p.Server, "error", err)
				continue
			}
			boots[p.Server], next[p.Server] = p.Boot, now.Add(every)
		}
		select {
		case <-peers:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// compare asks a server about the copies that are held for it.
func (k *Keeper) compare(ctx context.Context, s org.ServerName) error {
	row, _, ok := k.row(k.d.Group.View(), s)
	if !ok {
		return nil
	}
	var behind mail.TraceID
	for more := true; more; {
		more = false
		var ids []mail.TraceID
		for h, err := range k.d.Queue.Held(s, behind) {
			if err != nil {
				return err
			}
			behind = h.ID
			if h.Epoch > row.TakenUpTo {
				ids = append(ids, h.ID)
			}
			if len(ids) == maxIDs {
				more = true
				break
			}
		}
		if len(ids) == 0 {
			return nil
		}
		cctx, cancel := context.WithTimeout(ctx, k.t.call)
		var a heldAnswer
		err := k.peers(cctx, s, "Held", &heldRequest{Queue: row.Identity, IDs: packIDs(ids)}, &a)
		cancel()
		if err != nil {
			return err
		}
		if a.Queue != row.Identity {
			return kind.Errorf(kind.Busy, "%s has another queue than the agreed state says", s)
		}
		if err := k.over(ctx, s, &a); err != nil {
			return err
		}
	}
	return nil
}

// over ends copies whose server said so. One that it never had was not
// confirmed, if it is not just coming in.
func (k *Keeper) over(ctx context.Context, s org.ServerName, a *heldAnswer) error {
	unknown, err := unpackIDs(a.Unknown)
	if err != nil || len(a.Known) > maxIDs {
		return kind.Errorf(kind.Invalid, "answer of %s: %d known: %w", s, len(a.Known), err)
	}
	notices := a.Known
	now := k.d.Now()
	for _, id := range unknown {
		m, _, err := k.d.Queue.Message(id)
		if err == nil && m.Queue == a.Queue && now.Sub(m.Received) > unknownAfter {
			notices = append(notices, notice{ID: id[:], Fate: queue.FateVoid, At: now.UnixNano()})
		}
	}
	return k.hear(ctx, s, notices)
}
