package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/postern-mail/postern/test/rig"
)

// program is the binary under test, built once for all tests.
type program struct{ rig.Program }

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
	p, err := rig.Build("../..", dir)
	if err != nil {
		return 0, err
	}
	postern = program{p}
	return m.Run(), nil
}

func (p program) start(cmd *exec.Cmd) error { return p.Start(cmd) }

func (p program) run(ctx context.Context, args ...string) ([]byte, error) { return p.Run(ctx, args...) }

// eventually repeats try until it succeeds; the last error fails the test.
func eventually(t *testing.T, patience time.Duration, what string, try func() error) {
	t.Helper()
	rig.Eventually(t, patience, what, try)
}

// soon waits until mail that was accepted is in its mailbox: the way there goes
// through the queue.
func soon(t *testing.T, try func() error) {
	t.Helper()
	rig.Eventually(t, 20*time.Second, "mail is in its mailbox", try)
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
	rig.Must(t, err)
}
