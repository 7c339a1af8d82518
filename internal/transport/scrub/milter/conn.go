package milter

import (
	"context"
	"errors"
	"net"
)

var errTooMuch = errors.New("answers of more than 1 MiB")

// dialer makes the one connection of a session. It dies with the context, which
// the library does not know.
type dialer struct {
	ctx  context.Context
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	conn net.Conn
	stop func() bool
}

// Dial implements the library's Dialer.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	conn, err := d.dial(d.ctx, network, address)
	if err != nil {
		return nil, err
	}
	d.conn = conn
	d.stop = context.AfterFunc(d.ctx, func() { conn.Close() })
	return &limited{Conn: conn, left: maxAnswers}, nil
}

func (d *dialer) close() {
	if d.conn != nil {
		d.stop()
		d.conn.Close()
	}
}

// limited reads so much and no more.
type limited struct {
	net.Conn
	left int
}

func (l *limited) Read(b []byte) (int, error) {
	if l.left <= 0 {
		return 0, errTooMuch
	}
	n, err := l.Conn.Read(b[:min(len(b), l.left)])
	l.left -= n
	return n, err
}
