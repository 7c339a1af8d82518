package bubble

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"reflect"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/active"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/lock"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

// server is a member of the group, with its disk.
type server struct {
	name org.ServerName
	w    *world
	disk *disk
	turn lock.Mutex // held while its process is started or stopped
	last *process   // guarded by turn
	ill  *illness   // guarded by w.mu
}

// process is one life of a server's process.
type process struct {
	srv     *server
	group   *member
	keeper  *mailbox.Keeper
	manager *active.Manager
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	gate    *gate
	gone    chan struct{} // closed when all of it has ended

	mu      sync.Mutex // guards the rest
	closing bool       // no more connections
	ended   bool       // nobody hears of it again
	pipes   map[*pipe]bool
}

// start starts the server's process, unless it runs.
func (s *server) start() error {
	s.turn.Lock()
	defer s.turn.Unlock()
	if s.w.links.running(s.name) != nil {
		return nil
	}
	p := &process{srv: s, pipes: map[*pipe]bool{}, gone: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(s.w.ctx)
	p.gate = &gate{name: s.name, in: make(chan net.Conn), over: p.ctx.Done()}
	p.group = newMember(p)
	if s.last == nil {
		p.group.learn(s.w.agreed.newest(time.Now())) // as it joined
	} else {
		p.group.learn(s.last.group.View()) // its snapshot on disk
	}
	s.last = p
	log := s.w.log.With("server", string(s.name))
	ev := event.NewLog(log)
	ev.Subscribe(s.w.mounted)
	fs, ix := s.disk.files()
	k, err := mailbox.New(s.w.plan.mailboxConfig(), mailbox.Deps{Group: p.group, FS: fs, IndexFS: ix, Log: log, Events: ev})
	if err != nil {
		return err
	}
	p.keeper = k
	s.w.mu.Lock()
	ill := s.ill
	s.w.mu.Unlock()
	p.tellHealth(ill)
	p.manager = active.New(s.w.plan.activeConfig(), active.Deps{Group: p.group, Copies: k, Volumes: k, Fast: true,
		Health: p.health, Component: p.component, Plans: p.planDeps(), Log: log, Events: ev})
	s.w.links.change(func() { s.w.links.hosts[s.name].proc = p })
	s.w.wg.Go(func() { p.run(s.w) })
	return nil
}

// run runs the rooms until the process ends.
func (p *process) run(w *world) {
	defer close(p.gone)
	p.wg.Go(func() {
		if err := p.keeper.Run(p.ctx); err != nil {
			w.violate("mailbox on %s ended: %v", p.srv.name, err)
		}
	})
	p.wg.Go(func() {
		if err := p.manager.Run(p.ctx); err != nil {
			w.violate("active on %s ended: %v", p.srv.name, err)
		}
	})
	p.wg.Go(func() {
		if err := p.manager.RunPlans(p.ctx); err != nil {
			w.violate("plans on %s ended: %v", p.srv.name, err)
		}
	})
	p.wg.Go(func() { _ = p.group.rpc.Serve(p.gate) }) // ends with Stop
	<-p.ctx.Done()
	p.group.rpc.Stop()
	p.group.hangUp()
	p.wg.Wait()
}

func (p *process) over() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}

// hold keeps a connection that ends with the process; false: it is over.
func (p *process) hold(c *pipe) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return false
	}
	p.pipes[c] = true
	return true
}

// accept takes a connection of another server.
func (p *process) accept(from org.ServerName, proto string, c net.Conn) bool {
	if proto == protoRPC {
		select {
		case p.gate.in <- c:
			return true
		case <-p.ctx.Done():
			return false
		}
	}
	p.group.mu.Lock()
	h := p.group.handlers[proto]
	p.group.mu.Unlock()
	if h == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || p.closing {
		return false
	}
	p.wg.Go(func() {
		defer c.Close()
		h(p.ctx, from, c)
	})
	return true
}

// kill ends the process at once. With power the machine goes with it, and what
// was on its way and not durable is lost.
func (s *server) kill(power bool) {
	p := s.w.links.running(s.name)
	if p == nil {
		return
	}
	p.end(power)
	s.disk.crash(power)
	p.cancel()
}

// stop ends the process as an administrator does.
func (s *server) stop() {
	s.turn.Lock()
	defer s.turn.Unlock()
	p := s.w.links.running(s.name)
	if p == nil {
		return
	}
	if s.w.agreed.reached(s.name) {
		s.w.agreed.withdraw(s.name)
	}
	s.w.links.change(func() { s.w.links.hosts[s.name].proc = nil })
	p.mu.Lock()
	p.closing = true
	p.mu.Unlock()
	p.cancel()
	<-p.gone
	p.end(false)
}

// end takes the process from the group: nobody hears of it again.
func (p *process) end(power bool) {
	p.srv.w.links.change(func() {
		if h := p.srv.w.links.hosts[p.srv.name]; h.proc == p {
			h.proc = nil
		}
	})
	p.mu.Lock()
	p.ended = true
	pipes := p.pipes
	p.pipes = nil
	p.mu.Unlock()
	for c := range pipes {
		if power {
			c.out.lose()
		}
		c.Close()
	}
}

// running is the process of a server, held or not.
func (l *links) running(s org.ServerName) *process {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hosts[s].proc
}

// gate is where calls of other servers come in.
type gate struct {
	name org.ServerName
	in   chan net.Conn
	over <-chan struct{}
}

// Accept implements net.Listener.
func (g *gate) Accept() (net.Conn, error) {
	select {
	case c := <-g.in:
		return c, nil
	case <-g.over:
		return nil, io.EOF
	}
}

// Close implements net.Listener.
func (g *gate) Close() error { return nil }

// Addr implements net.Listener.
func (g *gate) Addr() net.Addr { return addr(g.name) }

// command runs an entry of the command table; params is JSON.
func (p *process) command(ctx context.Context, name, params string) (any, error) {
	var table []command.Command
	table = append(table, mailbox.Commands(p.keeper)...)
	table = append(table, active.Commands(p.manager)...)
	for _, c := range table {
		if c.Name() != name {
			continue
		}
		in := reflect.New(c.In)
		if params != "" {
			if err := json.Unmarshal([]byte(params), in.Interface()); err != nil {
				return nil, err
			}
		}
		return c.Run(ctx, in.Elem().Interface())
	}
	return nil, kind.Errorf(kind.NotFound, "no command %q", name)
}

// logger is where a world's servers write to, with the time of the world.
func logger(to io.Writer) *slog.Logger {
	if to == nil {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(to, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
