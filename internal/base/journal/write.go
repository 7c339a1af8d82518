package journal

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// bufferSize is how much is written at once, in bytes. A batch that is larger
// needs more than one write, still one sync.
const bufferSize = 4 << 20

// tail is where the log is written: the last segment, open for writing.
//
// The stream has no padding between batches, but a direct write is made of
// whole blocks. So the last block, when it is not full, stays in memory and is
// written again with the next batch in front. A torn rewrite does no harm: in
// each sector the old bytes are the same in the old and in the new write, so
// whichever of the two a sector keeps, what was durable reads the same.
type tail struct {
	s    *segment // nil: no segment yet
	f    fsx.File
	buf  []byte // aligned; begins with the last partial block
	n    int    // bytes in buf
	at   int64  // file offset of buf[0], aligned
	rest *time.Timer
	// marked tells that an end mark is on the disk behind the end.
	marked bool
}

func (t *tail) close() {
	if t.rest != nil {
		t.rest.Stop()
	}
	if t.f != nil {
		t.f.Close() // everything confirmed was synced
		t.f = nil
	}
	t.s = nil
}

// set makes f, whose durable bytes end at file offset end, the tail. part are
// the bytes of the last block.
func (t *tail) set(s *segment, f fsx.File, end int64, part []byte) {
	if t.f != nil {
		t.f.Close()
	}
	if t.buf == nil {
		t.buf = fsx.Buffer(bufferSize)
	}
	t.s, t.f, t.at, t.marked = s, f, fsx.AlignDown(end), false
	t.n = copy(t.buf, part)
}

