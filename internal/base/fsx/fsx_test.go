package fsx

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/postern-mail/postern/internal/base/kind"
)

// both runs a test on the real disk and on the model.
func both(t *testing.T, do func(t *testing.T, f FS, dir string)) {
	t.Run("os", func(t *testing.T) { do(t, OS{}, t.TempDir()) })
	t.Run("mem", func(t *testing.T) {
		m := NewMem()
		if err := m.MkdirAll("/d/e"); err != nil {
			t.Fatal(err)
		}
		do(t, m, "/d/e")
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFiles(t *testing.T) {
	both(t, func(t *testing.T, f FS, dir string) {
		p, q := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		_, err := f.Open(p)
		wantKind(t, err, kind.NotFound)
		h, err := f.Create(p)
		must(t, err)
		_, err = f.Create(p)
		wantKind(t, err, kind.Exists)
		_, err = h.WriteAt([]byte("hello"), 10000)
		must(t, err)
		must(t, h.Sync())
		b := make([]byte, 8)
		n, err := h.ReadAt(b, 9998)
		if n != 7 || !errors.Is(err, io.EOF) || string(b[:n]) != "\x00\x00hello" {
			t.Fatalf("%d %v %q", n, err, b)
		}
		must(t, h.Truncate(10002))
		must(t, h.Allocate(0, 3*Align))
		if n, err := h.Size(); n != 3*Align || err != nil {
			t.Fatal(n, err)
		}
		must(t, h.PunchHole(2*Align, Align))
		must(t, h.Close())
		b, err = ReadFile(f, p, 1<<20)
		must(t, err)
		if len(b) != 3*Align || string(b[10000:10002]) == "he" || len(bytes.Trim(b, "\x00")) > 0 {
			t.Fatalf("%q", b[9990:])
		}
		_, err = ReadFile(f, p, 10)
		wantKind(t, err, kind.Invalid)
		must(t, f.Rename(p, q))
		must(t, f.SyncDir(dir))
		names, err := f.List(dir)
		if err != nil || !slices.Equal(names, []string{"b"}) {
			t.Fatal(names, err)
		}
		in, err := f.Stat(q)
		if err != nil || in.Size != 3*Align || in.Allocated == 0 || in.Allocated > 3*Align {
			t.Fatal(in, err)
		}
		wantKind(t, f.Remove(p), kind.NotFound)
		must(t, f.Remove(q))
		_, err = f.Stat(q)
		wantKind(t, err, kind.NotFound)
		if free, total, err := f.Free(dir); err != nil || free <= 0 || free > total {
			t.Fatal(free, total, err)
		}
	})
}

func wantKind(t *testing.T, err error, k kind.Kind) {
	t.Helper()
	if !kind.Is(err, k) {
		t.Fatalf("error %v: want kind %v", err, k)
	}
}

func TestPunchedReadsZero(t *testing.T) {
	both(t, func(t *testing.T, f FS, dir string) {
		h, err := f.Create(filepath.Join(dir, "a"))
		must(t, err)
		defer h.Close()
		data := bytes.Repeat([]byte{7}, 4*Align)
		_, err = h.WriteAt(data, 0)
		must(t, err)
		must(t, h.Sync())
		must(t, h.PunchHole(Align, 2*Align))
		clear(data[Align : 3*Align])
		got := make([]byte, len(data))
		_, err = h.ReadAt(got, 0)
		must(t, err)
		if !bytes.Equal(got, data) {
			t.Fatal("differs")
		}
	})
}

func TestDirect(t *testing.T) {
	both(t, func(t *testing.T, f FS, dir string) {
		p := filepath.Join(dir, "a")
		h, err := f.OpenFile(p, Write|New|Direct)
		must(t, err)
		defer h.Close()
		b := Buffer(2 * Align)
		for i := range b {
			b[i] = byte(i)
		}
		_, err = h.WriteAt(b, Align)
		must(t, err)
		must(t, h.Sync())
		if h.Direct() {
			if _, err := h.WriteAt(b[:100], 0); !errors.Is(err, syscall.EINVAL) {
				t.Fatal("unaligned direct write:", err)
			}
		}
		r, err := f.Open(p)
		must(t, err)
		defer r.Close()
		got := make([]byte, 2*Align)
		for i := range 3 { // what is read through the page cache follows
			b[0] = byte(i)
			_, err = h.WriteAt(b, Align)
			must(t, err)
			_, err = r.ReadAt(got, Align)
			must(t, err)
			if !bytes.Equal(got, b) {
				t.Fatal("differs")
			}
		}
	})
}

func TestWriteFile(t *testing.T) {
	both(t, func(t *testing.T, f FS, dir string) {
		p := filepath.Join(dir, "a")
		for _, s := range []string{"one", "", "three"} {
			must(t, WriteFile(f, p, []byte(s)))
			b, err := ReadFile(f, p, 100)
			if err != nil || string(b) != s {
				t.Fatalf("%q %v", b, err)
			}
		}
	})
}

// TestWriteFileCrash: after a crash at any moment the old or the new content
// is there.
func TestWriteFileCrash(t *testing.T) {
	m := NewMem()
	old, now := "", ""
	seed := uint64(0)
	m.Hook(func(op Op) {
		for range 20 {
			seed++
			b, err := ReadFile(m.CrashImage(seed), "a", 1<<20)
			if s := string(b); s != old && s != now || err != nil && old != "" {
				t.Fatalf("before %v: %d bytes, %v", op, len(b), err)
			}
		}
	})
	for i := range 10 {
		now = string(bytes.Repeat([]byte{byte('a' + i)}, 1000*i+1))
		must(t, WriteFile(m, "a", []byte(now)))
		old = now
	}
}

// TestPoison: after a sync that failed nothing on the file succeeds.
func TestPoison(t *testing.T) {
	m := NewMem()
	h, err := m.Create("a")
	must(t, err)
	m.FailNth(OpSync, 1, syscall.EIO)
	if err := h.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	m.Inject(nil)
	_, werr := h.WriteAt([]byte("x"), 0)
	_, rerr := h.ReadAt([]byte("x"), 0)
	_, serr := h.Size()
	for i, err := range []error{h.Sync(), werr, rerr, serr, h.Truncate(0), h.Allocate(0, 1), h.PunchHole(0, 1)} {
		if !errors.Is(err, syscall.EIO) {
			t.Error(i, err)
		}
	}
	must(t, h.Close())
}

func TestLimit(t *testing.T) {
	m := NewMem()
	m.SetLimit(4 * Align)
	h, err := m.Create("a")
	must(t, err)
	must(t, h.Allocate(0, 4*Align))
	_, err = h.WriteAt(make([]byte, 4*Align), 0)
	must(t, err)
	_, err = h.WriteAt([]byte("x"), 4*Align)
	wantKind(t, err, kind.Full)
	must(t, h.PunchHole(0, 2*Align))
	if free, _, _ := m.Free("."); free != 2*Align {
		t.Fatal(free)
	}
	must(t, h.Allocate(4*Align, Align))
	must(t, m.Remove("a"))
	if free, _, _ := m.Free("."); free != 4*Align {
		t.Fatal(free)
	}
}

// TestCrashImage: what was synced is there; of the rest all combinations of
// sectors are found.
func TestCrashImage(t *testing.T) {
	m := NewMem()
	h, err := m.Create("a")
	must(t, err)
	_, err = h.WriteAt(bytes.Repeat([]byte("s"), 1024), 0)
	must(t, err)
	must(t, h.Sync())
	_, err = m.CrashImage(1).Stat("a")
	must(t, m.SyncDir("."))
	_ = err // the name may be there or not
	_, err = h.WriteAt(bytes.Repeat([]byte("u"), 1024), 512)
	must(t, err)
	seen := map[string]bool{}
	for seed := range uint64(200) {
		b, err := ReadFile(m.CrashImage(seed), "a", 1<<20)
		must(t, err)
		s := ""
		for i := 0; i < len(b); i += 512 {
			s += string(b[i : i+1])
		}
		seen[s] = true
		again, _ := ReadFile(m.CrashImage(seed), "a", 1<<20)
		if !bytes.Equal(b, again) {
			t.Fatal("one seed, two images")
		}
	}
	for _, want := range []string{"ss", "su", "suu", "ss\x00"} {
		delete(seen, want)
	}
	delete(seen, "ssu") // the end without the middle
	if len(seen) > 0 {
		t.Fatal(seen)
	}
}

// TestNamesCrash: names that were not synced may be lost, a rename is never
// half done.
func TestNamesCrash(t *testing.T) {
	m := NewMem()
	for _, n := range []string{"a", "b"} {
		h, err := m.Create(n)
		must(t, err)
		must(t, h.Close())
	}
	must(t, m.SyncDir("."))
	must(t, m.Rename("a", "c"))
	must(t, m.Remove("b"))
	seen := map[string]bool{}
	for seed := range uint64(100) {
		names, err := m.CrashImage(seed).List(".")
		must(t, err)
		seen[fmt.Sprint(names)] = true
	}
	for _, want := range []string{"[a b]", "[a]", "[b c]", "[c]"} {
		if !seen[want] {
			t.Error("never", want)
		}
		delete(seen, want)
	}
	if len(seen) > 0 {
		t.Error(seen)
	}
}

func TestFlip(t *testing.T) {
	m := NewMem()
	must(t, WriteFile(m, "a", []byte("hello")))
	must(t, m.Flip("a", 1, 1))
	for _, f := range []FS{m, m.CrashImage(1)} {
		if b, err := ReadFile(f, "a", 10); err != nil || string(b) != "hdllo" {
			t.Fatalf("%q %v", b, err)
		}
	}
	wantKind(t, m.Flip("a", 5, 1), kind.NotFound)
}
