package imapd

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/conf"
	"github.com/postern-mail/postern/internal/org"
)

// wish is the state of the component as a test wants it.
type wish struct {
	mu      sync.Mutex // guards the rest
	state   org.ComponentState
	changed chan struct{}
}

func (w *wish) component(org.Component) (org.ComponentState, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state, w.changed
}

func (w *wish) set(s org.ComponentState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = s
	close(w.changed)
	w.changed = make(chan struct{})
}

// reaches tells whether the door takes connections.
func (w *world) reaches() bool {
	c, err := net.Dial("tcp", w.srv.Addrs("starttls")[0].String())
	if err == nil {
		c.Close()
	}
	return err == nil
}

// TestComponent: Draining shuts the doors and lets sessions go on, Inactive ends
// them with BYE, in IDLE too, and Active opens the doors at the same address.
func TestComponent(t *testing.T) {
	x := &wish{state: org.Active, changed: make(chan struct{})}
	w := worldWith(t, nil, func(d *Deps) { d.Component = x.component })
	a, b := w.selected(), w.selected()
	x.set(org.Draining)
	eventually(t, "the doors are shut", func() bool { return !w.reaches() })
	eventually(t, "two sessions are left, which drain", func() bool {
		state, n := w.srv.Now()
		return state == org.Draining && n >= 2
	})
	a.ok("NOOP")
	b.send("i IDLE\r\n")
	b.line()
	x.set(org.Inactive)
	for _, c := range []*client{a, b} {
		if got := c.eof(); got != "* BYE "+offline {
			t.Error(got)
		}
	}
	eventually(t, "it is Inactive", func() bool { state, n := w.srv.Now(); return state == org.Inactive && n == 0 })
	x.set(org.Active)
	eventually(t, "the doors are open", w.reaches)
	w.selected().ok("NOOP")
}

// TestInactiveInOutage: a command that waits for its database is cut off after
// the drain timeout.
func TestInactiveInOutage(t *testing.T) {
	x := &wish{state: org.Active, changed: make(chan struct{})}
	w := worldWith(t, func(c *Config) { c.DrainTimeout = conf.Duration(20 * time.Millisecond) }, func(d *Deps) { d.Component = x.component })
	c := w.login()
	o := newOutage(w)
	o.begin()
	c.send("x SELECT INBOX\r\n")
	<-o.hit
	x.set(org.Inactive)
	c.eof()
	o.end()
	eventually(t, "it is Inactive", func() bool { state, _ := w.srv.Now(); return state == org.Inactive })
}

// TestBrokenListener: the server does not notice that its listener is gone; that is
// what probes and the restart of the service are for.
func TestBrokenListener(t *testing.T) {
	var mu sync.Mutex // guards all
	var all []net.Listener
	w := worldWith(t, nil, func(d *Deps) {
		d.Listen = func(ctx context.Context, addr string) (net.Listener, error) {
			l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, l)
			return l, err
		}
	})
	c := w.selected()
	mu.Lock()
	for _, l := range all {
		l.Close()
	}
	mu.Unlock()
	if w.reaches() {
		t.Error("still listening")
	}
	c.ok("NOOP")
	if state, _ := w.srv.Now(); state != org.Active {
		t.Errorf("it believes to be %s", state)
	}
}
