package node

import (
	"context"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mailbox"
)

// FaultsConfig lets tests break parts of a server from inside.
type FaultsConfig struct {
	Enabled bool `toml:"enabled" doc:"Let root break doors, disks and the health worker at the admin socket, to test what follows. Only with fast timers."`
}

func (f FaultsConfig) validate(timers string) error {
	if f.Enabled && timers != "fast" {
		return kind.Errorf(kind.Invalid, "enabled: faults are for tests; they need timers = \"fast\"")
	}
	return nil
}

// faults breaks parts of the mail worker. Its zero value is not to be used.
type faults struct {
	dir     string
	volumes []mailbox.Volume
	disk    *fsx.Faulty // nil: nothing may be broken

	mu        sync.Mutex // guards listeners and what is broken of disk
	listeners map[string][]net.Listener
}

func newFaults(cfg Config) *faults {
	f := &faults{dir: cfg.Dir, volumes: cfg.Mailbox.Volumes, listeners: map[string][]net.Listener{}}
	if cfg.Faults.Enabled {
		f.disk = fsx.NewFaulty(fsx.OS{})
	}
	return f
}

// disks are the disk for logs and for indexes, nil ones where nothing may be broken.
func (f *faults) disks() (fsx.FS, vfs.FS) {
	if f.disk == nil {
		return nil, nil
	}
	return f.disk, errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(f.indexAccess))
}

// indexAccess is what an access of an index to its disk meets.
func (f *faults) indexAccess(op errorfs.Op) error {
	x := f.disk.Meet(op.Path)
	if x.Err != nil {
		return &fs.PathError{Op: "access", Path: op.Path, Err: x.Err}
	}
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		if x.Sync > 0 {
			<-time.After(x.Sync)
		}
	}
	return nil
}

// A slow disk takes so many times as long, and to make something durable no less
// than so many times what a common disk takes.
const (
	slowTimes = 20
	slowSync  = slowTimes * 10 * time.Millisecond
)

// breakDisk does a fault to the volume that the request names.
func (f *faults) breakDisk(x fsx.Fault) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := r.URL.Query().Get("volume")
		i := slices.IndexFunc(f.volumes, func(v mailbox.Volume) bool { return string(v.Name) == name })
		if i < 0 || f.disk == nil {
			http.Error(w, "there is no volume "+name, http.StatusNotFound)
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.disk.Break(f.volumes[i].Path, x)
		w.WriteHeader(http.StatusNoContent)
	})
}

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
		"POST /faults/disk-slow":     f.breakDisk(fsx.Fault{Times: slowTimes, Sync: slowSync}),
		"POST /faults/disk-eio":      f.breakDisk(fsx.Fault{Err: syscall.EIO}),
		"POST /faults/disk-well":     f.breakDisk(fsx.Fault{}),
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
