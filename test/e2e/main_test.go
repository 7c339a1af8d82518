package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// program is the binary under test, built once for all tests.
type program struct {
	exe   string
	spawn chan func()
}

// postern is set by TestMain alone.
var postern program

func TestMain(m *testing.M) {
	code, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func runAll(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "postern-e2e-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	exe := filepath.Join(dir, "postern")
	build := exec.Command("go", "build", "-o", exe, "../../cmd/postern")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build: %w\n%s", err, out)
	}
	postern = program{exe: exe, spawn: make(chan func())}
	// The parent-death signal comes when the thread that started the child
	// ends, so one thread that stays starts all.
	go func() {
		runtime.LockOSThread()
		for f := range postern.spawn {
			f()
		}
	}()
	return m.Run(), nil
}

// start starts a long-running process that ends with this one. Lab and host
// take their own children with them.
func (p program) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	res := make(chan error, 1)
	p.spawn <- func() { res <- cmd.Start() }
	return <-res
}

// commandWait is longer than any command may take.
const commandWait = 90 * time.Second

// run runs a command to its end; the answer is what it wrote to standard output.
func (p program) run(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.exe, args...)
	cmd.Env = cleanEnv()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("postern %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

// cleanEnv keeps settings of the person who runs the tests away from them.
func cleanEnv() []string {
	var out []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "POSTERN_") {
			out = append(out, e)
		}
	}
	return out
}

// eventually repeats try until it succeeds; the last error fails the test.
func eventually(t *testing.T, patience time.Duration, what string, try func() error) {
	t.Helper()
	begun := time.Now()
	end := time.NewTimer(patience)
	defer end.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			t.Logf("%s: %s after %s", time.Now().Format("15:04:05.0"), what, time.Since(begun).Round(100*time.Millisecond))
			return
		}
		select {
		case <-tick.C:
		case <-end.C:
			t.Fatalf("%s: not within %s: %v", what, patience, err)
		case <-t.Context().Done():
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// let gives a fault or a load time to do something.
func let(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// must fails the test at once.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
