package host

import (
	"bytes"
	"math"
	"strconv"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
)

// tick is the kernel's unit of processor time, USER_HZ, which is 100 on every
// architecture that Go runs on (time(7)).
const tick = 10 * time.Millisecond

// CPU is processor time since the machine started, of all processors together
// (the first line of /proc/stat, proc_stat(5)).
type CPU struct {
	Busy  time.Duration // user, nice, system, irq, softirq
	Idle  time.Duration // idle and waiting for disks
	Steal time.Duration // this machine was ready and the hypervisor ran others
}

// StealShare is the share of time between two readings in percent that the
// hypervisor kept, 0 where none passed.
func (c CPU) StealShare(before CPU) float64 {
	steal := c.Steal - before.Steal
	all := c.Busy - before.Busy + c.Idle - before.Idle + steal
	if all <= 0 || steal <= 0 {
		return 0
	}
	return 100 * float64(steal) / float64(all)
}

// ParseStat reads /proc/stat.
func ParseStat(b []byte) (CPU, error) {
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) < 9 || string(f[0]) != "cpu" {
			continue
		}
		var n [8]time.Duration
		for i := range n {
			v, err := number(f[i+1])
			if err != nil || v > math.MaxInt64/uint64(tick)/8 {
				return CPU{}, kind.Errorf(kind.Invalid, "/proc/stat: %q is no processor time", f[i+1])
			}
			n[i] = time.Duration(v) * tick
		}
		return CPU{Busy: n[0] + n[1] + n[2] + n[5] + n[6], Idle: n[3] + n[4], Steal: n[7]}, nil
	}
	return CPU{}, kind.Errorf(kind.Invalid, "/proc/stat: no line of all processors")
}

// ParsePressure reads a file of /proc/pressure (PSI): the share of the last 10 and
// 60 seconds in percent in which some work waited.
func ParsePressure(b []byte) (avg10, avg60 float64, err error) {
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) < 3 || string(f[0]) != "some" {
			continue
		}
		if avg10, err = share(f[1], "avg10="); err != nil {
			return 0, 0, err
		}
		avg60, err = share(f[2], "avg60=")
		return avg10, avg60, err
	}
	return 0, 0, kind.Errorf(kind.Invalid, "pressure: no line of some")
}

func share(field []byte, name string) (float64, error) {
	text, ok := bytes.CutPrefix(field, []byte(name))
	v, err := strconv.ParseFloat(string(text), 64)
	if !ok || err != nil || !(v >= 0 && v <= 100) {
		return 0, kind.Errorf(kind.Invalid, "pressure: %q is no %s", field, name)
	}
	return v, nil
}

// ParseRunQueue reads /proc/loadavg: how many threads run or could run now.
func ParseRunQueue(b []byte) (int, error) {
	f := bytes.Fields(b)
	if len(f) < 4 {
		return 0, kind.Errorf(kind.Invalid, "/proc/loadavg: too short")
	}
	ready, _, ok := bytes.Cut(f[3], []byte("/"))
	v, err := number(ready)
	if !ok || err != nil || v > math.MaxInt32 {
		return 0, kind.Errorf(kind.Invalid, "/proc/loadavg: %q has no threads", f[3])
	}
	return int(v), nil
}

// Memory is that of the machine in bytes (proc_meminfo(5)).
type Memory struct {
	Total, Available int64
}

// ParseMemory reads /proc/meminfo.
func ParseMemory(b []byte) (Memory, error) {
	var m Memory
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) < 2 {
			continue
		}
		to := map[string]*int64{"MemTotal:": &m.Total, "MemAvailable:": &m.Available}[string(f[0])]
		if to == nil {
			continue
		}
		v, err := number(f[1])
		if err != nil || v > math.MaxInt64/1024 {
			return Memory{}, kind.Errorf(kind.Invalid, "/proc/meminfo: %q is no size", line)
		}
		*to = int64(v) * 1024
	}
	if m.Total <= 0 || m.Available > m.Total {
		return Memory{}, kind.Errorf(kind.Invalid, "/proc/meminfo: %d of %d bytes available", m.Available, m.Total)
	}
	return m, nil
}

