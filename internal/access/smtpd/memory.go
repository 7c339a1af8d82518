package smtpd

import "sync/atomic"

// budget counts the bytes that messages hold in memory on all connections.
type budget struct {
	max  int64
	used atomic.Int64
}

// take reports whether n more bytes may be held. It never waits: a client
// that waits inside DATA would only hold on to what it has.
func (b *budget) take(n int64) bool {
	if b.used.Add(n) > b.max {
		b.used.Add(-n)
		return false
	}
	return true
}

func (b *budget) give(n int64) { b.used.Add(-n) }

const (
	// headroom is kept free in front of a message so that trace lines and those
	// of policy are put there without copying it.
	headroom = 4 << 10
	// firstBody is the room for a message at first, largestHint the most that
	// is made ready because a client announced it.
	firstBody   = 8 << 10
	largestHint = 256 << 10
)

// body is a message being received.
type body struct {
	mem  *budget
	buf  []byte // headroom, then the message
	held int64  // bytes taken from mem
	max  int64  // message bytes allowed
	hint int64  // message bytes announced, with some to spare

	size   int64 // message bytes seen, also those not kept
	failed reply // why no more is kept; code 0 for none
}

// newBody makes room for a message of about hint bytes.
func newBody(mem *budget, limit, hint int64) *body {
	b := &body{mem: mem, max: limit, hint: hint + 512}
	b.grow(headroom + min(limit, max(firstBody, min(b.hint, largestHint))))
	if b.failed.code == 0 {
		b.buf = b.buf[:headroom]
	}
	return b
}

// add keeps p, unless the message has failed already.
func (b *body) add(p []byte) {
	b.size += int64(len(p))
	if b.failed.code != 0 {
		return
	}
	if b.size > b.max {
		b.fail(tooLarge(b.max))
		return
	}
	if need := int64(len(b.buf) + len(p)); need > int64(cap(b.buf)) {
		size := min(headroom+b.max, max(need, 2*int64(cap(b.buf))))
		if told := headroom + b.hint; told >= need { // nothing left over for the queue to hold
			size = min(size, told)
		}
		b.grow(size)
		if b.failed.code != 0 {
			return
		}
	}
	b.buf = append(b.buf, p...)
}

// grow moves to a buffer of n bytes. Both are counted while both are there.
func (b *body) grow(n int64) {
	if !b.mem.take(n) {
		b.fail(noMemory())
		return
	}
	buf := make([]byte, len(b.buf), n)
	copy(buf, b.buf)
	b.buf = buf
	b.mem.give(b.held)
	b.held = n
}

// fail drops what was kept; the rest is read but not held.
func (b *body) fail(why reply) {
	if b.failed.code == 0 {
		b.failed = why
	}
	b.release()
}

// release gives the memory back. The buffer itself is never used again: where
// the queue has taken it, it lives on and is counted there. It may be called
// twice.
func (b *body) release() {
	b.mem.give(b.held)
	b.held, b.buf = 0, nil
}

// message is what was received.
func (b *body) message() []byte { return b.buf[headroom:] }
