package node

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
)

// FaultsConfig lets tests break parts of a server from inside.
type FaultsConfig struct {
	Enabled bool `toml:"enabled" doc:"Let root break doors and the health worker at the admin socket, to test what follows. Only with fast timers."`
}

func (f FaultsConfig) validate(timers string) error {
	if f.Enabled && timers != "fast" {
		return kind.Errorf(kind.Invalid, "enabled: faults are for tests; they need timers = \"fast\"")
	}
	return nil
}

// faults breaks parts of the mail worker. Its zero value is not to be used.
type faults struct {
	dir string

	mu        sync.Mutex // guards listeners
	listeners map[string][]net.Listener
}

func newFaults(dir string) *faults { return &faults{dir: dir, listeners: map[string][]net.Listener{}} }

// listen opens an address for a service and remembers it.
func (f *faults) listen(service string) func(context.Context, string) (net.Listener, error) {
	return func(ctx context.Context, addr string) (net.Listener, error) {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.listeners[service] = append(f.listeners[service], l)
		return l, nil
	}
}

// handlers are the paths at the socket, POST /faults/...; all answer 204.
func (f *faults) handlers() map[string]http.Handler {
	do := func(g func() error) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if err := g(); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			w.WriteHeader(http.StatusNoContent)
		})
	}
	return map[string]http.Handler{
		"POST /faults/imap-listener": do(func() error { return f.shut(serviceIMAP) }),
		"POST /faults/smtp-listener": do(func() error { return f.shut(serviceSMTP) }),
		"POST /faults/health-spin":   do(func() error { return os.WriteFile(spinMark(f.dir), nil, 0o600) }),
	}
}

// shut closes listeners behind the back of their service, which goes on believing
// that it listens.
func (f *faults) shut(service string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.listeners[service] {
		l.Close()
	}
	f.listeners[service] = nil
	return nil
}

// spinMark is the file whose presence makes the health worker spin.
func spinMark(dir string) string { return filepath.Join(dir, "run", "fault-health-spin") }

// spinWhenTold makes the health worker compute for nothing when the mark appears,
// until the process is killed. The mark is gone then: the next one is well.
func spinWhenTold(ctx context.Context, dir string) {
	t := time.NewTicker(500 * time.Millisecond)
	defer t.Stop()
	for {
		if os.Remove(spinMark(dir)) == nil {
			for ctx.Err() == nil { // this is the fault
			}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}
