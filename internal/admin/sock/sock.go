package sock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/internal/base/kind"
)

// Path is where a server with the data folder dir has its socket.
func Path(dir string) string { return filepath.Join(dir, "run", "admin.sock") }

// maxPath is what fits into sockaddr_un with its final zero.
const maxPath = 107

// short returns a path of the same socket that fits into an address. Paths
// that are too long go by way of an open descriptor of their folder, which
// free closes.
func short(path string) (addr string, free func(), err error) {
	if len(path) <= maxPath {
		return path, func() {}, nil
	}
	fd, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, fmt.Errorf("open %s: %w", filepath.Dir(path), err)
	}
	addr = fmt.Sprintf("/proc/self/fd/%d/%s", fd, filepath.Base(path))
	return addr, func() { _ = unix.Close(fd) }, nil // nothing was written
}

// Dial connects to the socket at path.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	addr, free, err := short(path)
	if err != nil {
		return nil, err
	}
	defer free()
	var d net.Dialer
	return d.DialContext(ctx, "unix", addr)
}

// Listen makes the socket, 0600 in a folder with 0700. A socket left by a
// process that is gone is replaced; one that answers is not (kind.Exists).
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	addr, free, err := short(path)
	if err != nil {
		return nil, err
	}
	defer free()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: addr, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // by address, which may be of a descriptor closed by then
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &listener{l, path}, nil
}

func removeStale(ctx context.Context, path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode()&os.ModeSocket == 0 {
		return kind.Errorf(kind.Exists, "%s is there and is no socket", path)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if c, err := Dial(ctx, path); err == nil {
		_ = c.Close() // only to see whether somebody listens
		return kind.Errorf(kind.Exists, "%s: a server is already running here", path)
	}
	return os.Remove(path)
}

type listener struct {
	*net.UnixListener
	path string
}

// Close also removes the socket.
func (l *listener) Close() error {
	err := l.UnixListener.Close()
	if rm := os.Remove(l.path); rm != nil && !errors.Is(rm, os.ErrNotExist) {
		return errors.Join(err, rm)
	}
	return err
}

// Peer tells the user id of the process at the other end of c.
func Peer(c net.Conn) (uid uint32, err error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return 0, fmt.Errorf("peer of %T: no unix socket", c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var inner error
	if err := raw.Control(func(fd uintptr) {
		cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if inner != nil {
		return 0, fmt.Errorf("peer credentials: %w", inner)
	}
	return cred.Uid, nil
}

// Trusted says whether a process of that user is a server administrator: root
// and whoever the server runs as, which could read all its files anyway.
func Trusted(uid uint32, self int) bool { return uid == 0 || int64(uid) == int64(self) }
