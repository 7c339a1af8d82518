package mailbox

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// checkpointsName is the folder of a copy for kept checkpoints of its index.
const checkpointsName = "checkpoints"

// checkpointsMost bounds how many checkpoints of a copy are kept.
const checkpointsMost = 500

// checkpoint is a kept copy of the index, made of hard links. The index in it holds
// nothing that was made after at, and all of the log before lsn.
type checkpoint struct {
	dir string
	at  int64 // Unix nanoseconds
	lsn org.LSN
	end org.LSN // it holds no log from here on, as far as that is known
}

// checkpointBook are the kept checkpoints of a copy.
type checkpointBook struct {
	mu   sync.Mutex // guards the rest
	kept []checkpoint
	last time.Time // when the newest was taken, or would have been
}

// oldest is where the log has to begin for the checkpoints, keepsNothing where
// there are none.
func (b *checkpointBook) oldest() org.LSN {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.kept) == 0 {
		return keepsNothing
	}
	return b.kept[0].lsn
}

// first is the oldest checkpoint.
func (b *checkpointBook) first() (checkpoint, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.kept) == 0 {
		return checkpoint{}, false
	}
	return b.kept[0], true
}

// before is the newest checkpoint that holds nothing made after t.
func (b *checkpointBook) before(t time.Time) (checkpoint, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, cp := range slices.Backward(b.kept) {
		if cp.at <= t.UnixNano() {
			return cp, true
		}
	}
	return checkpoint{}, false
}

func (cp checkpoint) name() string { return fmt.Sprintf("%016x-%016x", uint64(cp.at), uint64(cp.lsn)) }

func parseCheckpoint(name string) (checkpoint, bool) {
	var at, lsn uint64
	n, err := fmt.Sscanf(name, "%016x-%016x", &at, &lsn)
	cp := checkpoint{at: int64(at), lsn: org.LSN(lsn)}
	return cp, err == nil && n == 2 && cp.name() == name
}

// loadCheckpoints finds what is kept. What is not whole, and all where none are to
// be kept, is removed; so are scratch indexes a crash left.
func (c *dbCopy) loadCheckpoints() error {
	disk := c.k.deps.IndexFS
	if err := disk.RemoveAll(filepath.Join(c.dir, pastName)); err != nil {
		return err
	}
	dir := filepath.Join(c.dir, checkpointsName)
	if c.k.cfg.CheckpointEvery <= 0 {
		return disk.RemoveAll(dir)
	}
	if err := disk.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	names, err := disk.List(dir)
	if err != nil {
		return err
	}
	var kept []checkpoint
	end := c.jn.End().LSN
	for _, n := range names {
		cp, ok := parseCheckpoint(n)
		cp.dir = filepath.Join(dir, n)
		if !ok || cp.lsn > end || cp.lsn < c.jn.Start() {
			if err := disk.RemoveAll(cp.dir); err != nil {
				return err
			}
			continue
		}
		cp.end = end
		kept = append(kept, cp)
	}
	slices.SortFunc(kept, func(a, b checkpoint) int { return cmp.Or(cmp.Compare(a.lsn, b.lsn), cmp.Compare(a.at, b.at)) })
	c.checkpoints.mu.Lock()
	c.checkpoints.kept, c.checkpoints.last = kept, time.Time{}
	c.checkpoints.mu.Unlock()
	c.applyMu.Lock()
	if len(kept) > 0 {
		c.unlisted = kept[0].lsn // what was freed since is found in the log
	}
	c.applyMu.Unlock()
	return nil
}

// keepCheckpoints takes a checkpoint when one is due and drops those that are no
// longer needed: to show any moment since the oldest wanted one, the newest
// checkpoint before that is kept too.
func (c *dbCopy) keepCheckpoints(now time.Time) error {
	every, keep := c.k.cfg.CheckpointEvery, c.k.cfg.CheckpointKeep
	if every <= 0 {
		return nil
	}
	b := &c.checkpoints
	b.mu.Lock()
	due := now.Sub(b.last) >= every
	if due {
		b.last = now
	}
	newest := org.LSN(0)
	if n := len(b.kept); n > 0 {
		newest = b.kept[n-1].lsn
	}
	b.mu.Unlock()
	if due && c.index().Applied().LSN > newest {
		if err := c.takeCheckpoint(); err != nil {
			return fmt.Errorf("checkpoint of the index: %w", err)
		}
	}
	b.mu.Lock()
	var drop []checkpoint
	for len(b.kept) > 1 && (b.kept[1].at <= now.Add(-keep).UnixNano() || len(b.kept) > checkpointsMost) {
		drop, b.kept = append(drop, b.kept[0]), b.kept[1:]
	}
	b.mu.Unlock()
	for _, cp := range drop {
		if err := c.k.deps.IndexFS.RemoveAll(cp.dir); err != nil {
			return fmt.Errorf("remove old checkpoint: %w", err)
		}
	}
	return nil
}

// takeCheckpoint makes a checkpoint of the index as it is.
func (c *dbCopy) takeCheckpoint() error {
	disk := c.k.deps.IndexFS
	if err := c.index().Flush(); err != nil {
		return err
	}
	cp := checkpoint{lsn: c.index().Durable()} // what is in it is not older
	dir := filepath.Join(c.dir, checkpointsName)
	making := filepath.Join(dir, "making")
	if err := disk.RemoveAll(making); err != nil {
		return err
	}
	if err := c.index().Checkpoint(making); err != nil {
		return err
	}
	if cp.at = c.lastTime.Load(); cp.at == 0 {
		return disk.RemoveAll(making) // when its log was made is not known
	}
	cp.end = c.index().Applied().LSN
	cp.dir = filepath.Join(dir, cp.name())
	if err := disk.RemoveAll(cp.dir); err != nil {
		return err
	}
	if err := disk.Rename(making, cp.dir); err != nil {
		return err
	}
	d, err := disk.OpenDir(dir)
	if err == nil {
		err = d.Sync()
		if cerr := d.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		return err
	}
	c.checkpoints.mu.Lock()
	defer c.checkpoints.mu.Unlock()
	c.checkpoints.kept = append(c.checkpoints.kept, cp)
	return nil
}

// dropCheckpoints removes the checkpoints behind position at: what was replayed
// for them is no longer in this copy's history.
func (c *dbCopy) dropCheckpoints(at org.LSN) error {
	b := &c.checkpoints
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.kept) == 0 && at == 0 { // it may not have been opened yet
		return c.k.deps.IndexFS.RemoveAll(filepath.Join(c.dir, checkpointsName))
	}
	for n := len(b.kept); n > 0 && b.kept[n-1].end > at; n = len(b.kept) {
		if err := c.k.deps.IndexFS.RemoveAll(b.kept[n-1].dir); err != nil {
			return fmt.Errorf("remove a checkpoint of another history: %w", err)
		}
		b.kept = b.kept[:n-1]
	}
	return nil
}

// errNoPast says that a copy cannot show the mailboxes as they were.
func (c *dbCopy) errNoPast(t time.Time) error {
	return kind.WithHint(kind.Errorf(kind.NotFound, "%s on %s cannot show what was there at %s", c.name, c.k.me, t.UTC().Format(time.RFC3339)),
		"a copy with a replay lag can, or one with checkpoints: postern copy set "+string(c.name)+" SERVER --replay-lag 7d")
}
