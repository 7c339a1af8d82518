package mailbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// volume is a disk of this server, with what is known of it. Only its watcher
// touches the disk to find out how it is: everybody else asks what was found,
// so that a hung disk holds up nobody but its own copies.
type volume struct {
	Volume
	fs      fsx.FS
	reserve int64

	mu        sync.Mutex // guards the rest; never held while the disk is used
	isFull    bool
	walked    time.Time // when used was counted
	walking   bool
	usedBytes int64

	looked  bool          // at least once
	moved   chan struct{} // closed and made anew when cause changes, or looked
	lost    chan struct{} // closed while the copies on it have to stop
	cause   string        // class, empty while it works
	why     string
	since   time.Time // of cause
	bad     int       // looks in a row that found the same
	good    int       // looks in a row that found it working
	passed  []time.Time
	mark    volumeMark
	size    int64
	free    int64
	latency []time.Duration // of the newest write tests
	nudged  chan struct{}   // buffered: look now
}

func newVolume(v Volume, disk fsx.FS, reserve int64) *volume {
	w := &volume{Volume: v, reserve: reserve, moved: make(chan struct{}), lost: make(chan struct{}), nudged: make(chan struct{}, 1)}
	w.fs = disk
	if v.MaxSize > 0 {
		w.fs = limitedFS{FS: disk, v: w}
	}
	return w
}

// limitedFS reports the space of a volume that Postern may use only in part.
type limitedFS struct {
	fsx.FS
	v *volume
}

// Free implements fsx.FS: what is left of MaxSize, or of the disk if that is less.
func (l limitedFS) Free(path string) (free, total int64, err error) {
	free, total, err = l.FS.Free(path)
	if err != nil {
		return 0, 0, err
	}
	return max(0, min(free, l.v.MaxSize-l.v.used())), min(total, l.v.MaxSize), nil
}

// used sums what the volume's folder takes on disk, looked at anew by one caller at
// most once a second, or each three seconds where that is far from the limit; others
// get the sum before.
func (v *volume) used() int64 {
	v.mu.Lock()
	pause := time.Second
	if v.usedBytes < v.MaxSize/2 {
		pause *= 3
	}
	if v.walking || time.Since(v.walked) < pause {
		defer v.mu.Unlock()
		return v.usedBytes
	}
	v.walking = true
	v.mu.Unlock()
	var sum int64
	_ = filepath.WalkDir(v.Path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // a file that went meanwhile takes no space
		}
		if i, err := d.Info(); err == nil {
			sum += diskSize(i)
		}
		return nil
	})
	v.mu.Lock()
	defer v.mu.Unlock()
	v.usedBytes, v.walked, v.walking = sum, time.Now(), false
	return sum
}

// volumeError is why a volume cannot be used.
type volumeError struct {
	volume     org.VolumeName
	cause, why string
}

func (e *volumeError) Error() string { return fmt.Sprintf("volume %s: %s", e.volume, e.why) }

// failure is why the volume cannot be used, nil while it works. It does not
// look at the disk.
func (v *volume) failure() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.cause == "" {
		return nil
	}
	return &volumeError{v.Name, v.cause, v.why}
}

// usable waits for the first look and returns why the volume cannot be used.
func (v *volume) usable(ctx context.Context) error {
	for {
		v.mu.Lock()
		looked, moved := v.looked, v.moved
		v.mu.Unlock()
		if looked {
			return v.failure()
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// while returns a context that ends when the volume is lost.
func (v *volume) while(ctx context.Context) (context.Context, context.CancelFunc) {
	v.mu.Lock()
	lost := v.lost
	v.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-lost:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// change is closed when the volume fails or works again.
func (v *volume) change() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.moved
}

// nudge has the volume looked at now: one of its copies met an error.
func (v *volume) nudge() {
	select {
	case v.nudged <- struct{}{}:
	default:
	}
}

// classOf is the class of a disk's error, empty for one that says nothing of
// the disk.
func classOf(err error) string {
	var ve *volumeError
	if errors.As(err, &ve) {
		return ve.cause
	}
	for _, c := range []struct {
		no    syscall.Errno
		class string
	}{
		{syscall.EROFS, org.CauseReadOnly}, {syscall.ENODEV, org.CauseGone}, {syscall.ENXIO, org.CauseGone},
		{syscall.EIO, org.CauseIO}, {syscall.EREMOTEIO, org.CauseIO}, {syscall.EUCLEAN, org.CauseIO}, {syscall.ESTALE, org.CauseIO},
		{syscall.ETIMEDOUT, org.CauseIO}, {syscall.ESHUTDOWN, org.CauseIO}, {syscall.EBADMSG, org.CauseIO},
	} {
		if errors.Is(err, c.no) {
			return c.class
		}
	}
	if kind.Is(err, kind.Corrupt) {
		return org.CauseLog
	}
	return ""
}

func (v *volume) full() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.isFull
}

// refresh looks at the free space. Full ends only when a tenth more than the reserve is
// free, so that the state does not flap.
func (v *volume) refresh(ev *event.Log) {
	free, _, err := v.fs.Free(v.Path)
	if err != nil {
		return
	}
	limit := v.reserve
	if v.full() {
		limit += limit / 10
	}
	v.setFull(free < limit, ev)
}

func (v *volume) setFull(full bool, ev *event.Log) {
	v.mu.Lock()
	was := v.isFull
	v.isFull = full
	v.mu.Unlock()
	switch {
	case full && !was:
		ev.Emit(evVolumeFull, "volume %s has less than its reserve of %d bytes free", v.Name, v.reserve)
	case was && !full:
		ev.Emit(evVolumeFree, "volume %s has space again", v.Name)
	}
}

// moveDurably renames and makes both folders durable.
func moveDurably(disk fsx.FS, from, to string) error {
	if err := disk.Rename(from, to); err != nil {
		return err
	}
	if err := disk.SyncDir(filepath.Dir(to)); err != nil {
		return err
	}
	return disk.SyncDir(filepath.Dir(from))
}
