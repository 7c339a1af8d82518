package journal

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/lock"
	"github.com/postern-mail/postern/internal/org"
)

// DefaultSegmentSize is how much of the stream a segment file holds, in bytes.
const DefaultSegmentSize = 16 << 20

// Options of a log.
type Options struct {
	FS fsx.FS // nil: the disk of this machine
	// Identity of the database; a log that bears another is refused.
	Identity string
	// SegmentSize in bytes, 0 for DefaultSegmentSize. It may differ between
	// copies and change at any time: it decides about files, not the stream.
	SegmentSize int64
	// Reserve is what must stay free of the volume, in bytes; see Room.
	Reserve int64
	// Known is a position that is known to have been durable here (what the
	// index has applied): a log that ends before it has lost its end, which
	// no crash explains.
	Known org.LSN
	// Rest is how long after a write without another one the end of the log
	// is marked as durable (one small write and sync), 0 for one second,
	// negative for only when it is closed.
	Rest time.Duration
	Log  *slog.Logger

	foreground bool // prepare segments in the call that needs them next (tests that count operations)
}

func (o *Options) fill() error {
	if o.FS == nil {
		o.FS = fsx.OS{}
	}
	if o.SegmentSize == 0 {
		o.SegmentSize = DefaultSegmentSize
	}
	if o.Rest == 0 {
		o.Rest = time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Identity == "" || len(o.Identity) > maxIdentity {
		return kind.Errorf(kind.Invalid, "identity of %d bytes: want 1 to %d", len(o.Identity), maxIdentity)
	}
	if o.SegmentSize < BlockSize || o.SegmentSize > 1<<32 || o.SegmentSize%8 != 0 {
		return kind.Errorf(kind.Invalid, "segment size %d: want a multiple of 8 from %d to %d", o.SegmentSize, BlockSize, int64(1)<<32)
	}
	return nil
}

// Damage is a range of the log that is not what was written.
type Damage struct {
	From org.LSN
	To   org.LSN // where the next record begins; From where that is not known
	Err  error
}

// Log is the log of one copy of a database. All methods may be called
// concurrently; those that change it wait for each other.
//
// Locks, in the order they are taken: mend, wmu, mu, and then the small ones.
type Log struct {
	dir string
	fs  fsx.FS
	o   Options
	log *slog.Logger
	// seed is the checksum of the identity. What a disk notes of records
	// begins its checksums with it, so a message that looks like a piece of
	// log cannot be taken for one.
	seed uint32

	mend lock.Mutex // one at a time of Punch, Repair, Cut, DropBefore, Begin

	wmu  lock.Mutex // one writer; guards tail
	tail tail

	mu     sync.RWMutex // guards the fields below; held for reading during each read of a file
	segs   []*segment   // by start; empty only before the first write
	end    Position
	failed error
	closed bool
	epoch  uint64 // grows when bytes before the end may have changed
	recent []Position

	spares   spares
	handles  handles
	syncs    atomic.Uint64
	busy     atomic.Int64  // since when a write waits for the disk, Unix nanoseconds; 0: none does
	verified lru[struct{}] // bodies whose checksum was right
	known    lru[Position] // positions found by walking

	dmu     sync.Mutex // guards damaged
	damaged []Damage

	gmu sync.Mutex // guards segment.gens
}

// maxDamaged limits what Damaged lists.
const maxDamaged = 1024

// maxRecent is how many of the last positions are kept in memory.
const maxRecent = 1024

// Open opens the log in dir, an empty one if there is none. What a crash left
// of the last write is completed or cut off; damage is never cut off: the log
// opens with the range listed by Damaged, or, where the records behind it
// cannot be found, Open fails with kind.Corrupt. A log of another identity or
// a newer format is kind.Invalid.
func Open(dir string, o Options) (*Log, error) {
	if err := o.fill(); err != nil {
		return nil, fmt.Errorf("open log %s: %w", dir, err)
	}
	l := &Log{dir: dir, fs: o.FS, o: o, log: o.Log, seed: checksum([]byte(o.Identity))}
	l.verified.max, l.known.max = 4096, 64
	if err := l.recover(); err != nil {
		l.release()
		return nil, fmt.Errorf("open log %s: %w", dir, err)
	}
	return l, nil
}

// Begin makes an empty log begin at a position other than zero, before a copy
// of the database is seeded with a log whose beginning was dropped. A log
// that has records, or had, is kind.Conflict.
func (l *Log) Begin(at Position) error {
	l.mend.Lock()
	defer l.mend.Unlock()
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if err := l.Failed(); err != nil {
		return err
	}
	if l.End() == at && len(l.segs) > 0 {
		return nil
	}
	if len(l.segs) > 0 || l.End() != (Position{}) {
		return kind.Errorf(kind.Conflict, "begin log at %v: it has records up to %v", at, l.End())
	}
	if at.LSN%8 != 0 {
		return kind.Errorf(kind.Invalid, "begin log at %v: not a multiple of 8", at)
	}
	l.mu.Lock()
	l.end = at
	l.recent = append(l.recent[:0], at)
	l.mu.Unlock()
	if err := l.advance(at, l.o.SegmentSize, nil); err != nil {
		return l.fail(fmt.Errorf("begin log at %v: %w", at, err))
	}
	return nil
}

// Start returns the first position still there.
func (l *Log) Start() org.LSN {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.startLocked()
}

func (l *Log) startLocked() org.LSN {
	if len(l.segs) == 0 {
		return l.end.LSN
	}
	return l.segs[0].start
}

// End returns the end of what is durable.
func (l *Log) End() Position {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.end
}

// Failed returns the error that ended writing for good, nil while it goes on.
// What was durable can still be read.
func (l *Log) Failed() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return kind.Errorf(kind.Internal, "log %s is closed", l.dir)
	}
	return l.failed
}

