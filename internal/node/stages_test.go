package node

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
)

func TestStagesStopInReverse(t *testing.T) {
	s := newStages(slog.New(slog.DiscardHandler))
	var mu sync.Mutex // guards ended
	var ended []string
	for _, name := range []string{"spine", "keeper", "door"} {
		s.run(name, func(ctx context.Context) error {
			<-ctx.Done()
			mu.Lock()
			defer mu.Unlock()
			ended = append(ended, name)
			return nil
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := errors.Join(s.wait(ctx), s.stop()); err != nil {
		t.Fatal(err)
	}
	if want := []string{"door", "keeper", "spine"}; !slices.Equal(ended, want) {
		t.Errorf("ended %v, want %v", ended, want)
	}
}

func TestStageThatEndsByItselfIsTheCause(t *testing.T) {
	s := newStages(slog.New(slog.DiscardHandler))
	s.run("spine", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	s.run("door", func(context.Context) error { return errors.New("port is taken") })
	if err := s.wait(t.Context()); err == nil || err.Error() != "door: port is taken" {
		t.Fatal(err)
	}
	if err := s.stop(); err != nil {
		t.Errorf("what broke is told twice: %v", err)
	}
	s = newStages(slog.New(slog.DiscardHandler))
	s.run("door", func(context.Context) error { return nil })
	if err := s.wait(t.Context()); err == nil {
		t.Error("a part that ended early is not noticed")
	}
}
