package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// wire is networks that can be cut, in one direction or both.
type wire struct {
	mu    sync.Mutex // guards all
	meshs map[org.ServerName]*Mesh
	cut   map[string]bool // "A>B Client"
	moved chan struct{}   // closed at the next change of anything
	conns map[*end]bool
	turns []string
}

var errRefused = errors.New("refused")

func newWire() *wire {
	return &wire{meshs: map[org.ServerName]*Mesh{}, cut: map[string]bool{}, moved: make(chan struct{}), conns: map[*end]bool{}}
}

func (w *wire) set(cut bool, ways ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, way := range ways {
		w.cut[way] = cut
	}
	w.bump()
}

func (w *wire) bump() {
	close(w.moved)
	w.moved = make(chan struct{})
}

// end is one end of a connection: what the other sends waits in in while the
// way is cut, as TCP would try again.
type end struct {
	w        *wire
	way      string // by which in is filled
	in       []byte
	closed   bool
	deadline time.Time
	other    *end
	owner    org.ServerName
}

func (e *end) Read(b []byte) (int, error) {
	for {
		e.w.mu.Lock()
		moved := e.w.moved
		switch cut := e.w.cut[e.way]; {
		case e.closed:
			e.w.mu.Unlock()
			return 0, net.ErrClosed
		case len(e.in) > 0 && !cut:
			n := copy(b, e.in)
			e.in = e.in[n:]
			e.w.mu.Unlock()
			return n, nil
		case e.other.closed && !cut:
			e.w.mu.Unlock()
			return 0, io.EOF
		}
		wait := time.Hour
		if !e.deadline.IsZero() {
			wait = time.Until(e.deadline)
		}
		e.w.mu.Unlock()
		if wait <= 0 {
			return 0, os.ErrDeadlineExceeded
		}
		select {
		case <-moved:
		case <-time.After(wait):
		}
	}
}

func (e *end) Write(b []byte) (int, error) {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	if e.closed || e.other.closed && !e.w.cut[e.way] {
		return 0, net.ErrClosed
	}
	e.other.in = append(e.other.in, b...)
	e.w.bump()
	return len(b), nil
}

func (e *end) Close() error {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	if !e.closed {
		e.closed = true
		delete(e.w.conns, e)
		e.w.bump()
	}
	return nil
}

func (e *end) SetReadDeadline(t time.Time) error {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	e.deadline = t
	return nil
}
func (e *end) SetWriteDeadline(time.Time) error { return nil }
func (e *end) SetDeadline(t time.Time) error    { return e.SetReadDeadline(t) }
func (e *end) LocalAddr() net.Addr              { return nil }
func (e *end) RemoteAddr() net.Addr             { return nil }

// dial connects, or waits where the way there or back is cut.
func (w *wire) dial(ctx context.Context, from, to org.ServerName, path string) (net.Conn, error) {
	there, back := fmt.Sprintf("%s>%s %s", from, to, path), fmt.Sprintf("%s>%s %s", to, from, path)
	for {
		w.mu.Lock()
		moved := w.moved
		if !w.cut[there] && !w.cut[back] {
			break
		}
		w.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-moved:
		}
	}
	defer w.mu.Unlock()
	m := w.meshs[to]
	if m == nil {
		return nil, errRefused
	}
	a, b := &end{w: w, way: back, owner: from}, &end{w: w, way: there, owner: to}
	a.other, b.other = b, a
	w.conns[a], w.conns[b] = true, true
	go func() {
		m.Serve(context.Background(), from, b)
		b.Close()
	}()
	return a, nil
}

// start runs a server with paths to all others.
func (w *wire) start(ctx context.Context, name org.ServerName, peers map[org.ServerName][]string) (*Mesh, context.CancelFunc) {
	m := New(Config{
		Self: name, Interval: 100 * time.Millisecond, SilentAfter: time.Second,
		Dial: func(ctx context.Context, s org.ServerName, path string) (net.Conn, error) {
			return w.dial(ctx, name, s, path)
		},
		Refused: func(err error) bool { return errors.Is(err, errRefused) },
		Turned: func(s org.ServerName, _, to State, _ time.Duration) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.turns = append(w.turns, fmt.Sprintf("%s: %s %s", name, s, to))
		},
		Log: slog.New(slog.DiscardHandler),
	})
	w.mu.Lock()
	w.meshs[name] = m
	w.mu.Unlock()
	m.SetPeers(peers)
	ctx, cancel := context.WithCancel(ctx)
	go m.Run(ctx)
	return m, func() {
		w.mu.Lock()
		delete(w.meshs, name)
		var mine []*end
		for e := range w.conns {
			if e.owner == name {
				mine = append(mine, e)
			}
		}
		w.mu.Unlock()
		cancel()
		for _, e := range mine {
			e.Close()
		}
	}
}

func (w *wire) heard(m *Mesh, of org.ServerName) string {
	for _, p := range m.Peers() {
		if p.Server == of {
			out := []string{string(p.State)}
			for _, q := range p.Paths {
				out = append(out, q.Name+" "+string(q.State))
			}
			return strings.Join(out, ", ")
		}
	}
	return "no peer"
}

