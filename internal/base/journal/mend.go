package journal

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// patch is bytes to be changed in place, at an offset of a file.
type patch struct {
	off  int64
	data []byte
}

// rewriteInPlace applies patches to the file of a segment and syncs it. The
// blocks around them are written whole, with the bytes they have: a torn
// write changes nothing else. Where f is the tail's file, t is the tail, whose
// last block in memory follows; nil otherwise.
func (l *Log) rewriteInPlace(f fsx.File, t *tail, patches []patch) error {
	for _, p := range patches {
		from, to := fsx.AlignDown(p.off), fsx.AlignUp(p.off+int64(len(p.data)))
		buf := fsx.Buffer(int(to - from))
		if n, err := f.ReadAt(buf, from); err != nil && int64(n) < p.off-from {
			return readError(err)
		}
		copy(buf[p.off-from:], p.data)
		if _, err := f.WriteAt(buf, from); err != nil {
			return err
		}
		if t != nil {
			overlap(t.buf[:t.n], t.at, p.data, p.off)
		}
	}
	l.syncs.Add(1)
	return f.Sync()
}

// withFile calls do with a segment's file open for writing. The writer waits
// if it is the last one. Callers hold mend, so the segment stays.
func (l *Log) withFile(s *segment, do func(f fsx.File, t *tail) error) error {
	l.wmu.Lock()
	if l.tail.s == s {
		defer l.wmu.Unlock()
		err := do(l.tail.f, &l.tail)
		if err != nil {
			return l.fail(err)
		}
		return nil
	}
	l.wmu.Unlock()
	f, err := l.fs.OpenFile(s.path, fsx.Write|fsx.Direct)
	if err != nil {
		return err
	}
	err = do(f, nil)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// hole is a body to be given back.
type hole struct {
	h         header
	head      int64 // file offset of the header
	off, size int64 // whole blocks inside of the body, in the file
}

// Punch gives the space of the bodies of the records at lsns back to the
// disk: the whole 4096-byte blocks inside of them; a body with none stays as
// it is. That they are holes is durable before they become so; how much of
// the space is back after a crash is left open. Many at once cost one sync per
// segment. kind.NotFound if a position is not a record of the log.
func (l *Log) Punch(lsns ...org.LSN) error {
	l.mend.Lock()
	defer l.mend.Unlock()
	if err := l.Failed(); err != nil {
		return err
	}
	bySegment := map[*segment][]hole{}
	var order []*segment
	for _, lsn := range lsns {
		s, h, err := l.holeAt(lsn)
		if err != nil {
			return fmt.Errorf("punch body at %#x: %w", uint64(lsn), err)
		}
		if h.size == 0 || h.h.mark.hole {
			continue
		}
		if bySegment[s] == nil {
			order = append(order, s)
		}
		bySegment[s] = append(bySegment[s], h)
	}
	for _, s := range order {
		if err := l.punch(s, bySegment[s]); err != nil {
			return fmt.Errorf("punch bodies in %s: %w", s.path, err)
		}
	}
	return nil
}

func (l *Log) holeAt(lsn org.LSN) (*segment, hole, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	s, limit, err := l.find(lsn)
	if err != nil {
		return nil, hole{}, err
	}
	h, err := l.headerAt(s, lsn, limit)
	if err != nil {
		return nil, hole{}, err
	}
	head := BlockSize + int64(lsn-s.start)
	body := head + h.bodyAt()
	out := hole{h: h, head: head, off: fsx.AlignUp(body)}
	out.size = max(0, fsx.AlignDown(body+int64(h.body))-out.off)
	return s, out, nil
}

func (l *Log) punch(s *segment, holes []hole) error {
	return l.withFile(s, func(f fsx.File, t *tail) error {
		var patches []patch
		var freed int64
		for _, h := range holes {
			m := markBytes(h.h.crc, l.seed, h.h.mark.since, true)
			patches = append(patches, patch{h.head + atMark, m[:]})
		}
		if err := l.rewriteInPlace(f, t, patches); err != nil {
			return err
		}
		for _, h := range holes {
			if err := f.PunchHole(h.off, h.size); err != nil {
				return err
			}
			freed += h.size // never in the tail's last block: that is not whole
		}
		l.mu.Lock()
		s.used = max(0, s.used-freed)
		l.mu.Unlock()
		return nil
	})
}

// restamp makes the mark of a sound record anew: what is before the end was
// durable, and a dead body may be a hole.
func (l *Log) restamp(h header, hole bool) error {
	l.mend.Lock()
	defer l.mend.Unlock()
	s, now, err := l.holeAt(h.lsn)
	if err != nil || now.h.crc != h.crc || now.h.mark.ok {
		return err
	}
	l.log.Error("mark of a log record is damaged, made anew", "dir", l.dir, "at", h.lsn)
	m := markBytes(h.crc, l.seed, 0, hole)
	return l.withFile(s, func(f fsx.File, t *tail) error {
		return l.rewriteInPlace(f, t, []patch{{now.head + atMark, m[:]}})
	})
}

// RawRecord returns the record at lsn as in the stream, verified, for a copy
// whose own is damaged. kind.NotFound if its body is a hole here.
func (l *Log) RawRecord(lsn org.LSN) ([]byte, error) {
	w := l.walk(lsn)
	r, err := w.next(withBody)
	if err != nil {
		return nil, err
	}
	if r.body == nil && r.h.body > 0 {
		return nil, kind.Errorf(kind.NotFound, "log record at %#x: its body was given back to the disk", uint64(lsn))
	}
	var c Chunk
	c.add(r)
	return c.Data, nil
}

// Repair puts raw, one or more whole records that another copy has at lsn, in
// place of damaged bytes. They must be exactly what was there: linked to the
// record before lsn, and the record behind linked to them; otherwise
// kind.Conflict. It works while the log is read and written.
func (l *Log) Repair(lsn org.LSN, raw []byte) error {
	l.mend.Lock()
	defer l.mend.Unlock()
	if err := l.Failed(); err != nil {
		return err
	}
	if err := l.repair(lsn, raw); err != nil {
		return fmt.Errorf("repair log at %#x: %w", uint64(lsn), err)
	}
	l.mendedDamage(lsn, lsn+org.LSN(len(raw)))
	return nil
}

func (l *Log) repair(lsn org.LSN, raw []byte) error {
	before, err := l.before(lsn)
	if err != nil {
		return err
	}
	end, err := Verify(raw, before)
	if err != nil {
		return kind.Errorf(kind.Conflict, "the bytes are not of this history: %w", err)
	}
	if ok, err := l.leadsOn(end); err != nil {
		return err
	} else if !ok {
		return kind.Errorf(kind.Conflict, "the bytes do not lead to the record at %#x", uint64(end.LSN))
	}
	l.mu.RLock()
	s, limit, err := l.find(lsn)
	l.mu.RUnlock()
	if err != nil {
		return err
	}
	if int64(end.LSN-s.start) > limit {
		return kind.Errorf(kind.Invalid, "the range spans segments here: repair record by record")
	}
	data := bytes.Clone(raw)
	for off := int64(0); off < int64(len(data)); {
		h, err := parseHeader(data[off:], l.seed)
		if err != nil {
			return err
		}
		stamp(data[off:], l.seed, l.sinceOf(s, h.lsn, limit), false)
		off += h.size()
	}
	return l.withFile(s, func(f fsx.File, t *tail) error {
		l.mu.Lock() // readers must not see half of it
		defer l.mu.Unlock()
		l.epoch++
		l.verified.clear()
		return l.rewriteInPlace(f, t, []patch{{BlockSize + int64(lsn-s.start), data}})
	})
}

// sinceOf is the mark of the record on the disk, 0 (nothing but itself was
// durable before it) if that is damaged: all before it was, long ago.
func (l *Log) sinceOf(s *segment, lsn org.LSN, limit int64) int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	h, err := l.headerAt(s, lsn, limit)
	if err != nil || !h.mark.ok {
		return 0
	}
	return h.mark.since
}

