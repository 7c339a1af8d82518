package host

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Machine reads the figures of this machine and this process. The zero value
// reads /proc.
type Machine struct {
	// Root stands for /proc in tests.
	Root string
}

func read[T any](m Machine, name string, parse func([]byte) (T, error)) (v T, err error) {
	root := m.Root
	if root == "" {
		root = "/proc"
	}
	b, err := os.ReadFile(root + "/" + name)
	if err != nil {
		return v, fmt.Errorf("read host figures: %w", err)
	}
	return parse(b)
}

// CPU is the processor time of the machine.
func (m Machine) CPU() (CPU, error) { return read(m, "stat", ParseStat) }

// CPUPressure is the share of the last minute in percent in which work waited for
// a processor. Kernels without PSI give an error.
func (m Machine) CPUPressure() (float64, error) {
	return read(m, "pressure/cpu", func(b []byte) (float64, error) {
		_, avg60, err := ParsePressure(b)
		return avg60, err
	})
}

// RunQueue is how many threads run or could run for each processor.
func (m Machine) RunQueue() (float64, error) {
	n, err := read(m, "loadavg", ParseRunQueue)
	return float64(n) / float64(runtime.NumCPU()), err
}

// Memory is that of the machine.
func (m Machine) Memory() (Memory, error) { return read(m, "meminfo", ParseMemory) }

// RSS is the resident memory of this process in bytes.
func (m Machine) RSS() (int64, error) { return read(m, "self/status", ParseRSS) }

// Disks are the block devices.
func (m Machine) Disks() (map[string]Disk, error) { return read(m, "diskstats", ParseDisks) }

// Handles are the file handles of this process, and how many it may have.
func (m Machine) Handles() (open, most int, err error) {
	root := m.Root
	if root == "" {
		root = "/proc"
	}
	d, err := os.Open(root + "/self/fd")
	if err != nil {
		return 0, 0, fmt.Errorf("read host figures: %w", err)
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return 0, 0, fmt.Errorf("read host figures: %w", err)
	}
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, 0, fmt.Errorf("read host figures: limit of file handles: %w", err)
	}
	return len(names) - 1, int(min(l.Cur, 1<<31-1)), nil
}
