package node

import (
	"cmp"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/conf"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

// machine is what defaults depend on.
type machine struct {
	hostname   string
	address    string // its own in its network
	privileged bool   // may listen below port 1024
}

// thisMachine looks at the machine.
func thisMachine() machine {
	host, _ := os.Hostname() // empty: the name falls back
	return machine{hostname: host, address: ownAddress(), privileged: mayListenLow()}
}

// Complete fills in what depends on the machine.
func (c Config) Complete() Config { return c.complete(thisMachine()) }

func (c Config) complete(m machine) Config {
	if c.Name == "" {
		c.Name = nameFrom(m.hostname)
	}
	if c.Address == "" {
		c.Address = net.JoinHostPort(m.address, "7443")
	}
	if len(c.Volumes) == 0 {
		c.Volumes = []mailbox.Volume{{Name: defaultVolume, Path: filepath.Join(c.Dir, "volumes", defaultVolume)}}
	}
	for i := range c.Volumes {
		if !filepath.IsAbs(c.Volumes[i].Path) {
			c.Volumes[i].Path = filepath.Join(c.Dir, c.Volumes[i].Path)
		}
	}
	c.Mailbox.Volumes = c.Volumes
	c.Transport.Dir = cmp.Or(c.Transport.Dir, queueFolder)
	if !filepath.IsAbs(c.Transport.Dir) {
		c.Transport.Dir = filepath.Join(c.Dir, c.Transport.Dir)
	}
	c.completeDoors(m)
	if c.Timers == "fast" {
		c.fastTimers()
	}
	return c
}

// completeDoors opens the doors that the file does not mention on the usual
// ports; without the right to those, on the same ports plus 10000.
func (c *Config) completeDoors(m machine) {
	port := func(n int) []string {
		if n < 1024 && !m.privileged {
			n += 10000
		}
		return []string{":" + strconv.Itoa(n)}
	}
	open := func(listen *[]string, n int) {
		if *listen == nil { // an empty list shuts the door
			*listen = port(n)
		}
	}
	open(&c.SMTP.Receive.Listen, 25)
	open(&c.SMTP.Submission.Listen, 587)
	open(&c.SMTP.Submissions.Listen, 465)
	open(&c.IMAP.StartTLS.Listen, 143)
	open(&c.IMAP.TLS.Listen, 993)
	open(&c.Admin.Listen, 8443)
	if c.Admin.Closed {
		c.Admin.Listen = nil
	}
	if c.Metrics.Listen == "" {
		c.Metrics.Listen = "127.0.0.1:9443"
	}
}

// fastTimers shortens the rooms' patience for tests on one machine; a grace time
// that the file sets stays.
func (c *Config) fastTimers() {
	if std := (mailbox.Config{}).WithDefaults(); c.Mailbox.Grace == std.Grace && c.Mailbox.LostGrace == std.LostGrace {
		c.Mailbox.Grace = 500 * time.Millisecond
		c.Mailbox.LostGrace = 150 * time.Millisecond
	}
	c.Mailbox.Lease = 400 * time.Millisecond
	c.Mailbox.Heartbeat = 50 * time.Millisecond
	c.Transport.Drain = conf.Duration(3 * time.Second)
	c.SMTP.DrainTimeout = conf.Duration(3 * time.Second)
	c.IMAP.DrainTimeout = conf.Duration(time.Second)
}

// hostTimers are the patience of this server's host.
func (c Config) hostTimers() HostTimers {
	t := HostTimers{Drain: c.Drain.Std()}
	if c.Timers == "fast" {
		t.Gap, t.Spin = 30*time.Second, 6*time.Second
	}
	return t
}

var notName = regexp.MustCompile(`[^A-Za-z0-9-]+`)

// nameFrom makes a server name of a host name: its first label in capitals,
// as administrators write them.
func nameFrom(host string) org.ServerName {
	label, _, _ := strings.Cut(host, ".")
	label = strings.Trim(notName.ReplaceAllString(label, "-"), "-")
	if label == "" || len(label) > 63 {
		return "MBX1"
	}
	return org.ServerName(strings.ToUpper(label))
}

// ownAddress is the address this machine has in its network. Nothing is sent:
// connecting a datagram socket only asks for the route.
func ownAddress() string {
	c, err := net.Dial("udp", "192.0.2.1:9")
	if err != nil {
		return "127.0.0.1"
	}
	defer c.Close()
	if a, ok := c.LocalAddr().(*net.UDPAddr); ok {
		return a.IP.String()
	}
	return "127.0.0.1"
}

// mayListenLow tells whether ports below 1024 may be used: by CAP_NET_BIND_SERVICE or
// because the system lets everybody.
func mayListenLow() bool {
	const capNetBindService = 10
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && n <= 25 {
			return true
		}
	}
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return os.Geteuid() == 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "CapEff:"); ok {
			caps, err := strconv.ParseUint(strings.TrimSpace(rest), 16, 64)
			return err == nil && caps&(1<<capNetBindService) != 0
		}
	}
	return os.Geteuid() == 0
}

// clusterDir is where the group's part of a data folder is.
func (c Config) clusterDir() string { return filepath.Join(c.Dir, clusterFolder) }

// volumeNames are those of the configuration.
func (c Config) volumeNames() []org.VolumeName {
	var out []org.VolumeName
	for _, v := range c.Volumes {
		out = append(out, v.Name)
	}
	return out
}

// doorNames are the names under which clients reach this server, for a certificate of
// the group's own CA.
func (c Config) doorNames() []string {
	m := thisMachine()
	names := []string{"localhost", "127.0.0.1", "::1", m.address}
	if m.hostname != "" {
		names = append(names, m.hostname)
	}
	if c.SMTP.Hostname != "" {
		names = append(names, c.SMTP.Hostname)
	}
	if host, _, err := net.SplitHostPort(c.Address); err == nil {
		names = append(names, host)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
