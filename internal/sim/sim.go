// Package sim runs whole groups of servers in one process: the same cluster,
// mailbox, active and, where asked for, directory and transport rooms the binary
// runs, on real folders and loopback sockets, with short timers. Tests and drills
// stop, kill, cut off, start and damage servers through it. Queues are on disks
// in memory, which lose what was not synced when a server is killed.
package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/active"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport"
)

// Options of a world. The zero value of a field is its default.
type Options struct {
	Servers int       // 3
	Log     io.Writer // where servers log to, nil for nowhere
	Mailbox func(*mailbox.Config)
	Disk    func(org.ServerName) fsx.FS // nil for this machine's
	// Transport gives each server a directory and a queue, and makes connections
	// between servers such that they can be cut.
	Transport bool
	Slow      bool // the times of the product, not short ones
}

// World is a group of servers in this process.
type World struct {
	dir     string
	o       Options
	mu      sync.Mutex // guards servers
	servers []*Server
	links   *links // nil where connections go directly
}

// Server is one member.
type Server struct {
	Name    org.ServerName
	Dir     string
	w       *World
	Cluster *cluster.Cluster
	Keeper  *mailbox.Keeper
	Manager *active.Manager
	Events  *event.Log
	// Directory and Mover are there with Options.Transport.
	Directory *directory.Directory
	Mover     *transport.Mover
	post      *post

	notesMu sync.Mutex // guards notes
	notes   []org.Note

	stop context.CancelFunc
	done chan struct{}
}

// New makes a group in dir and starts it.
func New(ctx context.Context, dir string, o Options) (*World, error) {
	if o.Servers == 0 {
		o.Servers = 3
	}
	w := &World{dir: dir, o: o}
	if o.Transport {
		w.links = newLinks()
	}
	for range o.Servers {
		if _, err := w.Add(ctx); err != nil {
			w.Close()
			return nil, err
		}
	}
	return w, w.awaitVotes(ctx, min(o.Servers, 3))
}

// awaitVotes waits until n servers vote: before that, the loss of one may be
// the loss of the majority.
func (w *World) awaitVotes(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		votes := 0
		for _, m := range w.Server(1).Cluster.Status(ctx).Members {
			if !m.Learner {
				votes++
			}
		}
		if votes >= n {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return kind.Errorf(kind.Busy, "%d servers vote, want %d", votes, n)
		}
	}
}

// Add makes one more member and starts it.
func (w *World) Add(ctx context.Context) (*Server, error) {
	n := len(w.servers) + 1
	s := &Server{Name: org.ServerName(fmt.Sprintf("MBX%d", n)), w: w}
	s.Dir = filepath.Join(w.dir, string(s.Name))
	addr, err := w.place(s, n)
	if err != nil {
		return nil, err
	}
	vols := []org.VolumeName{"vol1"}
	if n == 1 {
		err = cluster.Init(ctx, cluster.InitOptions{Dir: filepath.Join(s.Dir, "cluster"), Name: s.Name, Site: "A", Addr: addr, Volumes: vols})
	} else {
		var token string
		token, _, err = w.servers[0].Cluster.CreateToken(ctx, cluster.TokenOptions{})
		if err == nil {
			err = cluster.Join(ctx, cluster.JoinOptions{Dir: filepath.Join(s.Dir, "cluster"), Token: token, Name: s.Name, Site: "A", Addr: addr, Volumes: vols})
		}
	}
	if err != nil {
		return nil, err
	}
	if err := s.Start(ctx); err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.servers = append(w.servers, s)
	w.mu.Unlock()
	return s, nil
}

// place finds an address for a server.
func (w *World) place(s *Server, n int) (string, error) {
	if w.links == nil {
		return freeAddr(n)
	}
	public, inside, err := w.links.add(n)
	if err != nil {
		return "", err
	}
	s.post = newPost(public, inside)
	return public, w.links.up(public) // joining needs the way
}

