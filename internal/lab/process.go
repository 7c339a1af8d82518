package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
)

// process is one server's `postern serve` and what is below it.
type process struct {
	plan    ServerPlan
	exe     string
	spawner *spawner
	setgid  bool // mark the server's packets by its group id

	mu     sync.Mutex // guards the fields below
	cmd    *exec.Cmd  // nil when the server is down
	gone   chan struct{}
	paused bool
}

// hostState is what a host writes to host.json in its data folder.
type hostState struct {
	PID     int            `json:"pid"`
	Ready   bool           `json:"ready"`
	Workers map[string]int `json:"workers"`
}

func (p *process) hostState() (hostState, bool) {
	var s hostState
	b, err := os.ReadFile(filepath.Join(p.plan.Dir, "host.json"))
	if err != nil || json.Unmarshal(b, &s) != nil {
		return hostState{}, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	// A file left by a killed host tells of processes that are gone.
	if p.cmd == nil || s.PID != p.cmd.Process.Pid {
		return hostState{}, false
	}
	return s, true
}

func (p *process) logPath() string    { return filepath.Join(p.plan.Dir, "serve.log") }
func (p *process) configPath() string { return filepath.Join(p.plan.Dir, "postern.toml") }

// start starts the server; one that runs is left alone.
func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		return nil
	}
	log, err := os.OpenFile(p.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.plan.Name, err)
	}
	defer log.Close() // the child has its own
	cmd := exec.Command(p.exe, "serve", "--dir", p.plan.Dir, "--config", p.configPath())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if p.setgid {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 0, Gid: p.plan.gid}
	}
	if err := p.spawner.start(cmd); err != nil {
		return fmt.Errorf("start %s: %w", p.plan.Name, err)
	}
	gone := make(chan struct{})
	p.cmd, p.gone, p.paused = cmd, gone, false
	go func() {
		_ = cmd.Wait() // how it ended stands in its log
		p.mu.Lock()
		p.cmd = nil
		p.mu.Unlock()
		close(gone)
	}()
	return nil
}

// pids are the host and its workers, host first.
func (p *process) pids() []int {
	p.mu.Lock()
	cmd := p.cmd
	p.mu.Unlock()
	if cmd == nil {
		return nil
	}
	out := []int{cmd.Process.Pid}
	if s, ok := p.hostState(); ok {
		for _, pid := range s.Workers {
			out = append(out, pid)
		}
	}
	return out
}

// signal sends sig to all processes of the server.
func (p *process) signal(sig syscall.Signal) error {
	pids := p.pids()
	if len(pids) == 0 {
		return kind.WithHint(kind.Errorf(kind.NotFound, "%s does not run", p.plan.Name), "postern lab start "+p.plan.Name)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("signal %s to %s: %w", sig, p.plan.Name, err)
		}
	}
	p.mu.Lock()
	p.paused = sig == syscall.SIGSTOP
	p.mu.Unlock()
	return nil
}

// kill is the end without warning. It returns when the host is gone; the
// kernel takes the workers with it.
func (p *process) kill() error {
	p.mu.Lock()
	gone := p.gone
	p.mu.Unlock()
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-gone
	return nil
}

// stop asks the server to drain and waits; after patience it is killed.
func (p *process) stop(patience time.Duration) {
	p.mu.Lock()
	cmd, gone, paused := p.cmd, p.gone, p.paused
	p.mu.Unlock()
	if cmd == nil {
		return
	}
	if paused {
		_ = p.signal(syscall.SIGCONT)
	}
	// The host alone: it passes the stop on to its workers.
	_ = cmd.Process.Signal(syscall.SIGTERM)
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-gone:
	case <-t.C:
		_ = p.kill()
	}
}

// waitReady waits until the mail worker does its work.
func (p *process) waitReady(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if s, ok := p.hostState(); ok && s.Ready {
			return nil
		}
		p.mu.Lock()
		down := p.cmd == nil
		p.mu.Unlock()
		if down {
			return fmt.Errorf("%s ended while it started; its last words in %s:\n%s", p.plan.Name, p.logPath(), tail(p.logPath(), 2000))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w; the end of %s:\n%s", p.plan.Name, context.Cause(ctx), p.logPath(), tail(p.logPath(), 2000))
		}
	}
}

// state is the one word for status.
func (p *process) state() string {
	p.mu.Lock()
	cmd, paused := p.cmd, p.paused
	p.mu.Unlock()
	switch {
	case cmd == nil:
		return "down"
	case paused:
		return "paused"
	}
	if s, ok := p.hostState(); ok && s.Ready {
		return "running"
	}
	return "starting"
}

// tail is the end of a file, for an error message.
func tail(path string, n int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return ""
	}
	from := max(0, st.Size()-n)
	b := make([]byte, st.Size()-from)
	k, _ := f.ReadAt(b, from)
	return string(b[:k])
}

// spawner starts all servers from one operating system thread that lives as
// long as the lab: the kernel sends the parent-death signal when the thread
// that made the child ends (prctl(2)).
type spawner struct {
	work chan func()
	done chan struct{}
}

func newSpawner() *spawner {
	s := &spawner{work: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for f := range s.work {
			f()
		}
	}()
	return s
}

func (s *spawner) start(cmd *exec.Cmd) error {
	res := make(chan error, 1)
	s.work <- func() { res <- cmd.Start() }
	return <-res
}

func (s *spawner) close() {
	close(s.work)
	<-s.done
}
