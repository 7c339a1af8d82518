package node

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/base/event"
)

// fakeDoor runs until its context or it itself ends.
type fakeDoor struct {
	n      int
	fail   error // before it is ready
	ready  chan struct{}
	breaks chan error
	drain  time.Duration
}

func (d *fakeDoor) Ready() <-chan struct{} { return d.ready }

func (d *fakeDoor) Run(ctx context.Context) error {
	if d.fail != nil {
		return d.fail
	}
	close(d.ready)
	select {
	case err := <-d.breaks:
		return err
	case <-ctx.Done():
		<-time.After(d.drain)
		return nil
	}
}

// works builds doors and counts them.
type works struct {
	mu   sync.Mutex // guards all
	all  []*fakeDoor
	fail error // of doors to come
}

func (w *works) build(r prometheus.Registerer) (*fakeDoor, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := &fakeDoor{n: len(w.all), fail: w.fail, ready: make(chan struct{}), breaks: make(chan error, 1), drain: time.Minute}
	// A second door has to be able to have the same figures.
	r.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "postern_test_things_total", Help: "Things."}))
	w.all = append(w.all, d)
	return d, nil
}

// inService runs a test of a service at a time of its own.
func inService(t *testing.T, f func(t *testing.T, s *service[*fakeDoor], w *works, log *buffer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w, log := &works{}, &buffer{}
		s, err := newService("door", prometheus.NewRegistry(), event.NewLog(slog.New(slog.NewTextHandler(log, nil))), w.build)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		f(t, s, w, log)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestServiceRestart: the new door is ready while the old one still drains.
func TestServiceRestart(t *testing.T) {
	inService(t, func(t *testing.T, s *service[*fakeDoor], _ *works, _ *buffer) {
		begun := time.Now()
		if err := s.restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begun); s.current().n != 1 || d > 2*shutWait {
			t.Errorf("door %d after %s", s.current().n, d)
		}
	})
}

// TestServiceThatEnds: a door that ends by itself is built anew and told of.
func TestServiceThatEnds(t *testing.T) {
	inService(t, func(t *testing.T, s *service[*fakeDoor], _ *works, log *buffer) {
		for range 3 {
			s.current().breaks <- errors.New("lost its socket")
			<-time.After(10 * time.Second)
			synctest.Wait()
		}
		if s.current().n != 3 || strings.Count(log.String(), "lost its socket") != 3 {
			t.Errorf("door %d\n%s", s.current().n, log)
		}
	})
}

// TestServiceThatCannotRestart: the one who asked hears why, and the service goes
// on trying.
func TestServiceThatCannotRestart(t *testing.T) {
	inService(t, func(t *testing.T, s *service[*fakeDoor], w *works, _ *buffer) {
		w.mu.Lock()
		w.fail = errors.New("the port is taken")
		w.mu.Unlock()
		if err := s.restart(t.Context()); err == nil || !strings.Contains(err.Error(), "the port is taken") {
			t.Fatal(err)
		}
		w.mu.Lock()
		w.fail = nil
		w.mu.Unlock()
		<-time.After(time.Minute)
		synctest.Wait()
		select {
		case <-s.current().Ready():
		default:
			t.Error("it gave up")
		}
	})
}

// TestServiceThatNeverWorked: what cannot listen at the first start ends the
// worker with its reason, as a mistake in the configuration.
func TestServiceThatNeverWorked(t *testing.T) {
	w := &works{fail: errors.New("the port is taken")}
	s, err := newService("door", nil, event.NewLog(slog.New(slog.DiscardHandler)), w.build)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err == nil || err.Error() != "the port is taken" {
		t.Error(err)
	}
}