// before returns the position at lsn, also where the record there is damaged.
func (l *Log) before(lsn org.LSN) (Position, error) {
	if p, ok := l.cheap(lsn); ok {
		return p, nil
	}
	from, err := l.segmentStart(lsn)
	if err != nil {
		return from, err
	}
	w := &walker{l: l, at: from, linked: true}
	for w.at.LSN < lsn {
		_, err := w.next(headers)
		if err == nil {
			continue
		}
		// Damage before it as well: what follows knows the link, not the term.
		next, ok := l.nextSound(w.at.LSN + 8)
		if !kind.Is(err, kind.Corrupt) || !ok || next.LSN > lsn {
			return w.at, err
		}
		w.at = Position{LSN: next.LSN, Chain: next.Chain, Term: w.at.Term}
	}
	if w.at.LSN != lsn {
		return w.at, kind.Errorf(kind.NotFound, "inside a record")
	}
	return w.at, nil
}

// leadsOn tells whether what is behind p links to p.
func (l *Log) leadsOn(p Position) (bool, error) {
	if p.LSN >= l.End().LSN {
		return p == l.End(), nil
	}
	if ok, err := l.contains(p); err == nil || !kind.Is(err, kind.Corrupt) {
		return ok, err
	}
	// The record behind is damaged too. Its place must at least be one.
	return slices.ContainsFunc(l.Damaged(), func(d Damage) bool { return d.From == p.LSN }), nil
}
