package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sort"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// windowSize is how far ahead a reader of bodies reads, in bytes; who skips
// the bodies reads less, so as not to read them after all.
const windowSize = 256 << 10

func (d depth) ahead() int64 {
	switch d {
	case headers:
		return 4 << 10
	case withOps:
		return 16 << 10
	}
	return windowSize
}

// readError gives the error of a read its kind: bytes that should be there
// and are not are damage.
func readError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return kind.Errorf(kind.Corrupt, "segment file is shorter than the log says")
	}
	return err
}

// window reads the stream bytes of a segment forward through a buffer.
// Offsets are those in the stream part of the file.
type window struct {
	l     *Log
	s     *segment
	off   int64
	b     []byte
	ahead int64 // bytes read at once, 0 for windowSize
	// direct, if not nil, reads the segment from the disk itself and not
	// from the page cache, which may hold what the disk has lost.
	direct fsx.File
}

// bytes returns n bytes at off, valid until the next call. No byte at or
// beyond limit is read.
func (w *window) bytes(off, n, limit int64) ([]byte, error) {
	if off < 0 || n < 0 || off+n > limit {
		return nil, kind.Errorf(kind.Corrupt, "%d bytes at %#x reach beyond %#x", n, uint64(w.s.start)+uint64(off), uint64(w.s.start)+uint64(limit))
	}
	if off >= w.off && off+n <= w.off+int64(len(w.b)) {
		return w.b[off-w.off:][:n:n], nil
	}
	ahead := w.ahead
	if ahead == 0 {
		ahead = windowSize
	}
	want := min(max(n, ahead), limit-off)
	if w.direct != nil {
		return w.readDirect(off, n, want)
	}
	if int64(cap(w.b)) < want || cap(w.b) > 4*windowSize && want <= windowSize {
		w.b = make([]byte, want)
	}
	w.b, w.off = w.b[:want], off
	if err := w.l.readSegment(w.s, w.b, off); err != nil {
		w.b = w.b[:0]
		return nil, err
	}
	return w.b[:n:n], nil
}

// readDirect fills the window with want bytes at off, in whole blocks.
func (w *window) readDirect(off, n, want int64) ([]byte, error) {
	w.b = w.b[:0]
	from := fsx.AlignDown(off) // the header block is whole blocks too
	buf := fsx.Buffer(int(fsx.AlignUp(off+want) - from))
	k, err := w.direct.ReadAt(buf, BlockSize+from)
	if int64(k) < off+want-from {
		return nil, readError(err)
	}
	w.b, w.off = buf[off-from:][:want], off
	return w.b[:n:n], nil
}

// readSegment reads stream bytes of a segment. Callers hold mu, or are alone.
func (l *Log) readSegment(s *segment, p []byte, off int64) error {
	if err := l.acquire(s); err != nil {
		return err
	}
	defer s.rw.RUnlock()
	n, err := s.f.ReadAt(p, BlockSize+off)
	if n == len(p) {
		return nil
	}
	return readError(err)
}

// find returns the segment that holds a position and how many stream bytes of
// it may be read. Callers hold mu.
func (l *Log) find(lsn org.LSN) (*segment, int64, error) {
	switch {
	case l.closed:
		return nil, 0, kind.Errorf(kind.Internal, "log %s is closed", l.dir)
	case lsn < l.startLocked():
		return nil, 0, kind.Errorf(kind.NotFound, "log position %#x: the log begins at %#x", uint64(lsn), uint64(l.startLocked()))
	case lsn >= l.end.LSN:
		return nil, 0, kind.Errorf(kind.NotFound, "log position %#x: the log ends at %#x", uint64(lsn), uint64(l.end.LSN))
	}
	i := sort.Search(len(l.segs), func(i int) bool { return l.segs[i].start > lsn }) - 1
	return l.segs[i], int64(l.segEnd(i) - l.segs[i].start), nil
}

// segEnd is where segment i ends. Callers hold mu.
func (l *Log) segEnd(i int) org.LSN {
	if i+1 < len(l.segs) {
		return min(l.segs[i+1].start, l.end.LSN)
	}
	return l.end.LSN
}

// walker goes through the log record by record.
type walker struct {
	l      *Log
	at     Position // of the next record
	linked bool     // at.Chain and at.Term are known
	win    window
	epoch  uint64
	// direct has it read past the page cache; close it then.
	direct bool
}

