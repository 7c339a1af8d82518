package mailbox

import (
	"context"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// recordRequest asks another copy for the record at a position.
type recordRequest struct {
	LSN org.LSN `cbor:"1,keyasint"`
}

type recordAnswer struct {
	Raw []byte `cbor:"1,keyasint"`
}

// repair replaces the record at lsn from another copy: all copies have the
// same bytes at the same position.
func (c *dbCopy) repair(ctx context.Context, lsn org.LSN, cause error) error {
	c.k.deps.Events.Emit(evDamage, "%s on %s is damaged at position %d: %v", c.name, c.k.me, lsn, cause)
	c.mu.Lock()
	def, mount := c.def, c.mount
	c.mu.Unlock()
	var sources []org.ServerName
	for _, inSync := range []bool{true, false} { // the best ones first
		for _, cp := range def.Copies {
			if cp.Server != c.k.me && mount.IsInSync(cp.Server) == inSync {
				sources = append(sources, cp.Server)
			}
		}
	}
	last := cause
	for _, s := range sources {
		rctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		a, err := callPeer[recordRequest, recordAnswer](rctx, c.k, s, "Record", c.name, recordRequest{LSN: lsn})
		cancel()
		if err == nil {
			err = c.jn.Repair(lsn, a.Raw)
		}
		if err == nil {
			c.repairs.Add(1)
			c.noteRepair(lsn, cause, s, nil)
			c.k.deps.Events.Emit(evRepaired, "%s on %s: position %d was repaired from %s", c.name, c.k.me, lsn, s)
			return nil
		}
		last = err
	}
	c.noteRepair(lsn, cause, "", last)
	c.k.deps.Events.Emit(evUnrepaired, "%s on %s: position %d: %v", c.name, c.k.me, lsn, last)
	return kind.Errorf(kind.Corrupt, "%s: position %d is damaged and no other copy could give it: %w", c.name, lsn, last)
}

// repairFrom mends the first damaged record between from and to; false when
// there is nothing it can do.
func (c *dbCopy) repairFrom(ctx context.Context, from, to org.LSN) bool {
	at := max(from, c.jn.Start())
	for r, err := range c.jn.Records(at, to) {
		if err != nil {
			return c.repair(ctx, at, err) == nil
		}
		at = r.Next().LSN
	}
	return false
}

// body reads a message's bytes. Damage is repaired, not served.
func (c *dbCopy) body(ctx context.Context, lsn org.LSN, off, n int64) ([]byte, error) {
	b, err := c.jn.Body(lsn, off, n)
	if !kind.Is(err, kind.Corrupt) && !kind.Is(err, kind.NotFound) {
		return b, err
	}
	if rerr := c.repair(ctx, lsn, err); rerr != nil {
		return nil, rerr
	}
	return c.jn.Body(lsn, off, n)
}

// bodyDead tells that nothing refers to the body of the record at lsn. What is
// not applied yet is not in the index either, and lives.
func (c *dbCopy) bodyDead(lsn org.LSN) bool {
	ix := c.index()
	return lsn < ix.Applied().LSN && ix.BodyDead(lsn)
}

// scrub reads the whole copy and repairs what is damaged. A rate of 0 is as fast as it goes.
func (c *dbCopy) scrub(ctx context.Context, bytesPerSecond int64) (scrubResult, error) {
	var res scrubResult
	began := time.Now()
	checked, err := c.jn.Scrub(ctx, bytesPerSecond, c.bodyDead, func(lsn org.LSN, cause error) {
		res.Damaged++
		if c.repair(ctx, lsn, cause) == nil {
			res.Repaired++
		}
	})
	res.Checked, res.Took = checked, time.Since(began).Seconds()
	return res, err
}

// scrubResult is what a scrub found.
type scrubResult struct {
	Server   org.ServerName `json:"server" col:"SERVER" cbor:"1,keyasint"`
	Checked  int64          `json:"checked_bytes" col:"CHECKED" cbor:"2,keyasint"`
	Damaged  int            `json:"damaged" col:"DAMAGED" cbor:"3,keyasint"`
	Repaired int            `json:"repaired" col:"REPAIRED" cbor:"4,keyasint"`
	Took     float64        `json:"seconds" col:"SECONDS" cbor:"5,keyasint"`
}

// scrubLoop scrubs in the background, soon after the start and then at the
// set interval.
func (c *dbCopy) scrubLoop(ctx context.Context) {
	wait := min(c.k.cfg.ScrubInterval, time.Minute)
	for sleep(ctx, wait) {
		if _, err := c.scrub(ctx, c.k.cfg.ScrubRate); err != nil && ctx.Err() == nil {
			c.log.Warn("background scrub", "err", err)
		}
		wait = c.k.cfg.ScrubInterval
	}
}
