package node

import (
	"net"
	"os"
	"strconv"
	"time"
)

// notifier speaks to systemd (sd_notify(3)). Without NOTIFY_SOCKET it is silent.
type notifier struct {
	addr     string
	watchdog time.Duration // how often to report, 0 for never
}

func newNotifier(getenv func(string) string, pid int) notifier {
	n := notifier{addr: getenv("NOTIFY_SOCKET")}
	usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 {
		return n
	}
	// WATCHDOG_PID, where set, names whose watchdog it is (sd_watchdog_enabled(3)).
	if p := getenv("WATCHDOG_PID"); p != "" && p != strconv.Itoa(pid) {
		return n
	}
	n.watchdog = time.Duration(usec) * time.Microsecond / 2
	return n
}

// send reports a state such as "READY=1". A lost report is not an error worth
// acting on: systemd asks again by its watchdog.
func (n notifier) send(state string) {
	if n.addr == "" {
		return
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.addr, Net: "unixgram"})
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = c.Write([]byte(state))
}

// hideNotify takes systemd's variables out of a child's environment, so that a
// worker cannot speak for the host.
func hideNotify(env []string) []string {
	out := make([]string, 0, len(env))
	for _, e := range env {
		switch {
		case hasName(e, "NOTIFY_SOCKET"), hasName(e, "WATCHDOG_USEC"), hasName(e, "WATCHDOG_PID"):
		default:
			out = append(out, e)
		}
	}
	return out
}

func hasName(entry, name string) bool {
	return len(entry) > len(name) && entry[len(name)] == '=' && entry[:len(name)] == name
}

// environ is the host's environment for a worker.
func environ() []string { return hideNotify(os.Environ()) }
