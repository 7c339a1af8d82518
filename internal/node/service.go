package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
)

// door is a part that can be thrown away and built anew.
type door interface {
	Run(context.Context) error
	Ready() <-chan struct{}
}

// service keeps a door running: one that ends by itself is built anew, and so is
// one whose restart was asked for. The old one drains beside the new one.
type service[D door] struct {
	name   string
	build  func(prometheus.Registerer) (D, error)
	events *event.Log
	told   func(err error) // of an end by itself; nil: nobody

	figures *figures
	now     atomic.Pointer[D]
	orders  chan chan error
}

// Pauses of services.
const (
	rebuildFirst = 500 * time.Millisecond // after an end by itself
	rebuildMost  = 30 * time.Second
	rebuildWait  = 20 * time.Second // for a restarted door to be ready
	shutWait     = time.Second      // for a door to leave its addresses
)

// newService builds the door for the first time; an error is a mistake in the
// configuration.
func newService[D door](name string, r prometheus.Registerer, events *event.Log, build func(prometheus.Registerer) (D, error)) (*service[D], error) {
	s := &service[D]{name: name, build: build, events: events, figures: &figures{to: r}, orders: make(chan chan error)}
	d, err := build(s.figures)
	if err != nil {
		return nil, err
	}
	s.now.Store(&d)
	return s, nil
}

// current is the door as it is now.
func (s *service[D]) current() D { return *s.now.Load() }

// restart builds the door anew and returns when the new one is ready. It needs
// Run.
func (s *service[D]) restart(ctx context.Context) error {
	answer := make(chan error, 1)
	select {
	case s.orders <- answer:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// running is a door that runs.
type running[D door] struct {
	door  D
	stop  context.CancelFunc
	ended chan error // takes one value
}

func (s *service[D]) begin(ctx context.Context, d D, all *sync.WaitGroup) running[D] {
	ctx, cancel := context.WithCancel(ctx)
	r := running[D]{door: d, stop: cancel, ended: make(chan error, 1)}
	all.Go(func() {
		defer cancel()
		r.ended <- d.Run(ctx)
	})
	return r
}

// Run keeps the door running until ctx ends. A door that was never ready ends it
// with its error.
func (s *service[D]) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	pause := backoff{first: rebuildFirst, most: rebuildMost, forgive: time.Minute}
	r, begun, wasReady := s.begin(ctx, s.current(), &all), time.Now(), false
	for {
		ready := r.door.Ready()
		if wasReady {
			ready = nil
		}
		select {
		case <-ready:
			wasReady = true
		case err := <-r.ended:
			if ctx.Err() != nil {
				return err
			}
			if err == nil {
				err = errors.New("it ended without being asked to")
			}
			select {
			case <-r.door.Ready():
				wasReady = true
			default:
			}
			if !wasReady {
				return err
			}
			s.events.Emit(EventServiceEnded, "%s ended by itself and is built anew: %v", s.name, err)
			if s.told != nil {
				s.told(err)
			}
			next, ok := s.again(ctx, &all, max(pause.after(time.Since(begun)), rebuildFirst))
			if !ok {
				return nil
			}
			r, begun = next, time.Now()
			if s.told != nil {
				s.told(nil)
			}
		case answer := <-s.orders:
			next, err := s.replace(ctx, r, &all)
			if err == nil || next.ended != nil {
				r, begun, wasReady = next, time.Now(), true
			}
			answer <- err
		}
	}
}

// again builds the door after an end by itself, until that works or ctx ends.
func (s *service[D]) again(ctx context.Context, all *sync.WaitGroup, wait time.Duration) (running[D], bool) {
	for {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return running[D]{}, false
		}
		d, err := s.rebuild()
		if err == nil {
			return s.begin(ctx, d, all), true
		}
		s.events.Emit(EventServiceEnded, "%s cannot be built anew: %v", s.name, err)
		wait = min(2*wait, rebuildMost)
	}
}

// replace stops the present door and begins another. While the old one finishes
// what is under way, its addresses are free.
func (s *service[D]) replace(ctx context.Context, old running[D], all *sync.WaitGroup) (running[D], error) {
	old.stop()
	select {
	case <-old.ended:
	case <-time.After(shutWait):
	}
	d, err := s.rebuild()
	if err != nil { // the settings are those that worked; the loop tries again
		failed := running[D]{door: old.door, stop: old.stop, ended: make(chan error, 1)}
		failed.ended <- err
		return failed, fmt.Errorf("restart %s: %w", s.name, err)
	}
	next := s.begin(ctx, d, all)
	select {
	case <-d.Ready():
		s.events.Emit(EventServiceRestarted, "%s was built anew", s.name)
		return next, nil
	case err := <-next.ended:
		next.ended <- err
		return next, fmt.Errorf("restart %s: %w", s.name, err)
	case <-time.After(rebuildWait):
		return next, kind.Errorf(kind.Busy, "restart %s: it is not ready after %s", s.name, rebuildWait)
	case <-ctx.Done():
		return next, ctx.Err()
	}
}

func (s *service[D]) rebuild() (D, error) {
	s.figures.forget()
	d, err := s.build(s.figures)
	if err == nil {
		s.now.Store(&d)
	}
	return d, err
}

// figures takes the collectors of a door, so that those of the next one can take
// their place.
type figures struct {
	to   prometheus.Registerer
	mu   sync.Mutex // guards mine
	mine []prometheus.Collector
}

// Register implements prometheus.Registerer.
func (f *figures) Register(c prometheus.Collector) error {
	if f.to == nil {
		return nil
	}
	if err := f.to.Register(c); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mine = append(f.mine, c)
	return nil
}

// MustRegister implements prometheus.Registerer.
func (f *figures) MustRegister(all ...prometheus.Collector) {
	for _, c := range all {
		if err := f.Register(c); err != nil {
			panic(err) // two parts use one name: a mistake that the first start shows
		}
	}
}

// Unregister implements prometheus.Registerer.
func (f *figures) Unregister(c prometheus.Collector) bool { return f.to != nil && f.to.Unregister(c) }

// forget takes the collectors away.
func (f *figures) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.mine {
		f.Unregister(c)
	}
	f.mine = nil
}
