package mailbox

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mailbox/store"
	"github.com/postern-mail/postern/internal/org"
)

// Space comes back in two ways. A body nobody refers to becomes a hole, on
// each copy by itself (punchFreed). And the oldest part of the log, once most
// of it is dead, is written again through the log, so that all copies stay
// identical, and dropped by a trim record.
//
// Only the oldest part is ever dropped, so a deletion in it needs no carrying:
// there is nothing older it could have deleted.

// reclaimed is what one reclaim did.
type reclaimed struct {
	Server  org.ServerName `json:"server" col:"SERVER" cbor:"1,keyasint"`
	From    org.LSN        `json:"from" col:"FROM" cbor:"2,keyasint"`
	To      org.LSN        `json:"to" col:"TO" cbor:"3,keyasint"`
	Living  int            `json:"living_percent" col:"LIVING%" cbor:"4,keyasint"`
	Carried int            `json:"carried_records" col:"CARRIED" cbor:"5,keyasint"`
	Dropped bool           `json:"dropped" col:"DROPPED" cbor:"6,keyasint"`
	Why     string         `json:"why,omitempty" col:"WHY" cbor:"7,keyasint"`
}

// reclaim writes the living records of the oldest part of the log again and
// drops it, where that is worth it (or forced) and no copy needs it any more.
func (c *dbCopy) reclaim(ctx context.Context, force bool) (reclaimed, error) {
	l, err := c.leading(ctx)
	if err != nil {
		return reclaimed{}, err
	}
	res := reclaimed{Server: c.k.me, From: max(c.jn.Start(), c.trimmedTo())}
	step := org.LSN(c.k.cfg.SegmentSize) // looked at, and dropped, at once
	res.To = min(res.From+step, c.neededFrom())
	if res.To < res.From+step {
		res.Why = "a copy still needs this part, or there is too little of it"
		return res, nil
	}
	recs, end, err := c.oldest(res.From, res.To)
	if err != nil {
		return res, err
	}
	res.To = end
	if res.Living = c.livingShare(recs); !force && res.Living >= c.k.cfg.ReclaimBelow {
		res.Why = "most of it is still in use"
		return res, nil
	}
	if res.Carried, err = l.carry(ctx, recs); err != nil {
		return res, err
	}
	if err := l.trim(ctx, end); err != nil {
		return res, err
	}
	res.Dropped = true
	c.k.deps.Events.Emit(evReclaimed, "%s: log from %d to %d was dropped, %d records were written again", c.name, res.From, res.To, res.Carried)
	return res, nil
}

// neededFrom is the position from which some copy of the database still needs
// the log. A copy that has not been heard of needs all of it.
func (c *dbCopy) neededFrom() org.LSN {
	need := c.index().Durable()
	c.mu.Lock()
	def, lossy := c.def, c.mount.Lossy != nil
	c.mu.Unlock()
	if lossy {
		return 0 // the former active has yet to find where its log forks
	}
	for _, cp := range def.Copies {
		if cp.Server == c.k.me {
			continue
		}
		st, ok := c.k.peerStatus(cp.Server, c.name)
		if !ok || c.k.peerState(cp.Server) != "up" {
			return 0
		}
		if st.ReplayLag > 0 {
			// It drops its own log when it comes to the order to, late.
			need = min(need, st.Copied)
			continue
		}
		need = min(need, st.Replayed)
	}
	return need
}

// oldest lists the records between from and to.
func (c *dbCopy) oldest(from, to org.LSN) ([]journal.Record, org.LSN, error) {
	var recs []journal.Record
	end := from
	for r, err := range c.jn.Records(from, to) {
		if err != nil {
			return nil, end, err
		}
		if r.Next().LSN > to {
			break
		}
		recs = append(recs, r)
		end = r.Next().LSN
	}
	return recs, end, nil
}

// livingShare is the share of bytes that would have to be written again, in
// percent.
func (c *dbCopy) livingShare(recs []journal.Record) int {
	var all, living int64
	for _, r := range recs {
		n := int64(len(r.Ops) + r.BodyLen)
		all += n
		switch {
		case r.BodyLen > 0 && !c.bodyDead(r.LSN):
			living += n
		case r.BodyLen == 0 && r.Kind == journal.KindChange:
			living += n / 2 // a guess: half of the old settings were overwritten since
		}
	}
	return int(living * 100 / max(all, 1))
}

