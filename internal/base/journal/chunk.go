package journal

import (
	"fmt"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// Chunk is a run of whole records on its way to another copy. Bodies that
// nobody needs any more are left out.
type Chunk struct {
	From   Position  `cbor:"1,keyasint"`
	End    Position  `cbor:"2,keyasint"`
	Data   []byte    `cbor:"3,keyasint"` // the stream from From to End, without Elided
	Elided []Elision `cbor:"4,keyasint,omitempty"`
}

// Elision is a body left out of a chunk, whole.
type Elision struct {
	Offset int64 `cbor:"1,keyasint"` // in the stream, from Chunk.From
	Length int64 `cbor:"2,keyasint"`
}

// chunkSlack is room for the end of the last record of a chunk, in bytes.
const chunkSlack = 64 << 10

// Chunk reads whole records from the boundary from on, about max bytes (at
// least one record), up to the durable end. Bodies that are holes here, or
// for which dead is true (nil: none), are left out. Everything else is
// verified: a chunk never carries damage, kind.Corrupt says that the first
// record has some.
func (l *Log) Chunk(from org.LSN, max int, dead func(org.LSN) bool) (Chunk, error) {
	at, err := l.position(from)
	if err != nil {
		return Chunk{}, fmt.Errorf("log chunk at %#x: %w", uint64(from), err)
	}
	c := Chunk{From: at, End: at}
	w := &walker{l: l, at: at, linked: true}
	end := l.End().LSN
	// Made whole at once: a chunk that grows is copied several times.
	c.Data = make([]byte, 0, min(int64(end-at.LSN), int64(max)+chunkSlack))
	for w.at.LSN < end && len(c.Data) < max {
		// A body that is left out is not read: ask before.
		d := withBody
		if dead != nil && dead(w.at.LSN) {
			d = withOps
		}
		r, err := w.next(d)
		if err != nil {
			if len(c.Data) > 0 {
				break // what is whole goes; the next call says why
			}
			return Chunk{}, fmt.Errorf("log chunk: %w", err)
		}
		c.add(r)
	}
	if c.End.LSN != end {
		l.known.add(c.End.LSN, c.End)
	}
	return c, nil
}

func (c *Chunk) add(r raw) {
	head := len(c.Data)
	c.Data = append(c.Data, r.head...)
	unstamp(c.Data[head:])
	c.Data = append(c.Data, r.ops...)
	if r.body == nil && r.h.body > 0 {
		c.Elided = append(c.Elided, Elision{int64(r.h.bodyLSN() - c.From.LSN), int64(r.h.body)})
	} else {
		c.Data = append(c.Data, r.body...)
	}
	var pad [8]byte
	c.Data = append(c.Data, pad[:r.h.padding()]...)
	c.End = r.h.next()
}

// items verifies a chunk like Verify does, but for the bodies left out.
func (c Chunk) items() ([]item, error) {
	var out []item
	at, data, elided := c.From, c.Data, c.Elided
	for len(data) > 0 {
		h, err := parseHeader(data, 0)
		if err == nil {
			err = h.follows(at)
		}
		if err != nil {
			return nil, fmt.Errorf("log chunk at %#x: %w", uint64(at.LSN), err)
		}
		it := item{h: h}
		n := h.size()
		if len(elided) > 0 && elided[0] == (Elision{int64(h.bodyLSN() - c.From.LSN), int64(h.body)}) && h.body > 0 {
			it.hole, elided = true, elided[1:]
			n -= int64(h.body)
		}
		if n > int64(len(data)) || stamped(data) {
			return nil, kind.Errorf(kind.Corrupt, "log chunk at %#x: record is not whole", uint64(at.LSN))
		}
		if it.hole {
			err = h.checkOps(data[HeaderSize:h.bodyAt()])
			if err == nil {
				err = h.checkPad(data[h.bodyAt():n])
			}
			it.raw = data[:h.bodyAt()]
		} else {
			err = h.check(data[:n], true)
			it.raw = data[:n]
		}
		if err != nil {
			return nil, fmt.Errorf("log chunk at %#x: %w", uint64(at.LSN), err)
		}
		out = append(out, it)
		at, data = h.next(), data[n:]
	}
	if at != c.End || len(elided) > 0 {
		return nil, kind.Errorf(kind.Corrupt, "log chunk from %v ends at %v, not at %v", c.From, at, c.End)
	}
	return out, nil
}

// Verify checks the chunk as WriteChunk does: kind.Corrupt if anything of it
// is not what the chain says.
func (c Chunk) Verify() error {
	_, err := c.items()
	return err
}

// WriteChunk appends a chunk that begins at the end of this log. Bodies left
// out become holes. Durable on return; errors are those of Write, and
// kind.Corrupt, with nothing done, for a chunk that was damaged on its way.
func (l *Log) WriteChunk(c Chunk) error {
	items, err := c.items()
	if err != nil {
		return err
	}
	defer l.lockToWrite()()
	if err := l.writable(c.From); err != nil {
		return err
	}
	return l.store(c.From, items, c.End)
}
