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

// TestRenameFolder: what is in a folder goes with it, after a crash as a whole
// or not at all.
func TestRenameFolder(t *testing.T) {
	m := NewMem()
	if err := m.MkdirAll("/a/b"); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"/a/x", "/a/b/y"} {
		if err := WriteFile(m, p, []byte("text")); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Rename("/a", "/c"); err != nil {
		t.Fatal(err)
	}
	has := func(d *Mem, dir string) bool {
		_, e1 := ReadFile(d, dir+"/x", 10)
		_, e2 := ReadFile(d, dir+"/b/y", 10)
		if (e1 == nil) != (e2 == nil) {
			t.Errorf("half of %s: %v, %v", dir, e1, e2)
		}
		return e1 == nil
	}
	if has(m, "/a") || !has(m, "/c") {
		t.Error("it was not moved")
	}
	before, after := 0, 0
	for seed := range uint64(60) {
		switch c := m.CrashImage(seed); {
		case has(c, "/a") == has(c, "/c"):
			t.Fatalf("seed %d: both or none", seed)
		case has(c, "/a"):
			before++
		default:
			after++
		}
	}
	if before == 0 || after == 0 {
		t.Errorf("%d times before, %d times after", before, after)
	}
	if err := m.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(20) {
		if !has(m.CrashImage(seed), "/c") {
			t.Error("it came back although the folder above was synced")
		}
	}
	if err := m.MkdirAll("/a"); err != nil {
		t.Fatal(err)
	}
	if err := m.Rename("/a", "/c"); err == nil {
		t.Error("a folder took the place of another")
	}
}
