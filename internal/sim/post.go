package sim

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/active"
	"github.com/postern-mail/postern/internal/base/conf"
	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/transport"
)

// post is what a server has besides in a world with Transport. The disk of the
// queue outlives processes, and loses what was not synced when one is killed.
type post struct {
	public, inside string // where others reach it, where it listens
	fs             *fsx.Mem
	ix             *vfs.MemFS
	life           atomic.Pointer[life]
	kills          uint64
	gone           chan struct{} // closed when the process that was killed is gone; nil for none
}

// life is one process of a server.
type life struct {
	ctx    context.Context // ends with it
	end    context.CancelFunc
	killed atomic.Bool
	mover  *transport.Mover
}

func newPost(public, inside string) *post {
	return &post{public: public, inside: inside, fs: fsx.NewMem(), ix: vfs.NewCrashableMem()}
}

// openPost builds the directory and the queue, as the binary does.
func (s *Server) openPost(k *mailbox.Keeper, log *slog.Logger) error {
	client := k.Client()
	s.Directory = directory.New(directory.Agreed(s.Cluster), directory.Options{Store: client, Log: log, Events: s.Events,
		HashMemory: 64, HashPasses: 1})
	m, err := transport.New(transport.Config{Dir: "queue", SegmentSize: 1 << 20, Reserve: 1 << 20, Drain: conf.Duration(time.Second),
		Hostname: "mx." + string(s.Name) + ".test", Private: true, DNS: transport.DNSConfig{Servers: []string{"127.0.0.1:9"}}},
		transport.Deps{Group: s.Cluster, Store: client, Delivered: client.Delivered, DuplicateWindow: mailbox.Config{}.WithDefaults().DuplicateWindow,
			Directory: s.Directory, Version: "sim", Fast: !s.w.o.Slow, FS: s.post.fs, IndexFS: s.post.ix,
			Log: log, Events: s.Events, Metrics: prometheus.NewRegistry()})
	if err != nil {
		return err
	}
	s.Mover = m
	return nil
}

// conductor are the plugs of Active Manager.
func (s *Server) conductor(d active.Deps) active.Deps {
	if s.Mover != nil {
		d.SafetyNet, d.Completed = s.Mover.AskSafetyNet, s.Mover.SafetyNetCompleted
	}
	return d
}

// Kill ends the server's process as the loss of power does: nobody hears of it
// again, and its queue has what was durable at that moment. What it still does
// reaches nothing but its own copies of databases.
func (s *Server) Kill() {
	p := s.post
	if l := p.life.Swap(nil); l != nil {
		l.killed.Store(true)
		l.end()
	}
	s.w.links.down(p.public)
	p.kills++
	ix := p.ix.CrashClone(vfs.CrashCloneCfg{})
	fs := p.fs.CrashImage(p.kills)
	p.fs, p.ix, p.gone = fs, ix, make(chan struct{})
	go func() {
		defer close(p.gone)
		s.stop()
		<-s.done
	}()
}

// Cut cuts the server off from all others, whose words do not reach it either.
func (s *Server) Cut() { s.w.links.setCut(s.post.public, true) }

// Heal ends Cut: what was said meanwhile arrives.
func (s *Server) Heal() { s.w.links.setCut(s.post.public, false) }

// Fill leaves n bytes free on the disk of the server's queue.
func (s *Server) Fill(n int64) {
	free, total, err := s.post.fs.Free("queue")
	if err == nil {
		s.post.fs.SetLimit(total - free + n)
	}
}

// Room gives the disk of the server's queue so many bytes.
func (s *Server) Room(n int64) { s.post.fs.SetLimit(n) }

// Accept hands a message to the server's transport. What a process that was
// killed answers nobody hears.
func (s *Server) Accept(ctx context.Context, m mail.Submission) (mail.Receipt, error) {
	l := s.post.life.Load()
	if l == nil {
		return mail.Receipt{}, kind.Errorf(kind.Busy, "%s is not up", s.Name)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	r, err := l.mover.Accept(ctx, m)
	if l.killed.Load() {
		err = kind.Errorf(kind.Busy, "%s was killed", s.Name)
	}
	return r, err
}
