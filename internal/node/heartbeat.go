package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// What a worker says on its pipe, one byte each.
const (
	sayBeat  = 'b'
	sayReady = 'r'
	// Restart a worker, the other one or itself. The host obeys within its own
	// limits.
	sayMail   = 'm'
	sayHealth = 'h'
)

// File descriptors a worker inherits from its host, after the standard three.
const (
	fdLife  = 3 // read end; the end of file tells that the host is gone
	fdBeats = 4 // write end for heartbeats
	fdLock  = 5 // the data folder's lock, only held
)

// Link is a worker's line to its host.
type Link struct {
	life  *os.File
	beats *os.File
	lock  *os.File
	every time.Duration
}

// ErrHostGone is why a worker's Run ended when its host died.
var ErrHostGone = errors.New("host is gone")

// OpenLink opens the inherited pipe ends. It fails in a process that was not
// started by a host.
func OpenLink(every time.Duration) (*Link, error) {
	for _, fd := range []int{fdLife, fdBeats} {
		// Only a file that does not block can have deadlines and be closed
		// while it is read.
		if err := unix.SetNonblock(fd, true); err != nil {
			return nil, fmt.Errorf("worker: no line to a host: %w (hint: workers are started by `postern serve`)", err)
		}
	}
	l := &Link{
		life:  os.NewFile(fdLife, "host-life"),
		beats: os.NewFile(fdBeats, "host-beats"),
		lock:  os.NewFile(fdLock, "data-lock"),
		every: every,
	}
	for _, f := range []*os.File{l.life, l.beats, l.lock} {
		// What a worker starts itself must not keep these open.
		unix.CloseOnExec(int(f.Fd()))
	}
	return l, nil
}

// Run beats until ctx ends. It returns ErrHostGone as soon as the host has
// died, and the caller has to leave without further work: another host may
// be starting on the same folder.
func (l *Link) Run(ctx context.Context) error {
	gone := make(chan struct{})
	go func() {
		// The host never writes: a read returns when it is gone or when Close
		// was called.
		var b [1]byte
		_, _ = l.life.Read(b[:])
		close(gone)
	}()
	defer func() {
		l.life.Close()
		<-gone
	}()
	t := time.NewTicker(l.every)
	defer t.Stop()
	for {
		if err := l.say(sayBeat); err != nil {
			return ErrHostGone
		}
		select {
		case <-t.C:
		case <-gone:
			return ErrHostGone
		case <-ctx.Done():
			return nil
		}
	}
}

// Ready tells the host that the worker does its work now.
func (l *Link) Ready() { _ = l.say(sayReady) }

// Order asks the host to restart a worker, WorkerMail or WorkerHealth. The host
// judges by limits of its own and does not answer.
func (l *Link) Order(worker string) error {
	if worker == WorkerHealth {
		return l.say(sayHealth)
	}
	return l.say(sayMail)
}

// say writes one byte. A full pipe (a host that was stopped for long) must
// not stop the worker, so the byte is dropped after a moment.
func (l *Link) say(b byte) error {
	_ = l.beats.SetWriteDeadline(time.Now().Add(l.every))
	_, err := l.beats.Write([]byte{b})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}
