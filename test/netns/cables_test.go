package netns

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/test/rig"
)

// The networks: Client is the one the servers' names mean.
const (
	client      = 0
	replication = 1
)

// cables are hosts 1 to n, and their cables to the switches.
type cables struct {
	t      *testing.T
	prefix string
	n      int
}

// lay makes the namespaces and plugs everything in. The test itself has a host
// of its own in the client network, number 9.
func lay(t *testing.T, n int) *cables {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("these tests need root, for network namespaces")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Fatal("these tests need ip(8): apt-get install --no-install-recommends iproute2")
	}
	c := &cables{t: t, prefix: fmt.Sprintf("pn%d-", os.Getpid()), n: n}
	c.ip("netns", "add", c.prefix+"sw")
	t.Cleanup(func() { c.remove("sw") })
	for net := range 2 {
		c.ip("-n", c.prefix+"sw", "link", "add", fmt.Sprintf("br%d", net), "type", "bridge")
		c.ip("-n", c.prefix+"sw", "link", "set", fmt.Sprintf("br%d", net), "up")
	}
	for i := 1; i <= n; i++ {
		c.host(i, client, replication)
	}
	c.host(9, client)
	return c
}

func (c *cables) remove(name string) {
	out, err := exec.Command("ip", "netns", "del", c.prefix+name).CombinedOutput()
	if err != nil {
		c.t.Errorf("remove namespace: %v: %s", err, out)
	}
}

// host makes a namespace with an interface in each of the networks.
func (c *cables) host(i int, nets ...int) {
	c.t.Helper()
	name := fmt.Sprint(i)
	c.ip("netns", "add", c.ns(i))
	c.t.Cleanup(func() { c.remove(name) })
	c.ip("-n", c.ns(i), "link", "set", "lo", "up")
	for _, net := range nets {
		port, card := port(i, net), fmt.Sprintf("eth%d", net)
		c.ip("-n", c.prefix+"sw", "link", "add", port, "type", "veth", "peer", "name", card, "address", mac(i, net), "netns", c.ns(i))
		c.ip("-n", c.prefix+"sw", "link", "set", port, "master", fmt.Sprintf("br%d", net), "up")
		c.ip("-n", c.ns(i), "addr", "add", addr(i, net)+"/24", "dev", card)
		c.ip("-n", c.ns(i), "link", "set", card, "up")
	}
}

func (c *cables) ns(i int) string { return c.prefix + fmt.Sprint(i) }
func port(i, net int) string      { return fmt.Sprintf("p%d-%d", i, net) }
func mac(i, net int) string       { return fmt.Sprintf("02:00:00:00:%02x:%02x", net, i) }
func addr(i, net int) string      { return fmt.Sprintf("10.%d.0.%d", 77+net, i) }

func (c *cables) ip(args ...string) {
	c.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		c.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// cut loses all that host a sends to host b in a network, without a word to
// anybody: it goes to an address that no card has.
func (c *cables) cut(a, b, net int) {
	c.t.Helper()
	c.ip("-n", c.ns(a), "neigh", "replace", addr(b, net), "lladdr", "02:00:00:00:ff:ff", "nud", "permanent", "dev", fmt.Sprintf("eth%d", net))
}

// mend ends cut.
func (c *cables) mend(a, b, net int) {
	c.t.Helper()
	c.ip("-n", c.ns(a), "neigh", "replace", addr(b, net), "lladdr", mac(b, net), "nud", "reachable", "dev", fmt.Sprintf("eth%d", net))
}

// unplug takes a host's cable out of the switch; its card does not notice.
func (c *cables) unplug(i, net int) {
	c.t.Helper()
	c.ip("-n", c.prefix+"sw", "link", "set", port(i, net), "nomaster")
}

// plug puts it back.
func (c *cables) plug(i, net int) {
	c.t.Helper()
	c.ip("-n", c.prefix+"sw", "link", "set", port(i, net), "master", fmt.Sprintf("br%d", net))
}

// dial connects from the test's own host. A socket belongs to the namespace of
// the thread that made it, so the thread changes over for that moment, and
// ends where it cannot change back.
func (c *cables) dial(to string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		f, err := os.Open("/var/run/netns/" + c.ns(9))
		if err == nil {
			err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
			f.Close()
		}
		if err != nil {
			done <- result{nil, err}
			return
		}
		conn, err := net.DialTimeout("tcp", to, time.Second)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// within polls until a condition holds and returns how long that took.
func within(t *testing.T, limit time.Duration, what string, try func() error) time.Duration {
	t.Helper()
	begun := time.Now()
	rig.Eventually(t, 30*time.Second, what, try)
	took := time.Since(begun)
	if took > limit {
		t.Errorf("%s after %s, want %s", what, took.Round(time.Millisecond), limit)
	}
	t.Logf("%s after %s", what, took.Round(time.Millisecond))
	return took
}