// fail records the first error that ends writing and returns it.
func (l *Log) fail(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed == nil {
		l.failed = err
	}
	return err
}

// Damaged lists the ranges known to be damaged, at most 1024 of them: found
// when the log was opened, when they were read, or by Scrub. Repair mends them.
func (l *Log) Damaged() []Damage {
	l.dmu.Lock()
	defer l.dmu.Unlock()
	return append([]Damage(nil), l.damaged...)
}

func (l *Log) addDamage(d Damage) {
	l.dmu.Lock()
	defer l.dmu.Unlock()
	for _, o := range l.damaged {
		if o.From == d.From {
			return
		}
	}
	if len(l.damaged) < maxDamaged {
		l.damaged = append(l.damaged, d)
	}
}

// mendedDamage forgets damage inside a range.
func (l *Log) mendedDamage(from, to org.LSN) {
	l.dmu.Lock()
	defer l.dmu.Unlock()
	keep := l.damaged[:0]
	for _, d := range l.damaged {
		if d.From < from || d.From >= to {
			keep = append(keep, d)
		}
	}
	l.damaged = keep
}

// Used returns the bytes the segments take on the disk, about.
func (l *Log) Used() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var n int64
	for _, s := range l.segs {
		n += s.used
	}
	return n
}

// Syncs counts the syncs of segment files since the log was opened.
func (l *Log) Syncs() uint64 { return l.syncs.Load() }

// Stalled tells how long the write that is under way has waited for the disk,
// 0 when there is none. It never waits itself.
func (l *Log) Stalled() time.Duration {
	if at := l.busy.Load(); at != 0 {
		return time.Since(time.Unix(0, at))
	}
	return 0
}

// Close marks the end as durable and closes the files. A log that failed is
// closed as it is.
func (l *Log) Close() error {
	l.mend.Lock()
	defer l.mend.Unlock()
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if l.Failed() == nil {
		l.settle() // its failure is in Failed, and nothing confirmed depends on it
	}
	l.mu.Lock()
	was, failed := l.closed, l.failed
	l.closed = true
	l.mu.Unlock()
	if was {
		return nil
	}
	l.release()
	return failed
}

// release gives back files and waits for the background. Callers hold wmu, or
// are the only ones.
func (l *Log) release() {
	l.tail.close()
	l.spares.drop(l.fs)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.segs {
		if s.f != nil {
			l.handles.forget(s)
		}
	}
}

func (l *Log) path(name string) string { return filepath.Join(l.dir, name) }
