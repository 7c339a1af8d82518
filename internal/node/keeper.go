package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// keeper keeps one worker running.
type keeper struct {
	host    *Host
	name    string
	spawner *spawner
	lock    *os.File
	pause   backoff
	ready   bool          // was ready at least once
	orders  chan struct{} // to start the worker anew
	did     string        // what the host did to the worker that runs, and why
}

// run starts the worker again and again until ctx ends, then stops it. It
// returns an error when trying again cannot help.
func (k *keeper) run(ctx context.Context) error {
	for {
		begun := time.Now()
		how, err := k.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil && how.ExitCode() == ExitConfig && !k.ready {
			return fmt.Errorf("%s worker cannot start with this configuration; its reason stands above", k.name)
		}
		if err == nil && how.ExitCode() == ExitRemoved {
			return fmt.Errorf("%w (hint: take it in again with postern join --replace TOKEN, or with an empty data folder)", errRemoved)
		}
		wait := k.pause.after(time.Since(begun))
		k.host.workerEnded(WorkerEnd{At: time.Now().UTC(), Worker: k.name, How: k.because(how, err), Lived: time.Since(begun).Round(time.Millisecond).String()})
		k.host.events.Emit(EventWorkerDied, "%s worker ended (%s) after %s, next start in %s",
			k.name, ending(how, err), time.Since(begun).Round(time.Millisecond), wait)
		if wait == 0 {
			continue
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
	}
}

// because tells why the last worker ended: what the host did to it, or what it
// died of.
func (k *keeper) because(how *os.ProcessState, err error) string {
	why := ending(how, err)
	if k.did != "" {
		why = k.did + " (" + why + ")"
	}
	k.did = ""
	return why
}

var errRemoved = errors.New("this server was removed from its group")

func ending(how *os.ProcessState, err error) string {
	if err != nil {
		return err.Error()
	}
	return how.String()
}

// once starts the worker and waits until it is gone.
func (k *keeper) once(ctx context.Context) (*os.ProcessState, error) {
	w, err := k.start()
	if err != nil {
		return nil, err
	}
	k.host.workerUp(k.name, w.cmd.Process.Pid)
	defer k.host.workerUp(k.name, 0)
	k.host.events.Emit(EventWorkerStarted, "%s worker is process %d", k.name, w.cmd.Process.Pid)

	select { // an order that came too late for the last worker
	case <-k.orders:
	default:
	}
	said := make(chan byte, 16)
	go w.listen(said)
	exited := make(chan *os.ProcessState, 1)
	go func() {
		// The worker's own error is in its exit status; Wait adds nothing.
		_ = w.cmd.Wait()
		exited <- w.cmd.ProcessState
	}()
	how := k.watch(ctx, w, said, exited)
	w.close()
	for range said { // until the listener has seen the end of the pipe
	}
	return how, nil
}

// watch is the life of one worker: it counts heartbeats, kills what hangs and
// passes the stop on.
func (k *keeper) watch(ctx context.Context, w *worker, said <-chan byte, exited <-chan *os.ProcessState) *os.ProcessState {
	t := k.host.cfg.Timers
	tick := time.NewTicker(t.Beat)
	defer tick.Stop()
	stop := ctx.Done()
	var drain <-chan time.Time
	silence, last := time.Duration(0), time.Now()
	spins := spinner{patience: t.Spin}
	if k.name != WorkerHealth {
		spins.patience = 0
	}
	for {
		select {
		case how := <-exited:
			return how
		case b, ok := <-said:
			if !ok {
				said = nil // the worker is about to be reaped
				continue
			}
			silence = 0
			switch b {
			case sayReady:
				k.ready = true
				k.host.workerReady(k.name)
			case sayMail:
				k.host.order(k.name, WorkerMail)
			case sayHealth:
				k.host.order(k.name, WorkerHealth)
			}
		case now := <-tick.C:
			// A turn counts for at most two beats: if the host itself was stopped
			// or starved, so were the worker's chances to be heard.
			silence += min(now.Sub(last), 2*t.Beat)
			last = now
			if silence > t.Hung && said != nil {
				k.host.events.Emit(EventWorkerHung, "%s worker %d sent no heartbeat for %s and is killed", k.name, w.cmd.Process.Pid, silence.Round(time.Second))
				k.did = "no heartbeat for " + silence.Round(time.Second).String()
				_ = w.cmd.Process.Kill()
				silence = 0
			}
			if spins.over(now, w.cmd.Process.Pid) {
				k.host.events.Emit(EventWorkerSpins, "%s worker %d used more than %d %% of a processor for %s and is killed", k.name, w.cmd.Process.Pid, int(spinShare*100), spins.patience)
				k.did = "it computed without a pause for " + spins.patience.String()
				_ = w.cmd.Process.Kill()
			}
		case <-k.orders:
			k.did = "a worker asked for it"
			_ = w.cmd.Process.Signal(syscall.SIGTERM)
			timer := time.NewTimer(t.Obey)
			defer timer.Stop()
			drain = timer.C
		case <-stop:
			stop = nil
			_ = w.cmd.Process.Signal(syscall.SIGTERM)
			timer := time.NewTimer(t.Drain)
			defer timer.Stop()
			drain = timer.C
		case <-drain:
			drain = nil
			k.host.events.Emit(EventDrainTimeout, "%s worker %d did not finish in %s and is killed", k.name, w.cmd.Process.Pid, t.Drain)
			_ = w.cmd.Process.Kill()
		}
	}
}

// worker is a started child and the host's ends of its pipes.
type worker struct {
	cmd   *exec.Cmd
	life  *os.File // write end; closing it tells the worker to leave
	beats *os.File // read end
}

func (w *worker) close() {
	w.life.Close()
	w.beats.Close()
}

// listen passes on what the worker says until its end of the pipe closes. A
// reader that is behind loses beats, nothing else.
func (w *worker) listen(said chan<- byte) {
	defer close(said)
	buf := make([]byte, 64)
	for {
		n, err := w.beats.Read(buf)
		for _, b := range buf[:n] {
			if b != sayBeat {
				said <- b
				continue
			}
			select {
			case said <- b:
			default:
			}
		}
		if err != nil {
			return
		}
	}
}

// start makes the pipes and the child.
func (k *keeper) start() (*worker, error) {
	lifeR, lifeW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s worker: %w", k.name, err)
	}
	beatsR, beatsW, err := os.Pipe()
	if err != nil {
		lifeR.Close()
		lifeW.Close()
		return nil, fmt.Errorf("start %s worker: %w", k.name, err)
	}
	path, args := k.host.cfg.Command(k.name)
	cmd := exec.Command(path, args...)
	cmd.Env = environ()
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{lifeR, beatsW, k.lock} // fdLife, fdBeats, fdLock
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL,
		// A group of its own: Ctrl-C at a terminal reaches the host alone, and
		// the host decides when to drain.
		Setpgid: true,
	}
	err = k.spawner.start(cmd)
	lifeR.Close()
	beatsW.Close()
	if err != nil {
		lifeW.Close()
		beatsR.Close()
		return nil, fmt.Errorf("start %s worker: %w", k.name, err)
	}
	return &worker{cmd: cmd, life: lifeW, beats: beatsR}, nil
}

// spawner starts all children from one operating system thread that lives as
// long as the host: the kernel sends the parent-death signal when the *thread*
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

var errSpawnerClosed = errors.New("host is stopping")

func (s *spawner) start(cmd *exec.Cmd) error {
	res := make(chan error, 1)
	select {
	case s.work <- func() { res <- cmd.Start() }:
		return <-res
	case <-s.done:
		return errSpawnerClosed
	}
}

// close ends the thread; children that still run get their death signal.
func (s *spawner) close() {
	close(s.work)
	<-s.done
}
