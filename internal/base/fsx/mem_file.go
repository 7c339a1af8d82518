package fsx

import (
	"io"
	"maps"
	"sync/atomic"
	"syscall"

	"github.com/postern-mail/postern/internal/base/kind"
)

const (
	pageSize   = Align
	sectorSize = 512 // what a disk writes whole or not at all
)

// content is what a file holds. Pages are never changed once stored, so a
// copy shares them; a page that is nil is allocated and zero.
type content struct {
	size  int64
	pages map[int64][]byte
}

func (c *content) clone() content { return content{c.size, maps.Clone(c.pages)} }

func (c *content) allocated() int64 { return int64(len(c.pages)) * pageSize }

func (c *content) read(p []byte, off int64) int {
	n := int(max(0, min(int64(len(p)), c.size-off)))
	for done := 0; done < n; {
		at := off + int64(done)
		pg := c.pages[at/pageSize]
		k := min(n-done, int(pageSize-at%pageSize))
		if pg == nil {
			clear(p[done : done+k])
		} else {
			copy(p[done:done+k], pg[at%pageSize:])
		}
		done += k
	}
	return n
}

func (c *content) write(p []byte, off int64) {
	for len(p) > 0 {
		i, in := off/pageSize, off%pageSize
		pg := make([]byte, pageSize)
		copy(pg, c.pages[i])
		k := copy(pg[in:], p)
		c.pages[i] = pg
		p, off = p[k:], off+int64(k)
	}
	c.size = max(c.size, off)
}

func (c *content) truncate(size int64) {
	if size < c.size {
		for i := range c.pages {
			if i*pageSize >= size {
				delete(c.pages, i)
			}
		}
		if in := size % pageSize; in != 0 && c.pages[size/pageSize] != nil {
			pg := make([]byte, pageSize)
			copy(pg, c.pages[size/pageSize][:in])
			c.pages[size/pageSize] = pg
		}
	}
	c.size = size
}

func (c *content) allocate(off, n int64) {
	for i := off / pageSize; i*pageSize < off+n; i++ {
		if _, ok := c.pages[i]; !ok {
			c.pages[i] = nil
		}
	}
	c.size = max(c.size, off+n)
}

func (c *content) punch(off, n int64) {
	end := min(off+n, c.size)
	for off < end {
		k := min(end-off, pageSize-off%pageSize)
		if k == pageSize {
			delete(c.pages, off/pageSize)
		} else if c.pages[off/pageSize] != nil {
			c.write(make([]byte, k), off)
		}
		off += k
	}
}

func (c *content) flip(off int64, mask byte) {
	if off < c.size {
		b := []byte{0}
		c.read(b, off)
		b[0] ^= mask
		c.write(b, off)
	}
}

// grown counts the pages a write or allocation of the range would add.
func (c *content) grown(off, n int64) (pages int64) {
	for i := off / pageSize; i*pageSize < off+n; i++ {
		if _, ok := c.pages[i]; !ok {
			pages++
		}
	}
	return pages
}

// inode is a file: what it holds now, what of it is durable, and the changes
// between the two in their order.
type inode struct {
	now, durable content
	pending      []change
}

func newInode() *inode {
	return &inode{now: content{pages: map[int64][]byte{}}, durable: content{pages: map[int64][]byte{}}}
}

// change is one change of content.
type change struct {
	kind OpKind
	off  int64
	n    int64
	data []byte
}

func (c *content) apply(ch change) {
	switch ch.kind {
	case OpWrite:
		c.write(ch.data, ch.off)
	case OpTruncate:
		c.truncate(ch.off)
	case OpAllocate:
		c.allocate(ch.off, ch.n)
	case OpPunch:
		c.punch(ch.off, ch.n)
	}
}

// memFile is an open file of a Mem.
type memFile struct {
	m      *Mem
	ino    *inode
	path   string
	mode   Mode
	closed atomic.Bool
	poison atomic.Pointer[error]
}

