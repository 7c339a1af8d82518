package queue

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sync/semaphore"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Options of a queue. What is zero has the default.
type Options struct {
	Dir         string
	FS          fsx.FS // of the log; nil: the disk
	IndexFS     vfs.FS // of the ledger; nil: the disk
	SegmentSize int64  // bytes, 64 MiB
	Reserve     int64  // bytes of the volume that stay free, 1 GiB
	MaxSize     int64  // bytes of the log, 0: no limit
	HotMemory   int64  // bytes of bodies kept in memory until they are tried, 256 MiB
	MaxMessages int64  // unfinished, 2,000,000
	// Hold is how long a finished message is kept for Safety Net, 2 days.
	Hold time.Duration
	// Retention is how long its rows are kept, 14 days; at least Hold.
	Retention time.Duration
	// Expiration is how old an unfinished message gets, 2 days. Older ones
	// are moved out of the way of what can be dropped.
	Expiration time.Duration
	Now        func() time.Time // guarded time; nil: time.Now
	Noted      func(org.Note)   // writes the recovery log, without waiting; nil: nobody
	Log        *slog.Logger
	Events     *event.Log
}

func (o *Options) fill() error {
	set := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	set(&o.SegmentSize, 64<<20)
	set(&o.Reserve, 1<<30)
	set(&o.HotMemory, 256<<20)
	set(&o.MaxMessages, 2_000_000)
	set((*int64)(&o.Hold), int64(48*time.Hour))
	set((*int64)(&o.Retention), int64(14*24*time.Hour))
	set((*int64)(&o.Expiration), int64(48*time.Hour))
	if o.FS == nil {
		o.FS = fsx.OS{}
	}
	if o.IndexFS == nil {
		o.IndexFS = vfs.Default
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case o.Dir == "":
		return kind.Errorf(kind.Invalid, "queue without a folder")
	case o.Retention < o.Hold:
		return kind.Errorf(kind.Invalid, "retention %v is shorter than the hold time %v", o.Retention, o.Hold)
	case o.MaxSize < 0 || o.HotMemory < 0 || o.MaxMessages < 0 || o.Hold < 0 || o.Reserve < 0:
		return kind.Errorf(kind.Invalid, "negative size or time")
	}
	return nil
}

// Times are how long a queue keeps what; see Options.
type Times struct{ Hold, Retention, Expiration time.Duration }

// SetTimes changes them; what is there already counts by the new ones. Invalid
// where the retention is shorter than the hold time.
func (q *Queue) SetTimes(t Times) error {
	if t.Hold <= 0 || t.Expiration <= 0 || t.Retention < t.Hold {
		return kind.Errorf(kind.Invalid, "hold time %v, retention %v, expiration %v of a queue", t.Hold, t.Retention, t.Expiration)
	}
	q.times.Store(&t)
	return nil
}

// Queue is the queue of one server. Its methods may be called from any
// goroutine; those that change it need Run.
type Queue struct {
	o        Options
	identity string
	log      *journal.Log
	book     *book
	hot      hot

	requests chan *request
	bytes    *semaphore.Weighted // of requests that wait
	stopped  chan struct{}       // closed when the writer is gone
	running  atomic.Bool
	begun    chan struct{} // closed when Run has begun
	epoch    atomic.Uint64
	open     atomic.Int64
	level    atomic.Int32
	times    atomic.Pointer[Times]
	flushed  atomic.Int64 // position up to which the ledger is on the disk
	failure  atomic.Pointer[error]

	w writer // the writer's own

	mu   sync.Mutex    // guards told
	told chan struct{} // closed when notices are owed anew
}

// manifest is the file queue.json.
type manifest struct {
	Format   int       `json:"format"`
	Identity string    `json:"identity"`
	Created  time.Time `json:"created"`
	// Begun tells that the log had its first record: from then on a folder
	// without a log is one that lost it.
	Begun bool `json:"begun"`
}

// Open opens the queue in a folder, or makes one where there is none. The
// ledger is brought up to the log; one that is damaged is made anew. Run has
// to follow. Damage of the log that cannot be passed is Corrupt; a log without
// queue.json, the reverse, and what a newer version wrote are Invalid.
func Open(o Options) (*Queue, error) {
	if err := o.fill(); err != nil {
		return nil, fmt.Errorf("open queue %s: %w", o.Dir, err)
	}
	q := &Queue{o: o, requests: make(chan *request, maxRequests), bytes: semaphore.NewWeighted(maxRequestBytes),
		stopped: make(chan struct{}), begun: make(chan struct{}), told: make(chan struct{})}
	q.hot.limit = o.HotMemory
	q.times.Store(&Times{o.Hold, o.Retention, o.Expiration})
	if err := q.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open queue %s: %w", o.Dir, err), q.release())
	}
	q.o.Events.Emit(EventOpen, "Queue %s is open with %d unfinished messages.", q.o.Dir, q.open.Load())
	return q, nil
}

