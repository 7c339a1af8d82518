package fsx

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
)

// OpKind names an operation of a Mem, for Hook and Inject.
type OpKind string

// Operations. All but OpRead change what a crash would leave.
const (
	OpRead     OpKind = "read"
	OpCreate   OpKind = "create"
	OpRemove   OpKind = "remove"
	OpRename   OpKind = "rename"
	OpMkdir    OpKind = "mkdir"
	OpSyncDir  OpKind = "syncdir"
	OpWrite    OpKind = "write"
	OpSync     OpKind = "sync"
	OpTruncate OpKind = "truncate"
	OpAllocate OpKind = "allocate"
	OpPunch    OpKind = "punch"
)

// Op is one operation about to happen.
type Op struct {
	N    int // counts operations of all kinds but OpRead, from 1; reads have the number of the last of those
	Kind OpKind
	Path string
	Off  int64
	Len  int64
}

// Mem is a disk in memory that knows what of it is durable. A test may take a
// CrashImage at any moment, make operations fail, limit the space and flip
// bits. The zero value is not ready; use NewMem.
type Mem struct {
	mu      sync.Mutex // guards all below
	n       int
	hook    func(Op)
	inject  func(Op) error
	limit   int64
	now     names
	durable names
	pending []nameChange // in order, not yet synced
}

// names is a name space: files by path and folders.
type names struct {
	files map[string]*inode
	dirs  map[string]bool
}

func (n names) clone() names {
	c := names{files: make(map[string]*inode, len(n.files)), dirs: make(map[string]bool, len(n.dirs))}
	for k, v := range n.files {
		c.files[k] = v
	}
	for k, v := range n.dirs {
		c.dirs[k] = v
	}
	return c
}

// nameChange is a change of the name space: ino under to (nil ino: a folder),
// or from renamed to to, or from removed (to empty). With tree, from is a folder
// and all that is in it goes along.
type nameChange struct {
	from, to string
	ino      *inode
	tree     bool
}

func (n names) apply(c nameChange) {
	if c.tree {
		moveTree(n.files, c.from, c.to)
		moveTree(n.dirs, c.from, c.to)
		return
	}
	if c.from != "" {
		delete(n.files, c.from)
		delete(n.dirs, c.from)
	}
	switch {
	case c.to == "":
	case c.ino == nil:
		n.dirs[c.to] = true
	default:
		n.files[c.to] = c.ino
	}
}

func moveTree[T any](all map[string]T, from, to string) {
	moved := map[string]T{}
	for p, v := range all {
		if p == from || strings.HasPrefix(p, from+"/") {
			moved[to+p[len(from):]] = v
			delete(all, p)
		}
	}
	maps.Copy(all, moved)
}

var _ FS = (*Mem)(nil)

// memSize is what Free tells where no limit is set.
const memSize = 1 << 40

// NewMem makes an empty disk with the root and working folders.
func NewMem() *Mem {
	m := &Mem{limit: memSize, now: names{map[string]*inode{}, map[string]bool{"/": true, ".": true}}}
	m.durable = m.now.clone()
	return m
}

// Hook has f called before each operation that changes something, without any
// lock held: f may take a CrashImage. nil ends it.
func (m *Mem) Hook(f func(Op)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hook = f
}

// Inject has f asked before each operation; an error it returns is the
// outcome. A write that is failed so has stored its first half, as a disk may.
// nil ends it.
func (m *Mem) Inject(f func(Op) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inject = f
}

// FailNth fails the n-th operation of a kind from now (1 is the next), of any
// kind but OpRead if k is empty.
func (m *Mem) FailNth(k OpKind, n int, err error) {
	var mu sync.Mutex
	m.Inject(func(op Op) error {
		if k == "" && op.Kind == OpRead || k != "" && op.Kind != k {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		if n--; n == 0 {
			return err
		}
		return nil
	})
}

// SetLimit sets the size of the disk in bytes; what exceeds it fails with
// kind.Full.
func (m *Mem) SetLimit(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.limit = n
}

// Ops tells how many operations there were, reads not counted.
func (m *Mem) Ops() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.n
}

// Flip inverts the bits of mask in the byte at off of a file, on the disk:
// durable damage that no operation made.
func (m *Mem) Flip(path string, off int64, mask byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	ino := m.now.files[filepath.Clean(path)]
	if ino == nil || off < 0 || off >= ino.now.size {
		return kind.Errorf(kind.NotFound, "flip %s at %d: not there", path, off)
	}
	ino.now.flip(off, mask)
	ino.durable.flip(off, mask)
	return nil
}

// step announces op and returns the injected error. It is called without lock.
func (m *Mem) step(op Op) error {
	m.mu.Lock()
	if op.Kind != OpRead {
		m.n++
	}
	op.N = m.n
	hook, inject := m.hook, m.inject
	m.mu.Unlock()
	if hook != nil && op.Kind != OpRead {
		hook(op)
	}
	if inject == nil {
		return nil
	}
	return wrap(string(op.Kind), op.Path, inject(op))
}

// change makes a change of the name space, to be made durable by SyncDir.
// Callers hold mu.
func (m *Mem) change(c nameChange) {
	m.now.apply(c)
	m.pending = append(m.pending, c)
}

// Create implements FS.
func (m *Mem) Create(path string) (File, error) { return m.OpenFile(path, Write|New) }

// Open implements FS.
func (m *Mem) Open(path string) (File, error) { return m.OpenFile(path, 0) }

