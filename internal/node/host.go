package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/event"
)

// Worker names of a host.
const (
	WorkerMail   = "mail"
	WorkerHealth = "health"
)

// ExitConfig is the exit status of a worker that can never start with this
// configuration (sysexits.h EX_CONFIG).
const ExitConfig = 78

// ExitRemoved is the exit status of a worker whose server is no member of its
// group any more.
const ExitRemoved = 77

// HostConfig says what a host starts and how patient it is. Zero durations
// take the defaults of DefaultHostTimers.
type HostConfig struct {
	Dir string // data folder
	// Command returns program and arguments of a worker.
	Command func(worker string) (path string, args []string)
	Timers  HostTimers
	Log     *slog.Logger
	Getenv  func(string) string // for systemd's variables; os.Getenv
}

// HostTimers are the host's patience.
type HostTimers struct {
	Beat    time.Duration // between two heartbeats
	Hung    time.Duration // without a heartbeat a worker is killed after this
	First   time.Duration // second restart in a row waits this, then twice as long each time
	Most    time.Duration // and at most this
	Forgive time.Duration // a worker that lived this long is restarted at once again
	Drain   time.Duration // to finish after a stop was asked for
	Obey    time.Duration // to finish after a restart was ordered
	Spin    time.Duration // of a busy health worker, until it is killed
	Gap     time.Duration // between two restarts that workers order
}

// DefaultHostTimers are those of a server in production.
func DefaultHostTimers() HostTimers {
	return HostTimers{Beat: 500 * time.Millisecond, Hung: 10 * time.Second, First: time.Second,
		Most: 30 * time.Second, Forgive: 10 * time.Second, Drain: 30 * time.Second,
		Obey: 5 * time.Second, Spin: time.Minute, Gap: 10 * time.Minute}
}

// HostState is what a host tells about itself in DIR/host.json.
type HostState struct {
	PID     int            `json:"pid"`
	Started time.Time      `json:"started"`
	Ready   bool           `json:"ready"`   // the mail worker does its work
	Workers map[string]int `json:"workers"` // worker to process id, only those that run
	// Orders are the restarts that workers ordered in the last day, and were obeyed.
	Orders []HostOrder `json:"orders,omitempty"`
	// Ends are the last ends of workers that nobody had asked for, at most
	// maxEnds.
	Ends []WorkerEnd `json:"ends,omitempty"`
}

// maxEnds bounds the ends of workers that host.json keeps.
const maxEnds = 20

// WorkerEnd is the end of a worker that the host did not ask for.
type WorkerEnd struct {
	At     time.Time `json:"at"`
	Worker string    `json:"worker"`
	How    string    `json:"how"`
	Lived  string    `json:"lived"`
}

// HostOrder is a restart that a worker ordered.
type HostOrder struct {
	At     time.Time `json:"at"`
	Worker string    `json:"worker"` // to be started anew
	By     string    `json:"by"`
}

// HostStatePath is where the host of a data folder keeps its state.
func HostStatePath(dir string) string { return filepath.Join(dir, "host.json") }

