package node

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/access/dnsd"
	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/org"
)

// wish is a component's state as a test wants it.
type wish struct {
	mu      sync.Mutex // guards the rest
	state   org.ComponentState
	changed chan struct{}
}

func newWish(s org.ComponentState) *wish { return &wish{state: s, changed: make(chan struct{})} }

func (w *wish) get() (org.ComponentState, <-chan struct{}) {
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

// soonState waits until a component does what is wanted.
func soonState(t *testing.T, now func() (org.ComponentState, int), want org.ComponentState) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.After(10 * time.Second)
	for {
		got, left := now()
		if got == want {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("it is %s with %d left, want %s", got, left, want)
		}
	}
}

// TestShutter: Draining closes the address and leaves connections alone, Inactive
// ends them, Active opens again, and a restart replaces a listener that is broken.
func TestShutter(t *testing.T) {
	w := newWish(org.Active)
	s, err := newShutter(t.Context(), []string{"127.0.0.1:0"}, w.get)
	if err != nil {
		t.Fatal(err)
	}
	at := s.Addr().String()
	s.addrs = []string{at} // the same port again
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		if err := s.run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer all.Wait()
	defer cancel()
	all.Go(func() { // the door: it echoes
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			all.Go(func() { defer c.Close(); _, _ = io.Copy(c, c) })
		}
	})
	defer s.Close()
	dial := func() (net.Conn, error) { return net.DialTimeout("tcp", at, 5*time.Second) }
	works := func(c net.Conn) bool {
		if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return false
		}
		_, err := c.Write([]byte("x"))
		if err == nil {
			_, err = io.ReadFull(c, make([]byte, 1))
		}
		return err == nil
	}

	c, err := dial()
	if err != nil || !works(c) {
		t.Fatal("an open door does not answer", err)
	}
	defer c.Close()
	w.set(org.Draining)
	soonState(t, s.now, org.Draining)
	if other, err := dial(); err == nil {
		other.Close()
		t.Error("a door that drains lets somebody in")
	}
	if !works(c) {
		t.Error("draining ended a connection")
	}
	w.set(org.Inactive)
	soonState(t, s.now, org.Inactive)
	if works(c) {
		t.Error("a connection outlived Inactive")
	}
	w.set(org.Active)
	soonState(t, s.now, org.Active)
	s.mu.Lock()
	s.inner.Close() // behind its back
	s.mu.Unlock()
	if err := s.restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, err = dial()
	if err != nil || !works(c) {
		t.Error("after the restart:", err)
	}
	c.Close()
}

// TestDNSDoorObeys: the door is shut while its component is Inactive, from the
// start too, and answers when it is Active.
func TestDNSDoorObeys(t *testing.T) {
	w := newWish(org.Inactive)
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.LocalAddr().String()
	l.Close()
	log := slog.New(slog.DiscardHandler)
	cfg := dnsd.Default()
	cfg.Listen, cfg.Zone = []string{at}, "mail.example.test"
	d, err := newDNSDoor(prometheus.NewRegistry(), w.get, func(r prometheus.Registerer) (*dnsd.Door, error) {
		return dnsd.New(cfg, dnsd.Deps{Servers: func() []dnsd.Server { return nil }, Log: log, Events: event.NewLog(log), Metrics: r})
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.run(ctx) }()
	<-d.ready
	free := func() error {
		l, err := net.ListenPacket("udp", at)
		if err == nil {
			l.Close()
		}
		return err
	}
	if err := free(); err != nil {
		t.Error("a door that is Inactive listens:", err)
	}
	for range 2 { // metrics are registered anew each time
		w.set(org.Active)
		tick := time.NewTicker(time.Millisecond)
		for end := time.Now().Add(10 * time.Second); !d.open.Load(); <-tick.C {
			if time.Now().After(end) {
				t.Fatal("the door does not open")
			}
		}
		tick.Stop()
		if free() == nil {
			t.Error("an open door does not listen")
		}
		w.set(org.Inactive)
		soonState(t, d.now, org.Inactive)
	}
	cancel()
	if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