func (f *memFile) begin(op OpKind, off, n int64) error {
	if err := f.usable(op, off, n); err != nil {
		return err
	}
	return f.m.step(Op{Kind: op, Path: f.path, Off: off, Len: n})
}

func (f *memFile) usable(op OpKind, off, n int64) error {
	if f.closed.Load() {
		return kind.Errorf(kind.Internal, "%s %s: file is closed", op, f.path)
	}
	if p := f.poison.Load(); p != nil {
		return *p
	}
	if off < 0 || n < 0 {
		return kind.Errorf(kind.Invalid, "%s %s: negative offset", op, f.path)
	}
	if op != OpRead && f.mode&(Write|New) == 0 {
		return kind.Errorf(kind.Denied, "%s %s: open for reading", op, f.path)
	}
	return nil
}

// direct checks what the kernel would for O_DIRECT.
func (f *memFile) direct(op OpKind, p []byte, off int64) error {
	if f.Direct() && !aligned(p, off) {
		return wrap(string(op), f.path, syscall.EINVAL)
	}
	return nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.begin(OpRead, off, int64(len(p))); err != nil {
		return 0, err
	}
	if err := f.direct(OpRead, p, off); err != nil {
		return 0, err
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	n := f.ino.now.read(p, off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.direct(OpWrite, p, off); err != nil {
		return 0, err
	}
	if err := f.usable(OpWrite, off, int64(len(p))); err != nil {
		return 0, err
	}
	if err := f.m.step(Op{Kind: OpWrite, Path: f.path, Off: off, Len: int64(len(p))}); err != nil {
		half := AlignDown(int64(len(p) / 2))
		f.change(change{kind: OpWrite, off: off, n: half, data: p[:half]})
		return int(half), err
	}
	if err := f.room(OpWrite, off, int64(len(p))); err != nil {
		return 0, err
	}
	f.change(change{kind: OpWrite, off: off, n: int64(len(p)), data: p})
	return len(p), nil
}

func (f *memFile) change(c change) {
	c.data = append([]byte(nil), c.data...)
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.ino.now.apply(c)
	f.ino.pending = append(f.ino.pending, c)
}

func (f *memFile) room(op OpKind, off, n int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if add := f.ino.now.grown(off, n) * pageSize; add > 0 && f.m.used()+add > f.m.limit {
		return wrap(string(op), f.path, syscall.ENOSPC)
	}
	return nil
}

func (f *memFile) Sync() error {
	if err := f.begin(OpSync, 0, 0); err != nil {
		f.poison.CompareAndSwap(nil, &err)
		return err
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	for _, c := range f.ino.pending {
		f.ino.durable.apply(c)
	}
	f.ino.pending = nil
	return nil
}

func (f *memFile) Truncate(size int64) error {
	if err := f.begin(OpTruncate, size, 0); err != nil {
		return err
	}
	f.change(change{kind: OpTruncate, off: size})
	return nil
}

func (f *memFile) Allocate(off, n int64) error {
	if err := f.begin(OpAllocate, off, n); err != nil {
		return err
	}
	if err := f.room(OpAllocate, off, n); err != nil {
		return err
	}
	f.change(change{kind: OpAllocate, off: off, n: n})
	return nil
}

func (f *memFile) PunchHole(off, n int64) error {
	if err := f.begin(OpPunch, off, n); err != nil {
		return err
	}
	f.change(change{kind: OpPunch, off: off, n: n})
	return nil
}

func (f *memFile) Size() (int64, error) {
	if p := f.poison.Load(); p != nil {
		return 0, *p
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return f.ino.now.size, nil
}

func (f *memFile) Direct() bool { return f.mode&Direct != 0 }

func (f *memFile) Close() error {
	if f.closed.Swap(true) {
		return kind.Errorf(kind.Internal, "close %s: file is closed", f.path)
	}
	return nil
}