// OpenFile implements FS. A file opened Direct refuses what is not aligned.
func (m *Mem) OpenFile(path string, mode Mode) (File, error) {
	path = filepath.Clean(path)
	if mode&New != 0 {
		if err := m.step(Op{Kind: OpCreate, Path: path}); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	ino := m.now.files[path]
	switch {
	case m.now.dirs[path]:
		return nil, kind.Errorf(kind.Invalid, "open %s: is a folder", path)
	case mode&New == 0 && ino == nil:
		return nil, kind.Errorf(kind.NotFound, "open %s: no such file", path)
	case mode&New != 0 && ino != nil:
		return nil, kind.Errorf(kind.Exists, "open %s: file exists", path)
	case mode&New != 0:
		if !m.now.dirs[filepath.Dir(path)] {
			return nil, kind.Errorf(kind.NotFound, "open %s: no such folder", path)
		}
		ino = newInode()
		m.change(nameChange{to: path, ino: ino})
	}
	return &memFile{m: m, ino: ino, path: path, mode: mode}, nil
}

// Remove implements FS.
func (m *Mem) Remove(path string) error {
	path = filepath.Clean(path)
	if err := m.step(Op{Kind: OpRemove, Path: path}); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.now.dirs[path] {
		if len(m.list(path)) > 0 {
			return kind.Errorf(kind.Invalid, "remove %s: folder is not empty", path)
		}
	} else if m.now.files[path] == nil {
		return kind.Errorf(kind.NotFound, "remove %s: no such file", path)
	}
	m.change(nameChange{from: path})
	return nil
}

// Rename implements FS. A folder goes with all that is in it.
func (m *Mem) Rename(from, to string) error {
	from, to = filepath.Clean(from), filepath.Clean(to)
	if err := m.step(Op{Kind: OpRename, Path: from}); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	ino, tree := m.now.files[from], m.now.dirs[from]
	if ino == nil && !tree || !m.now.dirs[filepath.Dir(to)] {
		return kind.Errorf(kind.NotFound, "rename %s to %s: no such file or folder", from, to)
	}
	if tree && (m.now.dirs[to] || m.now.files[to] != nil) {
		return kind.Errorf(kind.Exists, "rename %s to %s: it is there", from, to)
	}
	m.change(nameChange{from: from, to: to, ino: ino, tree: tree})
	return nil
}

// MkdirAll implements FS. As with OS, a folder it made is durable.
func (m *Mem) MkdirAll(path string) error {
	path = filepath.Clean(path)
	if err := m.step(Op{Kind: OpMkdir, Path: path}); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for p := path; !m.now.dirs[p]; p = filepath.Dir(p) {
		if m.now.files[p] != nil {
			return kind.Errorf(kind.Exists, "make folder %s: %s is a file", path, p)
		}
		m.now.dirs[p] = true
		m.durable.dirs[p] = true
	}
	return nil
}

// List implements FS.
func (m *Mem) List(dir string) ([]string, error) {
	dir = filepath.Clean(dir)
	if err := m.step(Op{Kind: OpRead, Path: dir}); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.now.dirs[dir] {
		return nil, kind.Errorf(kind.NotFound, "list %s: no such folder", dir)
	}
	return m.list(dir), nil
}

func (m *Mem) list(dir string) []string {
	var out []string
	add := func(p string) {
		if p != dir && filepath.Dir(p) == dir {
			out = append(out, filepath.Base(p))
		}
	}
	for p := range m.now.files {
		add(p)
	}
	for p := range m.now.dirs {
		if p != "." {
			add(p)
		}
	}
	slices.SortFunc(out, strings.Compare)
	return out
}

// Stat implements FS.
func (m *Mem) Stat(path string) (Info, error) {
	path = filepath.Clean(path)
	if err := m.step(Op{Kind: OpRead, Path: path}); err != nil {
		return Info{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.now.dirs[path] {
		return Info{Dir: true, ModTime: time.Unix(0, 0)}, nil
	}
	ino := m.now.files[path]
	if ino == nil {
		return Info{}, kind.Errorf(kind.NotFound, "stat %s: no such file", path)
	}
	return Info{Size: ino.now.size, Allocated: ino.now.allocated(), ModTime: time.Unix(0, 0)}, nil
}

// SyncDir implements FS.
func (m *Mem) SyncDir(dir string) error {
	dir = filepath.Clean(dir)
	if err := m.step(Op{Kind: OpSyncDir, Path: dir}); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.now.dirs[dir] {
		return kind.Errorf(kind.NotFound, "sync folder %s: no such folder", dir)
	}
	rest := m.pending[:0:0]
	for _, c := range m.pending {
		if in(dir, c.from) || in(dir, c.to) {
			m.durable.apply(c)
		} else {
			rest = append(rest, c)
		}
	}
	m.pending = rest
	return nil
}

func in(dir, path string) bool { return path != "" && filepath.Dir(path) == dir }

// Free implements FS.
func (m *Mem) Free(string) (free, total int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return max(0, m.limit-m.used()), m.limit, nil
}

// used counts the bytes of all files that have a name. Callers hold mu.
func (m *Mem) used() int64 {
	var n int64
	for _, ino := range m.now.files {
		n += ino.now.allocated()
	}
	return n
}

// removeAll removes what is at path and below.
func (m *Mem) removeAll(path string) error {
	path = filepath.Clean(path)
	if err := m.step(Op{Kind: OpRemove, Path: path}); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var gone []string
	below := func(p string) {
		if p == path || strings.HasPrefix(p, path+"/") {
			gone = append(gone, p)
		}
	}
	for p := range m.now.dirs {
		below(p)
	}
	for p := range m.now.files {
		below(p)
	}
	slices.Sort(gone)
	for _, p := range slices.Backward(gone) {
		m.change(nameChange{from: p})
	}
	return nil
}