func (q *Queue) load() error {
	m, err := q.manifest()
	if err != nil {
		return err
	}
	q.identity = m.Identity
	if err := q.openBoth(); err != nil {
		return err
	}
	end := q.log.End()
	if end == (journal.Position{}) && m.Begun {
		return kind.Errorf(kind.Invalid, "queue.json is there, the log is not")
	}
	q.epoch.Store(uint64(end.Term))
	if !m.Begun {
		if err := q.first(m); err != nil {
			return err
		}
	}
	q.book = newBook(q.book.led, q.log.End().LSN)
	if _, err := q.book.led.read(marksKey, &q.book.marks); err != nil {
		return err
	}
	if err := replayInto(context.Background(), q.log, q.book, q.log.End().LSN); err != nil {
		return err
	}
	if err := q.check(); err != nil {
		return err
	}
	q.flushed.Store(int64(q.log.Start()))
	q.judge()
	return nil
}

func (q *Queue) path(name string) string { return filepath.Join(q.o.Dir, name) }

// manifest reads queue.json or begins a queue in an empty folder.
func (q *Queue) manifest() (manifest, error) {
	var m manifest
	if err := q.o.FS.MkdirAll(q.path("log")); err != nil {
		return m, err
	}
	b, err := fsx.ReadFile(q.o.FS, q.path("queue.json"), 1<<16)
	if err == nil {
		if err := json.Unmarshal(b, &m); err != nil {
			return m, kind.Errorf(kind.Corrupt, "read queue.json: %w", err)
		}
		if m.Format != 1 || m.Identity == "" {
			return m, newer("queue.json of format %d", m.Format)
		}
		return m, nil
	}
	if !kind.Is(err, kind.NotFound) {
		return m, err
	}
	names, err := q.o.FS.List(q.path("log"))
	if err != nil {
		return m, err
	}
	if len(names) > 0 {
		return m, kind.WithHint(kind.Errorf(kind.Invalid, "there is a log, but no queue.json"),
			"is the volume mounted where it was? Otherwise move the folder away")
	}
	var id [16]byte
	rand.Read(id[:]) // never fails (crypto/rand)
	m = manifest{Format: 1, Identity: hex.EncodeToString(id[:]), Created: q.o.Now().UTC()}
	return m, q.saveManifest(m)
}

func (q *Queue) saveManifest(m manifest) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := fsx.WriteFile(q.o.FS, q.path("queue.json"), b); err != nil {
		return err
	}
	return q.o.FS.SyncDir(filepath.Dir(q.o.Dir))
}

// first writes the first record of a new log and notes that it is there.
func (q *Queue) first(m manifest) error {
	if q.log.End() == (journal.Position{}) {
		b, end, err := appendRecord(nil, journal.Position{}, KindEpoch, 0, q.now(), &epochRec{V: recordVersion, Identity: q.identity}, nil)
		if err != nil {
			return err
		}
		if err := q.log.Write(b, journal.Position{}, end); err != nil {
			return err
		}
	}
	m.Begun = true
	return q.saveManifest(m)
}

// openBoth opens ledger and log. A ledger that cannot be used is removed.
func (q *Queue) openBoth() error {
	led, err := openLedger(q.path("ledger"), q.identity, q.o.IndexFS, q.o.Log)
	if kind.Is(err, kind.Corrupt) {
		led, err = q.anew(err)
	}
	if err != nil {
		return err
	}
	q.book = newBook(led, 0)
	q.log, err = journal.Open(q.path("log"), journal.Options{FS: q.o.FS, Identity: q.identity, SegmentSize: q.o.SegmentSize,
		Reserve: q.o.Reserve, Known: led.applied.Load().LSN, Log: q.o.Log})
	if err != nil {
		return err
	}
	at := *led.applied.Load()
	if at == (journal.Position{}) || q.log.Contains(at) && at.LSN >= q.log.Start() {
		return nil
	}
	if err := led.closeDB(); err != nil {
		return err
	}
	led, err = q.anew(kind.Errorf(kind.Corrupt, "ledger follows the log up to %v, which is not in it", at))
	if err == nil {
		q.book.led = led
	}
	return err
}

