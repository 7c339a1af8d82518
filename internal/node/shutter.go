package node

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/postern-mail/postern/internal/org"
)

// shutter is the listener of a door that can be shut and opened again below the
// program that accepts: Draining lets connections that are there go on, Inactive
// ends them. The addresses are free while it is shut.
type shutter struct {
	addrs []string
	wish  func() (org.ComponentState, <-chan struct{})

	conns  chan net.Conn
	orders chan chan error // to open the addresses anew
	closed chan struct{}
	once   sync.Once
	all    sync.WaitGroup // who accepts

	mu    sync.Mutex // guards the rest
	inner net.Listener
	addr  net.Addr
	open  map[*shutterConn]struct{}
}

// newShutter opens the addresses, so that a mistake in the configuration is told
// at the start; nil for no address. run has to follow.
func newShutter(ctx context.Context, addrs []string, wish func() (org.ComponentState, <-chan struct{})) (*shutter, error) {
	l, err := listenAll(ctx, addrs)
	if l == nil || err != nil {
		return nil, err
	}
	return &shutter{addrs: addrs, wish: wish, conns: make(chan net.Conn), orders: make(chan chan error), closed: make(chan struct{}),
		inner: l, addr: l.Addr(), open: map[*shutterConn]struct{}{}}, nil
}

// adminListener is the listener of the HTTPS door, nil where there is none.
func (w *mailWorker) adminListener(ctx context.Context) (*shutter, error) {
	return newShutter(ctx, w.cfg.Admin.Listen, func() (org.ComponentState, <-chan struct{}) { return w.components.State(org.AdminAPI) })
}

// run shuts and opens as the component's state wants it, until ctx ends.
func (s *shutter) run(ctx context.Context) error {
	defer s.all.Wait()
	defer s.shut(false)
	s.begin()
	for {
		state, changed := s.wish()
		switch {
		case state != org.Active:
			s.shut(state == org.Inactive)
		case !s.isOpen():
			if err := s.reopen(ctx); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.closed:
			return nil
		case <-changed:
		case answer := <-s.orders:
			s.shut(false)
			answer <- s.reopen(ctx)
		}
	}
}

// restart opens the addresses anew; connections that are there go on.
func (s *shutter) restart(ctx context.Context) error {
	answer := make(chan error, 1)
	select {
	case s.orders <- answer:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *shutter) isOpen() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inner != nil
}

func (s *shutter) reopen(ctx context.Context) error {
	l, err := listenAll(ctx, s.addrs)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.inner = l
	s.mu.Unlock()
	s.begin()
	return nil
}

// begin accepts from the listener of now until that is closed.
func (s *shutter) begin() {
	s.mu.Lock()
	l := s.inner
	s.mu.Unlock()
	s.all.Go(func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue
			}
			w := &shutterConn{Conn: c, s: s}
			s.mu.Lock()
			shut := s.inner != l
			if !shut {
				s.open[w] = struct{}{}
			}
			s.mu.Unlock()
			if shut {
				c.Close()
				continue
			}
			select {
			case s.conns <- w:
			case <-s.closed:
				w.Close()
			}
		}
	})
}

// shut closes the addresses and, with all, the connections.
func (s *shutter) shut(all bool) {
	s.mu.Lock()
	l := s.inner
	s.inner = nil
	var ends []*shutterConn
	if all {
		for c := range s.open {
			ends = append(ends, c)
		}
	}
	s.mu.Unlock()
	if l != nil {
		l.Close()
	}
	for _, c := range ends {
		c.Close()
	}
}

// now tells what the door does, and how many connections it has.
func (s *shutter) now() (org.ComponentState, int) {
	state, _ := s.wish()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.inner != nil:
		state = org.Active
	case state == org.Active || len(s.open) > 0: // not open yet, or not empty yet
		state = org.Draining
	}
	return state, len(s.open)
}

// Accept implements net.Listener. While the door is shut it waits.
func (s *shutter) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

// Addr implements net.Listener: the first address.
func (s *shutter) Addr() net.Addr { return s.addr }

// Close implements net.Listener.
func (s *shutter) Close() error {
	s.once.Do(func() { close(s.closed) })
	s.shut(false)
	return nil
}

// shutterConn is a connection that its shutter may end.
type shutterConn struct {
	net.Conn
	s *shutter
}

// Close implements net.Conn.
func (c *shutterConn) Close() error {
	c.s.mu.Lock()
	delete(c.s.open, c)
	c.s.mu.Unlock()
	return c.Conn.Close()
}
