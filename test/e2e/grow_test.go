package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/test/load"
)

// host is a `postern serve` of its own, without a lab around it.
type host struct {
	t    *testing.T
	name string
	dir  string // data folder, empty at the first start
	conf string // outside of it
	port int
	cmd  *exec.Cmd
	done chan struct{}
	out  output
}

// newHost plans a server; n counts from 1.
func newHost(t *testing.T, root, name string, basePort, n int) *host {
	t.Helper()
	h := &host{t: t, name: name, dir: filepath.Join(root, fmt.Sprintf("data%d", n)), conf: filepath.Join(root, fmt.Sprintf("server%d.toml", n)), port: basePort + 100*n}
	door := func(p int) string { return fmt.Sprintf("127.0.0.1:%d", h.port+p) }
	var b strings.Builder
	fmt.Fprintf(&b, "name = %q\naddress = \"127.0.0.%d:%d\"\ntimers = \"fast\"\ndrain = \"5s\"\n", name, 10+n, h.port+70)
	fmt.Fprintf(&b, "[mailbox]\nreserve = 67108864\n[smtp]\nhostname = %q\n", strings.ToLower(name)+".example.test")
	fmt.Fprintf(&b, "[smtp.receive]\nlisten = [%q]\n[smtp.submission]\nlisten = []\n[smtp.submissions]\nlisten = []\n", door(25))
	fmt.Fprintf(&b, "[imap.starttls]\nlisten = []\n[imap.tls]\nlisten = [%q]\n", door(93))
	fmt.Fprintf(&b, "[admin]\nclosed = true\n[metrics]\nlisten = %q\n", door(90))
	must(t, os.WriteFile(h.conf, []byte(b.String()), 0o600))
	return h
}

func (h *host) smtp() string { return fmt.Sprintf("127.0.0.1:%d", h.port+25) }
func (h *host) imap() string { return fmt.Sprintf("127.0.0.1:%d", h.port+93) }

// start starts the server; it ends with the test.
func (h *host) start() {
	h.t.Helper()
	h.cmd = exec.Command(postern.exe, "serve", "--dir", h.dir, "--config", h.conf)
	h.cmd.Env = cleanEnv()
	h.cmd.Stdout, h.cmd.Stderr = &h.out, &h.out
	must(h.t, postern.start(h.cmd))
	cmd, done := h.cmd, make(chan struct{})
	h.done = done
	go func() {
		_ = cmd.Wait() // its words are in out
		close(done)
	}()
	h.t.Cleanup(func() {
		stopProcess(cmd, done)
		if text := h.out.String(); h.t.Failed() {
			h.t.Logf("the end of what %s in %s said:\n%s", h.name, h.dir, text[max(0, len(text)-8000):])
		}
	})
}

// die is SIGKILL for the host; the kernel takes its workers along.
func (h *host) die() {
	h.t.Helper()
	must(h.t, h.cmd.Process.Signal(syscall.SIGKILL))
	<-h.done
}

// command runs a command through the server's socket.
func (h *host) command(ctx context.Context, out any, args ...string) error {
	select {
	case <-h.done:
		return fmt.Errorf("%s has ended", h.name)
	default:
	}
	b, err := postern.run(ctx, append([]string{"--dir", h.dir, "--json", "--yes"}, args...)...)
	return decode(b, err, out, args)
}

// do runs a command that may have to wait for the group.
func (h *host) do(args ...string) {
	h.t.Helper()
	eventually(h.t, 30*time.Second, "postern "+strings.Join(args, " "), func() error { return h.command(h.t.Context(), nil, args...) })
}

// join takes a new server into the group of h and starts it.
func (h *host) join(n *host, args ...string) {
	h.t.Helper()
	var token struct {
		Token string `json:"token"`
	}
	eventually(h.t, 60*time.Second, n.name+" joins", func() error {
		if err := h.command(h.t.Context(), &token, "cluster", "token", "--for", n.name); err != nil {
			return err
		}
		_, err := postern.run(h.t.Context(), append([]string{"join", token.Token, "--dir", n.dir, "--config", n.conf}, args...)...)
		return err
	})
	n.start()
	eventually(h.t, 60*time.Second, n.name+" is a member that votes", func() error {
		var st struct {
			Members []struct {
				Server  string `json:"server"`
				Name    string `json:"name"`
				Learner bool   `json:"learner"`
			} `json:"members"`
		}
		if err := h.command(h.t.Context(), &st, "cluster", "status"); err != nil {
			return err
		}
		for _, m := range st.Members {
			if (m.Server == n.name || m.Name == n.name) && !m.Learner {
				return nil
			}
		}
		return fmt.Errorf("members are %+v", st.Members)
	})
}

