package mailbox

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// copyMark is the small file beside a copy's log that remembers what the log
// itself cannot say.
type copyMark struct {
	Format    int    `json:"format"`
	Identity  string `json:"identity"`
	SeedCount int    `json:"seed_count"`        // the last ordered reseed that was carried out
	Seeding   bool   `json:"seeding,omitempty"` // a seed began and has not ended
}

const (
	copyMarkFormat = 1
	copyMarkName   = "copy.json"
	copyMarkMax    = 1 << 16 // bytes
)

func (c *dbCopy) markPath() string { return filepath.Join(c.dir, copyMarkName) }

// readCopyMark reads the mark in a folder; NotFound where there is none.
func readCopyMark(disk fsx.FS, dir string) (m copyMark, err error) {
	b, err := fsx.ReadFile(disk, filepath.Join(dir, copyMarkName), copyMarkMax)
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	return m, err
}

func (c *dbCopy) readMark() (copyMark, error) {
	m := copyMark{Format: copyMarkFormat, Identity: c.identity}
	b, err := fsx.ReadFile(c.k.fs, c.markPath(), copyMarkMax)
	if kind.Is(err, kind.NotFound) {
		return m, nil
	}
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("%s: %w", c.markPath(), err)
	}
	if m.Format > copyMarkFormat {
		return m, fmt.Errorf("%s: format %d is newer than this version knows (%d); run the newer version", c.markPath(), m.Format, copyMarkFormat)
	}
	if m.Identity != c.identity {
		return m, fmt.Errorf("%s: the folder holds another database of this name; move it away", c.dir)
	}
	return m, nil
}

func (c *dbCopy) writeMark(m copyMark) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return fsx.WriteFile(c.k.fs, c.markPath(), b)
}

// seedOrder is the number of the newest ordered reseed.
func (c *dbCopy) seedOrder() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	mine, _ := c.def.Copy(c.k.me)
	return mine.SeedCount
}

func (c *dbCopy) reseedOrdered() bool {
	m, err := c.readMark()
	return err == nil && c.seedOrder() > m.SeedCount
}

// honourReseed empties the copy when an administrator ordered a reseed. It
// runs before the copy is opened and may be repeated.
func (c *dbCopy) honourReseed() error {
	if err := c.k.fs.MkdirAll(c.dir); err != nil {
		return err
	}
	m, err := c.readMark()
	if err != nil {
		return err
	}
	if order := c.seedOrder(); order > m.SeedCount {
		if err := c.wipe(); err != nil {
			return err
		}
		m.SeedCount, m.Seeding = order, true
	}
	c.mu.Lock()
	c.seedCount = m.SeedCount
	c.mu.Unlock()
	return c.writeMark(m)
}

// wipe removes log and index. What was set aside stays.
func (c *dbCopy) wipe() error {
	if err := c.dropCheckpoints(0); err != nil {
		return err
	}
	if err := c.dropIndex(); err != nil {
		return err
	}
	dir := filepath.Join(c.dir, "log")
	names, err := c.k.fs.List(dir)
	if kind.Is(err, kind.NotFound) {
		return nil
	}
	for _, n := range names {
		if err == nil {
			err = c.k.fs.Remove(filepath.Join(dir, n))
		}
	}
	if err != nil {
		return err
	}
	return c.k.fs.SyncDir(dir) // before the mark says that it was done
}

func (c *dbCopy) markSeeding(on bool) {
	m, err := c.readMark()
	if err == nil && m.Seeding != on {
		m.Seeding = on
		err = c.writeMark(m)
	}
	if err != nil {
		c.log.Warn("note seed", "err", err)
	}
}

func (c *dbCopy) seedUnfinished() bool {
	m, err := c.readMark()
	return err == nil && m.Seeding
}

// cutAt cuts the log where it forks from the active's. What is cut off is
// set aside whole, so that its messages can be offered again.
func (c *dbCopy) cutAt(at journal.Position) error {
	if err := c.mayGiveUp(at.LSN); err != nil {
		return err
	}
	end := c.jn.End()
	if c.index().Applied().LSN > at.LSN {
		// The index holds changes that are not in the active's history.
		return &restart{why: fmt.Sprintf("the log forks at position %d, before the index", at.LSN), index: true}
	}
	aside := filepath.Join(c.asideDir(), fmt.Sprintf("%d-%016x.log", time.Now().UnixNano(), uint64(at.LSN)))
	if err := c.dropCheckpoints(at.LSN); err != nil {
		return err
	}
	if err := c.jn.Cut(at, aside); err != nil {
		return err
	}
	c.aside.Store(true)
	c.w.reset()
	c.mu.Lock()
	c.commit = min(c.commit, at.LSN)
	c.mu.Unlock()
	c.k.note(org.Note{Action: actCut, Target: string(c.name), Responder: "Store", Cause: "its log is not in the active copy's history",
		Evidence: proof("Store", c.name, "forks", "at position %d, its log ended at %d", at.LSN, end.LSN),
		Result:   fmt.Sprintf("%d bytes are in %s, their messages are offered again", end.LSN-at.LSN, aside)})
	c.k.deps.Events.Emit(evDiverged, "%s on %s held %d bytes from position %d that are not in the active's history; they are in %s",
		c.name, c.k.me, end.LSN-at.LSN, at.LSN, aside)
	return nil
}

func offered(path string) string { return path + ".done" }
