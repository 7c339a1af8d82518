package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Host is a `postern serve` of its own, without a lab around it.
type Host struct {
	T    testing.TB
	Name string
	Dir  string // data folder, empty at the first start
	Conf string // outside of it
	Done chan struct{}
	Out  Output
	// Under is a command that starts it, and its arguments: "ip netns exec ns".
	Under []string

	program Program
	port    int
	cmd     *exec.Cmd
}

// Extra is text for the host's configuration, each part inside of a section.
type Extra struct {
	Transport string // [transport], and sections below it
	Receive   string // [smtp.receive]
}

// NewHost plans a server; n counts from 1. It has the 100 ports from basePort +
// 100 n.
func NewHost(t testing.TB, p Program, root, name string, basePort, n int, x Extra) *Host {
	t.Helper()
	h := &Host{T: t, Name: name, Dir: filepath.Join(root, fmt.Sprintf("data%d", n)), Conf: filepath.Join(root, fmt.Sprintf("server%d.toml", n)), program: p, port: basePort + 100*n}
	door := func(p int) string { return fmt.Sprintf("127.0.0.1:%d", h.port+p) }
	var b strings.Builder
	fmt.Fprintf(&b, "name = %q\naddress = \"127.0.0.%d:%d\"\ntimers = \"fast\"\ndrain = \"5s\"\n", name, 10+n, h.port+70)
	fmt.Fprintf(&b, "[mailbox]\nreserve = 67108864\n[smtp]\nhostname = %q\n", h.Hostname())
	fmt.Fprintf(&b, "[smtp.receive]\nlisten = [%q]\n%s\n[smtp.submission]\nlisten = [%q]\n[smtp.submissions]\nlisten = []\n", door(25), x.Receive, door(87))
	fmt.Fprintf(&b, "[imap.starttls]\nlisten = []\n[imap.tls]\nlisten = [%q]\n", door(93))
	fmt.Fprintf(&b, "[admin]\nclosed = true\n[metrics]\nlisten = %q\n", door(90))
	// Clients are at this machine, whatever names they have.
	fmt.Fprintf(&b, "[transport]\nreserve = 67108864\nprivate = true\n%s\n", x.Transport)
	Must(t, os.WriteFile(h.Conf, []byte(b.String()), 0o600))
	return h
}

// Hostname is what the server calls itself.
func (h *Host) Hostname() string { return strings.ToLower(h.Name) + ".example.test" }

func (h *Host) door(p int) string { return fmt.Sprintf("127.0.0.1:%d", h.port+p) }

// SMTP is the door for other servers.
func (h *Host) SMTP() string { return h.door(25) }

// Submission is the door for users, with STARTTLS.
func (h *Host) Submission() string { return h.door(87) }

// IMAP is the door for reading, with TLS.
func (h *Host) IMAP() string { return h.door(93) }

// CA is the file of the authority that signed the server's certificate.
func (h *Host) CA() string { return filepath.Join(h.Dir, "cluster", "ca.pem") }

// Start starts the server; it ends with the test.
func (h *Host) Start() {
	h.T.Helper()
	args := append(slices.Clone(h.Under), h.program.Exe, "serve", "--dir", h.Dir, "--config", h.Conf)
	h.cmd = exec.Command(args[0], args[1:]...)
	h.cmd.Env = CleanEnv()
	h.cmd.Stdout, h.cmd.Stderr = &h.Out, &h.Out
	Must(h.T, h.program.Start(h.cmd))
	cmd, done := h.cmd, make(chan struct{})
	h.Done = done
	go func() {
		_ = cmd.Wait() // its words are in Out
		close(done)
	}()
	h.T.Cleanup(func() {
		Stop(cmd, done)
		if text := h.Out.String(); h.T.Failed() {
			h.T.Logf("the end of what %s in %s said:\n%s", h.Name, h.Dir, text[max(0, len(text)-8000):])
		}
	})
}

// Die is SIGKILL for the host; the kernel takes its workers along.
func (h *Host) Die() {
	h.T.Helper()
	Must(h.T, h.cmd.Process.Signal(syscall.SIGKILL))
	<-h.Done
}

// Command runs a command through the server's socket.
func (h *Host) Command(ctx context.Context, out any, args ...string) error {
	select {
	case <-h.Done:
		return fmt.Errorf("%s has ended", h.Name)
	default:
	}
	b, err := h.program.Run(ctx, append([]string{"--dir", h.Dir, "--json", "--yes"}, args...)...)
	return Decode(b, err, out, args)
}

// Do runs a command that may have to wait for the group.
func (h *Host) Do(args ...string) {
	h.T.Helper()
	Eventually(h.T, 30*time.Second, "postern "+strings.Join(args, " "), func() error { return h.Command(h.T.Context(), nil, args...) })
}

// Join takes a new server into the group of h and starts it.
func (h *Host) Join(n *Host, args ...string) {
	h.T.Helper()
	var token struct {
		Token string `json:"token"`
	}
	Eventually(h.T, 60*time.Second, n.Name+" joins", func() error {
		if err := h.Command(h.T.Context(), &token, "cluster", "token", "--for", n.Name); err != nil {
			return err
		}
		run := append(slices.Clone(n.Under), n.program.Exe, "join", token.Token, "--dir", n.Dir, "--config", n.Conf)
		_, err := Program{Exe: run[0]}.Run(h.T.Context(), append(run[1:], args...)...)
		return err
	})
	n.Start()
	Eventually(h.T, 60*time.Second, n.Name+" is a member that votes", func() error {
		var st struct {
			Members []struct {
				Server  string `json:"server"`
				Name    string `json:"name"`
				Learner bool   `json:"learner"`
			} `json:"members"`
		}
		if err := h.Command(h.T.Context(), &st, "cluster", "status"); err != nil {
			return err
		}
		for _, m := range st.Members {
			if (m.Server == n.Name || m.Name == n.Name) && !m.Learner {
				return nil
			}
		}
		return fmt.Errorf("members are %+v", st.Members)
	})
}

// Database is a row of `database list`.
type Database struct {
	Name   string   `json:"name"`
	Active string   `json:"active"`
	Term   int      `json:"term"`
	InSync []string `json:"in_sync"`
}

// Whole waits until every database is in sync on exactly these servers.
func (h *Host) Whole(servers int) {
	h.T.Helper()
	Eventually(h.T, 60*time.Second, fmt.Sprintf("%d copies in sync", servers), func() error {
		var list []Database
		if err := h.Command(h.T.Context(), &list, "database", "list"); err != nil {
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
