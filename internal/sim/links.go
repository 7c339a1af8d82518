package sim

import (
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/postern-mail/postern/internal/base/netx"
)

// links carries what servers say to each other. Each server is known by an
// address of its own, so a connection tells who opened it.
type links struct {
	wg sync.WaitGroup

	mu      sync.Mutex // guards the rest
	hosts   map[netip.Addr]*host
	open    map[*carried]bool
	changed chan struct{} // closed when a host is cut off or heard again
	closed  bool
}

// host is a server as the others reach it.
type host struct {
	public string // what others dial
	inside string // where its process listens
	gate   net.Listener
	cut    bool // nothing gets through, but nobody is told so
}

// carried is one connection.
type carried struct {
	from, to netip.Addr
	a, b     net.Conn
}

func (c *carried) close() {
	c.a.Close()
	if c.b != nil {
		c.b.Close()
	}
}

func newLinks() *links {
	return &links{hosts: map[netip.Addr]*host{}, open: map[*carried]bool{}, changed: make(chan struct{})}
}

// add makes a place for the n-th server.
func (l *links) add(n int) (public, inside string, err error) {
	if public, err = freeAddr(n); err != nil {
		return "", "", err
	}
	if inside, err = freeAddr(n); err != nil {
		return "", "", err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hosts[netx.SourceOf(public)] = &host{public: public, inside: inside}
	return public, inside, nil
}

// up lets others reach a server, if they do not.
func (l *links) up(public string) error {
	me := netx.SourceOf(public)
	l.mu.Lock()
	there := l.hosts[me].gate != nil
	l.mu.Unlock()
	if there {
		return nil
	}
	gate, err := net.Listen("tcp", public)
	if err != nil {
		return fmt.Errorf("open %s for others: %w", public, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.hosts[me]
	h.gate, h.cut = gate, false
	l.wg.Go(func() {
		for {
			c, err := gate.Accept()
			if err != nil {
				return
			}
			from, _ := netip.ParseAddrPort(c.RemoteAddr().String())
			l.wg.Go(func() { l.carry(&carried{from: from.Addr(), to: me, a: c}, h.inside) })
		}
	})
	return nil
}

// down ends all connections of a server at once, and refuses new ones.
func (l *links) down(public string) {
	me := netx.SourceOf(public)
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.hosts[me]; h.gate != nil {
		h.gate.Close()
		h.gate = nil
	}
	for c := range l.open {
		if c.from == me || c.to == me {
			c.close()
		}
	}
	l.tell()
}

// setCut makes a server one whose words reach nobody, or lets what was said
// since arrive.
func (l *links) setCut(public string, cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hosts[netx.SourceOf(public)].cut = cut
	l.tell()
}

// tell wakes who waits; l.mu is held.
func (l *links) tell() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// close ends everything.
func (l *links) close() {
	l.mu.Lock()
	l.closed = true
	for _, h := range l.hosts {
		if h.gate != nil {
			h.gate.Close()
		}
	}
	for c := range l.open {
		c.close()
	}
	l.tell()
	l.mu.Unlock()
	l.wg.Wait()
}

// pass waits until both ends of a connection are heard; false: it is over.
func (l *links) pass(c *carried) bool {
	for {
		l.mu.Lock()
		from, to := l.hosts[c.from], l.hosts[c.to]
		over := l.closed || from == nil || from.gate == nil || to.gate == nil
		cut := !over && (from.cut || to.cut)
		changed := l.changed
		l.mu.Unlock()
		if over || !cut {
			return !over
		}
		<-changed
	}
}

// carry serves one connection until either end is over.
func (l *links) carry(c *carried, inside string) {
	l.mu.Lock()
	l.open[c] = true
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.open, c)
		l.mu.Unlock()
	}()
	defer c.a.Close()
	if !l.pass(c) {
		return
	}
	b, err := net.Dial("tcp", inside)
	if err != nil {
		return
	}
	l.mu.Lock()
	c.b = b
	l.mu.Unlock()
	var wg sync.WaitGroup
	for _, way := range [][2]net.Conn{{c.a, b}, {b, c.a}} {
		wg.Go(func() {
			l.pour(c, way[0], way[1])
			c.close()
		})
	}
	wg.Wait()
}

// pour carries one direction.
func (l *links) pour(c *carried, from, to net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if !l.pass(c) {
			return
		}
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