// add appends p to what is to be written.
func (t *tail) add(p []byte) error {
	for len(p) > 0 {
		n := copy(t.buf[t.n:], p)
		t.n += n
		p = p[n:]
		if t.n == len(t.buf) {
			if err := t.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush writes what was added, the last block filled with zeros, and keeps
// that block.
func (t *tail) flush() error {
	full := int(fsx.AlignUp(int64(t.n)))
	clear(t.buf[t.n:full])
	if full > 0 {
		if _, err := t.f.WriteAt(t.buf[:full], t.at); err != nil {
			return err
		}
	}
	keep := int(fsx.AlignDown(int64(t.n)))
	copy(t.buf, t.buf[keep:t.n])
	t.n, t.at = t.n-keep, t.at+int64(keep)
	return nil
}

// skip leaves n bytes as they are on the disk, zeros: the body of a record
// that is a hole. Its whole blocks are given back.
func (t *tail) skip(n int64) error {
	pos := t.at + int64(t.n)
	first, last := fsx.AlignUp(pos), fsx.AlignDown(pos+n)
	if last <= first {
		return t.zeros(n)
	}
	if err := t.zeros(first - pos); err != nil {
		return err
	}
	if err := t.flush(); err != nil { // n is 0 now: pos was brought to a block
		return err
	}
	if err := t.f.PunchHole(first, last-first); err != nil {
		return err
	}
	t.at = last
	return t.zeros(pos + n - last)
}

func (t *tail) zeros(n int64) error {
	var z [fsx.Align]byte
	for n > 0 {
		k := min(n, int64(len(z)))
		if err := t.add(z[:k]); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// item is a record to be written.
type item struct {
	h    header
	raw  []byte // with a hole: header and operations only
	hole bool
}

// batch is what one Write or WriteChunk brings, cut into segments.
type batch struct {
	from  Position
	parts []part
}

// part goes to one segment.
type part struct {
	at       Position
	fresh    bool  // begins a segment
	capacity int64 // of that segment
	items    []item
}

// plan cuts records into segments. A record never spans two; one larger than
// a segment gets its own.
func (l *Log) plan(at Position, items []item) batch {
	b := batch{from: at}
	var room int64
	if s := l.tail.s; s != nil {
		room = s.capacity - int64(at.LSN-s.start)
	}
	p := part{at: at, fresh: l.tail.s == nil, capacity: l.o.SegmentSize}
	if p.fresh {
		p.capacity = max(l.o.SegmentSize, items[0].h.size())
		room = p.capacity
	}
	for _, it := range items {
		if it.h.size() > room {
			if len(p.items) > 0 {
				b.parts = append(b.parts, p)
			}
			room = max(l.o.SegmentSize, it.h.size())
			p = part{at: at, fresh: true, capacity: room}
		}
		p.items = append(p.items, it)
		room -= it.h.size()
		at = it.h.next()
	}
	b.parts = append(b.parts, p)
	return b
}

// Write appends batch, a run of records made by AppendRecord from the
// position from, which is the end, to end. On return they are durable.
//
// kind.Conflict and kind.Invalid mean that nothing was done because the batch
// does not belong there; kind.Full that nothing was done because there is no
// space (Room was not asked, or the batch is larger than a segment): the log
// stays as it was. After any other error the log has failed for good.
func (l *Log) Write(batch []byte, from, end Position) error {
	defer l.lockToWrite()()
	if err := l.writable(from); err != nil {
		return err
	}
	at, items := from, []item(nil)
	for rest := batch; len(rest) > 0; {
		h, raw, err := nextRaw(rest)
		if err == nil {
			err = h.follows(at)
		}
		if err != nil {
			return kind.Errorf(kind.Invalid, "write log at %#x: %w", uint64(at.LSN), err)
		}
		items = append(items, item{h: h, raw: raw})
		at, rest = h.next(), rest[len(raw):]
	}
	if at != end {
		return kind.Errorf(kind.Invalid, "write log at %v: batch ends at %v, not %v", from, at, end)
	}
	return l.store(from, items, end)
}

// lockToWrite takes wmu; what it returns gives it back. Stalled counts from here,
// as a disk may hang in what somebody else does under the lock.
func (l *Log) lockToWrite() (unlock func()) {
	l.busy.Store(time.Now().UnixNano())
	l.wmu.Lock()
	return func() {
		l.busy.Store(0)
		l.wmu.Unlock()
	}
}

// writable checks that the log takes writes and ends at from.
func (l *Log) writable(from Position) error {
	if err := l.Failed(); err != nil {
		return err
	}
	if e := l.End(); e != from {
		return kind.Errorf(kind.Conflict, "write log at %v: it ends at %v", from, e)
	}
	return nil
}

// store writes checked records. Callers hold wmu.
func (l *Log) store(from Position, items []item, end Position) error {
	if len(items) == 0 {
		return nil
	}
	b := l.plan(from, items)
	files, err := l.takeAll(b)
	if err != nil {
		return fmt.Errorf("write log at %v: %w", from, err)
	}
	for i := range b.parts {
		if err := l.storePart(b, i, files[i]); err != nil {
			for _, s := range files[i+1:] {
				if s != nil {
					s.drop(l.fs)
				}
			}
			return l.fail(fmt.Errorf("write log at %v: %w", from, err))
		}
	}
	l.publish(items, end)
	l.prepare()
	l.restLater()
	return nil
}

// takeAll finds the space for all segments of a batch before anything is
// written: either it has room for all of it or nothing is begun.
func (l *Log) takeAll(b batch) ([]*spare, error) {
	files := make([]*spare, len(b.parts))
	for i, p := range b.parts {
		if !p.fresh {
			continue
		}
		s, err := l.take(p.capacity)
		if err != nil {
			for _, s := range files {
				if s != nil {
					s.drop(l.fs)
				}
			}
			return nil, err
		}
		files[i] = s
	}
	return files, nil
}

func (l *Log) storePart(b batch, i int, file *spare) error {
	p := b.parts[i]
	if file != nil {
		return l.advanceTo(p.at, file, func() error { return l.addItems(b.from.LSN, p.items) })
	}
	if err := l.addItems(b.from.LSN, p.items); err != nil {
		return err
	}
	return l.sync()
}

// addItems adds records of a write that began at since.
func (l *Log) addItems(since org.LSN, items []item) error {
	var head [HeaderSize]byte
	for _, it := range items {
		copy(head[:], it.raw)
		stamp(head[:], l.seed, int64(it.h.lsn-since), it.hole)
		if err := l.tail.add(head[:]); err != nil {
			return err
		}
		if err := l.tail.add(it.raw[HeaderSize:]); err != nil {
			return err
		}
		if !it.hole {
			continue
		}
		if err := l.tail.skip(int64(it.h.body)); err != nil {
			return err
		}
		if err := l.tail.zeros(int64(it.h.padding())); err != nil {
			return err
		}
	}
	l.tail.marked = false
	return l.tail.flush()
}

func (l *Log) sync() error {
	l.syncs.Add(1)
	return l.tail.f.Sync()
}

// advance begins a segment at a position. fill, if not nil, adds its first
// bytes.
func (l *Log) advance(at Position, capacity int64, fill func() error) error {
	s, err := l.take(capacity)
	if err != nil {
		return err
	}
	return l.advanceTo(at, s, fill)
}

// advanceTo turns file into the segment that begins at a position. It gets
// its name when what it holds is durable, so a segment that can be seen is
// whole, and everything before it as well.
func (l *Log) advanceTo(at Position, file *spare, fill func() error) error {
	old := l.tail.s
	s := l.newSegment(at.LSN, file.capacity)
	head := make([]byte, BlockSize)
	block{identity: l.o.Identity, from: at, capacity: file.capacity}.encode(head)
	oldFile := l.tail.f
	l.tail.f = nil
	l.tail.set(s, file.f, 0, nil)
	if oldFile != nil {
		// What the last segment did not need goes back to the disk. Nothing
		// depends on it.
		if err := oldFile.Truncate(fsx.AlignUp(BlockSize + int64(at.LSN-old.start))); err != nil {
			l.log.Warn("log segment not shortened", "path", old.path, "err", err)
		}
		oldFile.Close()
	}
	if err := l.tail.add(head); err != nil {
		return err
	}
	if fill != nil {
		if err := fill(); err != nil {
			return err
		}
	}
	if err := l.tail.flush(); err != nil {
		return err
	}
	if err := l.sync(); err != nil {
		return err
	}
	if err := l.fs.Rename(file.path, s.path); err != nil {
		return err
	}
	if err := l.fs.SyncDir(filepath.Dir(s.path)); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if old != nil && old.start == s.start {
		// It was empty (left so by Cut) and too small: the new one has
		// taken its name.
		l.handles.forget(old)
		l.segs = l.segs[:len(l.segs)-1]
	} else if old != nil {
		old.used = min(old.used, fsx.AlignUp(BlockSize+int64(at.LSN-old.start)))
	}
	s.used = fileSize(s.capacity)
	l.segs = append(l.segs, s)
	return nil
}

// publish lets readers see what is durable now.
func (l *Log) publish(items []item, end Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, it := range items {
		l.remember(it.h.next())
	}
	l.end = end
}

// remember keeps a position for Landmarks. Callers hold mu.
func (l *Log) remember(p Position) {
	if len(l.recent) >= 2*maxRecent {
		l.recent = append(l.recent[:0], l.recent[maxRecent:]...)
	}
	l.recent = append(l.recent, p)
}

// restLater has the end marked when no other write comes.
func (l *Log) restLater() {
	if l.o.Rest < 0 {
		return
	}
	if l.tail.rest == nil {
		l.tail.rest = time.AfterFunc(l.o.Rest, func() { l.Settle() })
		return
	}
	l.tail.rest.Reset(l.o.Rest)
}

// Settle marks the end of the log as durable; it does so by itself when the
// log rests and when it is closed. See the end mark in segment.go.
func (l *Log) Settle() error {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if err := l.Failed(); err != nil {
		return err
	}
	return l.settle()
}

func (l *Log) settle() error {
	t := &l.tail
	if t.s == nil || t.marked {
		return nil
	}
	n := t.n
	var m [endMarkSize]byte
	encodeEnd(m[:], l.seed, l.End())
	copy(t.buf[n:], m[:])
	full := fsx.AlignUp(int64(n + endMarkSize))
	clear(t.buf[n+endMarkSize : full])
	if _, err := t.f.WriteAt(t.buf[:full], t.at); err != nil {
		return l.fail(fmt.Errorf("mark end of log: %w", err))
	}
	if err := l.sync(); err != nil {
		return l.fail(fmt.Errorf("mark end of log: %w", err))
	}
	t.marked = true
	return nil
}
