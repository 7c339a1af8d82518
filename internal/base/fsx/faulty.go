package fsx

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
)

// Fault is what a Faulty disk does to every access below a folder.
type Fault struct {
	// Err is what accesses end with, nothing being done; nil: they work.
	Err error
	// Times is how many times as long an access takes; up to 1 is as long as it
	// takes.
	Times int
	// Sync is what an access that makes something durable takes at least.
	Sync time.Duration
}

// Faulty is a disk whose folders tests break while a server uses them. While
// nothing is broken it costs a look at a pointer.
type Faulty struct {
	FS
	faults atomic.Pointer[map[string]Fault] // by folder
}

// NewFaulty wraps a disk; nothing is broken.
func NewFaulty(disk FS) *Faulty { return &Faulty{FS: disk} }

// Break does f to every access below dir from now on, those of files that are
// open included. The zero Fault mends it. One caller at a time.
func (d *Faulty) Break(dir string, f Fault) {
	next := map[string]Fault{}
	if now := d.faults.Load(); now != nil {
		for k, v := range *now {
			next[k] = v
		}
	}
	if dir = filepath.Clean(dir); f == (Fault{}) {
		delete(next, dir)
	} else {
		next[dir] = f
	}
	if len(next) == 0 {
		d.faults.Store(nil)
		return
	}
	d.faults.Store(&next)
}

// Meet is the fault that an access to path meets, the zero one for none. Other
// views of the same disk ask it too.
func (d *Faulty) Meet(path string) Fault {
	all := d.faults.Load()
	if all == nil {
		return Fault{}
	}
	for dir, f := range *all {
		if rest, ok := strings.CutPrefix(path, dir); ok && (rest == "" || rest[0] == filepath.Separator) {
			return f
		}
	}
	return Fault{}
}

// try does an access as the fault of path lets it.
func (d *Faulty) try(op, path string, durable bool, do func() error) error {
	f := d.Meet(path)
	if f == (Fault{}) {
		return do()
	}
	if f.Err != nil {
		return wrap(op, path, f.Err)
	}
	began := time.Now()
	err := do()
	took := time.Since(began)
	wait := took * time.Duration(max(f.Times-1, 0))
	if durable {
		wait = max(wait, f.Sync-took)
	}
	if wait > 0 {
		<-time.After(wait)
	}
	return err
}

// Create implements FS.
func (d *Faulty) Create(path string) (File, error) { return d.OpenFile(path, Write|New) }

// Open implements FS.
func (d *Faulty) Open(path string) (File, error) { return d.OpenFile(path, 0) }

// OpenFile implements FS.
func (d *Faulty) OpenFile(path string, mode Mode) (h File, err error) {
	err = d.try("open", path, false, func() error { h, err = d.FS.OpenFile(path, mode); return err })
	if err != nil {
		return nil, err
	}
	return &faultyFile{h, d, path}, nil
}

// Remove implements FS.
func (d *Faulty) Remove(path string) error {
	return d.try("remove", path, false, func() error { return d.FS.Remove(path) })
}

// Rename implements FS.
func (d *Faulty) Rename(from, to string) error {
	return d.try("rename to "+to, from, false, func() error { return d.FS.Rename(from, to) })
}

// MkdirAll implements FS.
func (d *Faulty) MkdirAll(path string) error {
	return d.try("make folder", path, true, func() error { return d.FS.MkdirAll(path) })
}

// List implements FS.
func (d *Faulty) List(dir string) (names []string, err error) {
	err = d.try("list", dir, false, func() error { names, err = d.FS.List(dir); return err })
	return names, err
}

// Stat implements FS.
func (d *Faulty) Stat(path string) (i Info, err error) {
	err = d.try("stat", path, false, func() error { i, err = d.FS.Stat(path); return err })
	return i, err
}

// SyncDir implements FS.
func (d *Faulty) SyncDir(dir string) error {
	return d.try("sync folder", dir, true, func() error { return d.FS.SyncDir(dir) })
}

// Free implements FS.
func (d *Faulty) Free(path string) (free, total int64, err error) {
	err = d.try("free space of", path, false, func() error { free, total, err = d.FS.Free(path); return err })
	return free, total, err
}

// removeAll lets RemoveAll work.
func (d *Faulty) removeAll(path string) error {
	r, ok := d.FS.(interface{ removeAll(string) error })
	if !ok {
		return kind.Errorf(kind.Internal, "remove %s: this disk removes no folders", path)
	}
	return d.try("remove", path, false, func() error { return r.removeAll(path) })
}

// Device is that of the disk below; see OS.Device.
func (d *Faulty) Device(path string) (uint64, error) {
	x, ok := d.FS.(interface{ Device(string) (uint64, error) })
	if !ok {
		return 0, fmt.Errorf("device of %s: this disk has none", path)
	}
	return x.Device(path)
}

// faultyFile is an open file of a Faulty disk.
type faultyFile struct {
	File
	d    *Faulty
	path string
}

func (f *faultyFile) ReadAt(p []byte, off int64) (n int, err error) {
	err = f.d.try("read", f.path, false, func() error { n, err = f.File.ReadAt(p, off); return err })
	return n, err
}

func (f *faultyFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.d.try("write", f.path, false, func() error { n, err = f.File.WriteAt(p, off); return err })
	return n, err
}

func (f *faultyFile) Sync() error { return f.d.try("sync", f.path, true, f.File.Sync) }

func (f *faultyFile) Truncate(size int64) error {
	return f.d.try("truncate", f.path, false, func() error { return f.File.Truncate(size) })
}

func (f *faultyFile) Allocate(off, n int64) error {
	return f.d.try("allocate", f.path, false, func() error { return f.File.Allocate(off, n) })
}

func (f *faultyFile) PunchHole(off, n int64) error {
	return f.d.try("punch", f.path, false, func() error { return f.File.PunchHole(off, n) })
}

func (f *faultyFile) Size() (n int64, err error) {
	err = f.d.try("stat", f.path, false, func() error { n, err = f.File.Size(); return err })
	return n, err
}
