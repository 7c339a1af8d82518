package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// stages are running parts in the order of their start. They are stopped one
// by one in the reverse order, so that a part can use those below it to its end.
type stages struct {
	log    *slog.Logger
	broken chan struct{} // closed when a part ended by itself

	mu    sync.Mutex // guards list and first
	list  []*stage
	first error // why the first part ended by itself
}

type stage struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{}
	err    error // valid when done is closed
	asked  bool  // to stop
}

func newStages(log *slog.Logger) *stages { return &stages{log: log, broken: make(chan struct{})} }

// run starts a part. Its context is its own: the process's end must not reach
// all parts at once.
func (s *stages) run(name string, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	g := &stage{name: name, cancel: cancel, done: make(chan struct{})}
	s.mu.Lock()
	s.list = append(s.list, g)
	s.mu.Unlock()
	go func() {
		g.err = f(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		if !g.asked && s.first == nil {
			s.first = g.err
			if s.first == nil {
				s.first = errors.New("ended without being asked to")
			}
			s.first = fmt.Errorf("%s: %w", name, s.first)
			close(s.broken)
		}
		close(g.done)
	}()
}

// cause is why a part ended by itself, nil for none.
func (s *stages) cause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first
}

// wait returns when ctx ends (nil) or a part ended by itself.
func (s *stages) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.broken:
		return s.cause()
	}
}

// stop ends all parts, the last started first, and returns what went wrong
// while they drained.
func (s *stages) stop() error {
	s.mu.Lock()
	list := s.list
	s.mu.Unlock()
	var errs []error
	for i := len(list) - 1; i >= 0; i-- {
		g := list[i]
		begun := time.Now()
		s.mu.Lock()
		g.asked = true
		s.mu.Unlock()
		g.cancel()
		<-g.done
		if g.err != nil && !errors.Is(g.err, context.Canceled) && s.cause() == nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", g.name, g.err))
		}
		s.log.Debug("stopped", "part", g.name, "took", time.Since(begun))
	}
	return errors.Join(errs...)
}
