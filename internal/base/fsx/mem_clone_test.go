package fsx

import (
	"testing"
)

// TestClone: a clone has what was written and not synced, loses it in a crash
// as the original would, and neither sees what the other does later.
func TestClone(t *testing.T) {
	m := NewMem()
	write := func(d *Mem, path, text string, sync bool) {
		t.Helper()
		f, err := d.OpenFile(path, Write)
		if err != nil {
			if f, err = d.Create(path); err != nil {
				t.Fatal(err)
			}
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte(text), 0); err != nil {
			t.Fatal(err)
		}
		if sync {
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	read := func(d *Mem, path string) string {
		b, err := ReadFile(d, path, 100)
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
	write(m, "/a", "old", true)
	if err := m.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	write(m, "/a", "new", false)
	write(m, "/b", "b", true) // its name is not durable
	c := m.Clone()
	write(m, "/a", "own", false)
	if got := read(c, "/a") + read(c, "/b"); got != "newb" {
		t.Errorf("the clone has %q", got)
	}
	for seed := range uint64(50) {
		x := c.CrashImage(seed)
		if got := read(x, "/a"); got != "old" && got != "new" {
			t.Errorf("after a crash: %q", got)
		}
	}
	lost := false
	for seed := range uint64(50) {
		x := c.CrashImage(seed)
		lost = lost || read(x, "/a") == "old" && read(x, "/b") != "b"
	}
	if !lost {
		t.Error("what was not durable is never lost")
	}
	if err := c.Remove("/b"); err != nil {
		t.Fatal(err)
	}
	if read(m, "/a") != "own" || read(m, "/b") != "b" {
		t.Error("the original saw what the clone did")
	}
}
