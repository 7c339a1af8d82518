package journal

import (
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

const reseedHint = "the log of this copy cannot be used; reseed the copy from another one"

// recover finds the segments and the end of the log.
func (l *Log) recover() error {
	if err := l.fs.MkdirAll(l.dir); err != nil {
		return err
	}
	names, err := l.fs.List(l.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if start, ok := parseName(name); ok {
			l.segs = append(l.segs, l.newSegment(start, 0))
		} else if strings.HasSuffix(name, tempExt) {
			// Never had a name in the log: nothing confirmed is in it.
			if err := l.fs.Remove(l.path(name)); err != nil {
				return err
			}
		}
	}
	slices.SortFunc(l.segs, func(a, b *segment) int { return int(int64(a.start) - int64(b.start)) })
	if len(l.segs) == 0 {
		if l.o.Known > 0 {
			return kind.WithHint(kind.Errorf(kind.Corrupt, "log is empty, position %#x was durable", uint64(l.o.Known)), reseedHint)
		}
		l.recent = append(l.recent, Position{})
		return nil
	}
	if err := l.checkFiles(); err != nil {
		return err
	}
	from, err := l.openLast()
	if err != nil {
		return err
	}
	return l.recoverTail(from)
}

// checkFiles checks that no segment is missing: one that is followed by
// another is as long as the distance between the two.
func (l *Log) checkFiles() error {
	for i, s := range l.segs {
		info, err := l.fs.Stat(s.path)
		if err != nil {
			return err
		}
		s.used = info.Allocated
		if i+1 == len(l.segs) {
			break
		}
		n := int64(l.segs[i+1].start - s.start)
		s.capacity = n
		if info.Size < BlockSize+n {
			return kind.WithHint(kind.Errorf(kind.Corrupt, "segment %s ends before %s begins: a file is missing or was cut",
				s.path, l.segs[i+1].path), reseedHint)
		}
	}
	// Another database's or of another format; a damaged header is for Scrub.
	if _, err := l.readBlock(l.segs[0]); kind.Is(err, kind.Invalid) {
		return err
	}
	return nil
}

// openLast returns the position at which the last segment begins.
func (l *Log) openLast() (Position, error) {
	last := l.segs[len(l.segs)-1]
	b, err := l.readBlock(last)
	if err == nil {
		last.capacity = b.capacity
		return b.from, nil
	}
	if !kind.Is(err, kind.Corrupt) {
		return Position{}, err
	}
	// The header was durable before the file got its name: this is damage.
	// The segment before leads to the same position.
	var before *segment
	if len(l.segs) > 1 {
		before = l.segs[len(l.segs)-2]
	}
	l.end = Position{LSN: last.start}
	p, derr := l.derive(last, before)
	if derr != nil {
		return Position{}, kind.WithHint(err, reseedHint)
	}
	l.end = p
	last.capacity = l.o.SegmentSize
	l.log.Error("log segment header is damaged, made anew", "path", last.path, "err", err)
	return p, l.mendBlock(last, p)
}

// mendBlock writes the header block of a segment anew.
func (l *Log) mendBlock(s *segment, from Position) error {
	f, err := l.fs.OpenFile(s.path, fsx.Write|fsx.Direct)
	if err != nil {
		return err
	}
	defer f.Close() // synced before
	b := fsx.Buffer(BlockSize)
	block{identity: l.o.Identity, from: from, capacity: s.capacity}.encode(b)
	if _, err := f.WriteAt(b, 0); err != nil {
		return err
	}
	l.syncs.Add(1)
	return f.Sync()
}

// scan is the search for the end in the last segment.
type scan struct {
	l     *Log
	win   window
	limit int64 // stream bytes the file can hold
	at    Position
	since org.LSN // where the last write that is whole began
	// damage found before the end
	damage []Damage
	marked bool // it ended at an end mark
}

// recoverTail finds the end of the log in the last segment, cuts off what a
// crash left of the last write, and makes the rest durable again.
func (l *Log) recoverTail(from Position) error {
	last := l.segs[len(l.segs)-1]
	info, err := l.fs.Stat(last.path)
	if err != nil {
		return err
	}
	sc := &scan{l: l, win: window{l: l, s: last}, limit: max(0, info.Size-BlockSize), at: from, since: from.LSN}
	l.remember(from)
	for {
		more, err := sc.step()
		if err != nil {
			return err
		}
		if !more {
			break
		}
	}
	if sc.at.LSN < l.o.Known {
		return kind.WithHint(kind.Errorf(kind.Corrupt, "log ends at %#x, position %#x was durable", uint64(sc.at.LSN), uint64(l.o.Known)), reseedHint)
	}
	for _, d := range sc.damage {
		l.log.Error("log is damaged", "dir", l.dir, "from", d.From, "to", d.To, "err", d.Err)
		l.addDamage(d)
	}
	return l.openTail(last, sc, info.Size)
}

// step reads one record; false at the end.
func (sc *scan) step() (bool, error) {
	off := int64(sc.at.LSN - sc.win.s.start)
	if off+HeaderSize > sc.limit {
		return false, nil
	}
	head, err := sc.win.bytes(off, HeaderSize, sc.limit)
	if err != nil {
		return false, err
	}
	if p, ok := parseEnd(head, sc.l.seed); ok && p == sc.at {
		sc.marked = true
		return false, nil
	}
	r, err := sc.win.record(sc.at, true, sc.limit, withBody)
	if err == nil {
		sc.accept(r.h)
		return true, nil
	}
	if !kind.Is(err, kind.Corrupt) {
		return false, err // the disk, or a format of the future
	}
	durable, next, ferr := sc.evidence()
	switch {
	case ferr != nil:
		return false, ferr
	case durable <= sc.at.LSN:
		return false, nil // a torn end
	case r.h.lsn == sc.at.LSN && r.h.crc != 0:
		// Only operations or body are damaged: its header leads on.
		sc.damage = append(sc.damage, Damage{r.h.lsn, r.h.end(), err})
		sc.accept(r.h)
		return true, nil
	case next.LSN > sc.at.LSN:
		sc.damage = append(sc.damage, Damage{sc.at.LSN, next.LSN, err})
		next.Term = max(next.Term, sc.at.Term)
		sc.at = next
		return true, nil
	}
	return false, kind.WithHint(kind.Errorf(kind.Corrupt, "log is damaged at %#x, %#x was durable: %w",
		uint64(sc.at.LSN), uint64(durable), err), reseedHint)
}

func (sc *scan) accept(h header) {
	sc.at = h.next()
	if h.mark.ok {
		sc.since = max(sc.since, h.lsn-org.LSN(h.mark.since))
	}
	sc.l.remember(sc.at)
}

// evidence looks behind the broken record at sc.at for proof of what was
// durable: marks of later records and an end mark. It returns the highest
// position proven, and where the next sound record begins that links to the
// records behind it (skipping a body, which may hold anything).
func (sc *scan) evidence() (durable org.LSN, next Position, err error) {
	durable = sc.l.o.Known
	start := sc.win.s.start
	for off := int64(sc.at.LSN-start) + 8; off+HeaderSize <= sc.limit; off += 8 {
		b, err := sc.win.bytes(off, HeaderSize, sc.limit)
		if err != nil {
			return durable, next, err
		}
		lsn := start + org.LSN(off)
		if p, ok := parseEnd(b, sc.l.seed); ok && p.LSN == lsn {
			durable = max(durable, p.LSN)
			if next.LSN == 0 {
				next = p // no record behind the broken one, but the end is known
			}
			continue
		}
		if b[0] != recordMagic[0] || b[1] != recordMagic[1] {
			continue
		}
		h, err := parseHeader(b, sc.l.seed)
		if err != nil || h.lsn != lsn || !h.mark.ok || off+h.size() > sc.limit {
			continue
		}
		durable = max(durable, lsn-org.LSN(h.mark.since))
		if next.LSN == 0 {
			next = Position{LSN: lsn, Chain: h.prev}
		}
	}
	return durable, next, nil
}

// openTail opens the last segment for writing with its end at sc.at.
func (l *Log) openTail(s *segment, sc *scan, size int64) error {
	f, err := l.fs.OpenFile(s.path, fsx.Write|fsx.Direct)
	if err != nil {
		return err
	}
	end := BlockSize + int64(sc.at.LSN-s.start)
	l.end = sc.at
	l.tail.set(s, f, end, nil)
	if err := l.cleanTail(s, sc, end, size); err != nil {
		return fmt.Errorf("recover end of segment %s: %w", s.path, err)
	}
	if err := l.rewrite(s, sc.since); err != nil {
		return fmt.Errorf("recover end of segment %s: %w", s.path, err)
	}
	return nil
}

// cleanTail makes sure that only zeros are behind the end, so that remains of
// a torn write are never taken for something later.
func (l *Log) cleanTail(s *segment, sc *scan, end, size int64) error {
	want := fileSize(s.capacity)
	dirty, err := sc.dirty(end - BlockSize)
	if err != nil {
		return err
	}
	if dirty {
		l.log.Info("end of log cut off: a write was not finished", "dir", l.dir, "at", sc.at.LSN)
		if err := l.tail.f.Truncate(fsx.AlignUp(end)); err != nil {
			return err
		}
	}
	if dirty || size < want {
		a := fsx.AlignUp(end)
		if err := l.tail.f.Allocate(a, want-a); err != nil && !kind.Is(err, kind.Full) {
			return err
		}
	}
	return nil
}

// dirty tells whether there is anything but zeros from the first whole block
// behind off on.
func (sc *scan) dirty(off int64) (bool, error) {
	if off = fsx.AlignUp(off); sc.marked {
		off += fsx.Align // the mark may reach into it; rewrite clears it
	}
	for ; off < sc.limit; off += windowSize {
		n := min(windowSize, sc.limit-off)
		b, err := sc.win.bytes(off, n, sc.limit)
		if err != nil || !zero(b) {
			return true, err
		}
	}
	return false, nil
}

// rewrite writes the last write again, with zeros behind it, and syncs. The
// process before this one may have been told by the disk that it was not
// stored; what the page cache then shows is not on the disk, and a sync of
// pages the kernel thinks clean would not change that.
func (l *Log) rewrite(s *segment, since org.LSN) error {
	from := fsx.AlignDown(BlockSize + int64(since-s.start))
	from = max(from, BlockSize) // the header block was durable before its name
	end := BlockSize + int64(l.end.LSN-s.start)
	l.tail.at, l.tail.n = from, 0
	buf := make([]byte, windowSize)
	for off := from; off < end; {
		p := buf[:min(windowSize, end-off)]
		if err := l.readSegment(s, p, off-BlockSize); err != nil {
			return err
		}
		if err := l.tail.add(p); err != nil {
			return err
		}
		off += int64(len(p))
	}
	if next := fsx.AlignUp(end); next < fileSize(s.capacity) {
		// The flush below does not reach it, an end mark may have.
		if _, err := l.tail.f.WriteAt(fsx.Buffer(fsx.Align), next); err != nil {
			return err
		}
	}
	if err := l.tail.flush(); err != nil {
		return err
	}
	return l.sync()
}