// note has something written into the recovery log, some time.
func (q *Queue) note(action, why, seen, result string) {
	if q.o.Noted != nil {
		q.o.Noted(org.Note{Action: action, Target: "queue", Responder: "Queue", Cause: why, Result: result,
			Evidence: []org.RecoveryEvidence{{Item: "Queue", Target: "queue", Result: "found", Text: seen}}, Every: 10 * time.Minute})
	}
}

// anew begins an empty ledger.
func (q *Queue) anew(why error) (*ledger, error) {
	q.o.Events.Emit(EventRebuilt, "The ledger of queue %s is made anew from the log; rows older than the log are gone: %v.", q.o.Dir, why)
	q.note("RebuildLedger", why.Error(), "ledger of "+q.o.Dir, "the ledger is made anew from the log; rows older than the log are gone")
	q.o.Log.Error("ledger is made anew", "dir", q.o.Dir, "error", why)
	if err := q.o.IndexFS.RemoveAll(q.path("ledger")); err != nil {
		return nil, err
	}
	return openLedger(q.path("ledger"), q.identity, q.o.IndexFS, q.o.Log)
}

// replayBatch is how many bytes of records are brought into the ledger at once.
const replayBatch = 4 << 20

// replayInto brings a book up to a position of the log.
func replayInto(ctx context.Context, log *journal.Log, k *book, to org.LSN) error {
	at := *k.led.applied.Load()
	from := max(at.LSN, log.Start())
	n := 0
	for r, err := range log.Records(from, to) {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = k.replay(&r)
		}
		if err != nil {
			return err
		}
		at = r.Next()
		if n += len(r.Ops) + journal.HeaderSize; n > replayBatch {
			if err := k.commit(at); err != nil {
				return err
			}
			n = 0
		}
	}
	return k.commit(at)
}

// check counts what is unfinished, and whether the log still has its bodies.
func (q *Queue) check() error {
	var last mail.TraceID
	n, lost := int64(0), 0
	start := q.log.Start()
	err := scan(q.book.led.db, []byte{kJob}, []byte{kJob + 1}, func(k, v []byte) (bool, error) {
		j, err := decodeJob(v)
		if err != nil || len(k) < 17 {
			return false, kind.Errorf(kind.Corrupt, "ledger: job with a key of %d bytes: %w", len(k), err)
		}
		id := mail.TraceID(k[1:17])
		if id != last || n == 0 {
			n++
			if j.lsn < start {
				lost++
			}
		}
		last = id
		return true, nil
	})
	if err != nil {
		return err
	}
	if lost > 0 {
		return kind.Errorf(kind.Corrupt, "the log begins at %#x, behind %d unfinished messages", uint64(start), lost)
	}
	q.book.open = n
	q.open.Store(n)
	return nil
}

// Identity of the queue, 32 hex digits; a queue that was begun anew has another.
func (q *Queue) Identity() string { return q.identity }

// Epoch of the queue now.
func (q *Queue) Epoch() uint64 { return q.epoch.Load() }

// Failed returns the error that ended writing for good, nil while it goes on.
// What is there can still be read.
func (q *Queue) Failed() error {
	if p := q.failure.Load(); p != nil {
		return *p
	}
	return nil
}

func (q *Queue) now() int64 { return q.o.Now().UnixNano() }

// Close closes the files. Run has to be over.
func (q *Queue) Close() error { return q.release() }

func (q *Queue) release() error {
	var errs []error
	if q.book != nil {
		errs = append(errs, q.book.led.close())
	}
	if q.log != nil {
		errs = append(errs, q.log.Close())
	}
	return errors.Join(errs...)
}

// LastTime is when the newest message in the log was accepted here, zero for
// none: a clock that is behind it went back.
func (q *Queue) LastTime() (last time.Time) {
	err := q.book.led.view(func(from pebble.Reader) error {
		it, err := from.NewIter(&pebble.IterOptions{LowerBound: []byte{kMessage}, UpperBound: []byte{kMessage + 1}})
		if err != nil {
			return err
		}
		defer it.Close()
		if it.Last() && len(it.Key()) == 17 {
			last = mail.TraceID(it.Key()[1:]).Time()
		}
		return it.Error()
	})
	if err != nil {
		q.o.Log.Warn("time of the newest message is not known", "error", err)
	}
	return last
}