// enter makes s the segment it reads. Callers hold mu.
func (w *walker) enter(s *segment) error {
	w.close()
	w.win, w.epoch = window{l: w.l, s: s}, w.l.epoch
	if !w.direct {
		return nil
	}
	f, err := w.l.fs.OpenFile(s.path, fsx.Direct)
	w.win.direct = f
	return err
}

// close gives back the file of a direct walker.
func (w *walker) close() {
	if w.win.direct != nil {
		w.win.direct.Close()
		w.win.direct = nil
	}
	w.win.s = nil
}

// what a walker reads of each record besides the header.
type depth uint8

const (
	headers depth = iota
	withOps
	withBody // and padding
)

// raw is a record as it is on the disk, valid until the walker goes on.
type raw struct {
	h    header
	head []byte // stamped
	ops  []byte
	body []byte // nil: not asked for, or a hole
}

// next reads the record at w.at and goes behind it. A record that is damaged
// is kind.Corrupt and the walker stays.
func (w *walker) next(d depth) (raw, error) {
	l := w.l
	l.mu.RLock()
	defer l.mu.RUnlock()
	s, limit, err := l.find(w.at.LSN)
	if err != nil {
		return raw{}, err
	}
	if w.win.s != s || w.epoch != l.epoch {
		if err := w.enter(s); err != nil {
			return raw{}, err
		}
	}
	w.win.ahead = d.ahead()
	r, err := w.win.record(w.at, w.linked, limit, d)
	if err != nil && d == withBody && r.h.body > 0 {
		// Its body may have been punched after the window was filled.
		w.win.b = w.win.b[:0]
		r, err = w.win.record(w.at, w.linked, limit, d)
	}
	if err != nil {
		if kind.Is(err, kind.Corrupt) && w.linked { // else it may be no boundary
			d := Damage{w.at.LSN, w.at.LSN, err}
			if r.h.lsn == w.at.LSN && r.h.crc != 0 {
				d.To = r.h.end()
			}
			l.addDamage(d)
		}
		return r, fmt.Errorf("log record at %#x: %w", uint64(w.at.LSN), err)
	}
	w.at, w.linked = r.h.next(), true
	return r, nil
}

// record reads and checks the record at a position. The header is valid also
// where only ops or body are damaged.
func (w *window) record(at Position, linked bool, limit int64, d depth) (raw, error) {
	off := int64(at.LSN - w.s.start)
	b, err := w.bytes(off, HeaderSize, limit)
	if err != nil {
		return raw{}, err
	}
	h, err := parseHeader(b, w.l.seed)
	if err != nil {
		return raw{}, err
	}
	if !linked {
		at.Chain, at.Term = h.prev, 0
	}
	if err := h.follows(at); err != nil {
		return raw{}, err
	}
	if off+h.size() > limit {
		return raw{}, kind.Errorf(kind.Corrupt, "record of %d bytes reaches beyond its segment", h.size())
	}
	r := raw{h: h, head: bytes.Clone(b)}
	n := int64(HeaderSize)
	switch {
	case d == withBody && !h.mark.hole:
		n = h.size()
	case d >= withOps:
		n = h.bodyAt()
	}
	if b, err = w.bytes(off, n, limit); err != nil {
		return raw{h: h}, err
	}
	if d >= withOps {
		r.ops = b[HeaderSize:h.bodyAt():h.bodyAt()]
		if err := h.checkOps(r.ops); err != nil {
			return raw{h: h}, err
		}
	}
	if n == h.size() && d == withBody {
		end := h.bodyAt() + int64(h.body)
		r.body = b[h.bodyAt():end:end]
		if err := h.checkBody(r.body); err != nil {
			return raw{h: h}, err
		}
		return r, h.checkPad(b[end:])
	}
	return r, nil
}

// Records goes through the records from from, which is a boundary between
// records (usually one remembered from Record.Next), up to but not including
// to, or the end. Headers, links and operations are verified; Body is nil. It
// ends after an error: kind.NotFound where the log does not reach,
// kind.Corrupt for damage.
func (l *Log) Records(from, to org.LSN) iter.Seq2[Record, error] {
	return l.records(from, to, withOps)
}

// RecordsWithBodies is Records with Body filled and verified where it is not
// a hole.
func (l *Log) RecordsWithBodies(from, to org.LSN) iter.Seq2[Record, error] {
	return l.records(from, to, withBody)
}

