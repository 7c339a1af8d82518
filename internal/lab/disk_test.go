package lab

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/base/kind"
)

func diskLab(t *testing.T) (ServerPlan, Spec) {
	t.Helper()
	s := DefaultSpec()
	s.VolumeSize = 4 << 20
	p := Layout(s, t.TempDir())[0]
	if err := os.MkdirAll(filepath.Join(p.VolumeDir(1), "DB01", "log"), 0o755); err != nil {
		t.Fatal(err)
	}
	return p, s
}

func TestFillAndFree(t *testing.T) {
	p, s := diskLab(t)
	for range 2 { // filling a full volume is no error
		if _, err := fillDisk(p, s, ""); err != nil {
			t.Fatal(err)
		}
	}
	used, err := diskUse(p.VolumeDir(1))
	if err != nil || used < s.VolumeSize || used > s.VolumeSize+64<<10 {
		t.Errorf("%d bytes used, want %d: %v", used, s.VolumeSize, err)
	}
	if _, err := freeDisk(p, s, "Vol1"); err != nil {
		t.Fatal(err)
	}
	if used, _ := diskUse(p.VolumeDir(1)); used != 0 {
		t.Errorf("%d bytes stay", used)
	}
	if _, err := fillDisk(p, s, "Vol9"); !kind.Is(err, kind.NotFound) {
		t.Error(err)
	}
}

// TestCorruptHitsWhatWasWritten uses a segment that is allocated ahead: zeros
// behind the end of the log mean nothing to anybody.
func TestCorruptHitsWhatWasWritten(t *testing.T) {
	p, _ := diskLab(t)
	seg := filepath.Join(p.VolumeDir(1), "DB01", "log", "0000000000000001.log")
	before := append(bytes.Repeat([]byte("record "), 2000), make([]byte, 1<<20)...)
	if err := os.WriteFile(seg, before, 0o644); err != nil {
		t.Fatal(err)
	}
	said, err := corrupt(p, "DB01", 16)
	if err != nil || !strings.Contains(said, "16 bytes flipped at 6999 of "+seg) {
		t.Fatal(said, err)
	}
	after, err := os.ReadFile(seg)
	if err != nil {
		t.Fatal(err)
	}
	changed := 0
	for i := range after {
		if after[i] != before[i] {
			changed++
		}
	}
	if changed != 16 || len(after) != len(before) {
		t.Errorf("%d bytes changed, %d long", changed, len(after))
	}
	if _, err := corrupt(p, "DB02", 16); !kind.Is(err, kind.NotFound) {
		t.Error(err)
	}
}
