package bubble

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// maxOnWay bounds the bytes on their way in one direction; a connection with
// more is reset.
const maxOnWay = 64 << 20

// pipe is one end of a connection. Writing never waits, so nobody who holds a
// lock while writing can stop the time of the bubble.
type pipe struct{ in, out *half }

// half is one direction of a connection.
type half struct {
	l   *links
	way way

	mu       sync.Mutex // guards the rest
	words    []word
	bytes    int
	last     time.Time // when the newest word arrives
	fin      bool      // the writer has closed
	closed   bool      // the reader has closed, or the connection is reset
	deadline time.Time
	wake     chan struct{} // buffered
}

// word is what one Write said; fin is the end.
type word struct {
	at   time.Time // not earlier
	data []byte
	fin  bool
}

func newHalf(l *links, w way) *half {
	return &half{l: l, way: w, wake: make(chan struct{}, 1)}
}

func (h *half) poke() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// say puts a word on its way.
func (h *half) say(p []byte, fin bool) error {
	d := h.l.delay(h.way)
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.poke()
	if h.fin {
		return net.ErrClosed
	}
	if h.closed {
		return nil // the writer learns of it when the other direction ends
	}
	at := time.Now().Add(d)
	if at.Before(h.last) {
		at = h.last
	}
	if h.bytes+len(p) > maxOnWay {
		return syscall.ECONNRESET
	}
	h.bytes += len(p)
	h.last, h.fin = at, fin
	h.words = append(h.words, word{at, append([]byte(nil), p...), fin})
	return nil
}

// lose forgets what has not arrived: the machine it was on lost its power.
func (h *half) lose() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.words, h.bytes = nil, 0
}

func (h *half) read(p []byte) (int, error) {
	for {
		n, wait, err := h.next(p)
		if n > 0 || err != nil {
			return n, err
		}
		if wait < 0 {
			<-h.wake
			continue
		}
		t := time.NewTimer(wait)
		select {
		case <-h.wake:
		case <-t.C:
		}
		t.Stop()
	}
}

// next reads what has arrived, or tells how long to wait, negative for until
// something happens.
func (h *half) next(p []byte) (n int, wait time.Duration, err error) {
	open := h.l.passes(h.way.from, h.way.to)
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	switch {
	case h.closed:
		return 0, 0, net.ErrClosed
	case !h.deadline.IsZero() && !now.Before(h.deadline):
		return 0, 0, os.ErrDeadlineExceeded
	}
	wait = -1
	if len(h.words) > 0 && open {
		w := &h.words[0]
		if wait = w.at.Sub(now); wait <= 0 {
			if w.fin {
				return 0, 0, io.EOF
			}
			n = copy(p, w.data)
			h.bytes -= n
			if w.data = w.data[n:]; len(w.data) == 0 {
				h.words = h.words[1:]
			}
			return n, 0, nil
		}
	}
	if !h.deadline.IsZero() {
		if left := h.deadline.Sub(now); wait < 0 || left < wait {
			wait = left
		}
	}
	return 0, wait, nil
}

func (h *half) shut() {
	h.mu.Lock()
	h.closed, h.words, h.bytes = true, nil, 0
	h.mu.Unlock()
	h.poke()
	h.l.forget(h)
}

// Read implements net.Conn; one goroutine at a time.
func (c *pipe) Read(p []byte) (int, error) { return c.in.read(p) }

// Write implements net.Conn.
func (c *pipe) Write(p []byte) (int, error) {
	if err := c.out.say(p, false); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close implements net.Conn. The other end learns of it when it would.
func (c *pipe) Close() error {
	_ = c.out.say(nil, true) // once more does nothing
	c.in.shut()
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *pipe) SetReadDeadline(t time.Time) error {
	c.in.mu.Lock()
	c.in.deadline = t
	c.in.mu.Unlock()
	c.in.poke()
	return nil
}

// SetWriteDeadline implements net.Conn; writing never waits.
func (c *pipe) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline implements net.Conn.
func (c *pipe) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// LocalAddr implements net.Conn.
func (c *pipe) LocalAddr() net.Addr { return addr(c.out.way.from) }

// RemoteAddr implements net.Conn.
func (c *pipe) RemoteAddr() net.Addr { return addr(c.out.way.to) }

// addr is a server's name as an address.
type addr string

func (addr) Network() string  { return "bubble" }
func (a addr) String() string { return string(a) }
