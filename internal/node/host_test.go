package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
)

// roleEnv makes the test binary play a worker or a host.
const roleEnv = "POSTERN_TEST_ROLE"

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleEnv); role {
	case "":
		os.Exit(m.Run())
	case "host":
		os.Exit(testHost())
	default:
		os.Exit(testWorker(role))
	}
}

// testWorker is a worker with the manners its role says.
func testWorker(role string) int {
	if role == "misconfigured" {
		return ExitConfig
	}
	l, err := OpenLink(10 * time.Millisecond)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	l.Ready()
	if role == "mute" {
		<-ctx.Done()
		return 0
	}
	if role == "stubborn" {
		ctx = context.WithoutCancel(ctx)
	}
	if err := l.Run(ctx); err != nil {
		return 1
	}
	return 0
}

// testHost serves the folder in its environment until it is told to stop.
func testHost() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := newTestHost(os.Getenv("POSTERN_TEST_DIR"), "good", io.Discard, HostTimers{}).Run(ctx); err != nil {
		return 1
	}
	return 0
}

func newTestHost(dir, role string, log io.Writer, timers HostTimers) *Host {
	timers.Beat = 10 * time.Millisecond
	return NewHost(HostConfig{Dir: dir, Timers: timers,
		Log: slog.New(slog.NewTextHandler(log, nil)),
		Command: func(string) (string, []string) {
			return "/usr/bin/env", []string{roleEnv + "=" + role, os.Args[0]}
		}})
}

// buffer is a log that a test may read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) { b.mu.Lock(); defer b.mu.Unlock(); return b.b.Write(p) }
func (b *buffer) String() string              { b.mu.Lock(); defer b.mu.Unlock(); return b.b.String() }

// until polls a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.NewTimer(20 * time.Second)
	defer end.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end.C:
			t.Fatal("timeout: ", what)
		}
	}
}

func startHost(t *testing.T, h *Host) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() { cancel(); err = <-done })
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

func state(dir string) HostState {
	s, _ := ReadHostState(dir)
	return s
}

func alive(pid int) bool {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err == nil && !bytes.Contains(b, []byte(") Z "))
}

func TestKilledWorkerIsStartedAtOnce(t *testing.T) {
	dir, log := t.TempDir(), &buffer{}
	stop := startHost(t, newTestHost(dir, "good", log, HostTimers{}))
	until(t, "ready", func() bool { s := state(dir); return s.Ready && len(s.Workers) == 2 })
	first := state(dir).Workers[WorkerMail]
	begun := time.Now()
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "restart", func() bool { s := state(dir); return s.Ready && s.Workers[WorkerMail] != first })
	if d := time.Since(begun); d > 5*time.Second {
		t.Errorf("restart took %s", d)
	}
	if !strings.Contains(log.String(), "signal: killed") {
		t.Errorf("the log does not tell how the worker died:\n%s", log)
	}
	last := state(dir).Workers
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for name, pid := range last {
		if alive(pid) {
			t.Errorf("%s worker outlives its host", name)
		}
	}
	if _, err := ReadHostState(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a stopped host leaves its state: %v", err)
	}
}

func TestHungWorkerIsKilled(t *testing.T) {
	dir, log := t.TempDir(), &buffer{}
	startHost(t, newTestHost(dir, "mute", log, HostTimers{Hung: 200 * time.Millisecond}))
	until(t, "the mute worker is killed", func() bool { return strings.Contains(log.String(), "worker_hung") })
	until(t, "and started again", func() bool { return strings.Count(log.String(), "worker_started") > 2 })
}

func TestDrainHasAnEnd(t *testing.T) {
	dir, log := t.TempDir(), &buffer{}
	stop := startHost(t, newTestHost(dir, "stubborn", log, HostTimers{Drain: 50 * time.Millisecond}))
	until(t, "ready", func() bool { s := state(dir); return s.Ready && len(s.Workers) == 2 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "drain_timeout") {
		t.Error(log)
	}
}

func TestMisconfiguredWorkerEndsTheHost(t *testing.T) {
	err := newTestHost(t.TempDir(), "misconfigured", io.Discard, HostTimers{}).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "cannot start with this configuration") {
		t.Fatal(err)
	}
}

func TestSecondHostIsRefused(t *testing.T) {
	dir := t.TempDir()
	f, err := Lock(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Lock(dir, 0)
	want := fmt.Sprintf("data folder %s is in use by process %d (hint: stop that process, or give this server a folder of its own with --dir)", dir, os.Getpid())
	if !kind.Is(err, kind.Busy) || err.Error() != want {
		t.Fatalf("got  %v\nwant %s", err, want)
	}
	f.Close()
	again, err := Lock(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

// TestWorkersDieWithTheirHost kills a real host process and looks for orphans.
func TestWorkersDieWithTheirHost(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"=host", "POSTERN_TEST_DIR="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "ready", func() bool { s := state(dir); return s.Ready && len(s.Workers) == 2 })
	s := state(dir)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for name, pid := range s.Workers {
		until(t, name+" worker is gone", func() bool { return !alive(pid) })
	}
	if _, err := Lock(dir, 5*time.Second); err != nil {
		t.Errorf("the folder of a killed host stays locked: %v", err)
	}
}

func TestBackoff(t *testing.T) {
	b := backoff{first: time.Second, most: 5 * time.Second, forgive: 10 * time.Second}
	var got []time.Duration
	for _, life := range []time.Duration{0, 0, 0, 0, 0, time.Minute, 0} {
		got = append(got, b.after(life))
	}
	want := []time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 0, time.Second}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
}

func TestNotifier(t *testing.T) {
	env := map[string]string{"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}
	get := func(k string) string { return env[k] }
	if n := newNotifier(get, 7); n.watchdog != 1500*time.Millisecond {
		t.Error(n)
	}
	if n := newNotifier(get, 8); n.watchdog != 0 {
		t.Error("reports another process's watchdog")
	}
	if got := hideNotify([]string{"A=1", "NOTIFY_SOCKET=/x", "WATCHDOG_USEC=1", "NOTIFY_SOCKETS=2"}); len(got) != 2 {
		t.Error(got)
	}
}