func (l *Log) records(from, to org.LSN, d depth) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		w := l.walk(from)
		for w.at.LSN < to && w.at.LSN < l.End().LSN {
			r, err := w.next(d)
			if err != nil {
				yield(Record{}, err)
				return
			}
			rec := r.h.record()
			rec.Ops = bytes.Clone(r.ops)
			rec.Body = bytes.Clone(r.body)
			if !yield(rec, nil) {
				return
			}
		}
	}
}

// walk begins at a boundary; it knows the link if that costs nothing.
func (l *Log) walk(from org.LSN) *walker {
	w := &walker{l: l, at: Position{LSN: from}}
	if p, ok := l.cheap(from); ok {
		w.at, w.linked = p, true
	}
	return w
}

// cheap returns the position at a boundary if it is in memory.
func (l *Log) cheap(lsn org.LSN) (Position, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	i := sort.Search(len(l.recent), func(i int) bool { return l.recent[i].LSN >= lsn })
	if i < len(l.recent) && l.recent[i].LSN == lsn {
		return l.recent[i], true
	}
	return l.known.get(lsn)
}

// position returns the position at a boundary, walking to it from the
// beginning of its segment if it must.
func (l *Log) position(lsn org.LSN) (Position, error) {
	if p, ok := l.cheap(lsn); ok {
		return p, nil
	}
	p, err := l.segmentStart(lsn)
	if err != nil {
		return p, err
	}
	if p, err = l.walkTo(p, lsn); err != nil {
		return p, err
	}
	l.known.add(lsn, p)
	return p, nil
}

// walkTo goes from a boundary to another one.
func (l *Log) walkTo(p Position, lsn org.LSN) (Position, error) {
	w := &walker{l: l, at: p, linked: true}
	for w.at.LSN < lsn {
		if _, err := w.next(headers); err != nil {
			return w.at, err
		}
	}
	if w.at.LSN != lsn {
		return w.at, kind.Errorf(kind.NotFound, "log position %#x is inside a record", uint64(lsn))
	}
	return w.at, nil
}

// segmentStart returns the position at the beginning of the segment that
// holds lsn (which may be the end).
func (l *Log) segmentStart(lsn org.LSN) (Position, error) {
	l.mu.RLock()
	if l.end.LSN == lsn {
		defer l.mu.RUnlock()
		return l.end, nil
	}
	s, _, err := l.find(lsn)
	if err != nil {
		l.mu.RUnlock()
		return Position{}, err
	}
	b, err := l.readBlock(s)
	i := slices.Index(l.segs, s)
	var before *segment
	if i > 0 {
		before = l.segs[i-1]
	}
	l.mu.RUnlock()
	if kind.Is(err, kind.Corrupt) {
		if p, derr := l.derive(s, before); derr == nil {
			return p, nil // Scrub makes the header anew
		}
	}
	return b.from, err
}

// derive finds where a segment begins without its header block, which is
// damaged: by walking the segment before, or, for the first one, from what its
// first record says it follows.
func (l *Log) derive(s, before *segment) (Position, error) {
	if s.start == 0 {
		return Position{}, nil
	}
	if before != nil {
		p, err := l.segmentStart(before.start)
		if err != nil {
			return p, err
		}
		return l.walkTo(p, s.start)
	}
	b := make([]byte, HeaderSize)
	l.mu.RLock()
	defer l.mu.RUnlock()
	if err := l.readSegment(s, b, 0); err != nil {
		return Position{}, err
	}
	h, err := parseHeader(b, l.seed)
	if err != nil {
		return Position{}, err
	}
	if h.lsn != s.start || !h.mark.ok { // the mark proves whose log it is
		return Position{}, kind.Errorf(kind.Corrupt, "first record of %s is damaged too", s.path)
	}
	// The term before is not known: not above this one, and the link tells
	// histories apart.
	return Position{h.lsn, h.prev, h.term}, nil
}

// Contains tells whether p is a boundary in this log with the same history
// before it.
func (l *Log) Contains(p Position) bool {
	q, err := l.contains(p)
	return err == nil && q
}

