package fsx

import (
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/internal/base/kind"
)

// OS is the disk of this machine.
type OS struct{}

var _ FS = OS{}

// Create implements FS.
func (o OS) Create(path string) (File, error) { return o.OpenFile(path, Write|New) }

// Open implements FS.
func (o OS) Open(path string) (File, error) { return o.OpenFile(path, 0) }

// OpenFile implements FS.
func (OS) OpenFile(path string, mode Mode) (File, error) {
	flags := os.O_RDONLY
	if mode&(Write|New) != 0 {
		flags = os.O_RDWR
	}
	if mode&New != 0 {
		flags |= os.O_CREATE | os.O_EXCL
	}
	if mode&Direct != 0 {
		f, err := os.OpenFile(path, flags|unix.O_DIRECT, 0o600)
		if err == nil {
			return &osFile{f: f, direct: true}, nil
		}
		// EINVAL: a file system without direct I/O (older tmpfs, some FUSE).
		// It may have made the file before it noticed.
		if !errors.Is(err, syscall.EINVAL) {
			return nil, wrap("open", path, err)
		}
		if mode&New != 0 {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, wrap("open", path, err)
			}
		}
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, wrap("open", path, err)
	}
	return &osFile{f: f}, nil
}

// Remove implements FS.
func (OS) Remove(path string) error { return wrap("remove", path, os.Remove(path)) }

// Rename implements FS.
func (OS) Rename(from, to string) error {
	err := os.Rename(from, to)
	var le *os.LinkError
	if errors.As(err, &le) {
		err = le.Err
	}
	return wrap("rename to "+to, from, err)
}

// MkdirAll implements FS. It syncs the parents of what it makes, so that the
// folder itself survives a crash.
func (OS) MkdirAll(path string) error {
	path = filepath.Clean(path)
	if fi, err := os.Stat(path); err == nil && fi.IsDir() {
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := (OS{}).MkdirAll(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return wrap("make folder", path, err)
	}
	return OS{}.SyncDir(parent)
}

// List implements FS.
func (OS) List(dir string) ([]string, error) {
	es, err := os.ReadDir(dir) // sorted
	if err != nil {
		return nil, wrap("list", dir, err)
	}
	names := make([]string, len(es))
	for i, e := range es {
		names[i] = e.Name()
	}
	return names, nil
}

// Stat implements FS.
func (OS) Stat(path string) (Info, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return Info{}, wrap("stat", path, err)
	}
	in := Info{Size: fi.Size(), Allocated: fi.Size(), Dir: fi.IsDir(), ModTime: fi.ModTime()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		in.Allocated = st.Blocks * 512
	}
	return in, nil
}

// SyncDir implements FS.
func (OS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return wrap("sync folder", dir, err)
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return wrap("sync folder", dir, err)
}

// Free implements FS.
func (OS) Free(path string) (free, total int64, err error) {
	var st unix.Statfs_t
	err = retry(func() error { return unix.Statfs(path, &st) })
	if err != nil {
		return 0, 0, wrap("free space of", path, err)
	}
	return int64(st.Bavail) * st.Bsize, int64(st.Blocks) * st.Bsize, nil
}

// osFile is a file of the real disk.
type osFile struct {
	f      *os.File
	direct bool
	poison atomic.Pointer[error] // the first failed sync
}

func (f *osFile) bad() error {
	if p := f.poison.Load(); p != nil {
		return *p
	}
	return nil
}

func (f *osFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.bad(); err != nil {
		return 0, err
	}
	n, err := f.f.ReadAt(p, off)
	return n, wrap("read", f.f.Name(), err)
}

func (f *osFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.bad(); err != nil {
		return 0, err
	}
	n, err := f.f.WriteAt(p, off)
	return n, wrap("write", f.f.Name(), err)
}

func (f *osFile) Sync() error {
	if err := f.bad(); err != nil {
		return err
	}
	err := f.control("sync", unix.Fdatasync)
	if err != nil {
		err = kind.WithHint(err, "the disk did not store what was written; the copy on it needs a check or a reseed")
		f.poison.CompareAndSwap(nil, &err)
	}
	return err
}

func (f *osFile) Truncate(size int64) error {
	if err := f.bad(); err != nil {
		return err
	}
	return wrap("truncate", f.f.Name(), f.f.Truncate(size))
}

func (f *osFile) Allocate(off, n int64) error {
	if err := f.bad(); err != nil {
		return err
	}
	err := f.control("allocate", func(fd int) error { return unix.Fallocate(fd, 0, off, n) })
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	// A file system without fallocate: the length at least. Space is then
	// found, or not, when it is written.
	size, err := f.Size()
	if err == nil && size < off+n {
		err = f.Truncate(off + n)
	}
	return err
}

func (f *osFile) PunchHole(off, n int64) error {
	if err := f.bad(); err != nil {
		return err
	}
	return f.control("punch", func(fd int) error {
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
}

func (f *osFile) Size() (int64, error) {
	if err := f.bad(); err != nil {
		return 0, err
	}
	fi, err := f.f.Stat()
	if err != nil {
		return 0, wrap("stat", f.f.Name(), err)
	}
	return fi.Size(), nil
}

func (f *osFile) Direct() bool { return f.direct }

// Close closes even a poisoned file: its descriptor is given back.
func (f *osFile) Close() error { return wrap("close", f.f.Name(), f.f.Close()) }

// control runs a system call on the descriptor, keeping it open meanwhile.
func (f *osFile) control(op string, call func(fd int) error) error {
	c, err := f.f.SyscallConn()
	if err != nil {
		return wrap(op, f.f.Name(), err)
	}
	var cerr error
	err = c.Control(func(fd uintptr) { cerr = retry(func() error { return call(int(fd)) }) })
	if err == nil {
		err = cerr
	}
	return wrap(op, f.f.Name(), err)
}

// retry repeats a call that a signal interrupted: nothing was done then. It is
// the only error after which a sync is tried again.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Device tells which file system holds path, as a number that is the same for
// all paths on it. It is no part of FS: a disk in memory has none.
func (OS) Device(path string) (uint64, error) {
	var st unix.Stat_t
	err := retry(func() error { return unix.Stat(path, &st) })
	return uint64(st.Dev), wrap("stat", path, err)
}

func (OS) removeAll(path string) error { return wrap("remove", path, os.RemoveAll(path)) }
