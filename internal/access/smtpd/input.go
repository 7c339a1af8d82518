package smtpd

import (
	"bytes"
	"errors"
	"net"
	"sync"
)

const (
	// maxLine is the longest command line with its CRLF. RFC 5321 section
	// 4.5.3.1.4 asks for 512, extensions add to it.
	maxLine = 4096
	// maxSkip is how much of an overlong line is read in the hope of its end.
	maxSkip = 64 << 10
	// blockSize is the room to read messages with.
	blockSize = 32 << 10
)

var (
	errLongLine    = errors.New("line is too long")
	errEndlessLine = errors.New("line does not end")
	errTLSBytes    = errors.New("TLS without STARTTLS")
)

// blocks are the larger buffers, used only while a message arrives.
type blocks struct{ pool sync.Pool }

func (b *blocks) get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, blockSize)
}

func (b *blocks) put(p []byte) { b.pool.Put(&p) }

// input is what was read from a connection and not yet consumed.
type input struct {
	nc    net.Conn
	small []byte // maxLine bytes
	buf   []byte // small, or a larger block
	r, w  int    // buf[r:w] is unread
}

func newInput(nc net.Conn) input {
	small := make([]byte, maxLine)
	return input{nc: nc, small: small, buf: small}
}

func (in *input) unread() []byte { return in.buf[in.r:in.w] }

func (in *input) drop(n int) {
	in.r += n
	if in.r == in.w {
		in.r, in.w = 0, 0
	}
}

// fill reads once. There must be room: less than a full buffer is unread.
func (in *input) fill() error {
	if in.r > 0 {
		copy(in.buf, in.buf[in.r:in.w])
		in.w -= in.r
		in.r = 0
	}
	n, err := in.nc.Read(in.buf[in.w:])
	in.w += n
	if n > 0 {
		return nil
	}
	return err
}

// widen reads in larger blocks from now on.
func (in *input) widen(b *blocks) {
	if len(in.buf) >= blockSize {
		return
	}
	big := b.get()
	in.w = copy(big, in.unread())
	in.r, in.buf = 0, big
}

// narrow goes back to the small buffer once what is unread fits in it.
func (in *input) narrow(b *blocks) {
	if len(in.buf) < blockSize || in.w-in.r > len(in.small) {
		return
	}
	big := in.buf
	in.w = copy(in.small, in.unread())
	in.r, in.buf = 0, in.small
	b.put(big)
}

// line returns the next line without its end, from what is unread, or reads
// on with more. The line is valid until the next call. errLongLine is returned
// once the overlong line was read to its end.
func (in *input) line(more func() error) ([]byte, error) {
	seen := 0
	for {
		if i := bytes.IndexByte(in.unread()[seen:], '\n'); i >= 0 {
			line := in.unread()[:seen+i+1]
			in.drop(len(line))
			if len(line) > maxLine {
				return nil, errLongLine
			}
			return line, nil
		}
		seen = in.w - in.r
		if seen >= maxLine {
			return nil, in.skip(more)
		}
		if err := more(); err != nil {
			return nil, err
		}
	}
}

// skip throws an overlong line away, up to maxSkip.
func (in *input) skip(more func() error) error {
	for skipped := 0; skipped < maxSkip; {
		if i := bytes.IndexByte(in.unread(), '\n'); i >= 0 {
			in.drop(i + 1)
			return errLongLine
		}
		skipped += in.w - in.r
		in.drop(in.w - in.r)
		if err := more(); err != nil {
			return err
		}
	}
	return errEndlessLine
}
