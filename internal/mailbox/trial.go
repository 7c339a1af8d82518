package mailbox

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mailbox/layout"
	"github.com/postern-mail/postern/internal/org"
)

// A drill gives a copy a spare volume, has it made anew there, and gives it its
// own volume back. What was set aside on that is taken up again (takeUp), so
// that the copy only lacks what was written meanwhile; what is left on the spare
// is removed at once (endTrials), so that it can take the place of a lost disk.

// takeUp takes up what was set aside when the copy was given another volume,
// where it has nothing on this one. Its log may be old: it goes on from there, or
// is seeded, as after a long absence; one that was ordered to be made anew is
// emptied first (honourReseed).
func (c *dbCopy) takeUp() error {
	if _, err := c.k.fs.Stat(c.dir); !kind.Is(err, kind.NotFound) {
		return err
	}
	names, err := c.k.fs.List(c.vol.Path)
	if err != nil {
		return err
	}
	newest, path := int64(-1), ""
	for _, n := range names {
		at, ok := movedAt(n, c.name)
		if !ok || at <= newest {
			continue
		}
		m, err := readCopyMark(c.k.fs, filepath.Join(c.vol.Path, n))
		if err == nil && m.Identity == c.identity {
			newest, path = at, filepath.Join(c.vol.Path, n)
		}
	}
	// Old history must not lead. A leader that still heard of the copy on the other
	// volume may have taken it into the set again, and takes it out soon.
	mt, _ := c.k.group.View().Mount(c.name)
	switch {
	case path == "" || mt.Active == c.k.me:
		return nil
	case mt.IsInSync(c.k.me):
		return kind.Errorf(kind.Busy, "the in-sync set names this copy, and %s is not all that it had", path)
	}
	if err := moveDurably(c.k.fs, path, c.dir); err != nil {
		return fmt.Errorf("take up %s: %w", path, err)
	}
	c.log.Info("what was set aside is taken up again", "path", path)
	return nil
}

// movedAt tells when a folder of a database was set aside as the copy was given
// another volume, in Unix seconds; false for another folder.
func movedAt(name string, db org.DatabaseName) (int64, bool) {
	rest, ok := strings.CutPrefix(name, movedPrefix+string(db)+"-")
	at, err := strconv.ParseInt(rest, 10, 64)
	return at, ok && err == nil && at >= 0
}

// trialTry is the pause between two tries to empty a spare.
const trialTry = 2 * time.Second

// endTrials empties spares on which a drill had a copy made, until ctx ends.
func (k *Keeper) endTrials(ctx context.Context) {
	for {
		changed := k.group.Changed()
		var again <-chan time.Time
		for _, v := range k.volumes {
			row, _, ok := k.volumeRow(v.Name)
			if !ok || row.Trial == "" || row.State != org.VolumeSpare {
				continue
			}
			done := make(chan error, 1)
			go func() { done <- k.endTrial(ctx, v, row) }() // a disk that hangs holds up nobody
			select {
			case err := <-done:
				if err != nil && ctx.Err() == nil {
					k.deps.Log.Warn("empty a spare after a drill", "volume", v.Name, "err", err)
					again = time.After(trialTry)
				}
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-again:
		}
	}
}

// endTrial removes from a spare what the drill's copy left there, which is
// elsewhere now and in sync, and notes that it was done.
func (k *Keeper) endTrial(ctx context.Context, v *volume, row org.VolumeRow) error {
	if err := v.failure(); err != nil {
		return err
	}
	view := k.group.View()
	for _, def := range view.Databases() {
		if c := k.copy(def.Name); c != nil && c.vol == v {
			return kind.Errorf(kind.Busy, "the copy of %s has not left it yet", def.Name)
		}
	}
	for _, e := range k.entries(v) {
		def, ok := leftBy(view, e, row.TrialOf)
		if !ok {
			continue
		}
		mt, _ := view.Mount(def.Name)
		if k.copy(def.Name) == nil || len(mt.InSync) < 2 || !mt.IsInSync(k.me) {
			return kind.Errorf(kind.Busy, "%s is in sync on %d servers, this one has to be among them", def.Name, len(mt.InSync))
		}
		path := filepath.Join(v.Path, e.Name)
		if kept, err := unoffered(k.fs, path); err != nil {
			return err
		} else if kept { // changes that are nowhere else: the copy led on the spare, and lost its lead
			k.deps.Log.Warn("a spare is not empty after a drill: log that was set aside there was not offered", "path", path)
			continue
		}
		if err := removeCopyDir(k.fs, path); err != nil {
			return err
		}
		k.deps.Events.Emit(evLeftover, "%s on volume %s of %s was removed: it was made by drill %s", e.Name, v.Name, k.me, row.Trial)
	}
	return k.editVolume(ctx, volumeArg{k.me, v.Name}, func(r *org.VolumeRow) error {
		if r.Trial == row.Trial && r.State == org.VolumeSpare {
			r.Take()
		}
		return nil
	})
}

// unoffered tells whether a copy's folder has log that was set aside there and not
// offered to the active copy.
func unoffered(disk fsx.FS, dir string) (bool, error) {
	names, err := disk.List(filepath.Join(dir, divergedName))
	if kind.Is(err, kind.NotFound) {
		return false, nil
	}
	return slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(n, ".log") }), err
}

// removeCopyDir removes the folder of a copy, its mark last: what is left of a
// removal that was broken off is still known for what it is.
func removeCopyDir(disk fsx.FS, dir string) error {
	names, err := disk.List(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if n == copyMarkName {
			continue
		}
		if err := fsx.RemoveAll(disk, filepath.Join(dir, n)); err != nil {
			return err
		}
	}
	return fsx.RemoveAll(disk, dir)
}

// leftBy is the database of a drill, whose copy left an entry on a volume: the
// volume was empty when it came, so a folder under its own name is of then too.
// False where the entry is somebody else's, or was set aside before.
func leftBy(view *cluster.View, e layout.Entry, t org.VolumeTrial) (org.Database, bool) {
	def, ok := view.Database(t.Database)
	if !ok || e.Database == "" || e.Database != t.Identity || def.Identity != t.Identity {
		return org.Database{}, false
	}
	at, moved := movedAt(e.Name, def.Name)
	return def, moved && at >= t.Begun.Unix() || e.Name == string(def.Name)
}

// SpareVolume is a spare volume, and what keeps it from getting a copy, empty
// for nothing.
type SpareVolume struct {
	Volume  org.VolumeName
	Problem string
}

// SparesFor are the spare volumes of a server, judged for the copy of a database.
func (k *Keeper) SparesFor(ctx context.Context, s org.ServerName, db org.DatabaseName) (out []SpareVolume) {
	view := k.group.View()
	srv, _ := view.Server(s)
	def, _ := view.Database(db)
	var need int64
	for _, c := range def.Copies {
		if st, ok := k.peerStatus(c.Server, db); ok {
			need = max(need, st.DiskUsed)
		}
	}
	for _, name := range srv.Volumes {
		row, _, ok := rowOf(view, srv, name)
		if !ok || row.State != org.VolumeSpare {
			continue
		}
		x := SpareVolume{Volume: name}
		problems, err := k.checkVolumeAt(ctx, s, volumeRequest{Volume: name, Spare: true, Need: need})
		i := slices.IndexFunc(problems, func(p layout.Problem) bool { return p.Level == layout.Error })
		switch {
		case err != nil:
			x.Problem = err.Error()
		case i >= 0:
			x.Problem = problems[i].Problem
		case row.Trial != "":
			x.Problem = "what drill " + row.Trial + " left is being removed"
		}
		out = append(out, x)
	}
	return out
}
