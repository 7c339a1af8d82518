package fsx

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"
	"unsafe"

	"github.com/postern-mail/postern/internal/base/kind"
)

// Align is what offset, length and memory of direct I/O are multiples of, in
// bytes. 4096 suits disks with 512-byte sectors as well as 4Kn ones.
const Align = 4096

// Mode says how OpenFile opens. The zero value reads.
type Mode uint8

// Modes, to be combined.
const (
	Write  Mode = 1 << iota // read and write an existing file
	New                     // make it; kind.Exists if it is there
	Direct                  // past the page cache where the file system allows, see File.Direct
)

// FS is a file system. Paths are those of package filepath.
type FS interface {
	// Create makes a new file for reading and writing; kind.Exists if there
	// is one.
	Create(path string) (File, error)
	// Open opens a file for reading; kind.NotFound if there is none.
	Open(path string) (File, error)
	// OpenFile opens as mode says. With Direct it falls back to the page
	// cache where the file system has no direct I/O.
	OpenFile(path string, mode Mode) (File, error)
	Remove(path string) error
	// Rename replaces a file of the new name atomically.
	Rename(from, to string) error
	MkdirAll(path string) error
	// List returns the names in a folder, sorted.
	List(dir string) ([]string, error)
	Stat(path string) (Info, error)
	// SyncDir makes the names in a folder durable.
	SyncDir(dir string) error
	// Free returns what an unprivileged writer can still use of the file
	// system that holds path, and its size, in bytes.
	Free(path string) (free, total int64, err error)
}

// File is an open file. ReadAt and WriteAt may be called concurrently.
type File interface {
	io.ReaderAt
	io.WriterAt
	// Sync makes data and size durable (fdatasync).
	Sync() error
	Close() error
	Truncate(size int64) error
	// Allocate reserves space for the range, extending the file with zeros:
	// writes into it need no new space. kind.Full when there is none.
	Allocate(off, n int64) error
	// PunchHole gives the space of the range back; it then reads as zeros.
	PunchHole(off, n int64) error
	// Size returns the length in bytes.
	Size() (int64, error)
	// Direct tells whether offset, length and memory must be multiples of
	// Align.
	Direct() bool
}

// Info describes a file.
type Info struct {
	Size      int64 // length in bytes
	Allocated int64 // bytes it occupies on the disk
	Dir       bool
	ModTime   time.Time
}

// AlignUp rounds n up to a multiple of Align.
func AlignUp(n int64) int64 { return (n + Align - 1) &^ (Align - 1) }

// AlignDown rounds n down to a multiple of Align.
func AlignDown(n int64) int64 { return n &^ (Align - 1) }

// Buffer returns n bytes of zeroed memory whose address is a multiple of
// Align, for direct I/O.
func Buffer(n int) []byte {
	b := make([]byte, n+Align)
	skip := 0
	if r := int(uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (Align - 1)); r != 0 {
		skip = Align - r
	}
	return b[skip : skip+n : skip+n]
}

// aligned reports whether p may be used for direct I/O at off.
func aligned(p []byte, off int64) bool {
	return off%Align == 0 && len(p)%Align == 0 &&
		uintptr(unsafe.Pointer(unsafe.SliceData(p)))&(Align-1) == 0
}

// wrap gives an error of the system its kind and says what was done to what.
func wrap(op, path string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	k := kind.Of(err)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		k = kind.NotFound
	case errors.Is(err, fs.ErrExist):
		k = kind.Exists
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		k = kind.Full
	}
	var pe *fs.PathError
	if errors.As(err, &pe) { // it says operation and path once more
		err = pe.Err
	}
	return kind.Errorf(k, "%s %s: %w", op, path, err)
}

// ReadFile reads a whole file of at most limit bytes; a longer one is
// kind.Invalid.
func ReadFile(f FS, path string, limit int64) ([]byte, error) {
	h, err := f.Open(path)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	n, err := h.Size()
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, kind.Errorf(kind.Invalid, "read %s: %d bytes, more than %d", path, n, limit)
	}
	b := make([]byte, n)
	if m, err := h.ReadAt(b, 0); err != nil && !(errors.Is(err, io.EOF) && int64(m) == n) {
		return nil, err
	}
	return b, nil
}

// WriteFile replaces a small file so that after a crash either the old or the
// new content is there, whole; the new one is durable on return.
func WriteFile(f FS, path string, data []byte) (err error) {
	tmp := path + ".tmp"
	if err := f.Remove(tmp); err != nil && !kind.Is(err, kind.NotFound) {
		return err
	}
	h, err := f.Create(tmp)
	if err != nil {
		return err
	}
	_, err = h.WriteAt(data, 0)
	if err == nil {
		err = h.Sync()
	}
	if cerr := h.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = f.Rename(tmp, path)
	}
	if err == nil {
		err = f.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	return nil
}

// RemoveAll removes a folder with all in it, or a file, and makes that durable. A
// link is removed and not followed. Nothing there is no error.
func RemoveAll(f FS, path string) error {
	d, ok := f.(interface{ removeAll(string) error })
	if !ok {
		return kind.Errorf(kind.Internal, "remove %s: this disk removes no folders", path)
	}
	if err := d.removeAll(path); err != nil {
		return err
	}
	return f.SyncDir(filepath.Dir(path))
}
