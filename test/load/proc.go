package load

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of times in /proc/<pid>/stat: USER_HZ, which is 100 on
// every Linux that Go runs on.
const tick = 10 * time.Millisecond

// stat is what /proc/<pid>/stat tells.
type stat struct {
	parent int
	cpu    time.Duration // of the process and of its children that were waited for
}

func readStat(pid int) (stat, bool) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return stat{}, false
	}
	i := bytes.LastIndexByte(b, ')') // the name may hold anything
	f := strings.Fields(string(b[i+1:]))
	if i < 0 || len(f) < 15 {
		return stat{}, false
	}
	parent, _ := strconv.Atoi(f[1]) // fields of the kernel's are numbers
	var ticks int64
	for _, s := range f[11:15] { // utime stime cutime cstime
		n, _ := strconv.ParseInt(s, 10, 64)
		ticks += n
	}
	return stat{parent, time.Duration(ticks) * tick}, true
}

// Tree is the given processes and all below them.
func Tree(roots ...int) []int {
	below := map[int][]int{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return roots
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if s, ok := readStat(pid); ok {
				below[s.parent] = append(below[s.parent], pid)
			}
		}
	}
	seen := map[int]bool{}
	var out []int
	var walk func(int)
	walk = func(pid int) {
		if pid <= 0 || seen[pid] {
			return
		}
		seen[pid] = true
		out = append(out, pid)
		for _, c := range below[pid] {
			walk(c)
		}
	}
	for _, r := range roots {
		walk(r)
	}
	return out
}

// CPU is the processor time that processes have used so far.
func CPU(pids []int) time.Duration {
	var sum time.Duration
	for _, p := range pids {
		if s, ok := readStat(p); ok {
			sum += s.cpu
		}
	}
	return sum
}

// Memory is the bytes that processes hold, shared pages counted in
// proportion (PSS).
func Memory(pids []int) int64 {
	var sum int64
	for _, p := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
				if f := strings.Fields(rest); len(f) > 0 {
					kb, _ := strconv.ParseInt(f[0], 10, 64) // a number, says proc(5)
					sum += kb << 10
				}
			}
		}
	}
	return sum
}
