package node

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write golden files")

// TestBadConfigs has one file per mistake, with the expected text beside it.
func TestBadConfigs(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.toml")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d bad configurations, %v", len(files), err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			_, err := Load(t.TempDir(), f)
			if err == nil {
				t.Fatal("was accepted")
			}
			got := err.Error() + "\n"
			golden := strings.TrimSuffix(f, ".toml") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}

func TestEmptyFolderIsAServer(t *testing.T) {
	dir := t.TempDir()
	c, err := Load(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	root := c.complete(machine{hostname: "mail-1.example.com", address: "192.0.2.7", privileged: true})
	if root.Name != "MAIL-1" || root.Address != "192.0.2.7:7443" || root.SMTP.Receive.Listen[0] != ":25" || root.IMAP.TLS.Listen[0] != ":993" ||
		len(root.Volumes) != 1 || root.Volumes[0].Path != filepath.Join(dir, "volumes/Vol1") || root.Admin.Listen[0] != ":8443" {
		t.Errorf("%+v", root)
	}
	user := c.complete(machine{hostname: "..."})
	if user.Name != "MBX1" || user.SMTP.Receive.Listen[0] != ":10025" || user.Admin.Listen[0] != ":8443" {
		t.Errorf("%+v", user)
	}
	if _, err := Load(dir, filepath.Join(dir, "none.toml")); err == nil {
		t.Error("a file that was asked for and is missing is no error")
	}
}

func TestFileWins(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "postern.toml")
	if err := os.WriteFile(file, []byte(`
name = "MBX7"
timers = "fast"
[smtp.receive]
listen = ["127.0.0.1:2525"]
[smtp.submission]
listen = []
[[volume]]
name = "Fast"
path = "disks/fast"
max_size = "10GiB"
[mailbox]
scrub_interval = "24h"
`), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	c = c.Complete()
	v := c.Mailbox.Volumes
	if c.Name != "MBX7" || c.SMTP.Receive.Listen[0] != "127.0.0.1:2525" || len(c.SMTP.Submission.Listen) != 0 || len(v) != 1 ||
		v[0].MaxSize != 10<<30 || v[0].Path != filepath.Join(dir, "disks/fast") || c.Mailbox.ScrubInterval != 24*time.Hour ||
		c.Mailbox.Grace != 500*time.Millisecond {
		t.Errorf("%+v", c)
	}
}

// TestSampleIsCurrent compares the sample with the types it is made from.
func TestSampleIsCurrent(t *testing.T) {
	got, err := Sample()
	if err != nil {
		t.Fatal(err)
	}
	const path = "../../examples/postern.toml"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what the types say; make it anew: make sample", path)
	}
	if _, err := Load(t.TempDir(), path); err != nil {
		t.Errorf("the sample is refused: %v", err)
	}
}
