package port

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/cluster/ca"
	"github.com/postern-mail/postern/internal/org"
)

// Conn is a connection whose other end is known.
type Conn struct {
	*tls.Conn
	sub   ca.Subject
	proto string
	once  sync.Once
	done  chan struct{}
	end   func()
}

func (p *Port) track(t *tls.Conn, sub ca.Subject, proto string) *Conn {
	c := &Conn{Conn: t, sub: sub, proto: proto, done: make(chan struct{})}
	p.mu.Lock()
	p.conns[c] = struct{}{}
	p.mu.Unlock()
	c.end = func() {
		p.mu.Lock()
		delete(p.conns, c)
		p.mu.Unlock()
	}
	return c
}

// Peer is the member at the other end, empty on open protocols.
func (c *Conn) Peer() org.ServerName { return c.sub.Name }

// closeGrace bounds the farewell (TLS close_notify) to a peer that does not read.
const closeGrace = 100 * time.Millisecond

// Close ends the connection; later calls do nothing.
func (c *Conn) Close() (err error) {
	c.once.Do(func() {
		c.end()
		t := time.AfterFunc(closeGrace, func() { c.Conn.NetConn().Close() })
		err = c.Conn.Close()
		t.Stop()
		close(c.done)
	})
	return err
}

// Slot is the place of a protocol whose server wants a listener and may be
// stopped and started again (etcd, gRPC).
type Slot struct {
	addr addr
	mu   sync.Mutex // guards now
	now  *adapter
}

// Open returns a new listener for the protocol and closes the former one.
// While none is open, connections of the protocol are closed.
func (s *Slot) Open() net.Listener {
	l := &adapter{conns: make(chan net.Conn), closed: make(chan struct{}), addr: s.addr}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now != nil {
		s.now.Close()
	}
	s.now = l
	return l
}

func (s *Slot) hand(ctx context.Context, _ org.ServerName, c net.Conn) {
	s.mu.Lock()
	l := s.now
	s.mu.Unlock()
	if l != nil {
		l.hand(ctx, c.(*Conn))
	}
}

// adapter gives the connections of one protocol to a server that accepts.
type adapter struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
	addr   addr
}

// hand passes a connection on and holds the port's handler until it is closed.
func (l *adapter) hand(ctx context.Context, c *Conn) {
	select {
	case l.conns <- c:
	case <-l.closed:
		return
	case <-ctx.Done():
		return
	}
	select {
	case <-c.done:
	case <-ctx.Done():
	}
}

func (l *adapter) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *adapter) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *adapter) Addr() net.Addr { return l.addr }

type addr string

func (addr) Network() string  { return "tcp" }
func (a addr) String() string { return string(a) }
