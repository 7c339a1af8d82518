package store

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/patient"
	"github.com/postern-mail/postern/internal/org"
)

// FormatVersion is the version of keys and rows. It changes when an older
// server could not read them.
const FormatVersion = 1

// fileFormat is Pebble's; it moves only forward, so it is chosen, not left to
// the library, that a server of the former version can still open the files.
const fileFormat = pebble.FormatColumnarBlocks

// Options of an index. The zero value works.
type Options struct {
	FS           vfs.FS        // nil for the disk
	Cache        *pebble.Cache // shared by all indexes of a server; nil for a small own one
	MemTableSize uint64        // bytes, 0 for 8 MiB
	Identity     string        // the database's; an index of another one is refused
	Log          *slog.Logger  // nil for none
}

// Index is the index of one copy. Its methods may be called from any
// goroutine, except that Apply has one caller at a time.
type Index struct {
	db       *pebble.DB
	identity string
	log      *slog.Logger
	applied  atomic.Pointer[journal.Position]
	broken   atomic.Pointer[error]
	failed   chan struct{} // closed with broken

	mu      sync.Mutex // guards closed and the coming of readers
	closed  bool
	readers sync.WaitGroup
}

type metaRow struct {
	Format   uint32 `cbor:"1,keyasint"`
	Identity string `cbor:"2,keyasint"`
}

type appliedRow struct {
	LSN   org.LSN  `cbor:"1,keyasint"`
	Chain uint32   `cbor:"2,keyasint"`
	Term  org.Term `cbor:"3,keyasint"`
}

var (
	metaKey    = []byte{kLocal, 'f'}
	appliedKey = []byte{kLocal, 'p'}
)

// Open opens the index in dir and creates it when there is none. Damage and an
// unknown format are Corrupt: remove dir and rebuild from the log. The index of
// another database is Invalid.
func Open(dir string, o Options) (*Index, error) {
	ix := &Index{identity: o.Identity, log: o.Log, failed: make(chan struct{})}
	if ix.log == nil {
		ix.log = slog.New(slog.DiscardHandler)
	}
	db, err := pebble.Open(dir, ix.options(o))
	if err != nil {
		if b := ix.broken.Load(); b != nil {
			return nil, *b
		}
		return nil, openError(dir, err)
	}
	ix.db = db
	if err := ix.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open index %s: %w", dir, err), db.Close())
	}
	return ix, nil
}

func (ix *Index) options(o Options) *pebble.Options {
	size := o.MemTableSize
	if size == 0 {
		size = 8 << 20
	}
	p := &pebble.Options{
		FS: patient.FS(o.FS), Cache: o.Cache,
		DisableWAL:                  true,
		MemTableSize:                size,
		MemTableStopWritesThreshold: 4,
		MaxOpenFiles:                200,
		FormatMajorVersion:          fileFormat,
		Logger:                      logger{ix},
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) { ix.log.Warn("index background work", "error", err) },
			DataCorruption: func(i pebble.DataCorruptionInfo) {
				ix.fail(kind.Errorf(kind.Corrupt, "index: damaged file %s: %w", i.Path, i.Details))
			},
		},
	}
	p.Experimental.CompactionScheduler = newCompactions()
	if o.Cache == nil {
		p.CacheSize = 8 << 20
	}
	for i := range p.Levels {
		// Most point reads are for keys that are not there (thread keys,
		// identities, change keys); filters keep them off the disk.
		p.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		p.Levels[i].BlockSize = 8 << 10
	}
	return p
}

const closeFlush = 5 * time.Second

func openError(dir string, err error) error {
	if corrupt(err) {
		return kind.Errorf(kind.Corrupt, "open index %s: %w", dir, err)
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return kind.Errorf(kind.Full, "open index %s: %w", dir, err)
	}
	// What remains are I/O errors and files that are missing or make no sense.
	// The index is derived, so a rebuild is the cure of the second sort; of the
	// first sort it will find the same error and say so.
	return kind.Errorf(kind.Corrupt, "open index %s: %w", dir, err)
}

// load checks whose index it is and finds where it stands.
func (ix *Index) load() error {
	meta, err := ix.get(metaKey)
	if err != nil {
		return err
	}
	if meta == nil {
		return ix.create()
	}
	var row metaRow
	if err := decode(meta, &row, "format"); err != nil {
		return err
	}
	if row.Format != FormatVersion {
		return kind.Errorf(kind.Corrupt, "format %d, this server writes %d", row.Format, FormatVersion)
	}
	if row.Identity != ix.identity {
		return kind.Errorf(kind.Invalid, "index of database %q, want %q", row.Identity, ix.identity)
	}
	var at appliedRow
	if _, err := load(ix, appliedKey, &at, "position"); err != nil {
		return err
	}
	ix.applied.Store(&journal.Position{LSN: at.LSN, Chain: at.Chain, Term: at.Term})
	return nil
}

func (ix *Index) create() error {
	it, err := ix.db.NewIter(nil)
	if err != nil {
		return wrap(err, "create")
	}
	some := it.First()
	if err := it.Close(); err != nil {
		return wrap(err, "create")
	}
	if some {
		return kind.Errorf(kind.Corrupt, "keys without a format row")
	}
	row := codec.MustMarshal(metaRow{Format: FormatVersion, Identity: ix.identity})
	if err := ix.db.Set(metaKey, row, pebble.NoSync); err != nil {
		return wrap(err, "create")
	}
	ix.applied.Store(&journal.Position{})
	return ix.Flush()
}

