package shadow

import (
	"cmp"
	"context"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// serveCopy holds a copy for the caller.
func (k *Keeper) serveCopy(ctx context.Context, peer org.ServerName, q *copyRequest) (*copyAnswer, error) {
	if k.takenUpTo(peer) >= q.Epoch {
		return &copyAnswer{Fenced: true}, nil
	}
	a, err := queue.DecodeAccepted(q.Accept)
	if err != nil {
		return nil, err
	}
	if a.Epoch != q.Epoch || peer == k.me {
		return nil, kind.Errorf(kind.Invalid, "copy of message %s: epoch %d, not %d", a.ID, a.Epoch, q.Epoch)
	}
	if !k.receive(int64(len(q.Body))) {
		return nil, kind.Errorf(kind.Busy, "too many copies come in")
	}
	defer k.receive(-int64(len(q.Body)))
	err = k.d.Queue.StoreShadow(ctx, queue.ShadowCopy{Primary: peer, Queue: q.Queue, Try: q.Try, Accept: q.Accept, Body: q.Body})
	if err != nil {
		return nil, err
	}
	// Whoever asked for claims meanwhile was not told of the copy: it must not
	// count for the caller either. It is here, and is settled by claims.
	if k.takenUpTo(peer) >= q.Epoch {
		k.late.Store(true)
		wake(k.wakeTake)
		return &copyAnswer{Fenced: true}, nil
	}
	return &copyAnswer{}, nil
}

func (k *Keeper) receive(n int64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if n > 0 && k.received > 0 && k.received+n > maxReceiving {
		return false
	}
	k.received += n
	return true
}

// serveNotify writes down what the primary of copies says of them.
func (k *Keeper) serveNotify(ctx context.Context, peer org.ServerName, q *noticeBatch) (*noticeAnswer, error) {
	if len(q.Notices) > maxNotices {
		return nil, kind.Errorf(kind.Invalid, "%d notices at once", len(q.Notices))
	}
	if err := k.hear(ctx, peer, q.Notices); err != nil {
		return nil, err
	}
	return &noticeAnswer{Queue: k.d.Queue.Identity(), Fenced: k.takenUpTo(peer) >= q.Epoch}, nil
}

// hear applies notices; nil says that they are durable. What they say of
// messages that are not copies of the peer any more counts where it is an end.
func (k *Keeper) hear(ctx context.Context, peer org.ServerName, notices []notice) error {
	var cs []queue.Change
	at := map[mail.TraceID]int{}
	for i := range notices {
		n := &notices[i]
		id, err := oneID(n.ID)
		if err != nil {
			return err
		}
		m, rows, err := k.d.Queue.Message(id)
		if kind.Is(err, kind.NotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if m.Primary == "" && m.TakenFrom == peer && m.Finished.IsZero() {
			if err := k.heardLate(ctx, m, rows, n.Rows); err != nil {
				return err
			}
			continue
		}
		if m.Primary != peer || !m.Finished.IsZero() || n.Fate > queue.FateSuperseded {
			continue
		}
		c := queue.Change{ID: id, At: n.At, Rows: fitting(rows, n.Rows), By: peer}
		if n.Fate >= queue.FateFinished {
			c.Fate = n.Fate
		}
		if j, ok := at[id]; ok { // the rows are as of now in both
			cs[j] = c
			continue
		}
		at[id] = len(cs)
		cs = append(cs, c)
	}
	err := k.d.Queue.Apply(ctx, cs, queue.Wait)
	if err == nil || !settled(err) {
		return err
	}
	for _, c := range cs { // one of them does not fit; the others do
		if err := k.d.Queue.Apply(ctx, []queue.Change{c}, queue.Wait); err != nil && !settled(err) {
			return err
		} else if err != nil {
			k.d.Log.Warn("notice does not fit", "message", c.ID.String(), "from", peer, "error", err)
		}
	}
	return nil
}

// settled tells that trying again would not help.
func settled(err error) bool {
	return kind.Is(err, kind.Conflict) || kind.Is(err, kind.NotFound) || kind.Is(err, kind.Invalid)
}

// fitting are the rows of another server that are the same here, or new.
func fitting(rows []queue.RecipientRow, cs []queue.RowChange) []queue.RowChange {
	out := make([]queue.RowChange, 0, len(cs))
	next := len(rows)
	for _, c := range cs {
		switch n := int(c.N); {
		case n < len(rows):
			if (rows[n].Why != 0) == (c.New != nil) && (c.New == nil || c.New.Address == rows[n].Address) {
				out = append(out, c)
			}
		case n == next && c.New != nil:
			out = append(out, c)
			next++
		}
	}
	return out
}

// heardLate marks rows of a message that was taken from a server, where that
// server came to their end before. A row that was tried here meanwhile is no
// reason to send the others again.
func (k *Keeper) heardLate(ctx context.Context, m queue.Message, rows []queue.RecipientRow, said []queue.RowChange) error {
	var all []late
	for _, c := range fitting(rows, said) {
		if int(c.N) >= len(rows) || c.State != queue.StateDelivered && c.State != queue.StateRelayed {
			continue
		}
		r := &rows[c.N]
		if r.State.Finished() || r.State == queue.StateSuspended {
			continue
		}
		c.New = nil
		l := late{end: c}
		if c.State == queue.StateRelayed && r.State != queue.StateAttempt && r.State != queue.StateDoubtful {
			dest := cmp.Or(c.Dest, r.Dest)
			if r.State == queue.StateNew && dest == "" {
				continue
			}
			l.attempt = []queue.RowChange{{N: c.N, State: queue.StateAttempt, Dest: dest}}
		}
		all = append(all, l)
	}
	if len(all) == 0 {
		return nil
	}
	err := k.noteLate(ctx, m.ID, all)
	if settled(err) && len(all) > 1 {
		for i := range all {
			if err = k.noteLate(ctx, m.ID, all[i:i+1]); err != nil && !settled(err) {
				return err
			}
		}
	}
	if err != nil && !settled(err) {
		return err // the other server keeps it and tells it again
	}
	if err != nil {
		k.d.Log.Warn("what the former server did is not noted", "message", m.ID.String(), "error", err)
	}
	k.changed(ctx, []mail.TraceID{m.ID})
	return nil
}

// late is the end that another server gave a row; attempt is what has to come
// before it here.
type late struct {
	attempt []queue.RowChange
	end     queue.RowChange
}

func (k *Keeper) noteLate(ctx context.Context, id mail.TraceID, all []late) error {
	var attempts, ends []queue.RowChange
	for _, l := range all {
		attempts, ends = append(attempts, l.attempt...), append(ends, l.end)
	}
	now := k.d.Now().UnixNano()
	if len(attempts) > 0 {
		// Where one is under way already this does not fit; the ends tell.
		if err := k.d.Queue.Apply(ctx, []queue.Change{{ID: id, At: now, Rows: attempts}}, queue.Wait); err != nil && !settled(err) {
			return err
		}
	}
	return k.d.Queue.Apply(ctx, []queue.Change{{ID: id, At: now, Rows: ends}}, queue.Wait)
}

// changed has the front door look at messages anew.
func (k *Keeper) changed(ctx context.Context, ids []mail.TraceID) {
	if len(ids) > 0 {
		k.d.Gone(ids)
		k.d.Taken(ctx, ids)
	}
}

// serveHeld tells the holder of copies which of them are over.
func (k *Keeper) serveHeld(_ context.Context, peer org.ServerName, q *heldRequest) (*heldAnswer, error) {
	ids, err := unpackIDs(q.IDs)
	if err != nil {
		return nil, err
	}
	out := &heldAnswer{Queue: k.d.Queue.Identity()}
	if q.Queue != out.Queue {
		return out, nil
	}
	for _, id := range ids {
		if k.isBusy(id) {
			continue
		}
		m, rows, err := k.d.Queue.Message(id)
		if kind.Is(err, kind.NotFound) {
			out.Unknown = append(out.Unknown, id[:]...)
			continue
		}
		if err != nil {
			return nil, err
		}
		n := notice{ID: id[:], At: m.Finished.UnixNano()}
		switch {
		case m.Primary != "", m.Fate == queue.FateTaken:
			n.Fate = queue.FateSuperseded
		case !m.Finished.IsZero():
			n.Fate, n.Rows = m.Fate, progress(rows)
		case m.Shadow != peer && m.Epoch > k.takenUpTo(k.me):
			n.Fate = queue.FateSuperseded
		default:
			continue
		}
		if m.Finished.IsZero() {
			n.At = k.d.Now().UnixNano()
		}
		out.Known = append(out.Known, n)
	}
	return out, nil
}

// serveClaims tells what this server has to do with messages.
func (k *Keeper) serveClaims(ctx context.Context, _ org.ServerName, q *claimsRequest) (*claimsAnswer, error) {
	ids, err := unpackIDs(q.IDs)
	if err != nil {
		return nil, err
	}
	if k.d.Group.View().Revision() < q.Revision {
		if err := k.d.Group.Sync(ctx); err != nil {
			return nil, err
		}
	}
	out := &claimsAnswer{Claims: make([]claim, 0, len(ids))}
	for rows := 0; len(out.Claims) < len(ids) && rows < maxClaimRows; {
		c, err := k.claim(ids[len(out.Claims)])
		if err != nil {
			return nil, err
		}
		rows += len(c.Rows)
		out.Claims = append(out.Claims, c)
	}
	return out, nil
}

func (k *Keeper) claim(id mail.TraceID) (claim, error) {
	ours := k.isOurs(id) // before: it ends when the message says so itself
	m, rows, err := k.d.Queue.Message(id)
	if kind.Is(err, kind.NotFound) {
		return claim{}, nil
	}
	if err != nil {
		return claim{}, err
	}
	c := claim{Primary: m.Primary, Epoch: m.Epoch, Try: m.Try, Rows: progress(rows)}
	primary := m.Primary
	if primary == "" {
		primary = k.me
	}
	fenced := m.Epoch <= k.takenUpTo(primary)
	switch {
	case m.Fate == queue.FateFinished:
		c.State = claimFinished
	case m.Fate == queue.FateVoid:
		c.State = claimVoid
	case !m.Finished.IsZero():
		c.State = claimNone
	case ours || m.Primary == "" && !fenced:
		c.State = claimOwned
	case m.Primary == "":
		c.State = claimReconciling
	case fenced:
		c.State = claimFenced
	default:
		c.State = claimHeld
	}
	return c, nil
}
