package port

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Abort ends the TCP connections of this process to the given addresses that
// were not opened by a Port, and attempts at them, and counts them.
//
// They are etcd's: it opens the connections between its members itself, waits for minutes
// on one whose path was cut, and offers no way to reach it. So they are looked
// up among the process's own descriptors. The descriptor is duplicated before it
// is compared, so that it cannot mean another socket meanwhile.
func Abort(addrs []netip.AddrPort) int {
	if len(addrs) == 0 {
		return 0
	}
	inodes := map[uint64]bool{}
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		f, err := os.Open(table)
		if err != nil {
			continue
		}
		for _, n := range socketsTo(f, addrs) {
			inodes[n] = true
		}
		f.Close()
	}
	if len(inodes) == 0 {
		return 0
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	n := 0
	for _, e := range fds {
		link, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || !strings.HasPrefix(link, "socket:[") {
			continue
		}
		if fd, err := strconv.Atoi(e.Name()); err == nil && abort(fd, inodes) {
			n++
		}
	}
	return n
}

func abort(fd int, inodes map[uint64]bool) bool {
	fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK || !inodes[st.Ino] {
		return false
	}
	if v, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); err != nil || v != 0 {
		return false // a Port's own
	}
	return unix.Shutdown(fd, unix.SHUT_RDWR) == nil
}

// socketsTo reads a table of sockets as in /proc/net/tcp (proc_net_tcp.txt in
// the kernel's documentation) and returns the inodes of those whose other
// end is one of the addresses.
func socketsTo(r io.Reader, addrs []netip.AddrPort) (inodes []uint64) {
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 10 {
			continue
		}
		remote, ok := parseEnd(f[2])
		if !ok || !slices.Contains(addrs, remote) {
			continue
		}
		if n, err := strconv.ParseUint(f[9], 10, 64); err == nil && n > 0 {
			inodes = append(inodes, n)
		}
	}
	return inodes
}

// parseEnd reads an address: hexadecimal words in the machine's byte order,
// and the port.
func parseEnd(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	p, err := strconv.ParseUint(port, 16, 16)
	b, herr := hex.DecodeString(host)
	if !ok || err != nil || herr != nil || len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), true
}
