package mailbox

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
)

// volume is a disk of this server, with what is known of its space.
type volume struct {
	Volume
	fs      fsx.FS
	reserve int64

	mu     sync.Mutex // guards the rest
	isFull bool
	looked time.Time
	free   int64
}

func newVolume(v Volume, disk fsx.FS, reserve int64) *volume {
	w := &volume{Volume: v, reserve: reserve}
	w.fs = disk
	if v.MaxSize > 0 {
		w.fs = limitedFS{FS: disk, v: w}
	}
	return w
}

// limitedFS reports the space of a volume that Postern may use only in part.
type limitedFS struct {
	fsx.FS
	v *volume
}

// Free implements fsx.FS: what is left of MaxSize, or of the disk if that is less.
func (l limitedFS) Free(path string) (free, total int64, err error) {
	free, total, err = l.FS.Free(path)
	if err != nil {
		return 0, 0, err
	}
	return max(0, min(free, l.v.MaxSize-l.v.used())), min(total, l.v.MaxSize), nil
}

// used sums what the volume's folder takes on disk, looked at anew at most
// once a second.
func (v *volume) used() int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	if time.Since(v.looked) < time.Second {
		return v.free
	}
	var sum int64
	_ = filepath.WalkDir(v.Path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // a file that went meanwhile takes no space
		}
		if i, err := d.Info(); err == nil {
			sum += diskSize(i)
		}
		return nil
	})
	v.free, v.looked = sum, time.Now()
	return sum
}

// check reports whether the volume is there at all: a folder that vanished
// with its disk is not made anew on the disk below it (faults F21).
func (v *volume) check() error {
	mark := filepath.Join(v.Path, ".postern-volume")
	if _, err := v.fs.Stat(mark); err == nil {
		return nil
	}
	if _, err := v.fs.Stat(v.Path); err != nil && !kind.Is(err, kind.NotFound) {
		return err
	}
	if names, _ := v.fs.List(v.Path); len(names) > 0 {
		return fmt.Errorf("volume %s: %s holds files and no mark of this volume; is the right disk mounted there?", v.Name, v.Path)
	}
	if err := v.fs.MkdirAll(v.Path); err != nil {
		return err
	}
	return fsx.WriteFile(v.fs, mark, []byte("volume "+string(v.Name)+"\n"))
}

func (v *volume) full() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.isFull
}

// refresh looks at the free space. Full ends only when a tenth more than the reserve is
// free, so that the state does not flap.
func (v *volume) refresh(ev *event.Log) {
	free, _, err := v.fs.Free(v.Path)
	if err != nil {
		return
	}
	limit := v.reserve
	if v.full() {
		limit += limit / 10
	}
	v.setFull(free < limit, ev)
}

func (v *volume) setFull(full bool, ev *event.Log) {
	v.mu.Lock()
	was := v.isFull
	v.isFull = full
	v.mu.Unlock()
	switch {
	case full && !was:
		ev.Emit(evVolumeFull, "volume %s has less than its reserve of %d bytes free", v.Name, v.reserve)
	case was && !full:
		ev.Emit(evVolumeFree, "volume %s has space again", v.Name)
	}
}

// moveDurably renames and makes both folders durable.
func moveDurably(disk fsx.FS, from, to string) error {
	if err := disk.Rename(from, to); err != nil {
		return err
	}
	if err := disk.SyncDir(filepath.Dir(to)); err != nil {
		return err
	}
	return disk.SyncDir(filepath.Dir(from))
}
