package mailbox

import (
	"sort"
	"sync"

	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/org"
)

// windowKeep is how many bytes of applied log stay in memory for copies that
// are a little behind.
const windowKeep = 8 << 20

// piece is a run of whole records as it went through this process.
type piece struct {
	from, to journal.Position
	data     []byte
}

// window keeps the newest part of the log in memory, so that shipping it and
// applying it need not read it back. Pieces follow each other without a gap.
// What is not yet applied is bounded by whoever adds (back-pressure of the
// leader, of the follower's receiver).
type window struct {
	mu     sync.Mutex // guards the rest
	pieces []piece
	size   int
}

func newWindow() *window { return &window{} }

func (w *window) reset() {
	w.mu.Lock()
	w.pieces, w.size = nil, 0
	w.mu.Unlock()
}

// add appends a piece. One that does not follow the last begins anew.
func (w *window) add(p piece) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.pieces); n > 0 && w.pieces[n-1].to != p.from {
		w.pieces, w.size = nil, 0
	}
	w.pieces = append(w.pieces, p)
	w.size += len(p.data)
}

// trim forgets the oldest pieces below applied beyond what is worth keeping.
func (w *window) trim(applied org.LSN) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for n < len(w.pieces) && w.size > windowKeep && w.pieces[n].to.LSN <= applied {
		w.size -= len(w.pieces[n].data)
		n++
	}
	if n > 0 {
		w.pieces = append([]piece(nil), w.pieces[n:]...)
	}
}

// from returns the pieces that begin at position lsn, up to about max bytes.
func (w *window) from(lsn org.LSN, max int) []piece {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := sort.Search(len(w.pieces), func(i int) bool { return w.pieces[i].from.LSN >= lsn })
	if i == len(w.pieces) || w.pieces[i].from.LSN != lsn {
		return nil
	}
	var out []piece
	for n := 0; i < len(w.pieces) && n < max; i++ {
		out = append(out, w.pieces[i])
		n += len(w.pieces[i].data)
	}
	return out
}

// records decodes what lies between from and to, up to about max bytes; it
// returns nothing where the window does not hold from.
func (w *window) records(from, to org.LSN, max int) ([]journal.Record, error) {
	w.mu.Lock()
	i := sort.Search(len(w.pieces), func(i int) bool { return w.pieces[i].to.LSN > from })
	if i == len(w.pieces) || w.pieces[i].from.LSN > from {
		w.mu.Unlock()
		return nil, nil
	}
	ps := w.pieces[i:]
	w.mu.Unlock()
	var out []journal.Record
	n := 0
	for _, p := range ps {
		if p.from.LSN >= to || n >= max {
			break
		}
		for r, err := range journal.Records(p.data) {
			if err != nil {
				return nil, err
			}
			if r.LSN < from {
				continue
			}
			if r.Next().LSN > to {
				return out, nil
			}
			out = append(out, r)
			n += len(r.Ops)
		}
	}
	return out, nil
}

// end is where the newest piece ends, 0 when there is none.
func (w *window) end() org.LSN {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pieces) == 0 {
		return 0
	}
	return w.pieces[len(w.pieces)-1].to.LSN
}