// ParseRSS reads the resident memory of a process in bytes from /proc/PID/status.
func ParseRSS(b []byte) (int64, error) {
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) < 2 || string(f[0]) != "VmRSS:" {
			continue
		}
		v, err := number(f[1])
		if err != nil || v > math.MaxInt64/1024 {
			return 0, kind.Errorf(kind.Invalid, "/proc/self/status: %q is no size", line)
		}
		return int64(v) * 1024, nil
	}
	return 0, kind.Errorf(kind.Invalid, "/proc/self/status: no VmRSS")
}

// ParseProcessTime reads the processor time of a process from /proc/PID/stat. The
// name of a process may have spaces and parentheses (proc_pid_stat(5)).
func ParseProcessTime(b []byte) (time.Duration, error) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return 0, kind.Errorf(kind.Invalid, "/proc/PID/stat: no name")
	}
	f := bytes.Fields(b[i+1:])
	if len(f) < 13 {
		return 0, kind.Errorf(kind.Invalid, "/proc/PID/stat: too short")
	}
	user, err1 := number(f[11]) // fields 14 and 15
	system, err2 := number(f[12])
	if most := math.MaxInt64 / uint64(tick) / 2; err1 != nil || err2 != nil || user > most || system > most {
		return 0, kind.Errorf(kind.Invalid, "/proc/PID/stat: %q and %q are no times", f[11], f[12])
	}
	return time.Duration(user+system) * tick, nil
}

// ParseWaiting reads how long a thread was ready to run and waited for a processor
// from /proc/PID/task/TID/schedstat (sched-stats of the kernel).
func ParseWaiting(b []byte) (time.Duration, error) {
	f := bytes.Fields(b)
	if len(f) < 2 {
		return 0, kind.Errorf(kind.Invalid, "schedstat: too short")
	}
	n, err := number(f[1])
	if err != nil || n > math.MaxInt64/2 {
		return 0, kind.Errorf(kind.Invalid, "schedstat: %q is no time", f[1])
	}
	return time.Duration(n), nil
}

// Disk is what a block device did since the machine started (iostats of the
// kernel).
type Disk struct {
	Reads, Writes       uint64
	ReadTime, WriteTime time.Duration // sum over all requests
	InFlight            uint64
	BusyTime            time.Duration
	Flushes             uint64 // 0 where the kernel does not tell
	FlushTime           time.Duration
}

// maxDisks bounds the devices that are read.
const maxDisks = 4096

// ParseDisks reads /proc/diskstats by the device's name.
func ParseDisks(b []byte) (map[string]Disk, error) {
	out := map[string]Disk{}
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) < 14 || len(out) == maxDisks {
			return nil, kind.Errorf(kind.Invalid, "/proc/diskstats: %q is too short or one too many", line)
		}
		var n [17]uint64
		for i := 3; i < len(f) && i-3 < len(n); i++ {
			v, err := number(f[i])
			if err != nil || v > math.MaxInt64/uint64(time.Millisecond) {
				return nil, kind.Errorf(kind.Invalid, "/proc/diskstats: %q is no number", f[i])
			}
			n[i-3] = v
		}
		ms := func(v uint64) time.Duration { return time.Duration(v) * time.Millisecond }
		out[string(f[2])] = Disk{Reads: n[0], ReadTime: ms(n[3]), Writes: n[4], WriteTime: ms(n[7]), InFlight: n[8], BusyTime: ms(n[9]),
			Flushes: n[15], FlushTime: ms(n[16])}
	}
	return out, nil
}

func number(b []byte) (uint64, error) { return strconv.ParseUint(string(b), 10, 64) }
