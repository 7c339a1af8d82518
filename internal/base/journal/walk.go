package journal

import (
	"bytes"
	"fmt"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
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
