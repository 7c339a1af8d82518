package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sort"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// readError gives the error of a read its kind: bytes that should be there
// and are not are damage.
func readError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return kind.Errorf(kind.Corrupt, "segment file is shorter than the log says")
	}
	return err
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
	if end := l.End(); p.LSN == end.LSN { // asked once: it moves
		return p.Chain == end.Chain, nil
	}
	if p.LSN == l.Start() {
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
	_, known := l.verified.get(lsn)
	if known {
		err = l.readSegment(s, out, at+off)
	} else {
		err = l.verifyBody(s, h, out, off)
	}
	if known || err != nil {
		// It may have become a hole while it was read.
		if again, herr := l.headerAt(s, lsn, limit); herr == nil && again.mark.hole {
			return nil, kind.Errorf(kind.NotFound, "it was given back to the disk")
		}
	}
	if err != nil {
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
