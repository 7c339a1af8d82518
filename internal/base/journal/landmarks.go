package journal

import (
	"math"
	"slices"

	"github.com/postern-mail/postern/internal/org"
)

// Landmarks returns at most max boundaries of the log, newest first: all of
// the last ones, then ever fewer, and the start. Another copy looks for the
// newest that it Contains to find where two histories part.
func (l *Log) Landmarks(max int) []Position {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed || max <= 0 {
		return nil
	}
	first := l.firstPosition()
	out := []Position{l.end}
	dist := func(p org.LSN) float64 { return float64(l.end.LSN - p) }
	// A quarter of them dense, then distances that grow by a constant factor
	// chosen so that the rest reaches the start.
	dense := max / 4
	grow := math.Pow(dist(l.startLocked())/HeaderSize+2, 2/float64(max+1))
	last := 0.0
	for i := len(l.recent) - 1; i >= 0 && len(out) < max-1; i-- {
		p := l.recent[i]
		if p.LSN >= l.end.LSN || p.LSN <= first.LSN {
			continue
		}
		if len(out) < dense || dist(p.LSN) >= last*grow {
			out = append(out, p)
			last = dist(p.LSN)
		}
	}
	for i := len(l.segs) - 1; i > 0 && len(out) < max-1; i-- {
		s := l.segs[i]
		if s.start >= out[len(out)-1].LSN || dist(s.start) < last*grow {
			continue
		}
		if b, err := l.readBlock(s); err == nil {
			out = append(out, b.from)
			last = dist(s.start)
		}
	}
	if out[len(out)-1].LSN != first.LSN {
		out = append(out, first)
	}
	return out[:min(len(out), max)]
}

// firstPosition is the position at the start. Callers hold mu.
func (l *Log) firstPosition() Position {
	if len(l.segs) > 0 {
		if b, err := l.readBlock(l.segs[0]); err == nil {
			return b.from
		}
	}
	return Position{LSN: l.startLocked()}
}

// GenerationSums returns, for each generation boundary (a multiple of 1 MiB)
// in the log, the first boundary between records at or behind it, if that is
// in the range. Two copies with the same history give the same ones where
// both have the log. Damage ends the list.
func (l *Log) GenerationSums(from, to org.LSN) []Position {
	var out []Position
	l.mu.RLock()
	segs := slices.Clone(l.segs)
	l.mu.RUnlock()
	for i, s := range segs {
		if s.start >= to {
			break
		}
		end := l.End().LSN
		if i+1 < len(segs) {
			end = segs[i+1].start
		}
		if end < from {
			continue
		}
		sums, err := l.sums(s, end, i+1 < len(segs))
		for _, p := range sums {
			if p.LSN >= from && p.LSN < to {
				out = append(out, p)
			}
		}
		if err != nil {
			break
		}
	}
	return out
}

// sums returns the sums of the records of a segment up to end, remembered
// where the segment is full.
func (l *Log) sums(s *segment, end org.LSN, full bool) ([]Position, error) {
	l.gmu.Lock()
	sums := s.gens
	l.gmu.Unlock()
	if sums != nil {
		return sums, nil
	}
	l.mu.RLock()
	epoch := l.epoch
	l.mu.RUnlock()
	p, err := l.segmentStart(s.start)
	if err != nil {
		return nil, err
	}
	sums = []Position{}
	w := &walker{l: l, at: p, linked: true}
	for w.at.LSN < end {
		g := w.at.LSN.Generation()
		if _, err := w.next(headers); err != nil {
			return sums, err
		}
		if w.at.LSN.Generation() > g {
			sums = append(sums, w.at)
		}
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if full && epoch == l.epoch { // not cut meanwhile
		l.gmu.Lock()
		s.gens = sums
		l.gmu.Unlock()
	}
	return sums, nil
}
