package store

import (
	"github.com/cockroachdb/pebble/v2"

	"github.com/postern-mail/postern/internal/org"
)

// cursor walks keys in order: those of the index and, for the planner, those
// of the overlay, which wins. Pending deletes are not seen. k and v are valid
// until the next step.
type cursor struct {
	it   *pebble.Iterator
	over *overlay // nil for readers
	node *node    // next of the overlay
	hi   string
	seen *org.LSN // newest pending record that had a say

	k, v   []byte
	ok     bool
	inNode bool // k is the overlay's
	err    error
	buf    []byte
}

// newCursor walks the keys of [lo, hi), from the first.
func newCursor(from pebble.Reader, lo, hi []byte, over *overlay, seen *org.LSN) (*cursor, error) {
	c, err := openCursor(from, lo, hi, over, seen)
	if err == nil {
		c.seek(lo)
	}
	return c, err
}

// openCursor is newCursor without the first step: seek has to follow.
func openCursor(from pebble.Reader, lo, hi []byte, over *overlay, seen *org.LSN) (*cursor, error) {
	it, err := from.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
	if err != nil {
		return nil, wrap(err, "read")
	}
	return &cursor{it: it, hi: string(hi), over: over, seen: seen}, nil
}

// seek goes to the first key at or after key.
func (c *cursor) seek(key []byte) {
	c.it.SeekGE(key)
	if c.over != nil {
		c.node = c.over.sorted.seek(string(key))
	}
	c.settle()
}

// next goes one key on.
func (c *cursor) next() {
	if c.inNode {
		c.node = c.node.next[0]
	} else {
		c.it.Next()
	}
	c.settle()
}

// settle finds the key to show from where both walks stand.
func (c *cursor) settle() {
	for c.err == nil {
		if c.node != nil && c.node.key >= c.hi {
			c.node = nil
		}
		inIndex := c.it.Valid()
		if !inIndex && c.node == nil {
			break
		}
		if c.node != nil && (!inIndex || c.node.key <= string(c.it.Key())) {
			if inIndex && c.node.key == string(c.it.Key()) {
				c.it.Next()
			}
			c.touch(c.node.e.lsn)
			if c.node.e.val == nil {
				c.node = c.node.next[0]
				continue
			}
			c.buf = append(c.buf[:0], c.node.key...)
			c.k, c.v, c.inNode, c.ok = c.buf, c.node.e.val, true, true
			return
		}
		if c.over != nil {
			if lsn, gone := c.over.covered(c.it.Key()); gone {
				c.touch(lsn)
				c.it.Next()
				continue
			}
		}
		c.k, c.inNode, c.ok = c.it.Key(), false, true
		c.v, c.err = c.it.ValueAndErr()
		if c.err == nil {
			return
		}
	}
	c.ok, c.inNode = false, false
}

func (c *cursor) touch(lsn org.LSN) {
	if c.seen != nil {
		*c.seen = max(*c.seen, lsn+1)
	}
}

// close ends the walk and tells what stopped it, nil for the end of the keys.
func (c *cursor) close() error {
	c.ok = false
	err := c.err
	if c.it != nil {
		if cerr := c.it.Close(); err == nil {
			err = cerr
		}
		c.it = nil
	}
	return wrap(err, "read")
}