// ReadHostState reads what the host of a data folder last said.
func ReadHostState(dir string) (HostState, error) {
	var s HostState
	b, err := os.ReadFile(HostStatePath(dir))
	if err != nil {
		return s, fmt.Errorf("host state: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("host state %s: %w", HostStatePath(dir), err)
	}
	return s, nil
}

// Host keeps the workers of one server running.
type Host struct {
	cfg    HostConfig
	log    *slog.Logger
	events *event.Log
	notify notifier

	mu      sync.Mutex // guards those below and the file of state
	state   HostState
	keepers map[string]*keeper
}

// NewHost returns a host that starts nothing yet.
func NewHost(cfg HostConfig) *Host {
	d := DefaultHostTimers()
	t := &cfg.Timers
	for _, v := range []struct {
		p *time.Duration
		d time.Duration
	}{{&t.Beat, d.Beat}, {&t.Hung, d.Hung}, {&t.First, d.First}, {&t.Most, d.Most}, {&t.Forgive, d.Forgive}, {&t.Drain, d.Drain},
		{&t.Obey, d.Obey}, {&t.Spin, d.Spin}, {&t.Gap, d.Gap}} {
		if *v.p == 0 {
			*v.p = v.d
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Getenv == nil {
		cfg.Getenv = os.Getenv
	}
	return &Host{cfg: cfg, log: cfg.Log, events: event.NewLog(cfg.Log), keepers: map[string]*keeper{}, notify: newNotifier(cfg.Getenv, os.Getpid())}
}

// Run serves until ctx ends, then drains. It returns nil after an orderly
// stop, Busy when another host has the folder, and an error when a worker reports
// that it can never start.
func (h *Host) Run(ctx context.Context) error {
	lock, err := Lock(h.cfg.Dir, 5*time.Second)
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	defer lock.Close()
	h.mu.Lock()
	h.state = HostState{PID: os.Getpid(), Started: time.Now().UTC(), Workers: map[string]int{}}
	h.writeState()
	h.mu.Unlock()
	defer os.Remove(HostStatePath(h.cfg.Dir))
	h.events.Emit(EventHostStarted, "host %d serves %s", os.Getpid(), h.cfg.Dir)

	defer forwardFrom(h.events, h.cfg.Dir)()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	sp := newSpawner()
	defer sp.close()
	watchdog := h.startWatchdog()
	defer watchdog()

	// The health worker is told to stop first, so that it does not report
	// doors that close on purpose. The mail worker's drain begins right after.
	var wg sync.WaitGroup
	for _, name := range []string{WorkerHealth, WorkerMail} {
		k := &keeper{host: h, name: name, spawner: sp, lock: lock,
			pause:  backoff{first: h.cfg.Timers.First, most: h.cfg.Timers.Most, forgive: h.cfg.Timers.Forgive},
			orders: make(chan struct{}, 1)}
		h.mu.Lock()
		h.keepers[name] = k
		h.mu.Unlock()
		wg.Go(func() {
			if err := k.run(ctx); err != nil {
				cancel(err)
			}
		})
	}
	<-ctx.Done()
	if !errors.Is(context.Cause(ctx), errAgain) { // then the service goes on, as the same process
		h.notify.send("STOPPING=1")
	}
	h.events.Emit(EventHostStopping, "host %d drains: %v", os.Getpid(), context.Cause(ctx))
	wg.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return fmt.Errorf("serve: %w", cause)
	}
	return nil
}

// startWatchdog reports to systemd as long as the host's own scheduler turns.
func (h *Host) startWatchdog() (stop func()) {
	if h.notify.watchdog == 0 {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(h.notify.watchdog)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				h.notify.send("WATCHDOG=1")
			case <-quit:
				return
			}
		}
	}()
	return func() { close(quit); <-done }
}

// workerUp and workerDown keep host.json true; pid 0 is down.
func (h *Host) workerUp(name string, pid int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if pid == 0 {
		delete(h.state.Workers, name)
		h.state.Ready = h.state.Ready && name != WorkerMail
	} else {
		h.state.Workers[name] = pid
	}
	h.writeState()
}

// workerEnded keeps the end of a worker for the recovery log.
func (h *Host) workerEnded(e WorkerEnd) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.state.Ends = append(h.state.Ends, e)
	h.state.Ends = h.state.Ends[max(0, len(h.state.Ends)-maxEnds):]
	h.writeState()
}

func (h *Host) workerReady(name string) {
	h.events.Emit(EventWorkerReady, "%s worker is ready", name)
	if name != WorkerMail {
		return
	}
	h.mu.Lock()
	h.state.Ready = true
	h.writeState()
	h.mu.Unlock()
	h.notify.send("READY=1\nSTATUS=serving")
}

// writeState replaces host.json; the caller holds mu. It is for people and
// the lab: losing it loses nothing.
func (h *Host) writeState() {
	b, err := json.MarshalIndent(h.state, "", "  ")
	if err == nil {
		err = replaceFile(HostStatePath(h.cfg.Dir), append(b, '\n'), 0o644)
	}
	if err != nil {
		h.log.Warn("host state not written", "error", err)
	}
}

// replaceFile writes a file so that a reader sees the old or the new one.
func replaceFile(path string, data []byte, mode os.FileMode) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, mode); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