func (l *Log) contains(p Position) (bool, error) {
	if p.LSN == l.End().LSN || p.LSN == l.Start() {
		q, err := l.segmentStart(p.LSN)
		return q.LSN == p.LSN && q.Chain == p.Chain, err
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	s, limit, err := l.find(p.LSN)
	if err != nil {
		return false, err
	}
	w := window{l: l, s: s}
	b, err := w.bytes(int64(p.LSN-s.start), HeaderSize, min(limit, int64(p.LSN-s.start)+HeaderSize))
	if err != nil {
		return false, err
	}
	h, err := parseHeader(b, l.seed)
	return err == nil && h.follows(p) == nil, err
}

// Body returns n bytes at off of the body of the record at lsn, to its end if
// n is 0. The body is verified, all of it when it was not lately. A body that
// is damaged is kind.Corrupt, one that was punched, or dropped with its
// segment, kind.NotFound; a range outside of it kind.Invalid.
func (l *Log) Body(lsn org.LSN, off, n int64) ([]byte, error) {
	b, err := l.body(lsn, off, n)
	if err != nil {
		return nil, fmt.Errorf("body at log position %#x: %w", uint64(lsn), err)
	}
	return b, nil
}

func (l *Log) body(lsn org.LSN, off, n int64) ([]byte, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	s, limit, err := l.find(lsn)
	if err != nil {
		return nil, err
	}
	h, err := l.headerAt(s, lsn, limit)
	if err != nil {
		return nil, err
	}
	if off < 0 || n < 0 || off > int64(h.body) || n > int64(h.body)-off {
		return nil, kind.Errorf(kind.Invalid, "%d bytes at %d of %d", n, off, h.body)
	}
	if h.mark.hole {
		return nil, kind.Errorf(kind.NotFound, "it was given back to the disk")
	}
	if n == 0 {
		n = int64(h.body) - off
	}
	out := make([]byte, n)
	at := int64(h.bodyLSN() - s.start)
	if _, ok := l.verified.get(lsn); ok {
		return out, l.readSegment(s, out, at+off)
	}
	if err := l.verifyBody(s, h, out, off); err != nil {
		if again, herr := l.headerAt(s, lsn, limit); herr == nil && again.mark.hole {
			return nil, kind.Errorf(kind.NotFound, "it was given back to the disk")
		}
		if kind.Is(err, kind.Corrupt) {
			l.addDamage(Damage{lsn, h.end(), err})
		}
		return nil, err
	}
	l.verified.add(lsn, struct{}{})
	return out, nil
}

// headerAt reads the header at a boundary. Callers hold mu.
func (l *Log) headerAt(s *segment, lsn org.LSN, limit int64) (header, error) {
	off := int64(lsn - s.start)
	if off+HeaderSize > limit {
		return header{}, kind.Errorf(kind.NotFound, "no record begins there")
	}
	b := make([]byte, HeaderSize)
	if err := l.readSegment(s, b, off); err != nil {
		return header{}, err
	}
	h, err := parseHeader(b, l.seed)
	if err != nil {
		return h, err
	}
	if h.lsn != lsn || off+h.size() > limit {
		return h, kind.Errorf(kind.Corrupt, "its header belongs elsewhere")
	}
	return h, nil
}

// verifyBody reads the whole body in pieces, checks it, and copies the range
// at off to out.
func (l *Log) verifyBody(s *segment, h header, out []byte, off int64) error {
	at := int64(h.bodyLSN() - s.start)
	if int64(len(out)) == int64(h.body) {
		if err := l.readSegment(s, out, at); err != nil {
			return err
		}
		return h.checkBody(out)
	}
	var crc uint32
	buf := make([]byte, min(windowSize, h.body))
	for done := int64(0); done < int64(h.body); {
		p := buf[:min(int64(len(buf)), int64(h.body)-done)]
		if err := l.readSegment(s, p, at+done); err != nil {
			return err
		}
		crc = update(crc, p)
		overlap(out, off, p, done)
		done += int64(len(p))
	}
	if crc != h.bodyCRC {
		return kind.Errorf(kind.Corrupt, "checksum %08x, want %08x", crc, h.bodyCRC)
	}
	return nil
}

// overlap copies what src, at offset soff, has of dst, at offset doff.
func overlap(dst []byte, doff int64, src []byte, soff int64) {
	if d := soff - doff; d >= 0 {
		if d < int64(len(dst)) {
			copy(dst[d:], src)
		}
	} else if -d < int64(len(src)) {
		copy(dst, src[-d:])
	}
}
