package bubble

import (
	"errors"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/postern-mail/postern/internal/base/fsx"
)

// Where the disks of a server are mounted.
const (
	volumePath = "/vol1"
	sparePath  = "/spare1"
)

// diskSize is a disk with room for everything.
const diskSize = 1 << 40

// disk is what a server stores on: a volume and, where the schedule says so, a
// spare. It outlives processes. Only the volume is ever slow, hangs or fails.
type disk struct {
	rnd *random

	mu    sync.Mutex // guards the rest
	fs    *fsx.Mem
	ix    *vfs.MemFS
	slow  time.Duration // of each write that is waited for
	hung  chan struct{} // nil: it answers
	bad   error         // what every change answers, nil: done
	spoil bool          // a process met bad: its copies do not go on by themselves
	lies  bool          // syncs do nothing: a promise broken on purpose
}

func newDisk(r *random) *disk {
	d := &disk{rnd: r, fs: fsx.NewMem(), ix: vfs.NewCrashableMem()}
	d.fs.Inject(d.inject)
	return d
}

// inject is asked before each operation.
func (d *disk) inject(op fsx.Op) error {
	if op.Kind == fsx.OpRead {
		return nil
	}
	d.mu.Lock()
	slow, hung, bad := d.slow, d.hung, d.bad
	if !strings.HasPrefix(op.Path, volumePath) {
		slow, hung, bad = 0, nil, nil // the spare is another disk
	} else if bad != nil {
		d.spoil = true
	}
	d.mu.Unlock()
	if (op.Kind == fsx.OpSync || op.Kind == fsx.OpWrite && (slow > 0 || hung != nil)) && inCommit() {
		if op.Kind == fsx.OpSync {
			slow += d.rnd.between(50*time.Microsecond, 600*time.Microsecond)
		}
		if slow > 0 {
			time.Sleep(slow)
		}
		if hung != nil {
			<-hung
		}
	}
	return bad
}

// inCommit tells whether the caller is where the log waits for the disk with no
// lock held that others wait for otherwise than by base/lock: time in the bubble
// would stand still.
func inCommit() bool {
	var pcs [24]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	for {
		f, more := frames.Next()
		if strings.HasSuffix(f.Function, "journal.(*Log).store") || strings.HasSuffix(f.Function, "journal.(*Log).settle") {
			return true
		}
		if !more {
			return false
		}
	}
}

// files is the disk as a process gets it.
func (d *disk) files() (fsx.FS, vfs.FS) {
	d.mu.Lock()
	defer d.mu.Unlock()
	both := united{d.fs, d.ix}
	if d.lies {
		return lyingFS{both}, d.ix
	}
	return both, d.ix
}

// united is the disk as the mailbox room sees it besides the index, which is on
// the same disk: a folder that is renamed takes an index in it along, and a
// folder that is synced is so for both.
type united struct {
	*fsx.Mem
	ix *vfs.MemFS
}

// Rename implements fsx.FS.
func (u united) Rename(from, to string) error {
	if err := u.Mem.Rename(from, to); err != nil {
		return err
	}
	if i, err := u.ix.Stat(from); err != nil || !i.IsDir() {
		return nil // no index there
	}
	return errors.Join(u.ix.MkdirAll(filepath.Dir(to), 0o755), u.ix.Rename(from, to))
}

// SyncDir implements fsx.FS.
func (u united) SyncDir(dir string) error {
	return errors.Join(u.Mem.SyncDir(dir), syncIndexDir(u.ix, dir))
}

func syncIndexDir(ix *vfs.MemFS, dir string) error {
	h, err := ix.OpenDir(dir)
	if err != nil {
		return nil // the index has no such folder
	}
	return errors.Join(h.Sync(), h.Close())
}

// settleDirs makes the names in all folders of an index disk durable.
func settleDirs(ix *vfs.MemFS, dir string) error {
	names, err := ix.List(dir)
	if err != nil {
		return nil // gone meanwhile
	}
	for _, n := range names {
		path := filepath.Join(dir, n)
		if i, err := ix.Stat(path); err == nil && i.IsDir() {
			if err := settleDirs(ix, path); err != nil {
				return err
			}
		}
	}
	return syncIndexDir(ix, dir)
}

// crash takes what a process had away from it: the disk is what a kill of the
// machine might have left, or, for the process alone, all it wrote.
func (d *disk) crash(power bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	seed := d.rnd.uint64()
	old := d.fs
	if power {
		d.fs = old.CrashImage(seed)
		d.ix = d.ix.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: int(seed % 101), RNG: rand.New(rand.NewPCG(seed, 2))})
	} else {
		d.fs = old.Clone()
		_ = settleDirs(d.ix, "/") // else what was removed would be back
		d.ix = d.ix.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(seed, 2))})
	}
	d.fs.Inject(d.inject)
	old.Inject(func(op fsx.Op) error {
		if op.Kind == fsx.OpRead {
			return nil
		}
		return syscall.EIO
	})
	d.release()
	d.spoil = false
}

// release lets those go on who wait for a disk that hangs. d.mu is held.
func (d *disk) release() {
	if d.hung != nil {
		close(d.hung)
		d.hung = nil
	}
}

// set changes what is wrong with the disk.
func (d *disk) set(f func(d *disk)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d)
}

// mend makes the disk a good one.
func (d *disk) mend() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.release()
	d.slow, d.bad = 0, nil
	d.fs.SetLimit(diskSize)
}

// fill leaves no room.
func (d *disk) fill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	free, total, err := d.fs.Free("/")
	if err == nil {
		d.fs.SetLimit(total - free + d.rnd.between64(0, 256<<10))
	}
}

// fails tells whether the disk refuses every change.
func (d *disk) fails() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bad != nil
}

// wipe loses the volume; what is mounted in its place is empty.
func (d *disk) wipe() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fs.Inject(nil)
	defer d.fs.Inject(d.inject)
	if err := remove(d.fs, volumePath); err != nil {
		return err
	}
	return errors.Join(d.ix.RemoveAll(volumePath), syncIndexDir(d.ix, "/"))
}

// remove removes what is in a folder.
func remove(fs *fsx.Mem, dir string) error {
	names, err := fs.List(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		path := filepath.Join(dir, n)
		i, err := fs.Stat(path)
		if err == nil && i.Dir {
			err = remove(fs, path)
		}
		if err == nil {
			err = fs.Remove(path)
		}
		if err != nil {
			return err
		}
	}
	return fs.SyncDir(dir)
}

// spoiled tells whether a process met an error of the disk.
func (d *disk) spoiled() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.spoil
}

// lyingFS says that a segment of log is durable and does nothing for it.
type lyingFS struct{ fsx.FS }

func (l lyingFS) OpenFile(path string, m fsx.Mode) (fsx.File, error) {
	f, err := l.FS.OpenFile(path, m)
	if err != nil || filepath.Base(filepath.Dir(path)) != "log" {
		return f, err
	}
	return lyingFile{f}, nil
}

type lyingFile struct{ fsx.File }

func (lyingFile) Sync() error { return nil }
