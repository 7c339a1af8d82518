package lab

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/internal/base/kind"
)

// lockDir takes the lab's folder for this process.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lab.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, kind.WithHint(kind.Errorf(kind.Busy, "a lab runs in %s already", dir), "stop it with Ctrl-C, or use another --dir")
	}
	return func() { f.Close() }, nil
}
