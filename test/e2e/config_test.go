package e2e

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/test/rig"
)

var update = flag.Bool("update", false, "write golden files")

// exitInvalid is the exit code of a mistake in what a person wrote.
const exitInvalid = 2

// TestBadConfigurations runs the program on configurations with one mistake
// each: file, line, reason and remedy on standard error, and the data folder
// untouched.
func TestBadConfigurations(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.toml")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d configurations, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			golden := strings.TrimSuffix(file, ".toml") + ".txt"
			for _, args := range [][]string{{"config", "check"}, {"serve"}, {"init"}} {
				dir := filepath.Join(t.TempDir(), "data")
				code, text := refused(t, append(args, "--dir", dir, "--config", file)...)
				if code != exitInvalid {
					t.Errorf("postern %s: exit code %d, want %d", args, code, exitInvalid)
				}
				if *update {
					must(t, os.WriteFile(golden, []byte(text), 0o600))
				}
				want, err := os.ReadFile(golden)
				must(t, err)
				if text != string(want) {
					t.Errorf("postern %s says\n%swant\n%s", args, text, want)
				}
				if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("postern %s made a data folder: %v", args, err)
				}
			}
		})
	}
}

// TestMissingConfiguration is a file that was asked for and is not there.
func TestMissingConfiguration(t *testing.T) {
	dir := t.TempDir()
	code, text := refused(t, "serve", "--dir", dir, "--config", filepath.Join(dir, "none.toml"))
	if code == 0 || !strings.Contains(text, "none.toml: no such file") {
		t.Errorf("exit code %d: %s", code, text)
	}
}

// TestBadToken joins with something that is no token.
func TestBadToken(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	code, text := refused(t, "join", "not-a-token", "--dir", dir, "--name", "MBX2", "--address", "127.0.0.1:7443")
	if code != exitInvalid || !strings.Contains(text, "token") {
		t.Errorf("exit code %d: %s", code, text)
	}
}

// refused runs a command that has to fail and returns its exit code and what
// it said on standard error.
func refused(t *testing.T, args ...string) (int, string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), postern.Exe, args...)
	cmd.Env = rig.CleanEnv()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("postern %s: %v, want a refusal\n%s", strings.Join(args, " "), err, stdout.String())
	}
	if stdout.Len() > 0 {
		t.Errorf("postern %s wrote to standard output: %s", strings.Join(args, " "), stdout.String())
	}
	return exit.ExitCode(), stderr.String()
}
