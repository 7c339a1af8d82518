package peers

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/postern-mail/postern/test/rig"
)

// balancerIP is the load balancer that the server believes: what comes through
// it comes from where it says.
const balancerIP = "127.0.0.2"

// answers waits until somebody takes connections.
func answers(t *testing.T, addr string) {
	t.Helper()
	rig.Eventually(t, 60*time.Second, addr+" answers", func() error {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// gate passes connections on as long as it is open.
type gate struct {
	addr, to string
	from     net.Addr // where connections on seem to come from; nil: from here

	mu     sync.Mutex // guards what follows
	closed bool
	conns  map[net.Conn]bool
}

// newGate makes an open gate on a free port.
func newGate(t *testing.T, to string, from net.Addr) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	rig.Must(t, err)
	g := &gate{addr: l.Addr().String(), to: to, from: from, conns: map[net.Conn]bool{}}
	t.Cleanup(func() {
		l.Close()
		g.shut()
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			go g.pass(c)
		}
	}()
	return g
}

// stranger is a way to the server that it takes for one from an address of the
// Internet.
func stranger(t *testing.T, to, ip string) string {
	t.Helper()
	return newGate(t, to, &net.TCPAddr{IP: net.ParseIP(ip), Port: 40000}).addr
}

func (g *gate) pass(c net.Conn) {
	defer c.Close()
	d := net.Dialer{}
	if g.from != nil {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(balancerIP)}
	}
	out, err := d.Dial("tcp", g.to)
	if err != nil {
		return
	}
	defer out.Close()
	if !g.enter(c, out) {
		return
	}
	defer g.leave(c, out)
	if g.from != nil {
		if _, err := proxyproto.HeaderProxyFromAddrs(2, g.from, out.RemoteAddr()).WriteTo(out); err != nil {
			return
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := io.Copy(out, c)
		if t, ok := out.(*net.TCPConn); ok && (err == nil || !errors.Is(err, net.ErrClosed)) {
			_ = t.CloseWrite() // the other side may be gone
		}
	}()
	_, _ = io.Copy(c, out) // either side may hang up
	c.Close()
	<-done
}

func (g *gate) enter(conns ...net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range conns {
		g.conns[c] = true
	}
	return !g.closed
}

func (g *gate) leave(conns ...net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range conns {
		delete(g.conns, c)
	}
}

// shut hangs up on all, and on who comes.
func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	for c := range g.conns {
		c.Close()
	}
	clear(g.conns)
}

// open lets through again.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = false
}
