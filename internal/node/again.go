package node

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/postern-mail/postern/internal/active"
	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/org"
)

// A host starts the installed program in its own place when it gets SIGUSR2: the
// workers end in order, then the program replaces itself and keeps its process
// id. An upgrade asks for it through the agreed state (org.HostOrder): the mail
// worker reads the order and passes it on.

// errAgain is why a host ends its workers that is to be started again.
var errAgain = errors.New("the installed program takes its place")

// withAgain returns a context that ends with errAgain at SIGUSR2.
func withAgain(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	usr2 := make(chan os.Signal, 1)
	signal.Notify(usr2, syscall.SIGUSR2)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-usr2:
			cancel(errAgain)
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(usr2)
		cancel(nil)
		<-done
	}
}

// orAgain runs a host. When that ended to be started again, this process becomes
// the program that is installed now; it returns only where that cannot be
// started. The data folder is not locked for the moment between the two.
func orAgain(ctx context.Context, run func(context.Context) error) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	ctx, stop := withAgain(ctx)
	defer stop()
	if err := run(ctx); !errors.Is(err, errAgain) {
		return err
	}
	if err := syscall.Exec(exe, os.Args, os.Environ()); err != nil {
		return fmt.Errorf("start %s in this one's place: %w", exe, err)
	}
	return nil
}

// planDeps are what plans of Active Manager need of other rooms.
func (w *mailWorker) planDeps(d *active.Deps) {
	d.Component = w.components.Of
	d.Plans = active.PlanDeps{Leader: w.cluster.Leader, Boot: w.cluster.Boot, Networks: w.cluster.Networks}
	if w.mover != nil {
		d.Plans.Queue, d.Plans.Store = w.mover.Waiting, w.mailbox.Client()
		d.Plans.HealthMailbox, d.Plans.Keeper = w.directory.HealthMailbox, w.mailbox
	}
	d.Plans.Authority = w.cluster.CA()
	d.Plans.Identity = func() ([]byte, crypto.Signer) {
		c := w.cluster.Certificate()
		key, _ := c.PrivateKey.(crypto.Signer) // all keys of crypto/tls are
		return c.Certificate[0], key
	}
}

// Pace of looking at the program's file and at orders.
const (
	programEvery = 5 * time.Second
	askAgain     = 30 * time.Second // the host is asked so often while it does not end this worker
)

// myHost is the process id of the host that started this worker, 0 where it was
// started otherwise.
func (w *mailWorker) myHost() int {
	s, err := ReadHostState(w.cfg.Dir)
	if err != nil || s.PID != os.Getppid() || s.PID <= 1 {
		return 0
	}
	return s.PID
}

// program tells the other servers which version runs here and which is
// installed, and passes on the order to start that, until ctx ends.
func (w *mailWorker) program(ctx context.Context) error {
	tick := time.NewTicker(programEvery)
	defer tick.Stop()
	var asked time.Time
	file := programFile{}
	for {
		changed := w.cluster.Changed()
		if host := w.myHost(); host != 0 {
			if version, ok := file.look(ctx); ok {
				w.cluster.Publish(org.ProgramSection, codec.MustMarshal(org.Program{Running: w.cfg.Version, Installed: version, Fault: file.fault}))
			}
			if w.ordered(org.OrderKillWorker) {
				// A drill. The host starts another worker, as after any death.
				w.log.Warn("a drill ends this worker")
				if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
					w.log.Warn("the drill did not end this worker", "error", err)
				}
			}
			if w.ordered(org.OrderFreezeWorker) {
				// A drill. The host ends this worker as one that hangs.
				w.log.Warn("a drill freezes this worker")
				if err := syscall.Kill(os.Getpid(), syscall.SIGSTOP); err != nil {
					w.log.Warn("the drill did not freeze this worker", "error", err)
				}
			}
			// What does not even tell its version is not put in place of what runs.
			if w.ordered(org.OrderReexecute) && file.fault == "" && time.Since(asked) > askAgain {
				asked = time.Now()
				w.log.Info("the group asks for the installed program")
				if err := syscall.Kill(host, syscall.SIGUSR2); err != nil {
					w.log.Warn("the host cannot be asked for the installed program", "error", err)
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			// Orders are obeyed soon, whatever else changes all the time.
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(500 * time.Millisecond):
			}
		case <-tick.C:
		}
	}
}

// ordered tells whether something is asked of the host or the worker of this run
// of the server.
func (w *mailWorker) ordered(what string) bool {
	it, ok := w.cluster.View().Get(org.HostOrderKey(w.cluster.Name()))
	var o org.HostOrder
	if !ok || json.Unmarshal(it.Value, &o) != nil || o.Do != what {
		return false
	}
	boot, _ := w.cluster.Boot(w.cluster.Name())
	return boot != "" && boot == o.Boot
}

// programFile knows the version of the program's file and when that has to be
// asked again.
type programFile struct {
	size  int64
	at    time.Time
	asked time.Time
	known bool
	fault string // why it cannot be started, empty where it can
}

// look returns the version of the installed file when it has changed since the
// last look, at the first, and while it cannot be started: then fault says why.
func (f *programFile) look(ctx context.Context) (version string, changed bool) {
	exe, err := os.Executable()
	if err != nil {
		return "", false
	}
	st, err := os.Stat(exe)
	same := err == nil && st.Size() == f.size && st.ModTime().Equal(f.at)
	if err != nil || same && (f.known || time.Since(f.asked) < programEvery) {
		return "", false
	}
	f.size, f.at, f.asked = st.Size(), st.ModTime(), time.Now()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, "version", "--json")
	cmd.Env = environ()
	out, err := cmd.Output()
	version = parseVersion(out)
	switch f.fault = ""; {
	case err != nil:
		f.fault = "its version cannot be asked: " + err.Error()
	case version == "":
		f.fault = "it does not tell its version"
	}
	f.known = f.fault == "" // it may have been half written
	return version, true
}

// parseVersion reads what `postern version --json` says, empty where it is
// something else.
func parseVersion(b []byte) string {
	var v struct {
		Version string `json:"version"`
	}
	if len(b) > 64<<10 || json.Unmarshal(b, &v) != nil || len(v.Version) > 200 {
		return ""
	}
	return v.Version
}
