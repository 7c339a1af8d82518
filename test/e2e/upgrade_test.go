package e2e

import (
	"archive/tar"
	"compress/gzip"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postern-mail/postern/test/rig"
)

// TestStartsFromFirstVersion starts from a data folder that the first version
// wrote (test/fixtures/README.md), reads everything back, adds to it, and
// starts again.
func TestStartsFromFirstVersion(t *testing.T) {
	dir := t.TempDir()
	must(t, unpack("../fixtures/v1/group-of-one.tar.gz", dir))
	// The configuration names its volume by where the folder was, and knows nothing
	// of closed networks, where senders need not exist.
	config := filepath.Join(dir, "MBX1", "postern.toml")
	b, err := os.ReadFile(config)
	must(t, err)
	must(t, os.WriteFile(config, []byte(strings.ReplaceAll(string(b), "/srv/lab", dir)+"\n[transport]\nprivate = true\n"), 0o600))
	for round := range 2 {
		lab, stop := oldLab(t, dir)
		c := lab.login(t)
		want := map[string][]string{
			"INBOX":         {`1 fixture 1 [\Seen]`, `2 fixture 2 [\Flagged custom]`, `5 fixture 5 []`},
			"Archive":       {`1 fixture 3 []`},
			"Projects/2026": {`1 fixture 5 []`},
		}
		if round == 1 {
			want["INBOX"] = append(want["INBOX"], `6 after the upgrade []`)
		}
		for folder, lines := range want {
			if got := contents(t, c, folder); !slices.Equal(got, lines) {
				t.Errorf("start %d: %s holds %q, want %q", round+1, folder, got, lines)
			}
		}
		if round == 0 {
			must(t, deliver(t.Context(), lab.Servers[0].SMTP, "user1@example.test", letter("after the upgrade", "user1@example.test")))
		}
		must(t, c.Close())
		stop()
	}
}

// oldLabFile is what the test needs of lab.json.
type oldLabFile struct {
	Ready   bool   `json:"ready"`
	CA      string `json:"ca"`
	Servers []struct {
		SMTP  string `json:"smtp"`
		IMAPS string `json:"imaps"`
	} `json:"servers"`
}

func oldLab(t *testing.T, dir string) (*oldLabFile, func()) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(dir, "lab.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	var cmd *exec.Cmd
	var ended chan struct{}
	start := func() {
		cmd, ended = exec.Command(postern.Exe, "lab", "--dir", dir), make(chan struct{})
		cmd.Env = rig.CleanEnv()
		cmd.Stdout, cmd.Stderr = log, log
		must(t, postern.start(cmd))
		go func(cmd *exec.Cmd, ended chan struct{}) {
			defer close(ended)
			_ = cmd.Wait() // how it ended is in its log
		}(cmd, ended)
	}
	start()
	stop := sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		<-ended
		log.Close()
	})
	t.Cleanup(stop)
	// The ports of the folder are among those that the system gives to
	// connections: who has one of them now may keep it for a while.
	var f oldLabFile
	eventually(t, 3*time.Minute, "the old data folder serves", func() error {
		select {
		case <-ended:
			start()
		default:
		}
		b, err := os.ReadFile(filepath.Join(dir, "lab.json"))
		if err == nil {
			err = json.Unmarshal(b, &f)
		}
		if err == nil && !f.Ready {
			err = errors.New("not ready")
		}
		if err != nil {
			said, _ := os.ReadFile(filepath.Join(dir, "lab.log"))
			err = fmt.Errorf("%w; the lab said %q", err, said[max(0, len(said)-500):])
		}
		return err
	})
	return &f, stop
}

func (f *oldLabFile) login(t *testing.T) *imapclient.Client {
	t.Helper()
	pem, err := os.ReadFile(f.CA)
	must(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	c, err := imapclient.DialTLS(f.Servers[0].IMAPS, &imapclient.Options{TLSConfig: &tls.Config{RootCAs: pool, ServerName: "localhost"}})
	must(t, err)
	must(t, c.Login("user1@example.test", "fixture-password").Wait())
	return c
}

// contents lists a folder, checking that each body is the one of its subject.
func contents(t *testing.T, c *imapclient.Client, folder string) []string {
	t.Helper()
	_, err := c.Select(folder, nil).Wait()
	must(t, err)
	whole := &imap.FetchItemBodySection{Peek: true}
	list, err := c.Fetch(imap.SeqSet{imap.SeqRange{Start: 1}}, &imap.FetchOptions{UID: true, Flags: true, Envelope: true, BodySection: []*imap.FetchItemBodySection{whole}}).Collect()
	must(t, err)
	var out []string
	for _, m := range list {
		subject := m.Envelope.Subject
		if body := string(m.FindBodySection(whole)); !strings.Contains(body, "Subject: "+subject) || strings.HasPrefix(subject, "fixture ") && !strings.Contains(body, "fixture body "+subject[8:]) {
			t.Errorf("%s %d: body %q is not that of %q", folder, m.UID, body, subject)
		}
		out = append(out, fmt.Sprintf("%d %s %v", m.UID, subject, m.Flags))
	}
	return out
}

// unpack extracts a fixture.
func unpack(file, dir string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		path := filepath.Join(dir, filepath.Clean("/"+h.Name))
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o700)
		case tar.TypeReg:
			err = write(path, r, h.FileInfo().Mode().Perm())
		}
		if err != nil {
			return err
		}
	}
}

func write(path string, r io.Reader, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}