// freeAddr finds a port on a loopback address of its own for each server.
func freeAddr(n int) (string, error) {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.%d:0", 10+n))
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// Server returns member number n, from 1.
func (w *World) Server(n int) *Server {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.servers[n-1]
}

// Named returns the member of that name.
func (w *World) Named(name org.ServerName) *Server {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.servers {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// Close stops everything.
func (w *World) Close() {
	w.mu.Lock()
	all := w.servers
	w.mu.Unlock()
	var wg sync.WaitGroup
	for _, s := range all {
		wg.Go(s.Stop)
	}
	wg.Wait()
	if w.links != nil {
		w.links.close()
	}
}

// Start starts the server on its folder and waits until it is a member.
func (s *Server) Start(ctx context.Context) error {
	if err := s.comeBack(); err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	if s.w.o.Log != nil {
		log = slog.New(slog.NewTextHandler(s.w.o.Log, &slog.HandlerOptions{Level: slog.LevelDebug})).With("server", s.Name)
	}
	s.Events = event.NewLog(log)
	c, err := cluster.Open(s.clusterConfig(), log, s.Events)
	if err != nil {
		return err
	}
	d := mailbox.Deps{Group: c, Paths: c, Log: log, Events: s.Events, Noted: s.note, HoldTime: func() time.Duration { return transport.HoldTime(c.View()) }}
	if s.w.o.Disk != nil {
		d.FS = s.w.o.Disk(s.Name)
	}
	k, err := mailbox.New(s.mailboxConfig(), d)
	if err != nil {
		return errors.Join(err, c.Close())
	}
	s.Cluster, s.Keeper = c, k
	if s.post != nil {
		if err := s.openPost(k, log); err != nil {
			return errors.Join(err, c.Close())
		}
	}
	s.Manager = active.New(active.Config{}, s.conductor(active.Deps{Group: c, Copies: k, Rewind: k.Rewind, Log: log, Events: s.Events}))
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.stop, s.done = cancel, make(chan struct{})
	go s.run(run, log)
	return s.awaitReady()
}

// noted is how many notes there are at most.
const noted = 1000

func (s *Server) note(n org.Note) {
	s.notesMu.Lock()
	defer s.notesMu.Unlock()
	if len(s.notes) < noted {
		s.notes = append(s.notes, n)
	}
}

// Notes are what the server's rooms did by themselves and want in the recovery
// log, of an action.
func (s *Server) Notes(action string) []org.Note {
	s.notesMu.Lock()
	defer s.notesMu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.notes), func(n org.Note) bool { return n.Action != action })
}

// comeBack waits until the process before is gone, and lets others reach the
// one to come.
func (s *Server) comeBack() error {
	if s.post == nil {
		return nil
	}
	if s.post.gone != nil {
		<-s.post.gone
		s.post.gone = nil
	}
	return s.w.links.up(s.post.public)
}

func (s *Server) clusterConfig() cluster.Config {
	c := cluster.Config{Dir: filepath.Join(s.Dir, "cluster"), NoSync: true}
	if !s.w.o.Slow {
		c.Heartbeat, c.Election = 20*time.Millisecond, 200*time.Millisecond
		c.MeshInterval, c.SilentAfter, c.LeaseTTL = 20*time.Millisecond, 400*time.Millisecond, time.Second
	}
	if s.post != nil {
		c.Listen = s.post.inside
	}
	return c
}

func (s *Server) mailboxConfig() mailbox.Config {
	c := mailbox.Config{Volumes: []mailbox.Volume{{Name: "vol1", Path: filepath.Join(s.Dir, "vol1")}}, SegmentSize: 1 << 20, Reserve: 1 << 20}
	if !s.w.o.Slow {
		c.Grace, c.LostGrace, c.Lease, c.Heartbeat = 400*time.Millisecond, 150*time.Millisecond, 300*time.Millisecond, 20*time.Millisecond
	}
	if s.w.o.Mailbox != nil {
		s.w.o.Mailbox(&c)
	}
	return c
}

// awaitReady waits until the server is a member and accepts messages.
func (s *Server) awaitReady() error {
	opens := []<-chan struct{}{s.Cluster.Ready()}
	if s.Mover != nil {
		opens = append(opens, s.Mover.Ready())
	}
	late := time.NewTimer(30 * time.Second)
	defer late.Stop()
	for _, ready := range opens {
		select {
		case <-ready:
		case <-s.done:
			return kind.Errorf(kind.Internal, "%s ended while it started", s.Name)
		case <-late.C:
			s.Stop()
			return kind.Errorf(kind.Busy, "%s is not ready after 30 s", s.Name)
		}
	}
	if s.post != nil {
		l := &life{mover: s.Mover}
		l.ctx, l.end = context.WithCancel(context.Background())
		s.post.life.Store(l)
	}
	return nil
}

// run runs the rooms and stops them from the top down.
func (s *Server) run(ctx context.Context, log *slog.Logger) {
	defer close(s.done)
	cctx, cstop := context.WithCancel(context.WithoutCancel(ctx))
	defer cstop()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Cluster.Run(cctx); err != nil {
			log.Error("cluster ended", "err", err)
			s.stop()
		}
	})
	defer wg.Wait()
	defer cstop()
	select {
	case <-s.Cluster.Ready():
	case <-ctx.Done():
		if s.Mover != nil {
			_ = s.Mover.Close()
		}
		return
	}
	rooms := []func(context.Context) error{s.Keeper.Run}
	if s.Mover != nil {
		rooms = append(rooms, s.Directory.Run, s.Mover.Run)
	}
	rooms = append(rooms, s.Manager.Run)
	var stops []func()
	for _, room := range rooms {
		rctx, stop := context.WithCancel(context.WithoutCancel(ctx))
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if err := room(rctx); err != nil {
				log.Error("room ended", "err", err)
			}
		}()
		stops = append(stops, func() { stop(); <-ended })
	}
	<-ctx.Done()
	for _, stop := range slices.Backward(stops) {
		stop()
	}
}

// Stop ends the server and waits until all of it is gone.
func (s *Server) Stop() {
	if s.post != nil {
		if l := s.post.life.Swap(nil); l != nil {
			l.end()
		}
	}
	s.stop()
	<-s.done
	if s.post != nil {
		s.w.links.down(s.post.public)
		if s.post.gone != nil {
			<-s.post.gone
		}
	}
}

// Command runs an entry of the command table on the server; params is JSON.
func (s *Server) Command(ctx context.Context, name, params string) (any, error) {
	var table []command.Command
	table = append(table, mailbox.Commands(s.Keeper)...)
	table = append(table, active.Commands(s.Manager)...)
	if s.Mover != nil {
		table = append(table, transport.Commands(s.Mover)...)
	}
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

// Store is the store as a door on the server sees it.
func (s *Server) Store() mail.Store { return s.Keeper.Client() }
