// Command firststeps does what README.md tells a newcomer to do, with the
// programs it names: it starts a lab, delivers with swaks at the first server,
// reads with curl and mbsync at the last, kills the first server and reads
// again.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/postern-mail/postern/test/load"
)

func main() {
	postern := flag.String("postern", "bin/postern", "the binary under test")
	port := flag.String("base-port", "24000", "ports of the lab")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *postern, *port); err != nil {
		fmt.Fprintln(os.Stderr, "firststeps:", err)
		os.Exit(1)
	}
	fmt.Println("PASSED")
}

// walk is one run through the first steps.
type walk struct {
	lab  *load.Lab
	dir  string
	file labFile
}

type labFile struct {
	CA    string      `json:"ca"`
	Users []load.User `json:"users"`

	Servers []struct {
		Name  string `json:"name"`
		SMTP  string `json:"smtp"`
		IMAPS string `json:"imaps"`
	} `json:"servers"`
}

func run(ctx context.Context, postern, port string) error {
	dir, err := os.MkdirTemp("", "postern-firststeps-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	begun := time.Now()
	lab, err := load.StartLab(ctx, postern, filepath.Join(dir, "lab"), "--base-port", port)
	if err != nil {
		return err
	}
	defer lab.Stop()
	ready := time.Since(begun)
	fmt.Println("group ready after", ready.Round(100*time.Millisecond))
	if ready > time.Minute {
		return fmt.Errorf("the group took %s, promised is a minute", ready)
	}
	w := &walk{lab: lab, dir: dir}
	b, err := os.ReadFile(lab.File())
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &w.file); err != nil {
		return err
	}
	for _, s := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"swaks delivers at the first server", w.deliver},
		{"curl reads at the last server", w.readCurl},
		{"mbsync fetches at the last server", w.readMbsync},
		{"the first server is killed", w.kill},
		{"curl reads again", w.readCurl},
		{"the first server comes back and is in sync", w.back},
		{"copies are identical", func(ctx context.Context) error { return lab.Command(ctx, nil, "copy", "verify") }},
	} {
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Println("ok:", s.name)
	}
	return nil
}

const words = "the words of the first steps"

func tool(ctx context.Context, name string, args ...string) (string, error) {
	if _, err := exec.LookPath(name); err != nil {
		return "", fmt.Errorf("%w (hint: apt-get install swaks curl isync)", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return string(out), nil
}

func (w *walk) deliver(ctx context.Context) error {
	_, err := tool(ctx, "swaks", "--server", w.file.Servers[0].SMTP, "--to", w.file.Users[0].Address, "--body", words)
	return err
}

func (w *walk) last() string { return w.file.Servers[len(w.file.Servers)-1].IMAPS }

func (w *walk) readCurl(ctx context.Context) error {
	u := w.file.Users[0]
	out, err := tool(ctx, "curl", "--silent", "--show-error", "--cacert", w.file.CA, "--user", u.Address+":"+u.Password,
		"imaps://"+w.last()+"/INBOX;MAILINDEX=1")
	if err != nil {
		return err
	}
	if !strings.Contains(out, words) {
		return fmt.Errorf("the message is not there, but: %q", out)
	}
	return nil
}

func (w *walk) readMbsync(ctx context.Context) error {
	u := w.file.Users[0]
	// mbsync looks for names in certificates, not for addresses.
	_, port, _ := strings.Cut(w.last(), ":")
	const host = "localhost"
	maildir := filepath.Join(w.dir, "maildir")
	if err := os.MkdirAll(maildir, 0o700); err != nil {
		return err
	}
	conf := fmt.Sprintf("IMAPAccount lab\nHost %s\nPort %s\nUser %s\nPass %s\nSSLType IMAPS\nCertificateFile %s\n\n"+
		"IMAPStore far\nAccount lab\n\nMaildirStore near\nPath %s/\nInbox %s/INBOX\n\nChannel all\nFar :far:\nNear :near:\nPatterns *\nCreate Near\nSyncState *\n",
		host, port, u.Address, u.Password, w.file.CA, maildir, maildir)
	file := filepath.Join(w.dir, "mbsyncrc")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		return err
	}
	if _, err := tool(ctx, "mbsync", "-c", file, "-a"); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(maildir, "INBOX", "*", "*"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && bytes.Contains(b, []byte(words)) {
			return nil
		}
	}
	return errors.New("the message was not fetched")
}

func (w *walk) kill(ctx context.Context) error {
	return w.lab.Order(ctx, "kill", w.file.Servers[0].Name)
}

func (w *walk) back(ctx context.Context) error {
	if err := w.lab.Order(ctx, "start", w.file.Servers[0].Name, "--wait"); err != nil {
		return err
	}
	return w.lab.InSync(ctx, len(w.file.Servers), time.Minute)
}