// group is three servers with two networks.
func group(t *testing.T, test func(t *testing.T, w *wire, a, b, c *Mesh, kill func())) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		nets := []string{"Client", "Replication01"}
		ctx, cancel := context.WithCancel(t.Context())
		a, endA := w.start(ctx, "A", map[org.ServerName][]string{"B": nets, "C": nets})
		b, endB := w.start(ctx, "B", map[org.ServerName][]string{"A": nets, "C": nets})
		c, endC := w.start(ctx, "C", map[org.ServerName][]string{"A": nets, "B": nets})
		time.Sleep(2 * time.Second)
		for _, m := range []*Mesh{a, b} {
			if got := w.heard(m, "C"); got != "up, Client up, Replication01 up" {
				t.Fatal(got)
			}
		}
		w.turns = nil
		test(t, w, a, b, c, endB)
		endA()
		endB()
		endC()
		cancel()
		time.Sleep(20 * time.Second) // all deadlines
	})
}

func expect(t *testing.T, w *wire, m *Mesh, of org.ServerName, want string) {
	t.Helper()
	if got := w.heard(m, of); got != want {
		t.Errorf("%s: %s, want %s", of, got, want)
	}
}

// TestPathCut: a path that is cut is silent after half a second at both ends,
// the server is not, and what it publishes goes on on the other.
func TestPathCut(t *testing.T) {
	for _, tc := range []struct {
		name string
		ways []string
	}{
		{"both ways", []string{"A>B Client", "B>A Client"}},
		{"one way", []string{"A>B Client"}},
		{"other way", []string{"B>A Client"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			group(t, func(t *testing.T, w *wire, a, b, _ *Mesh, _ func()) {
				a.Publish("x", []byte("1"))
				time.Sleep(200 * time.Millisecond)
				w.set(true, tc.ways...)
				time.Sleep(100 * time.Millisecond)
				a.Publish("x", []byte("2"))
				time.Sleep(600 * time.Millisecond)
				expect(t, w, a, "B", "up, Client silent, Replication01 up")
				expect(t, w, b, "A", "up, Client silent, Replication01 up")
				expect(t, w, a, "C", "up, Client up, Replication01 up")
				time.Sleep(200 * time.Millisecond)
				if v, _, _ := b.Published("A", "x"); string(v) != "2" {
					t.Errorf("B has %q of A", v)
				}
				// Stale words that TCP delivers late undo nothing.
				a.Publish("x", []byte("3"))
				time.Sleep(5 * time.Second)
				w.set(false, tc.ways...)
				time.Sleep(5 * time.Second)
				expect(t, w, a, "B", "up, Client up, Replication01 up")
				expect(t, w, b, "A", "up, Client up, Replication01 up")
				if v, _, _ := b.Published("A", "x"); string(v) != "3" {
					t.Errorf("B has %q of A", v)
				}
				if len(w.turns) > 0 {
					t.Errorf("servers turned: %v", w.turns)
				}
			})
		})
	}
}

// TestAllPathsCut: only when all are silent is the server, and it is found again.
func TestAllPathsCut(t *testing.T) {
	group(t, func(t *testing.T, w *wire, a, b, _ *Mesh, _ func()) {
		all := []string{"A>B Client", "B>A Client", "A>B Replication01", "B>A Replication01"}
		w.set(true, all...)
		time.Sleep(750 * time.Millisecond)
		expect(t, w, a, "B", "up, Client up, Replication01 up")
		time.Sleep(450 * time.Millisecond)
		expect(t, w, a, "B", "silent, Client silent, Replication01 silent")
		if why, dead := a.Dead("B"); dead {
			t.Errorf("dead though C hears it: %s", why)
		}
		time.Sleep(20 * time.Second)
		w.set(false, all...)
		time.Sleep(2 * time.Second)
		expect(t, w, a, "B", "up, Client up, Replication01 up")
		expect(t, w, b, "A", "up, Client up, Replication01 up")
	})
}

// TestProcessGoneOnAllPaths: the word of a killed server's host is as quick
// with several paths as with one.
func TestProcessGoneOnAllPaths(t *testing.T) {
	group(t, func(t *testing.T, w *wire, a, _, c *Mesh, kill func()) {
		kill()
		time.Sleep(60 * time.Millisecond)
		expect(t, w, a, "B", "refused, Client refused, Replication01 refused")
		time.Sleep(110 * time.Millisecond)
		if why, dead := c.Dead("B"); !dead {
			t.Errorf("not dead: %s", why)
		}
	})
}

// TestPathsChange: paths come and go with the networks; a new one is no sign of
// life, and one that never answers does no harm.
func TestPathsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		ctx, cancel := context.WithCancel(t.Context())
		// B is of an older version: it has one path and gives it no name.
		a, endA := w.start(ctx, "A", map[org.ServerName][]string{"B": {"Client"}})
		_, endB := w.start(ctx, "B", map[org.ServerName][]string{"A": {""}})
		time.Sleep(time.Second)
		expect(t, w, a, "B", "up, Client up")
		w.set(true, "A>B Dead", "B>A Dead")
		a.SetPeers(map[org.ServerName][]string{"B": {"Client", "Dead"}})
		time.Sleep(2 * time.Second)
		expect(t, w, a, "B", "up, Client up, Dead silent")
		endB()
		time.Sleep(200 * time.Millisecond)
		expect(t, w, a, "B", "refused, Client refused, Dead silent")
		a.SetPeers(map[org.ServerName][]string{"B": {"Client"}})
		expect(t, w, a, "B", "refused, Client refused")
		if !slices.Contains(w.turns, "A: B up") {
			t.Errorf("turns: %v", w.turns)
		}
		endA()
		cancel()
		time.Sleep(20 * time.Second)
	})
}
