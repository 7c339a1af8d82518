package queue

import (
	"errors"
	"fmt"
	"log/slog"
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
	"github.com/postern-mail/postern/internal/mail"
)

// ledgerFormat is the version of keys and rows. A ledger of another one is
// made anew from the log.
const ledgerFormat = 1

// fileFormat is Pebble's; it moves only forward, so it is chosen.
const fileFormat = pebble.FormatColumnarBlocks

const (
	closeFlush = 5 * time.Second
	memTable   = 8 << 20
	cacheSize  = 32 << 20
)

type metaRow struct {
	Format   uint32 `cbor:"1,keyasint"`
	Identity string `cbor:"2,keyasint"`
}

// marks are how far was forgotten: everything that finished before.
type marks struct {
	Bodies  int64 `cbor:"1,keyasint"`
	History int64 `cbor:"2,keyasint"`
}

var (
	metaKey    = []byte{kLocal, 'f'}
	appliedKey = []byte{kLocal, 'p'}
	marksKey   = []byte{kLocal, 'w'}
)

// ledger is the index of the log.
type ledger struct {
	db      *pebble.DB
	log     *slog.Logger
	applied atomic.Pointer[journal.Position]
	broken  atomic.Pointer[error]
	failed  chan struct{} // closed with broken
}

// openLedger opens the ledger in dir, or makes it. What is damaged or of
// another format or queue is Corrupt: the log makes it anew.
func openLedger(dir, identity string, fs vfs.FS, log *slog.Logger) (*ledger, error) {
	l := &ledger{log: log, failed: make(chan struct{})}
	l.applied.Store(&journal.Position{})
	db, err := pebble.Open(dir, l.options(fs))
	if err != nil {
		if b := l.broken.Load(); b != nil {
			return nil, *b
		}
		if full(err) {
			return nil, kind.Errorf(kind.Full, "open ledger %s: %w", dir, err)
		}
		return nil, kind.Errorf(kind.Corrupt, "open ledger %s: %w", dir, err)
	}
	l.db = db
	if err := l.load(identity); err != nil {
		return nil, errors.Join(fmt.Errorf("open ledger %s: %w", dir, err), db.Close())
	}
	return l, nil
}

func (l *ledger) options(fs vfs.FS) *pebble.Options {
	p := &pebble.Options{
		FS:                          patient.FS(fs),
		DisableWAL:                  true,
		MemTableSize:                memTable,
		MemTableStopWritesThreshold: 4,
		MaxOpenFiles:                200,
		FormatMajorVersion:          fileFormat,
		CacheSize:                   cacheSize,
		Logger:                      pebbleLog{l},
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) { l.log.Warn("ledger background work", "error", err) },
			DataCorruption: func(i pebble.DataCorruptionInfo) {
				l.fail(kind.Errorf(kind.Corrupt, "ledger: damaged file %s: %w", i.Path, i.Details))
			},
		},
	}
	for i := range p.Levels {
		p.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		p.Levels[i].BlockSize = 8 << 10
	}
	return p
}

func (l *ledger) load(identity string) error {
	var meta metaRow
	found, err := l.read(metaKey, &meta)
	if err != nil {
		return err
	}
	if !found {
		if err := l.db.Set(metaKey, codec.MustMarshal(metaRow{ledgerFormat, identity}), pebble.NoSync); err != nil {
			return wrap(err, "create")
		}
		return l.flush(nil)
	}
	if meta.Format != ledgerFormat || meta.Identity != identity {
		return kind.Errorf(kind.Corrupt, "format %d of queue %q, want %d of %q", meta.Format, meta.Identity, ledgerFormat, identity)
	}
	var at journal.Position
	if _, err := l.read(appliedKey, &at); err != nil {
		return err
	}
	l.applied.Store(&at)
	return nil
}

// fail takes the ledger out of use: what it holds in memory may be wrong.
func (l *ledger) fail(err error) {
	if l.broken.CompareAndSwap(nil, &err) {
		close(l.failed)
		l.log.Error("ledger is out of use", "error", err)
	}
}

func (l *ledger) health() error {
	if b := l.broken.Load(); b != nil {
		return *b
	}
	return nil
}

// read decodes the value of a key into v; false if there is none.
func (l *ledger) read(key []byte, v any) (bool, error) { return read(l.db, key, v) }

func read(from pebble.Reader, key []byte, v any) (bool, error) {
	b, closer, err := from.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, wrap(err, "read")
	}
	err = codec.Unmarshal(b, v)
	if cerr := closer.Close(); cerr != nil {
		return false, wrap(cerr, "read")
	}
	if err != nil {
		return false, kind.Errorf(kind.Corrupt, "ledger row of kind %q: %w", key[0], err)
	}
	return true, nil
}

