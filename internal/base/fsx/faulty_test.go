package fsx

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
)

// TestFaulty: a broken folder fails with what is open in it, a slow one takes its
// time, its neighbours do not notice, and mended is mended.
func TestFaulty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMem()
		must(t, m.MkdirAll("/d/a"))
		must(t, m.MkdirAll("/d/ab"))
		d := NewFaulty(m)
		h, err := d.Create("/d/a/x")
		must(t, err)
		other, err := d.Create("/d/ab/x")
		must(t, err)

		d.Break("/d/a/", Fault{Err: syscall.EIO})
		_, err = h.WriteAt([]byte("x"), 0)
		_, err2 := d.Open("/d/a/x")
		_, err3 := d.List("/d/a")
		for _, err := range []error{err, err2, err3, h.Sync(), d.SyncDir("/d/a"), RemoveAll(d, "/d/a/x"), d.Rename("/d/a/x", "/d/y")} {
			if !errors.Is(err, syscall.EIO) {
				t.Errorf("a broken disk says %v", err)
			}
		}
		_, err = other.WriteAt([]byte("x"), 0)
		must(t, err)

		d.Break("/d/a", Fault{Times: 20, Sync: 200 * time.Millisecond})
		began := time.Now()
		_, err = h.WriteAt([]byte("x"), 0)
		must(t, err)
		must(t, h.Sync())
		if took := time.Since(began); took != 200*time.Millisecond {
			t.Errorf("a slow sync took %s", took)
		}

		d.Break("/d/a", Fault{})
		began = time.Now()
		must(t, h.Sync())
		must(t, RemoveAll(d, "/d/a/x"))
		if _, err := d.Stat("/d/a/x"); !kind.Is(err, kind.NotFound) || time.Since(began) > 0 {
			t.Errorf("a mended disk says %v after %s", err, time.Since(began))
		}
	})
}

// TestFaultyIsADisk: with nothing broken it is the disk below.
func TestFaultyIsADisk(t *testing.T) {
	dir := t.TempDir()
	d := NewFaulty(OS{})
	p := filepath.Join(dir, "a")
	must(t, WriteFile(d, p, []byte("hello")))
	b, err := ReadFile(d, p, 10)
	if err != nil || string(b) != "hello" {
		t.Errorf("%q %v", b, err)
	}
	h, err := d.OpenFile(p, Write)
	must(t, err)
	must(t, h.Truncate(8192))
	must(t, h.PunchHole(0, Align))
	if n, err := h.Size(); n != 8192 || err != nil {
		t.Error(n, err)
	}
	must(t, h.Close())
	if _, err := d.Device(dir); err != nil {
		t.Error(err)
	}
	if _, _, err := d.Free(dir); err != nil {
		t.Error(err)
	}
	must(t, RemoveAll(d, dir))
}
