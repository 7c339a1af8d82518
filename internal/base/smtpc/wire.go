package smtpc

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Conn is one session. After a Failure whose stage broke it, Usable is false
// and only Close is left.
type Conn struct {
	raw  *counted // closed to break everything off
	nc   net.Conn // raw, or TLS over it
	br   *bufio.Reader
	o    Options
	ext  map[string]string // keywords of EHLO in upper case, with their parameters
	tls  *tls.ConnectionState
	dead error           // why nothing more can be said
	open bool            // a transaction was begun and is not ended
	ctx  context.Context // of the call under way, for the reason of a failure
	used int             // messages the peer took
}

// counted knows how many bytes of a connection went out, which tells whether a
// failed write gave anything to the network.
type counted struct {
	net.Conn
	out int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.out += int64(n)
	return n, err
}

// begin binds the session to ctx until the returned function is called: when
// ctx ends meanwhile the connection is closed, whatever it does.
func (c *Conn) begin(ctx context.Context) (end func()) {
	c.ctx = ctx
	stop := context.AfterFunc(ctx, func() { c.raw.Close() })
	return func() {
		if !stop() && c.dead == nil {
			c.dead = context.Cause(ctx)
		}
	}
}

// fail ends the session, for err or for the end of the call.
func (c *Conn) fail(st Stage, err error) *Failure {
	var late net.Error
	switch cause := context.Cause(c.ctx); {
	case cause != nil:
		err = cause
	case errors.As(err, &late) && late.Timeout():
		err = fmt.Errorf("no answer in time: %w", err)
	}
	c.dead = err
	c.raw.Close()
	return broken(st, c.o.Address, err)
}

// refused makes a Failure of an answer. 421 may come at any time and means
// that the peer closes (RFC 5321 section 3.8).
func (c *Conn) refused(st Stage, r Reply) *Failure {
	f := answered(st, c.o.Address, r)
	if r.Code == 421 {
		c.dead = f
		c.raw.Close()
	}
	return f
}

// offScript ends the session over an answer that has no meaning at this stage.
func (c *Conn) offScript(st Stage, r Reply) *Failure {
	return c.fail(st, fmt.Errorf("%w: %q is no answer here", errProtocol, clean(r.String(), 100)))
}

// write sends whole command lines. It is the last guard against a line end in
// a value: there is none by design.
func (c *Conn) write(st Stage, wait time.Duration, lines ...string) error {
	if f := c.unasked(st); f != nil {
		return f
	}
	var b strings.Builder
	for _, l := range lines {
		if strings.ContainsAny(l, "\r\n\x00") {
			return c.fail(st, errors.New("a command with a line end in it"))
		}
		b.WriteString(l)
		b.WriteString("\r\n")
	}
	c.nc.SetDeadline(time.Now().Add(wait))
	if _, err := c.nc.Write([]byte(b.String())); err != nil {
		return c.fail(st, err)
	}
	return nil
}

// unasked looks for an answer to nothing. The peer may say 421 that way, and
// refuse a message it has not seen the end of; all else means that answers and
// commands no longer fit together.
func (c *Conn) unasked(st Stage) error {
	if c.br.Buffered() == 0 {
		return nil
	}
	r, err := c.read(st, time.Second)
	switch {
	case err != nil:
		return err
	case r.Code == 421 || st == StageDot && r.Code >= 400:
		f := answered(st, c.o.Address, r)
		c.dead = f
		c.raw.Close()
		return f
	}
	return c.fail(st, fmt.Errorf("%w: an answer that was not asked for", errProtocol))
}

// present asks, just before the final dot, whether the peer is still there: a
// dot for somebody who hung up during the message would only make a doubt.
func (c *Conn) present() error {
	data, err := c.raw.waiting()
	if err == nil && data && c.br.Buffered() == 0 {
		c.nc.SetReadDeadline(time.Now().Add(presence))
		var late net.Error
		if _, err = c.br.Peek(1); errors.As(err, &late) && late.Timeout() {
			err = nil // only something of TLS
		}
	}
	if err != nil {
		return c.fail(StageDot, fmt.Errorf("the peer hung up before the end of the message: %w", err))
	}
	return c.unasked(StageDot)
}

// presence is how long what has already arrived may take to be read.
const presence = 10 * time.Millisecond

// waiting tells, without waiting, whether bytes have arrived that nobody read,
// or that none will come any more. Connections that are not sockets never say.
func (c *counted) waiting() (data bool, err error) {
	sc, ok := c.Conn.(syscall.Conn)
	if !ok {
		return false, nil
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return false, err
	}
	var n int
	var peekErr error
	err = rc.Read(func(fd uintptr) bool {
		n, _, peekErr = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return true
	})
	switch {
	case err != nil:
		return false, err
	case errors.Is(peekErr, unix.EAGAIN) || errors.Is(peekErr, unix.EINTR):
		return false, nil
	case peekErr != nil:
		return false, peekErr
	case n == 0:
		return false, io.EOF
	}
	return true, nil
}

func (c *Conn) read(st Stage, wait time.Duration) (Reply, error) {
	r, _, err := c.readLines(st, wait)
	return r, err
}

func (c *Conn) readLines(st Stage, wait time.Duration) (Reply, []string, error) {
	c.nc.SetDeadline(time.Now().Add(wait))
	r, lines, err := readReply(c.br)
	if err != nil {
		return Reply{}, nil, c.fail(st, err)
	}
	return r, lines, nil
}

// ask sends one command and reads its answer, whatever that is.
func (c *Conn) ask(st Stage, wait time.Duration, line string) (Reply, error) {
	if err := c.write(st, wait, line); err != nil {
		return Reply{}, err
	}
	return c.read(st, wait)
}
