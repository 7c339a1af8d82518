package mailbox

import (
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// memory is what this process may use, in bytes: that of the machine, or of
// its control group (v2) or one around it, if that has less. It is 0 where
// nothing tells.
func memory() int64 {
	n := int64(math.MaxInt64)
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		n = int64(min(uint64(info.Totalram)*uint64(info.Unit), math.MaxInt64))
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err == nil {
		n = min(n, groupLimit("/sys/fs/cgroup", string(own)))
	}
	if n == math.MaxInt64 {
		return 0
	}
	return n
}

// groupLimit is the least memory.max of the control group of a process, which
// table names as /proc/self/cgroup does, and those around it.
func groupLimit(root, table string) int64 {
	least := int64(math.MaxInt64)
	for line := range strings.Lines(table) {
		dir, ok := strings.CutPrefix(strings.TrimSpace(line), "0::/")
		if !ok {
			continue // a group of the first version
		}
		for {
			text, err := os.ReadFile(filepath.Join(root, dir, "memory.max"))
			if err == nil {
				if limit, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil { // "max" is no number
					least = min(least, limit)
				}
			}
			if dir == "" || dir == "." {
				break
			}
			dir = filepath.Dir(dir)
		}
	}
	return least
}
