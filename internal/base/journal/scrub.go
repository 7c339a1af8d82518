package journal

import (
	"context"
	"fmt"

	"golang.org/x/time/rate"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// Scrub reads the log from its start to where it ends now and verifies all of
// it, at most bytesPerSecond (0: no limit). What is damaged is given to found
// with the position to Repair, and the scrub goes on behind it; bodies that
// are holes or dead (nil: none) are not looked at. It reads the disk itself,
// not the page cache. What can be made anew from the stream, headers of
// segments and marks of records, is, and not reported. It returns how many bytes it read; err is the
// context's, or a disk's that does not read at all.
func (l *Log) Scrub(ctx context.Context, bytesPerSecond int64, dead func(org.LSN) bool, found func(org.LSN, error)) (checked int64, err error) {
	var lim *rate.Limiter
	if bytesPerSecond > 0 {
		lim = rate.NewLimiter(rate.Limit(bytesPerSecond), int(min(max(bytesPerSecond, 1<<16), 1<<30)))
	}
	w := &walker{l: l, at: Position{LSN: l.Start()}, direct: true}
	defer w.close()
	if p, err := l.segmentStart(w.at.LSN); err == nil {
		w.at, w.linked = p, true
	}
	end := l.End().LSN
	for w.at.LSN < end {
		if err := ctx.Err(); err != nil {
			return checked, err
		}
		if start := l.Start(); w.at.LSN < start { // dropped meanwhile
			w.at, w.linked = Position{LSN: start}, false
		}
		if w.linked {
			l.scrubBlock(w.at, found)
		}
		at := w.at.LSN
		n, err := w.scrub(dead, found)
		if err != nil {
			return checked, fmt.Errorf("scrub log at %#x: %w", uint64(at), err)
		}
		checked += n
		if err := wait(ctx, lim, n); err != nil {
			return checked, err
		}
		end = min(end, l.End().LSN) // cut meanwhile
	}
	return checked, nil
}

// wait lets n bytes pass the limiter.
func wait(ctx context.Context, lim *rate.Limiter, n int64) error {
	for lim != nil && n > 0 {
		k := min(n, int64(lim.Burst()))
		if err := lim.WaitN(ctx, int(k)); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// scrub checks one record and goes behind it, damaged or not.
func (w *walker) scrub(dead func(org.LSN) bool, found func(org.LSN, error)) (int64, error) {
	at := w.at
	d := withBody
	if dead != nil && dead(at.LSN) {
		d = withOps
	}
	r, err := w.next(d)
	if err == nil {
		if !r.h.mark.ok {
			if err := w.l.restamp(r.h, d == withOps); err != nil {
				found(at.LSN, err)
			}
		}
		return r.h.size(), nil
	}
	if kind.Is(err, kind.NotFound) { // cut or dropped meanwhile
		return 0, nil
	}
	if !kind.Is(err, kind.Corrupt) && !kind.Is(err, kind.Internal) {
		return 0, err
	}
	found(at.LSN, err)
	if r.h.lsn == at.LSN && r.h.crc != 0 && (!w.linked || r.h.follows(at) == nil) {
		w.at, w.linked = r.h.next(), true
		return r.h.size(), nil
	}
	next, ok := w.l.nextSound(at.LSN + 8)
	if !ok {
		next = w.l.End()
	}
	w.at, w.linked = Position{LSN: next.LSN, Chain: next.Chain, Term: at.Term}, w.linked && ok
	return int64(next.LSN - at.LSN), nil
}

// nextSound finds the first sound record at or behind lsn, or the beginning
// of the next segment.
func (l *Log) nextSound(lsn org.LSN) (Position, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	s, limit, err := l.find(lsn)
	if err != nil {
		return Position{}, false
	}
	w := window{l: l, s: s}
	for off := int64(lsn - s.start); off+HeaderSize <= limit; off += 8 {
		b, err := w.bytes(off, HeaderSize, limit)
		if err != nil {
			break
		}
		if string(b[:4]) != recordMagic {
			continue
		}
		at := s.start + org.LSN(off)
		if h, err := parseHeader(b, l.seed); err == nil && h.lsn == at && h.mark.ok && off+h.size() <= limit {
			return Position{LSN: at, Chain: h.prev}, true
		}
	}
	for _, n := range l.segs {
		if n.start > s.start {
			if b, err := l.readBlock(n); err == nil {
				return b.from, true
			}
			break
		}
	}
	return Position{}, false
}

// scrubBlock checks the header block of a segment that begins at p.
func (l *Log) scrubBlock(p Position, found func(org.LSN, error)) {
	l.mu.RLock()
	s, _, err := l.find(p.LSN)
	if err != nil || s.start != p.LSN {
		l.mu.RUnlock()
		return
	}
	b, err := l.readBlock(s)
	l.mu.RUnlock()
	if err == nil && b.from == p {
		return
	}
	if err == nil {
		err = kind.Errorf(kind.Corrupt, "segment %s says it follows %v, not %v", s.path, b.from, p)
	}
	if err := l.blockAnew(s, p, err); err != nil {
		found(p.LSN, err) // which may repair: nothing is locked here
	}
}

// blockAnew makes the damaged header block of a segment that begins at p anew.
// Where p is not known to be of this log (cut, dropped, or more is damaged) the
// damage stays.
func (l *Log) blockAnew(s *segment, p Position, damage error) error {
	l.mend.Lock()
	defer l.mend.Unlock()
	if q, err := l.contains(p); err != nil || !q {
		return damage
	}
	l.log.Error("log segment header is damaged, made anew", "path", s.path, "err", damage)
	return l.mendBlock(s, p)
}
