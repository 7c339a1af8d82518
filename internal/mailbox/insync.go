package mailbox

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// How often the in-sync set is looked at: often while something is owed, missing
// or under way, and seldom while all is well, as whatever changes that wakes the
// loop or takes the grace time to become a reason.
const (
	reviewBusy = 25 * time.Millisecond
	reviewIdle = 250 * time.Millisecond
)

// memberLoop keeps the in-sync set: it takes out who stalls, before anything
// is confirmed without it, and takes in who has caught up.
func (l *leader) memberLoop(ctx context.Context) {
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		peers := l.c.k.group.PeersChanged()
		l.thawIfForgotten(ctx)
		if err := l.reviewMembers(ctx); err != nil && ctx.Err() == nil {
			if kind.Is(err, kind.Elsewhere) {
				l.fail(err)
				return
			}
			l.c.log.Warn("in-sync set", "err", err)
		}
		next.Reset(l.reviewPause(time.Now()))
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		case <-l.look:
		case <-peers:
		}
	}
}

// lookSoon has the in-sync set looked at now.
func (l *leader) lookSoon() {
	select {
	case l.look <- struct{}{}:
	default:
	}
}

// reviewPause is the time until the set has to be looked at again, if nothing
// wakes the loop before.
func (l *leader) reviewPause(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.stopped.IsZero() || len(l.members) == 0 && !l.alone {
		return reviewBusy
	}
	pause := membersPause(slices.Collect(maps.Values(l.members)), l.c.k.cfg.Grace, now)
	if pause == reviewIdle {
		pause = l.c.k.tillNext(pause)
	}
	return pause
}

// reviewMembers judges the set once and carries the verdict out.
func (l *leader) reviewMembers(ctx context.Context) error {
	l.c.mu.Lock()
	def, row := l.c.def, l.c.mount
	l.c.mu.Unlock()
	l.adopt(row)
	l.setCopies(def)
	canStore, leaving := l.c.k.storable(def), l.c.k.leaving.of(l.c.k.group.View())
	l.mu.Lock()
	tail := l.build.from.LSN
	ms := make([]*member, 0, len(l.members))
	for _, s := range slices.Sorted(maps.Keys(l.members)) {
		m := l.members[s]
		m.goneWhy, m.gone = l.c.k.group.Dead(s)
		m.canStore, m.leaving = canStore[s] && !m.gone, leaving[s]
		ms = append(ms, m)
	}
	r := rules{grace: l.c.k.cfg.Grace, lostGrace: l.c.k.cfg.LostGrace, redundancy: def.Redundancy, wasAlone: l.mount.AloneSince != nil}
	v := judge(ms, tail, max(l.commit, l.begun), r, time.Now())
	for _, s := range slices.Concat(v.add, v.await) {
		// Waited for from now on: the set may only name copies that have
		// everything confirmed at any moment.
		l.members[s].joining = true
	}
	l.held = v.held
	l.advance() // whoever changed the set may have been what was waited for
	markAlone := v.alone && len(ms) > 0 && l.mount.AloneSince == nil
	if !v.alone {
		l.alone = false
	} else if !markAlone && len(v.remove) == 0 {
		l.alone = true
		l.advance()
	}
	l.mu.Unlock()
	if len(v.remove) == 0 && len(v.add) == 0 && !markAlone {
		return nil
	}
	cctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if v.alone && len(ms) > 0 {
		return l.casAlone(cctx, v)
	}
	return l.casSet(cctx, v)
}

// adopt takes over what somebody else changed in the mount row of this term,
// such as an administrator who takes a copy out of the set.
func (l *leader) adopt(row org.Mount) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if row.Term != l.term || row.Active != l.c.k.me || row.Revision <= l.mount.Revision {
		return
	}
	l.mount = row
	for s, m := range l.members {
		// A row of a newer revision settles every compare and swap on older ones.
		m.inSync, m.joining = row.IsInSync(s), false
	}
	l.bump()
}

// casAlone records that changes will be confirmed on this copy only, and from
// which position, before any is.
func (l *leader) casAlone(ctx context.Context, v verdict) error {
	l.mu.Lock()
	at := l.commit
	l.mu.Unlock()
	err := l.cas(ctx, func(m *org.Mount) {
		m.InSync = []org.ServerName{l.c.k.me}
		if m.AloneSince == nil {
			m.AloneSince = &org.AloneMark{LSN: at, Time: time.Now().UTC()}
		}
	})
	if err != nil {
		return err
	}
	l.c.k.deps.Events.Emit(evAlone, "%s on %s confirms changes on one copy only, from position %d: no other copy can store", l.c.name, l.c.k.me, at)
	l.tellRemoved(v, "changes are confirmed on "+string(l.c.k.me)+" only")
	l.c.k.note(org.Note{Action: actAlone, Target: string(l.c.k.me), Responder: "InSync", Cause: "no other copy can store",
		Evidence: proof("InSync", l.c.name, "alone", "%s", whys(v)), Result: fmt.Sprintf("%s: from position %d on", l.c.name, at)})
	return nil // the next review, on the new row, lets it go on alone
}

