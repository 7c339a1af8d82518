package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// disk is what the disk can do alone.
type disk struct {
	bandwidth float64 // bytes per second, written in 1 MiB and synced at the end of each 16
	syncs     float64 // 4 KiB writes, each synced, per second
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
	d.bandwidth = n * (1 << 20)
	d.syncs, err = rate(4<<10, 1)
	return d, err
}

func (d disk) print(w io.Writer) {
	fmt.Fprintf(w, "the disk alone: %.0f MB/s in large synced writes, %.0f synced writes of 4 KiB per second\n", d.bandwidth/1e6, d.syncs)
}

func (x row) print(w io.Writer) {
	fmt.Fprintf(w, "  %-28s %8.0f/s", x.name, x.rate)
	if x.visible > 0 {
		fmt.Fprintf(w, "  visible %8.0f/s", x.visible)
	}
	fmt.Fprintf(w, "  p50 %s p95 %s p99 %s  cpu %s", short(x.p50), short(x.p95), short(x.p99), short(x.cpu))
	if x.syncs > 0 {
		fmt.Fprintf(w, "  %.2f syncs per message and copy", x.syncs)
	}
	if x.errors > 0 {
		fmt.Fprintf(w, "  %d errors", x.errors)
	}
	fmt.Fprintln(w)
}

func short(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

// report prints both systems side by side and what the first makes of the disk.
func report(w io.Writer, p, q *results, d disk) {
	tw := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	defer tw.Flush()
	fmt.Fprintln(tw)
	if q == nil {
		fmt.Fprintln(tw, "ROW\tRATE/S\tVISIBLE/S\tP50\tP99\tCPU EACH\tSYNCS\tOF DISK")
		for _, x := range p.rows {
			fmt.Fprintf(tw, "%s\t%.0f\t%.0f\t%s\t%s\t%s\t%.2f\t%s\n", x.name, x.rate, x.visible, short(x.p50), short(x.p99), short(x.cpu), x.syncs, ofDisk(x, d))
		}
	} else {
		fmt.Fprintf(tw, "ROW\t%s/S\t%s/S\tRATE\tVISIBLE\tP50\tP99\tCPU EACH\tSYNCS\tOF DISK\n", p.system, q.system)
		for _, x := range p.rows {
			y, ok := q.find(x.name)
			if !ok {
				continue
			}
			fmt.Fprintf(tw, "%s\t%.0f\t%.0f\t%s\t%s\t%s : %s\t%s : %s\t%s\t%.2f\t%s\n", x.name, x.rate, y.rate, ratio(x.rate, y.rate), ratio(x.visible, y.visible),
				short(x.p50), short(y.p50), short(x.p99), short(y.p99), ratio(float64(x.cpu), float64(y.cpu)), x.syncs, ofDisk(x, d))
		}
		fmt.Fprintln(tw, "(RATE, VISIBLE, CPU EACH: ours divided by theirs; three copies against one)")
	}
	fmt.Fprintln(tw, "\nMEMORY\tSYSTEM\tBYTES")
	for _, r := range []*results{p, q} {
		if r == nil {
			continue
		}
		for _, f := range r.memory {
			fmt.Fprintf(tw, "%s\t%s\t%.1f KiB\n", f.name, r.system, float64(f.bytes)/1024)
		}
	}
}

// ofDisk is which part of the disk's bandwidth the copies of accepted
// messages alone are.
func ofDisk(x row, d disk) string {
	if x.bytes == 0 || d.bandwidth == 0 {
		return ""
	}
	return fmt.Sprintf("%.0f %%", 300*x.bytes/d.bandwidth)
}

func ratio(a, b float64) string {
	if b == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", a/b)
}