// whole waits until every database is in sync on exactly these servers.
func (h *host) whole(servers int) {
	h.t.Helper()
	eventually(h.t, 60*time.Second, fmt.Sprintf("%d copies in sync", servers), func() error {
		var list []database
		if err := h.command(h.t.Context(), &list, "database", "list"); err != nil {
			return err
		}
		if len(list) == 0 {
			return errors.New("no database yet")
		}
		for _, d := range list {
			if d.Active == "" || len(d.InSync) != servers {
				return fmt.Errorf("%s is active at %q, in sync at %v", d.Name, d.Active, d.InSync)
			}
		}
		return nil
	})
}

// TestGrowsToThree begins with `postern serve` on an empty folder, lets two
// servers join, loses members for good, the first one among them, and replaces
// them, by a server of another name and by one of the same, while mail comes in.
func TestGrowsToThree(t *testing.T) {
	t.Parallel()
	const base, user, password = 16200, "ann@example.test", "correct horse battery"
	root := t.TempDir()
	one := newHost(t, root, "MBX1", base, 1)
	one.start()
	one.whole(1)
	one.do("organization", "create", "example")
	one.do("domain", "add", "example.test", "--organization", "example")
	one.do("mailbox", "create", user, "--database", "DB01", "--password", password)
	conf, err := load.Trust(filepath.Join(one.dir, "cluster", "ca.pem"))
	must(t, err)
	var sent []string
	send := func(h *host, subject string) {
		t.Helper()
		eventually(t, 20*time.Second, subject, func() error { return deliver(t.Context(), h.smtp(), user, letter(subject, user)) })
		sent = append(sent, subject)
	}
	read := func(h *host) {
		t.Helper()
		must(t, readsAll(t.Context(), h.imap(), conf, user, password, sent))
	}
	send(one, "to a group of one")
	read(one)

	two, three := newHost(t, root, "MBX2", base, 2), newHost(t, root, "MBX3", base, 3)
	one.join(two)
	send(two, "at the second, without a copy there")
	one.join(three)
	one.do("copy", "add", "DB01", "MBX2")
	one.do("copy", "add", "DB01", "MBX3")
	send(one, "while copies are seeded")
	one.whole(3)
	for _, h := range []*host{one, two, three} {
		read(h)
	}
	must(t, one.command(t.Context(), nil, "copy", "verify"))

	// The founder is lost with its disk.
	one.die()
	must(t, os.RemoveAll(one.dir))
	send(two, "without the founder")
	read(three)
	two.do("copy", "remove", "DB01", "MBX1")
	two.do("server", "remove", "MBX1", "--force")
	four := newHost(t, root, "MBX4", base, 4)
	two.join(four)
	two.do("copy", "add", "DB01", "MBX4")
	two.whole(3)
	send(four, "with a replacement of another name")

	// Another one is lost, and comes back as a new machine of the same name.
	three.die()
	must(t, os.RemoveAll(three.dir))
	send(four, "without the third")
	again := newHost(t, root, "MBX3", base, 3)
	two.join(again, "--replace")
	two.whole(3)
	send(again, "with a replacement of the same name")
	must(t, two.command(t.Context(), nil, "copy", "verify"))

	// What is left must do without those who knew it from the beginning.
	two.die()
	for _, h := range []*host{four, again} {
		eventually(t, 20*time.Second, "all is read at "+h.name, func() error {
			return readsAll(t.Context(), h.imap(), conf, user, password, sent)
		})
	}
}

// readsAll reads the whole INBOX and compares every byte behind the trace lines.
func readsAll(ctx context.Context, addr string, conf *tls.Config, user, password string, want []string) error {
	r, err := login(ctx, addr, conf, user, password)
	if err != nil {
		return err
	}
	defer r.Close()
	got, err := r.subjects("INBOX")
	if err != nil {
		return err
	}
	if err := sameSubjects(got, want); err != nil {
		return err
	}
	for _, s := range want {
		raw, err := r.body("INBOX", s)
		if err != nil {
			return err
		}
		if !bytes.HasSuffix(raw, letter(s, user)) {
			return fmt.Errorf("%q is not what was sent:\n%s", s, raw)
		}
	}
	return nil
}