// What is looked at in one request, in records and in bytes of bodies.
const (
	carryBatch = 256
	carryBytes = 4 << 20
)

// carry writes what still lives of old records again, and returns how many
// new records that took.
func (l *leader) carry(ctx context.Context, recs []journal.Record) (int, error) {
	n := 0
	for len(recs) > 0 {
		part := make([]journal.Record, 0, carryBatch)
		held := 0
		for _, r := range recs {
			if len(part) == carryBatch || held >= carryBytes {
				break
			}
			if r.Kind == journal.KindChange && r.BodyLen > 0 && !l.c.bodyDead(r.LSN) {
				body, err := l.c.body(ctx, r.LSN, 0, 0)
				if err != nil {
					return n, fmt.Errorf("carry body at %d: %w", r.LSN, err)
				}
				r.Body = body
				held += len(body)
			}
			if r.Kind != journal.KindChange {
				r.Ops = nil // only changes have operations for the index
			}
			part = append(part, r)
		}
		v, err := l.submit(ctx, &store.CompactReq{Records: part}, false)
		if err != nil {
			return n, err
		}
		dealt, _ := v.(int)
		if dealt < 1 {
			return n, kind.Errorf(kind.Internal, "carry: no record was dealt with")
		}
		recs = recs[dealt:]
		n++
	}
	return n, nil
}

// trim writes the order to drop everything before to.
func (l *leader) trim(ctx context.Context, to org.LSN) error {
	if err := l.admit(ctx, false); err != nil {
		return err
	}
	l.seqMu.Lock()
	end := l.appendLocked(journal.KindTrim, binary.BigEndian.AppendUint64(nil, uint64(to)), nil)
	l.seqMu.Unlock()
	return l.wait(ctx, func() bool { return l.applied >= end })
}

// trimTo notes a trim record. The files go once the index holds, durably, all
// that was carried: until then the index might have to be made anew from them.
func (c *dbCopy) trimTo(r journal.Record) {
	if len(r.Ops) == 8 {
		c.trims = append(c.trims, freedBody{lsn: org.LSN(binary.BigEndian.Uint64(r.Ops)), after: r.Next().LSN})
	}
}

// trimmedTo is the position before which the log is to go already, though it
// may be kept for a while.
func (c *dbCopy) trimmedTo() org.LSN {
	c.applyMu.Lock()
	defer c.applyMu.Unlock()
	if n := len(c.trims); n > 0 {
		return c.trims[n-1].lsn
	}
	return 0
}

// dropTrimmed carries out the trims that are due.
func (c *dbCopy) dropTrimmed() {
	limit := min(c.index().Durable(), c.keepFrom())
	c.applyMu.Lock()
	defer c.applyMu.Unlock()
	for len(c.trims) > 0 && c.trims[0].after <= limit {
		if err := c.jn.DropBefore(c.trims[0].lsn); err != nil {
			c.log.Warn("drop old log", "before", c.trims[0].lsn, "err", err)
			return
		}
		c.trims = c.trims[1:]
	}
}

// skipNumbers moves UIDs and mod-sequences ahead after a lossy mount, so that
// none the lost part may have shown to a client gets another meaning (G4). It
// runs before the role is ready.
func (l *leader) skipNumbers(ctx context.Context) error {
	r := l.c.index().Reader()
	infos, err := r.Mailboxes()
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	for part := range slices.Chunk(infos, 100) {
		req := &store.SkipReq{}
		for _, in := range part {
			req.Mailboxes = append(req.Mailboxes, in.ID)
		}
		l.seqMu.Lock()
		pl, err := l.planner.Plan(req, l.next.LSN, time.Now())
		if err != nil || pl.NoOp {
			l.seqMu.Unlock()
			if err != nil {
				return err
			}
			continue
		}
		end := l.appendLocked(journal.KindChange, pl.Ops, nil)
		l.seqMu.Unlock()
		if err := l.wait(ctx, func() bool { return l.applied >= end }); err != nil {
			return err
		}
	}
	return nil
}
