package mailbox

import (
	"math"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// memory is what this process may use, in bytes: that of the machine, or of
// its control group (v2) if that has less. It is 0 where neither tells.
func memory() int64 {
	var n int64
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		n = int64(min(info.Totalram*uint64(info.Unit), math.MaxInt64))
	}
	text, err := os.ReadFile("/sys/fs/cgroup/memory.max")
	if err != nil {
		return n
	}
	if limit, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && (n == 0 || limit < n) { // "max" is no number
		n = limit
	}
	return n
}
