package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// disk is what the disk can do alone.
type disk struct {
	Bandwidth float64 `json:"bytes_per_s"` // written in 1 MiB and synced at the end of each 16
	Syncs     float64 `json:"syncs_per_s"` // writes of 4 KiB, each synced
}

// measureDisk writes for a moment.
func measureDisk(dir string) (disk, error) {
	var d disk
	path := filepath.Join(dir, "disk-probe")
	f, err := os.Create(path)
	if err != nil {
		return d, err
	}
	defer os.Remove(path)
	defer f.Close()
	rate := func(size, every int) (float64, error) {
		buf := make([]byte, size)
		for i := range buf {
			buf[i] = byte(i * 7)
		}
		n, begun := 0, time.Now()
		for time.Since(begun) < 2*time.Second {
			if _, err := f.WriteAt(buf, int64(n%512)*int64(size)); err != nil {
				return 0, err
			}
			if n++; n%every == 0 {
				if err := unix.Fdatasync(int(f.Fd())); err != nil {
					return 0, err
				}
			}
		}
		return float64(n) / time.Since(begun).Seconds(), nil
	}
	n, err := rate(1<<20, 16)
	if err != nil {
		return d, err
	}
	d.Bandwidth = n * (1 << 20)
	d.Syncs, err = rate(4<<10, 1)
	return d, err
}

func (d disk) print(w io.Writer) {
	fmt.Fprintf(w, "the disk alone: %.0f MB/s in large synced writes, %.0f synced writes of 4 KiB per second\n", d.Bandwidth/1e6, d.Syncs)
}
