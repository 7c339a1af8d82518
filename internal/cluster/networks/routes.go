package networks

import (
	"bufio"
	"io"
	"strconv"
	"strings"
)

// DefaultInterface reads a table of routes as in /proc/net/route and returns
// the name of the interface with the default route of the lowest metric, empty
// where there is none.
func DefaultInterface(r io.Reader) string {
	const up, gateway = 0x1, 0x2 // RTF_UP, RTF_GATEWAY of linux/route.h
	best, least := "", uint64(0)
	sc := bufio.NewScanner(io.LimitReader(r, 1<<20))
	for sc.Scan() {
		// Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT
		f := strings.Fields(sc.Text())
		if len(f) < 8 || f[1] != "00000000" || f[7] != "00000000" {
			continue
		}
		flags, err := strconv.ParseUint(f[3], 16, 32)
		metric, merr := strconv.ParseUint(f[6], 10, 32)
		if err != nil || merr != nil || flags&(up|gateway) == 0 {
			continue
		}
		if best == "" || metric < least {
			best, least = f[0], metric
		}
	}
	return best
}
