package notify

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// world is a group in memory: agreed rows, servers that hear each other, and
// endpoints that write down what they are told.
type world struct {
	t *testing.T

	mu       sync.Mutex // guards the rest
	rows     map[string]Row
	revision int64
	commits  int
	turn     time.Duration
	quorum   bool
	servers  map[org.ServerName]*server
	sections map[org.ServerName][]byte
	endpoint map[string]string // channel to "down", "hang"; channel@server likewise
	said     []said
	begun    time.Time
}

// server is one member; it implements Rows, Mesh and Secrets.
type server struct {
	w      *world
	name   org.ServerName
	up     bool
	n      *Notifier
	events *event.Log
	stop   context.CancelFunc
	done   chan struct{}
}

func newWorld(t *testing.T, names ...org.ServerName) *world {
	w := &world{t: t, rows: map[string]Row{}, quorum: true, servers: map[org.ServerName]*server{}, sections: map[org.ServerName][]byte{},
		endpoint: map[string]string{}, begun: time.Now()}
	for _, name := range names {
		w.servers[name] = &server{w: w, name: name}
	}
	return w
}

// start runs the room on a server.
func (w *world) start(name org.ServerName) {
	s := w.servers[name]
	s.events = event.NewLog(slog.New(slog.DiscardHandler))
	s.n = New(Config{Turn: w.turn}, Deps{Rows: s, Mesh: s, Secrets: s, Log: slog.New(slog.DiscardHandler), Events: s.events, Send: w.send,
		Names:   func() []string { return []string{"DB01", "DB02", "MBX1", "MBX2", "MBX3"} },
		Servers: func() []org.ServerName { return []org.ServerName{"MBX1", "MBX2", "MBX3"} }, Sets: func() []string { return []string{"Store"} }})
	s.events.Subscribe(s.n.Observe)
	ctx, cancel := context.WithCancel(w.t.Context())
	s.stop, s.done = cancel, make(chan struct{})
	w.mu.Lock()
	s.up = true
	w.mu.Unlock()
	go func() {
		defer close(s.done)
		if err := s.n.Run(ctx); err != nil {
			w.t.Error(err)
		}
	}()
}

// kill ends a server as a crash does: nothing of it is heard any more.
func (w *world) kill(name org.ServerName) {
	s := w.servers[name]
	w.mu.Lock()
	s.up = false
	delete(w.sections, name)
	w.mu.Unlock()
	s.stop()
	<-s.done
}

// shut ends a server in order.
func (w *world) shut(name org.ServerName) {
	s := w.servers[name]
	s.stop()
	<-s.done
	w.mu.Lock()
	s.up = false
	w.mu.Unlock()
}

func (w *world) stop() {
	for _, s := range w.servers {
		if s.up {
			s.stop()
			<-s.done
		}
	}
}

func (w *world) send(ctx context.Context, c Channel, _ string, m Message) error {
	w.mu.Lock()
	state := w.endpoint[c.Name] + w.endpoint[c.Name+"@"+string(m.Server)]
	w.mu.Unlock()
	switch {
	case strings.Contains(state, "hang"):
		<-ctx.Done()
		return ctx.Err()
	case strings.Contains(state, "down"):
		return errors.New("connection refused")
	}
	w.say("%s -> %s: %s", m.Server, c.Name, m.Subject())
	return nil
}

func (w *world) say(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, said{time.Since(w.begun), fmt.Sprintf(format, args...)})
}

// transcript is what was said, a line each. Channels are told at once: what was
// said at one moment has no order of its own.
func (w *world) transcript() string {
	slices.SortStableFunc(w.said, func(a, b said) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.text, b.text))
	})
	var b strings.Builder
	for _, s := range w.said {
		fmt.Fprintf(&b, "%v %s\n", s.at.Round(time.Second), s.text)
	}
	return b.String()
}

// said is a message that went out, or what else a transcript shows.
type said struct {
	at   time.Duration // since the start
	text string
}

// put writes a row as a command does.
func (w *world) put(key string, v any) {
	w.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.revision++
	w.rows[key] = Row{b, w.revision}
}

func (s *server) Revision() int64 {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return s.w.revision
}

func (s *server) Prefix(p string) iter.Seq2[string, Row] {
	s.w.mu.Lock()
	rows := maps.Clone(s.w.rows)
	s.w.mu.Unlock()
	return func(yield func(string, Row) bool) {
		for _, k := range slices.Sorted(maps.Keys(rows)) {
			if strings.HasPrefix(k, p) && !yield(k, rows[k]) {
				return
			}
		}
	}
}

func (s *server) Commit(_ context.Context, conds []Cond, writes []Write) error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if !s.w.quorum || !s.up {
		return kind.Errorf(kind.Busy, "no quorum")
	}
	for _, c := range conds {
		if s.w.rows[c.Key].Revision != c.Revision {
			return kind.Errorf(kind.Conflict, "%s has changed", c.Key)
		}
	}
	s.w.revision++
	s.w.commits++
	for _, x := range writes {
		if x.Value == nil {
			delete(s.w.rows, x.Key)
		} else {
			s.w.rows[x.Key] = Row{x.Value, s.w.revision}
		}
	}
	return nil
}

func (s *server) Quorum() bool {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return s.w.quorum
}

func (s *server) Me() org.ServerName { return s.name }

func (s *server) Members() []Member {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	var out []Member
	for _, name := range slices.Sorted(maps.Keys(s.w.servers)) {
		out = append(out, Member{Name: name, Alive: s.w.servers[name].up, Heard: s.w.servers[name].up})
	}
	return out
}

func (s *server) Publish(_ string, v []byte) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.w.sections[s.name] = slices.Clone(v)
}

func (s *server) Published(o org.ServerName, _ string) ([]byte, time.Time, bool) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	v, ok := s.w.sections[o]
	return v, time.Now(), ok
}

func (s *server) SealSecret(purpose string, plain []byte) ([]byte, error) {
	return append([]byte(purpose+"\x00"), plain...), nil
}

func (s *server) OpenSecret(purpose string, sealed []byte) ([]byte, error) {
	plain, ok := strings.CutPrefix(string(sealed), purpose+"\x00")
	if !ok {
		return nil, kind.Errorf(kind.Denied, "sealed for something else")
	}
	return []byte(plain), nil
}
