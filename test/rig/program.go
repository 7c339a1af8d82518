package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Program is the binary under test.
type Program struct {
	Exe   string
	spawn chan func()
}

// Build builds the program into a folder. module is the way to the top of the
// module.
func Build(module, dir string) (Program, error) {
	exe := filepath.Join(dir, "postern")
	build := exec.Command("go", "build", "-o", exe, "./cmd/postern")
	build.Dir = module
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return Program{}, fmt.Errorf("build: %w\n%s", err, out)
	}
	return Program{Exe: exe, spawn: spawner()}, nil
}

// spawner runs functions in one thread that stays: the parent-death signal
// comes when the thread that started the child ends.
func spawner() chan func() {
	spawn := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range spawn {
			f()
		}
	}()
	return spawn
}

// Start starts a long-running process that ends with this one. Labs and hosts
// take their own children with them.
func (p Program) Start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	res := make(chan error, 1)
	p.spawn <- func() { res <- cmd.Start() }
	return <-res
}

// commandWait is longer than any command may take.
const commandWait = 90 * time.Second

// Run runs a command to its end; the answer is what it wrote to standard output.
func (p Program) Run(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.Exe, args...)
	cmd.Env = CleanEnv()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("postern %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

// Decode reads a command's answer into out, where one is wanted.
func Decode(b []byte, err error, out any, args []string) error {
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("postern %s: %w: %s", strings.Join(args, " "), err, b)
	}
	return nil
}

// CleanEnv keeps settings of the person who runs the tests away from them.
func CleanEnv() []string {
	var out []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "POSTERN_") {
			out = append(out, e)
		}
	}
	return out
}

// Output collects what a process says.
type Output struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

// Write implements io.Writer.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

// String is all that was said.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Stop asks a process to end, and ends it when it does not. done closes when it
// is gone.
func Stop(cmd *exec.Cmd, done chan struct{}) {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	t := time.NewTimer(40 * time.Second)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		_ = cmd.Process.Kill()
		<-done
	}
}

// Eventually repeats try until it succeeds; the last error fails the test.
func Eventually(t testing.TB, patience time.Duration, what string, try func() error) {
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

// Must fails the test at once.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
