// Package patient makes a disk slow to fail. Pebble repeats background work that
// failed at once and for ever: on a disk that refuses every write that would be
// one core, and thousands of log lines a second, for as long as the store is
// open. On a full disk a write waits and is tried again; every other failure is
// reported after a pause. Both happen outside Pebble's locks.
package patient

import (
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// How long a write waits on a full disk until it is tried again, and how long
// any other failure takes.
const (
	fullPause = 200 * time.Millisecond
	failPause = 100 * time.Millisecond
)

// FS is under, slow to fail; nil is the disk of this machine.
func FS(under vfs.FS) vfs.FS {
	if under == nil {
		under = vfs.Default
	}
	return slow{vfs.OnDiskFull(under, func() { time.Sleep(fullPause) })}
}

type slow struct{ vfs.FS }

// Create implements vfs.FS.
func (s slow) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := s.FS.Create(name, c)
	if err != nil {
		return f, late(err)
	}
	return file{f}, nil
}

// Unwrap implements vfs.FS.
func (s slow) Unwrap() vfs.FS { return s.FS }

type file struct{ vfs.File }

// Write implements vfs.File.
func (f file) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	return n, late(err)
}

// Sync implements vfs.File.
func (f file) Sync() error { return late(f.File.Sync()) }

// SyncData implements vfs.File.
func (f file) SyncData() error { return late(f.File.SyncData()) }

// late is err, after a pause where there is one.
func late(err error) error {
	if err != nil {
		time.Sleep(failPause)
	}
	return err
}
