package smtpd

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/access/proxyproto"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// finishTime is how long a client may go on with a message that it had begun when
// its door began to drain.
const finishTime = time.Minute

// reopenEvery is the pause between two tries to listen again.
const reopenEvery = time.Second

// part is the doors of one component. They open and shut together.
type part struct {
	s         *Server
	component org.Component
	doors     []*door
	live      context.Context // of connections
	serving   *sync.WaitGroup

	listeners []net.Listener
	accepting sync.WaitGroup
}

// parts are the doors that listen anywhere, by component.
func (s *Server) parts(live context.Context, serving *sync.WaitGroup) []*part {
	var out []*part
	for _, c := range []org.Component{org.SMTPComponent, org.Submission} {
		p := &part{s: s, component: c, live: live, serving: serving}
		for _, d := range s.doors {
			if d.part == c && len(d.cfg.Listen) > 0 {
				p.doors = append(p.doors, d)
			}
		}
		if len(p.doors) > 0 {
			out = append(out, p)
		}
	}
	return out
}

// begin opens the doors, unless they are held back.
func (p *part) begin(ctx context.Context) error {
	state, _ := p.wished()
	p.s.obey(p.component, state)
	if state != org.Active {
		return nil
	}
	return p.open(ctx)
}

// follow opens and shuts the doors as their component wants it until ctx ends;
// then it shuts them.
func (p *part) follow(ctx context.Context) {
	defer p.shut()
	for {
		state, changed := p.wished()
		p.s.obey(p.component, state)
		var again <-chan time.Time
		switch {
		case state != org.Active:
			p.shut()
			again = p.s.late(p.component, state)
		case len(p.listeners) == 0:
			if err := p.open(ctx); err != nil {
				p.s.warn(eventAccept, "%v", err)
				again = time.After(reopenEvery)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-again:
			if state == org.Draining {
				p.s.end(p.component)
			}
		}
	}
}

func (p *part) wished() (org.ComponentState, <-chan struct{}) {
	if p.s.deps.Component == nil {
		return org.Active, nil
	}
	return p.s.deps.Component(p.component)
}

// open listens at all addresses of the doors or none.
func (p *part) open(ctx context.Context) error {
	s := p.s
	opened := map[net.Listener]*door{}
	for _, d := range p.doors {
		for i, at := range d.cfg.Listen {
			if known := s.Addrs(d.name); i < len(known) {
				at = known[i].String() // where it listened before, if the system chose the port
			}
			l, err := s.deps.Listen(ctx, at)
			if err != nil {
				for open := range opened {
					open.Close()
				}
				return kind.WithHint(fmt.Errorf("smtp: open %s: %w", d.name, err), "is another mail server running, or a right missing for ports below 1024?")
			}
			s.mu.Lock()
			if i >= len(s.addrs[d.name]) {
				s.addrs[d.name] = append(s.addrs[d.name], l.Addr())
			}
			s.mu.Unlock()
			if len(d.from) > 0 {
				l = proxyproto.Listen(l, d.from)
			}
			opened[l] = d
		}
	}
	s.listens(p.component, true)
	for l, d := range opened {
		p.listeners = append(p.listeners, l)
		p.accepting.Go(func() { s.accept(p.live, l, d, p.serving) })
	}
	return nil
}

// shut stops listening; connections go on as Server.obey told them.
func (p *part) shut() {
	for _, l := range p.listeners {
		l.Close()
	}
	p.accepting.Wait()
	p.listeners = nil
	p.s.listens(p.component, false)
}

func (s *Server) listens(c org.Component, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[c] = on
}

// obey tells connections of a component what is wanted of them, present ones and
// those that come.
func (s *Server) obey(c org.Component, state org.ComponentState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.states[c] = state
	for x := range s.conns {
		if x.door.part == c {
			x.obey(state)
		}
	}
}

// late gives a channel that tells when clients have had finishTime, nil where
// nobody is waited for.
func (s *Server) late(c org.Component, state org.ComponentState) <-chan time.Time {
	if state != org.Draining || s.connections(c) == 0 {
		return nil
	}
	return time.After(finishTime)
}

// end makes connections of a component end also within a transaction.
func (s *Server) end(c org.Component) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for x := range s.conns {
		if x.door.part == c {
			x.drain()
		}
	}
}

func (s *Server) connections(c org.Component) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for x := range s.conns {
		if x.door.part == c {
			n++
		}
	}
	return n
}

// Now tells what a component (org.SMTPComponent or org.Submission) does: Active
// while its doors listen, Draining while connections are left, and how many. It is
// as wished where the component has no doors.
func (s *Server) Now(c org.Component) (org.ComponentState, int) {
	n := s.connections(c)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch wished := s.states[c]; {
	case s.open[c]:
		return org.Active, n
	case wished == org.Inactive && n > 0, wished == org.Active:
		return org.Draining, n
	default:
		return wished, n
	}
}

// obey makes a connection do what its component wants.
func (c *conn) obey(state org.ComponentState) {
	switch state {
	case org.Draining:
		c.leave()
	case org.Inactive:
		c.drain()
	}
}
