package imapd

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/access/proxyproto"
	"github.com/postern-mail/postern/internal/org"
)

// offline is what clients hear when the component is Inactive.
const offline = "This server is taken out of service, connect again"

// reopenEvery is the pause between two tries to listen again.
const reopenEvery = time.Second

// doors are the listeners of the server. They open and shut together.
type doors struct {
	s         *Server
	serving   *sync.WaitGroup
	listeners []listener
	accepting sync.WaitGroup
}

// listener is an open door.
type listener struct {
	net.Listener
	implicitTLS bool
}

// begin opens the doors, unless they are held back.
func (d *doors) begin(ctx context.Context) error {
	state, _ := d.wished()
	d.s.obey(state)
	if state != org.Active {
		return nil
	}
	return d.open(ctx)
}

// follow opens and shuts the doors as the component wants it until ctx ends;
// then it shuts them.
func (d *doors) follow(ctx context.Context) {
	defer d.shut()
	for {
		state, changed := d.wished()
		d.s.obey(state)
		var again <-chan time.Time
		switch {
		case state != org.Active:
			d.shut()
			if _, n := d.s.Now(); state == org.Inactive && n > 0 {
				again = time.After(d.s.cfg.DrainTimeout.Std())
			}
		case !d.isOpen():
			if err := d.open(ctx); err != nil {
				d.s.log.Warn("the doors cannot be opened", "error", err)
				again = time.After(reopenEvery)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-again:
			if state == org.Inactive {
				d.s.end()
			}
		}
	}
}

func (d *doors) wished() (org.ComponentState, <-chan struct{}) {
	if d.s.deps.Component == nil {
		return org.Active, nil
	}
	return d.s.deps.Component(org.IMAPComponent)
}

func (d *doors) isOpen() bool {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	return d.s.open
}

// open listens at all addresses or none.
func (d *doors) open(ctx context.Context) error {
	s := d.s
	out, err := s.listen(ctx)
	if err != nil {
		return err
	}
	d.listeners = out
	s.mu.Lock()
	s.open = true
	s.mu.Unlock()
	for _, l := range out {
		d.accepting.Go(func() { s.accept(ctx, l, d.serving) })
	}
	return nil
}

// shut stops listening. Sessions go on.
func (d *doors) shut() {
	for _, l := range d.listeners {
		l.Close()
	}
	d.accepting.Wait()
	d.listeners = nil
	d.s.mu.Lock()
	d.s.open = false
	d.s.mu.Unlock()
}

func (s *Server) listen(ctx context.Context) ([]listener, error) {
	var out []listener
	fail := func(err error) ([]listener, error) {
		for _, l := range out {
			l.Close()
		}
		return nil, err
	}
	for _, door := range []struct {
		name string
		Door
		implicit bool
	}{{"starttls", s.cfg.StartTLS, false}, {"tls", s.cfg.TLS, true}} {
		from, err := parseNetworks(door.ProxyFrom)
		if err != nil {
			return fail(err) // not reached: validated
		}
		for i, addr := range door.Listen {
			if known := s.Addrs(door.name); i < len(known) {
				addr = known[i].String() // where it listened before, if the system chose the port
			}
			l, err := s.deps.Listen(ctx, addr)
			if err != nil {
				return fail(fmt.Errorf("imap: listen on %s: %w", addr, err))
			}
			s.mu.Lock()
			if i >= len(s.addrs[door.name]) {
				s.addrs[door.name] = append(s.addrs[door.name], l.Addr())
			}
			s.mu.Unlock()
			s.events.Emit(eventListening, "IMAP (%s) listens on %s", door.name, l.Addr())
			if len(from) > 0 {
				l = proxyproto.Listen(l, from)
			}
			out = append(out, listener{l, door.implicit})
		}
	}
	return out, nil
}

// obey does what the component wants of sessions: Inactive ends them with BYE
// between two commands, also those in IDLE; Draining lets them be.
func (s *Server) obey(state org.ComponentState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = state
	if state != org.Inactive {
		return
	}
	for c := range s.conns {
		c.Shutdown(offline)
	}
}

// end closes what did not end after BYE within the drain timeout.
func (s *Server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Close()
	}
}

// Now tells what the component does: Active while the doors listen, and how many
// connections there are. It is Draining, not Inactive, until the last one is gone.
func (s *Server) Now() (org.ComponentState, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.conns)
	switch {
	case s.open:
		return org.Active, n
	case s.state == org.Inactive && n == 0:
		return org.Inactive, 0
	}
	return org.Draining, n
}
