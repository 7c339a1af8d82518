package mailbox

import (
	"context"
	"time"

	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// applyStep bounds how many bytes of operations go to the index at once.
const applyStep = 4 << 20

// applyTo brings the index to position to, which has to be confirmed.
func (c *dbCopy) applyTo(ctx context.Context, to org.LSN) error {
	c.applyMu.Lock()
	defer c.applyMu.Unlock()
	for ctx.Err() == nil {
		at := c.index().Applied().LSN
		if at >= to {
			return nil
		}
		recs, err := c.confirmedRecords(at, to)
		if kind.Is(err, kind.Corrupt) && c.repairFrom(ctx, at, to) {
			continue
		}
		if err != nil {
			return err
		}
		if len(recs) == 0 {
			return nil // to lies inside a record that is not whole yet
		}
		if err := c.applyRecords(ctx, recs); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (c *dbCopy) confirmedRecords(at, to org.LSN) ([]journal.Record, error) {
	recs, err := c.w.records(at, to, applyStep)
	if err != nil || len(recs) > 0 {
		return recs, err
	}
	n := 0
	for r, err := range c.jn.Records(max(at, c.jn.Start()), to) {
		if err != nil {
			if len(recs) > 0 {
				return recs, nil
			}
			return nil, err
		}
		if r.Next().LSN > to || n >= applyStep {
			break
		}
		recs = append(recs, r)
		n += len(r.Ops) + journal.HeaderSize
	}
	return recs, nil
}

// applyRecords applies a run of records. It stops at each marker and trim, as these are
// acted on at exactly their place in the log.
func (c *dbCopy) applyRecords(ctx context.Context, recs []journal.Record) error {
	for len(recs) > 0 {
		n := 0
		for n < len(recs) && recs[n].Kind != journal.KindMarker && recs[n].Kind != journal.KindTrim {
			n++
		}
		special := n < len(recs)
		if special {
			n++
		}
		freed, err := c.index().Apply(recs[:n])
		if err != nil {
			return err
		}
		c.lastTime.Store(recs[n-1].Time)
		after := recs[n-1].Next().LSN
		c.noteFreed(freed, recs[0].LSN, after)
		if special {
			switch r := recs[n-1]; r.Kind {
			case journal.KindMarker:
				c.markers.reached(ctx, c, r)
			case journal.KindTrim:
				c.trimTo(r)
			}
		}
		recs = recs[n:]
	}
	return nil
}

// housekeep flushes the index often enough to bound what a crash replays,
// punches holes where freed bodies were, and looks at the volume.
func (c *dbCopy) housekeep(ctx context.Context) {
	flushed := c.index().Durable()
	last := time.Now()
	for sleep(ctx, c.k.tillNext(time.Second)) {
		c.vol.refresh(c.k.deps.Events)
		c.holdSeeded(ctx)
		if err := c.keepCheckpoints(time.Now()); err != nil {
			c.log.Warn("keep checkpoints", "err", err)
		}
		at := c.index().Applied().LSN
		due := int64(at-flushed) >= c.k.cfg.FlushEvery || at > flushed && time.Since(last) >= c.k.cfg.ReclaimInterval
		if !due {
			continue
		}
		if err := c.index().FlushUntil(ctx.Done()); err != nil {
			c.log.Warn("flush index", "err", err)
			continue
		}
		flushed, last = at, time.Now()
		c.punchFreed()
		c.dropTrimmed()
		if l := c.leader(); l != nil && l.isReady() {
			if _, err := c.reclaim(ctx, false); err != nil && ctx.Err() == nil {
				c.log.Warn("reclaim", "err", err)
			}
		}
	}
}

// punchFreed gives back the space of bodies whose removal survives a crash and
// that need not be kept.
func (c *dbCopy) punchFreed() {
	due := c.takeFreed(min(c.index().Durable(), c.keepFrom()))
	lsns := make([]org.LSN, 0, len(due))
	for _, lsn := range due {
		if lsn >= c.jn.Start() && c.bodyDead(lsn) {
			lsns = append(lsns, lsn)
		}
	}
	if err := c.jn.Punch(lsns...); err != nil {
		c.log.Warn("punch holes", "bodies", len(lsns), "err", err)
	}
}
