package mailbox

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

func TestGroupLimit(t *testing.T) {
	root := t.TempDir()
	limit := func(dir, text string) {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, dir, "memory.max"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	limit("system.slice", "8000\n")
	limit("system.slice/postern.service", "5000\n")
	limit("system.slice/other.service", "max\n")
	for table, want := range map[string]int64{
		"0::/system.slice/postern.service\n":              5000,
		"0::/system.slice/other.service\n":                8000,
		"12:memory:/system.slice/postern.service\n0::/\n": math.MaxInt64,
		"0::/elsewhere\n":                                 math.MaxInt64,
		"":                                                math.MaxInt64,
	} {
		if got := groupLimit(root, table); got != want {
			t.Errorf("%q: %d, want %d", table, got, want)
		}
	}
	if memory() <= 0 {
		t.Error("this machine has no memory")
	}
}