// fail takes the index out of use: what it holds in memory may be wrong.
func (ix *Index) fail(err error) {
	if ix.broken.CompareAndSwap(nil, &err) {
		close(ix.failed)
		ix.log.Error("index is out of use", "error", err)
	}
}

func (ix *Index) health() error {
	if b := ix.broken.Load(); b != nil {
		return *b
	}
	return nil
}

// get reads a key as it is now, nil when there is none.
func (ix *Index) get(key []byte) ([]byte, error) {
	v, closer, err := ix.db.Get(key)
	return taken(v, closer, err)
}

func (ix *Index) scan(lo, hi []byte) (*cursor, error) {
	return newCursor(ix.db, lo, hi, nil, nil)
}

// Applied is the position up to which the log is in the index; the zero
// position for an empty index.
func (ix *Index) Applied() journal.Position { return *ix.applied.Load() }

// Flush brings what was applied so far to stable storage. On a full disk it
// waits for space.
func (ix *Index) Flush() error { return ix.flush(nil, nil) }

// FlushUntil is Flush that gives up when stop is closed: a disk that fails
// every write is asked again for ever.
func (ix *Index) FlushUntil(stop <-chan struct{}) error { return ix.flush(nil, stop) }

func (ix *Index) flush(giveUp <-chan time.Time, stop <-chan struct{}) error {
	if err := ix.health(); err != nil {
		return err
	}
	done, err := ix.db.AsyncFlush()
	if err != nil {
		return wrap(err, "flush")
	}
	select {
	case <-done:
	case <-ix.failed:
	case <-stop:
		return kind.Errorf(kind.Busy, "flush index: given up")
	case <-giveUp:
		return kind.Errorf(kind.Busy, "flush index: not done in time")
	}
	return ix.health()
}

// Durable is the position that the index will show after a crash now.
func (ix *Index) Durable() org.LSN {
	it, err := ix.db.NewIter(&pebble.IterOptions{
		LowerBound: appliedKey, UpperBound: after(appliedKey), OnlyReadGuaranteedDurable: true,
	})
	if err != nil {
		return 0
	}
	var row appliedRow
	if it.First() && decode(it.Value(), &row, "position") != nil {
		row.LSN = 0
	}
	if it.Close() != nil {
		return 0
	}
	return row.LSN
}

// Checkpoint writes a copy of the index, made of hard links, to dir, which
// must not exist. It is at a position between that of the call and that of the
// return, and Open opens it.
func (ix *Index) Checkpoint(dir string) error {
	if err := ix.Flush(); err != nil {
		return err
	}
	return wrap(ix.db.Checkpoint(dir), "checkpoint")
}

// Close waits for readers, flushes and closes; a flush that takes too long is
// given up, as the log has it all. Planners must be at rest.
func (ix *Index) Close() error {
	ix.mu.Lock()
	if ix.closed {
		ix.mu.Unlock()
		return nil
	}
	ix.closed = true
	ix.mu.Unlock()
	ix.readers.Wait()
	if err := ix.flush(time.After(closeFlush), nil); err != nil {
		ix.log.Warn("index is closed without a flush", "error", err)
	}
	return ix.closeDB()
}

// closeDB closes Pebble. After a fatal error its inner counts may be off,
// which it reports by panic; the files are closed by then as far as they can.
func (ix *Index) closeDB() (err error) {
	defer func() {
		if p := recover(); p != nil && ix.health() != nil {
			err = fmt.Errorf("close index: %v", p)
		} else if p != nil {
			panic(p)
		}
	}()
	return wrap(ix.db.Close(), "close")
}

// Metrics are what an index costs.
type Metrics struct {
	Memory int64 // bytes in memory tables
	Cache  int64 // bytes in the block cache, which may be shared
	Disk   int64 // bytes of files
}

// Metrics tells what the index costs now.
func (ix *Index) Metrics() Metrics {
	m := ix.db.Metrics()
	return Metrics{Memory: int64(m.MemTable.Size), Cache: m.BlockCache.Size, Disk: int64(m.DiskSpaceUsage())}
}

func corrupt(err error) bool { return pebble.IsCorruptionError(err) }

// wrap gives Pebble's errors a kind and the words of this package.
func wrap(err error, doing string) error {
	switch {
	case err == nil:
		return nil
	case corrupt(err):
		return kind.Errorf(kind.Corrupt, "%s index: %w", doing, err)
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return kind.Errorf(kind.Full, "%s index: %w", doing, err)
	}
	return fmt.Errorf("%s index: %w", doing, err)
}

// logger passes what Pebble says on. Fatal errors (a manifest that cannot be
// written) take this one index out of use instead of the process: other
// databases have other disks.
type logger struct{ ix *Index }

func (l logger) Infof(format string, args ...any) {}

func (l logger) Errorf(format string, args ...any) {
	l.ix.log.Warn("index", "error", fmt.Sprintf(format, args...))
}

func (l logger) Fatalf(format string, args ...any) {
	var cause error
	for _, a := range args {
		if err, ok := a.(error); ok {
			cause = err
		}
	}
	k := kind.Internal
	switch {
	case cause != nil && corrupt(cause):
		k = kind.Corrupt
	case errors.Is(cause, syscall.ENOSPC) || errors.Is(cause, syscall.EDQUOT):
		k = kind.Full
	}
	l.ix.fail(kind.Errorf(k, "index: %s", fmt.Sprintf(format, args...)))
}
