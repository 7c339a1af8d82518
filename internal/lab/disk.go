package lab

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/internal/base/kind"
)

// fillerName is the file that takes a volume's space away.
const fillerName = "lab-filler"

// fillDisk makes a real file that takes all space a volume has left below its
// max_size.
func fillDisk(p ServerPlan, s Spec, volume string) (string, error) {
	vol, err := pickVolume(p, s, volume)
	if err != nil {
		return "", err
	}
	used, err := diskUse(vol)
	if err != nil {
		return "", fmt.Errorf("fill-disk %s: %w", vol, err)
	}
	left := s.VolumeSize - used
	if left <= 0 {
		return fmt.Sprintf("%s of %s is full already", filepath.Base(vol), p.Name), nil
	}
	f, err := os.OpenFile(filepath.Join(vol, fillerName), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", fmt.Errorf("fill-disk: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err == nil {
		err = unix.Fallocate(int(f.Fd()), 0, 0, st.Size()+left)
	}
	if err != nil {
		return "", fmt.Errorf("fill-disk %s: %w", f.Name(), err)
	}
	return fmt.Sprintf("%s of %s is full: %s takes its last %d MiB; undo with: postern lab free-disk %s",
		filepath.Base(vol), p.Name, f.Name(), left>>20, p.Name), nil
}

func freeDisk(p ServerPlan, s Spec, volume string) (string, error) {
	vol, err := pickVolume(p, s, volume)
	if err != nil {
		return "", err
	}
	if err := os.Remove(filepath.Join(vol, fillerName)); err != nil {
		return "", fmt.Errorf("free-disk: %w", err)
	}
	return fmt.Sprintf("%s of %s has space again", filepath.Base(vol), p.Name), nil
}

func pickVolume(p ServerPlan, s Spec, volume string) (string, error) {
	if volume == "" {
		volume = volumeName(1)
	}
	for v := range s.Volumes {
		if volumeName(v+1) == volume {
			return p.VolumeDir(v + 1), nil
		}
	}
	return "", kind.Errorf(kind.NotFound, "%s has no volume %q, only Vol1 to Vol%d", p.Name, volume, s.Volumes)
}

// diskUse is the bytes that a folder takes on its disk.
func diskUse(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil // removed in the meantime
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			sum += st.Blocks * 512
		}
		return nil
	})
	return sum, err
}

// corrupt changes n bytes in the middle of the written part of a log segment
// of a server's copy, below the feet of the running server.
func corrupt(p ServerPlan, database string, n int) (string, error) {
	if n <= 0 {
		n = 64
	}
	seg, err := pickSegment(p, database)
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile(seg, os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("corrupt: %w", err)
	}
	defer f.Close()
	at, err := middleOfData(f)
	if err != nil {
		return "", fmt.Errorf("corrupt %s: %w", seg, err)
	}
	buf := make([]byte, n)
	k, _ := f.ReadAt(buf, at) // a short read leaves less to flip
	for i := range buf[:k] {
		buf[i] ^= 0xA5
	}
	if _, err := f.WriteAt(buf[:k], at); err != nil {
		return "", fmt.Errorf("corrupt %s: %w", seg, err)
	}
	if err := f.Sync(); err != nil {
		return "", fmt.Errorf("corrupt %s: %w", seg, err)
	}
	return fmt.Sprintf("%d bytes flipped at %d of %s", k, at, seg), nil
}

// middleOfData is the middle of what was written: segments may be allocated
// ahead, and zeros after the end of the log mean nothing.
func middleOfData(f *os.File) (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	end := st.Size()
	buf := make([]byte, 64<<10)
	for end > 0 {
		from := max(0, end-int64(len(buf)))
		k, err := f.ReadAt(buf[:end-from], from)
		if k == 0 && err != nil {
			return 0, err
		}
		i := k - 1
		for i >= 0 && buf[i] == 0 {
			i--
		}
		if i >= 0 {
			return (from + int64(i)) / 2, nil
		}
		end = from
	}
	return 0, fmt.Errorf("holds nothing yet")
}

// pickSegment is the oldest log segment with something in it, of the database
// or of any.
func pickSegment(p ServerPlan, database string) (string, error) {
	pattern := filepath.Join(p.Dir, "volumes", "*", cmp.Or(database, "*"), "log", "*")
	files, err := filepath.Glob(pattern)
	if err != nil {
		return "", fmt.Errorf("corrupt: %w", err)
	}
	slices.Sort(files)
	for _, f := range files {
		st, err := os.Stat(f)
		if err == nil && st.Mode().IsRegular() && st.Size() > 4096 && !strings.HasSuffix(f, ".new") {
			return f, nil
		}
	}
	return "", kind.Errorf(kind.NotFound, "no log segment below %s", pattern)
}