// casSet removes and adds members of the in-sync set.
func (l *leader) casSet(ctx context.Context, v verdict) error {
	redundant := false
	var set []org.ServerName
	err := l.cas(ctx, func(m *org.Mount) {
		m.InSync = slices.DeleteFunc(m.InSync, func(s org.ServerName) bool { return slices.Contains(v.remove, s) })
		for _, s := range v.add {
			if !slices.Contains(m.InSync, s) {
				m.InSync = append(m.InSync, s)
			}
		}
		if len(m.InSync) > 1 && m.AloneSince != nil {
			m.AloneSince, redundant = nil, true
		}
		set = m.InSync
	})
	if err != nil {
		return err
	}
	now := fmt.Sprintf("in sync are %v", set)
	l.tellRemoved(v, now)
	l.noteMembers(actAdmit, v.add, v, now)
	for _, s := range v.add {
		l.c.k.deps.Events.Emit(evInSync, "%s on %s is in sync", l.c.name, s)
	}
	if redundant {
		l.c.k.deps.Events.Emit(evNotAlone, "%s has a second copy again", l.c.name)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.advance()
	return nil
}

func (l *leader) tellRemoved(v verdict, now string) {
	for _, s := range v.remove {
		l.c.k.deps.Events.Emit(evOutOfSync, "%s on %s was taken out of the in-sync set: %s", l.c.name, s, v.why[s])
	}
	l.noteMembers(actEvict, v.remove, v, now)
}

// cas changes the mount row. When another change won, the row is read again
// and the next review decides; when the term is over, the error is Elsewhere.
func (l *leader) cas(ctx context.Context, change func(*org.Mount)) error {
	l.mu.Lock()
	n := l.mount
	l.mu.Unlock()
	old := n.Revision
	n.InSync = slices.Clone(n.InSync)
	change(&n)
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	key := MountKey(l.c.name)
	rev, err := l.c.k.group.Commit(ctx, cluster.Txn{If: []cluster.Cond{{Key: key, Revision: old}}, Then: []cluster.Op{{Key: key, Value: b}}})
	if err != nil {
		// Whether it was done is unknown unless it is a conflict; the row
		// as it is now tells.
		if serr := l.c.k.group.Sync(ctx); serr != nil {
			return err
		}
		row, ok := l.c.k.group.View().Mount(l.c.name)
		if !ok || row.Term != l.term || row.Active != l.c.k.me {
			return kind.Errorf(kind.Elsewhere, "%s: term %d is over", l.c.name, l.term)
		}
		l.adopt(row)
		return kind.Errorf(kind.Conflict, "%s: in-sync set changed meanwhile: %w", l.c.name, err)
	}
	n.Revision = rev
	l.adopt(n)
	return nil
}

// storable tells which other copies' servers are live members that can store:
// as long as there is one, nothing is confirmed on a single copy.
func (k *Keeper) storable(def org.Database) map[org.ServerName]bool {
	out := map[org.ServerName]bool{}
	for _, cp := range def.Copies {
		if cp.Server == k.me || cp.Suspended {
			continue
		}
		if _, dead := k.group.Dead(cp.Server); dead || !k.group.Alive(cp.Server) {
			continue
		}
		st, ok := k.peerStatus(cp.Server, def.Name)
		if !ok {
			// The server lives and has said nothing of its copy yet.
			out[cp.Server] = k.peerUp(cp.Server)
			continue
		}
		switch st.State {
		case org.CopyFailed, org.CopyFailedAndSuspended, org.CopySuspended, org.CopySeeding, org.CopyDismounted:
		default:
			out[cp.Server] = !st.VolumeFull
		}
	}
	return out
}

// readable tells whether reads may be answered here: every member of the
// in-sync set was heard within the lease, so none of them leads a newer term.
// Alone, it is the lease in the agreed state that counts. stale tells that
// without quorum the answer may be old (design G10).
func (l *leader) readable() (ok, stale bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ready || l.noReads {
		return false, false
	}
	now := time.Now()
	alone := true
	ok = true
	for _, m := range l.members {
		if !m.inSync && !m.joining {
			continue
		}
		alone = false
		if now.Sub(m.heard) >= l.c.k.cfg.Lease {
			ok = false
		}
	}
	if alone {
		ok = l.c.k.group.LeaseValid()
	}
	if !ok && !l.c.k.group.Quorum() {
		return true, true
	}
	return ok, false
}
