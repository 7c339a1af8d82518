package sock

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/base/kind"
)

func TestListenDialPeer(t *testing.T) {
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), strings.Repeat("long/", 30))} {
		path := Path(dir)
		ctx := context.Background()
		l, err := Listen(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Listen(ctx, path); !kind.Is(err, kind.Exists) {
			t.Errorf("a second server got the socket: %v", err)
		}
		// The question of the second server is a connection too.
		first, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = first.Close()
		c, err := Dial(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if uid, err := Peer(s); err != nil || int(uid) != os.Getuid() {
			t.Errorf("peer %d, %v", uid, err)
		}
		for _, conn := range []interface{ Close() error }{c, s, l} {
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("the socket stays: %v", err)
		}
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := Path(t.TempDir())
	ctx := context.Background()
	l, err := Listen(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.(*listener).UnixListener.Close(); err != nil { // as a killed process leaves it
		t.Fatal(err)
	}
	l, err = Listen(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(ctx, path); !kind.Is(err, kind.Exists) {
		t.Errorf("a file that is no socket was replaced: %v", err)
	}
}

func TestTrusted(t *testing.T) {
	for _, c := range []struct {
		uid  uint32
		self int
		want bool
	}{{0, 0, true}, {0, 500, true}, {500, 500, true}, {501, 500, false}, {501, 0, false}, {4294967295, -1, false}} {
		if got := Trusted(c.uid, c.self); got != c.want {
			t.Errorf("user %d at a server of %d: %v", c.uid, c.self, got)
		}
	}
}
