package netx

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// Limit bounds the connections of l that are open at one time. At the limit
// Accept waits; callers queue in the kernel's backlog and are refused by it.
func Limit(l net.Listener, n int) net.Listener {
	return &limited{Listener: l, slots: make(chan struct{}, n), closed: make(chan struct{})}
}

type limited struct {
	net.Listener
	slots  chan struct{}
	once   sync.Once
	closed chan struct{}
}

func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &limitedConn{Conn: c, release: sync.OnceFunc(func() { <-l.slots })}, nil
}

func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	release func()
}

func (c *limitedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}

// NetConn returns the connection inside, for those who set socket options.
func (c *limitedConn) NetConn() net.Conn { return c.Conn }

// Serve accepts connections of l and runs handle for each on its own
// goroutine until ctx ends or l is closed. Passing errors (no more file
// descriptors) are waited out. It closes l and every connection still open,
// and returns when all handlers have.
func Serve(ctx context.Context, l net.Listener, handle func(ctx context.Context, c net.Conn)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var open conns
	var wg sync.WaitGroup
	var failed error
	for pause := time.Duration(0); ; {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			if errors.Is(err, net.ErrClosed) {
				failed = err
				break
			}
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			continue
		}
		pause = 0
		if !open.add(c) {
			c.Close()
			continue
		}
		wg.Go(func() {
			defer open.done(c)
			handle(ctx, c)
		})
	}
	l.Close()
	cancel()
	open.closeAll()
	wg.Wait()
	return failed
}

// conns are the connections a Serve has to close at its end.
type conns struct {
	mu     sync.Mutex // guards set and closed
	set    map[net.Conn]struct{}
	closed bool
}

func (o *conns) add(c net.Conn) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	if o.set == nil {
		o.set = map[net.Conn]struct{}{}
	}
	o.set[c] = struct{}{}
	return true
}

func (o *conns) done(c net.Conn) {
	o.mu.Lock()
	delete(o.set, c)
	o.mu.Unlock()
	c.Close()
}

func (o *conns) closeAll() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	for c := range o.set {
		c.Close()
	}
}