// scan goes through the keys from lo up to but not including hi until do says
// stop. Keys and values are lent.
func scan(from pebble.Reader, lo, hi []byte, do func(k, v []byte) (more bool, err error)) error {
	it, err := from.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
	if err != nil {
		return wrap(err, "read")
	}
	more := true
	for ok := it.First(); ok && more && err == nil; {
		var v []byte
		if v, err = it.ValueAndErr(); err != nil {
			err = wrap(err, "read")
			break
		}
		if more, err = do(it.Key(), v); more && err == nil {
			ok = it.Next()
		}
	}
	if cerr := it.Close(); err == nil {
		err = wrap(cerr, "read")
	}
	return err
}

// loadEntry reads a message with its rows, nil where there is none.
func loadEntry(from pebble.Reader, id mail.TraceID) (*entry, error) {
	e := &entry{stored: true}
	if found, err := read(from, idKey(kMessage, id), &e.m); err != nil || !found {
		return nil, err
	}
	if e.m.Rows > MaxRows {
		return nil, kind.Errorf(kind.Corrupt, "ledger: message %s has %d rows", id, e.m.Rows)
	}
	e.rows = make([]row, 0, e.m.Rows)
	p := idKey(kRow, id)
	err := scan(from, p, after(p), func(k, v []byte) (bool, error) {
		var r row
		if err := codec.Unmarshal(v, &r); err != nil {
			return false, kind.Errorf(kind.Corrupt, "ledger row of message %s: %w", id, err)
		}
		e.rows = append(e.rows, r)
		return len(e.rows) <= MaxRows, nil
	})
	if err == nil && len(e.rows) != e.m.Rows {
		err = kind.Errorf(kind.Corrupt, "ledger: message %s has %d rows of %d", id, len(e.rows), e.m.Rows)
	}
	if err != nil {
		return nil, err
	}
	e.jobs = e.work()
	return e, nil
}

// view calls do with a state of the ledger that does not change.
func (l *ledger) view(do func(pebble.Reader) error) error {
	if err := l.health(); err != nil {
		return err
	}
	s := l.db.NewSnapshot()
	err := do(s)
	if cerr := s.Close(); err == nil {
		err = wrap(cerr, "read")
	}
	return err
}

// commit brings a batch in together with the position it leads to.
func (l *ledger) commit(b *pebble.Batch, at journal.Position) error {
	if err := l.health(); err != nil {
		return err
	}
	if err := b.Set(appliedKey, codec.MustMarshal(at), nil); err != nil {
		return wrap(err, "write")
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return wrap(err, "write")
	}
	if err := l.health(); err != nil {
		return err
	}
	l.applied.Store(&at)
	return nil
}

// flush brings what was written to stable storage.
func (l *ledger) flush(giveUp <-chan time.Time) error {
	if err := l.health(); err != nil {
		return err
	}
	done, err := l.db.AsyncFlush()
	if err != nil {
		return wrap(err, "flush")
	}
	select {
	case <-done:
	case <-l.failed:
	case <-giveUp:
		return kind.Errorf(kind.Busy, "flush ledger: not done in time")
	}
	return l.health()
}

// close flushes, not too long as the log has it all, and closes.
func (l *ledger) close() error {
	t := time.NewTimer(closeFlush)
	defer t.Stop()
	if err := l.flush(t.C); err != nil {
		l.log.Warn("ledger is closed without a flush", "error", err)
	}
	return l.closeDB()
}

// closeDB closes Pebble, whose inner counts may be off after a fatal error,
// which it reports by panic.
func (l *ledger) closeDB() (err error) {
	defer func() {
		if p := recover(); p != nil {
			if l.health() == nil {
				panic(p)
			}
			err = fmt.Errorf("close ledger: %v", p)
		}
	}()
	return wrap(l.db.Close(), "close")
}

func full(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

func wrap(err error, doing string) error {
	switch {
	case err == nil:
		return nil
	case pebble.IsCorruptionError(err):
		return kind.Errorf(kind.Corrupt, "%s ledger: %w", doing, err)
	case full(err):
		return kind.Errorf(kind.Full, "%s ledger: %w", doing, err)
	}
	return fmt.Errorf("%s ledger: %w", doing, err)
}

// pebbleLog passes on what Pebble says; what it calls fatal takes the ledger
// out of use instead of the process.
type pebbleLog struct{ l *ledger }

func (pebbleLog) Infof(string, ...any) {}

func (p pebbleLog) Errorf(format string, args ...any) {
	p.l.log.Warn("ledger", "error", fmt.Sprintf(format, args...))
}

func (p pebbleLog) Fatalf(format string, args ...any) {
	k := kind.Internal
	for _, a := range args {
		if err, ok := a.(error); ok && pebble.IsCorruptionError(err) {
			k = kind.Corrupt
		} else if ok && full(err) {
			k = kind.Full
		}
	}
	p.l.fail(kind.Errorf(k, "ledger: %s", fmt.Sprintf(format, args...)))
}
