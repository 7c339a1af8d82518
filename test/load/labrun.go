package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Lab is a `postern lab` that this process started.
type Lab struct {
	Postern string // the binary
	Dir     string

	cmd  *exec.Cmd
	done chan struct{}
	mu   sync.Mutex // guards out
	out  bytes.Buffer
}

// StartLab starts a lab and waits until it is ready for mail.
func StartLab(ctx context.Context, postern, dir string, args ...string) (*Lab, error) {
	exe, err := filepath.Abs(postern)
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	l := &Lab{Postern: exe, Dir: dir, done: make(chan struct{})}
	l.cmd = exec.Command(exe, append([]string{"lab", "--dir", dir}, args...)...)
	l.cmd.Stdout, l.cmd.Stderr = l, l
	// A group of its own: Ctrl-C is for the test, which reads before it stops the lab.
	l.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := l.cmd.Start(); err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	go func() {
		_ = l.cmd.Wait() // its words are in out
		close(l.done)
	}()
	if err := l.Wait(ctx, 3*time.Minute, func() error {
		var f struct {
			Ready bool `json:"ready"`
		}
		b, err := os.ReadFile(l.File())
		if err != nil {
			return err
		}
		if err := json.Unmarshal(b, &f); err != nil {
			return err
		}
		if !f.Ready {
			return errors.New("not ready")
		}
		return nil
	}); err != nil {
		l.Stop()
		return nil, fmt.Errorf("lab: %w\n%s", err, l.Output())
	}
	return l, nil
}

// Write takes what the lab says.
func (l *Lab) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

// Output is what the lab said.
func (l *Lab) Output() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.String()
}

// File is the path of lab.json.
func (l *Lab) File() string { return filepath.Join(l.Dir, "lab.json") }

// Stop ends the lab and waits for it.
func (l *Lab) Stop() {
	_ = l.cmd.Process.Signal(syscall.SIGTERM)
	t := time.NewTimer(time.Minute)
	defer t.Stop()
	select {
	case <-l.done:
	case <-t.C:
		_ = l.cmd.Process.Kill()
		<-l.done
	}
}

// Order runs `postern lab <verb> <server>`.
func (l *Lab) Order(ctx context.Context, verb, server string, args ...string) error {
	_, err := l.run(ctx, append([]string{"lab", verb, server, "--dir", l.Dir}, args...)...)
	return err
}

// Command runs a postern command in the group and decodes its answer.
func (l *Lab) Command(ctx context.Context, out any, args ...string) error {
	b, err := l.run(ctx, append([]string{"--lab", l.Dir, "--json", "--yes"}, args...)...)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("postern %s: %w: %s", strings.Join(args, " "), err, b)
	}
	return nil
}

func (l *Lab) run(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, l.Postern, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("postern %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

// Wait repeats try until it succeeds.
func (l *Lab) Wait(ctx context.Context, patience time.Duration, try func() error) error {
	end := time.NewTimer(patience)
	defer end.Stop()
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-t.C:
		case <-l.done:
			return fmt.Errorf("the lab ended: %w", err)
		case <-end.C:
			return fmt.Errorf("after %s: %w", patience, err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Database is what `database list` tells.
type Database struct {
	Name   string   `json:"name"`
	Active string   `json:"active"`
	InSync []string `json:"in_sync"`
	Copies []string `json:"copies"`
}

// Databases lists the databases.
func (l *Lab) Databases(ctx context.Context) ([]Database, error) {
	var out []Database
	err := l.Command(ctx, &out, "database", "list")
	return out, err
}

// InSync waits until every copy of every database is in sync.
func (l *Lab) InSync(ctx context.Context, copies int, patience time.Duration) error {
	return l.Wait(ctx, patience, func() error {
		list, err := l.Databases(ctx)
		if err != nil {
			return err
		}
		for _, d := range list {
			if d.Active == "" {
				return fmt.Errorf("%s is active nowhere", d.Name)
			}
			if len(d.InSync) < copies {
				return fmt.Errorf("%s has %v in sync, want %d", d.Name, d.InSync, copies)
			}
		}
		return nil
	})
}
