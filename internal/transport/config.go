package transport

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/conf"
)

// Config is [transport] of postern.toml: what one server needs to know by
// itself. What holds for the group is changed with `postern transport set`.
type Config struct {
	Dir         string        `toml:"dir" doc:"Folder of the queue, best on a disk of its own. Empty: queue in the data folder."`
	MaxSize     int64         `toml:"max_size" doc:"Bytes the log of the queue may take. 0: what the disk has."`
	Reserve     int64         `toml:"reserve" doc:"Bytes that stay free on its disk." default:"1073741824"`
	SegmentSize int64         `toml:"segment_size" doc:"Size of a file of the log in bytes." default:"67108864"`
	HotMemory   int64         `toml:"hot_memory" doc:"Bytes of messages kept in memory until they were tried once." default:"268435456"`
	MaxMessages int64         `toml:"max_messages" doc:"Unfinished messages; beyond, nothing is accepted." default:"2000000"`
	Hostname    string        `toml:"hostname" doc:"Name this server says to others. Empty: smtp.hostname."`
	Source      []string      `toml:"source" doc:"Addresses to send from, at most one of each family. Empty: what the system chooses."`
	RemotePort  int           `toml:"remote_port" doc:"Port of other mail servers; other than 25 is for tests." default:"25"`
	Private     bool          `toml:"private" doc:"For closed networks and tests: also send to hosts that MX records name on private and loopback addresses, and do not ask DNS whether clients in such networks are who they say."`
	Drain       conf.Duration `toml:"drain" doc:"Time that deliveries under way have when the server stops." default:"20s"`
	DNS         DNSConfig     `toml:"dns" doc:"Questions to the DNS."`
	Rspamd      RspamdConfig  `toml:"rspamd" doc:"The spam scanner rspamd."`
	Clamd       ClamdConfig   `toml:"clamd" doc:"The malware scanner ClamAV."`

	Milters []MilterConfig `toml:"milter" doc:"Other mail filters, by Sendmail's milter protocol. They are asked one after the other, of every message, after the scanners."`
}

// DNSConfig says whom to ask.
type DNSConfig struct {
	Servers []string `toml:"servers" doc:"Resolvers as address or address:port. Empty: those of /etc/resolv.conf."`
	TrustAD string   `toml:"trust_ad" doc:"Whether a resolver's word that it validated an answer (DNSSEC) counts: auto means of resolvers on this machine." enum:"auto,always,never" default:"auto"`
}

// RspamdConfig says where rspamd is.
type RspamdConfig struct {
	URL     string        `toml:"url" doc:"As in http://127.0.0.1:11333. Empty: no spam scanner."`
	Timeout conf.Duration `toml:"timeout" doc:"How long its answer is waited for." default:"8s"`
}

// ClamdConfig says where clamd is.
type ClamdConfig struct {
	Address string        `toml:"address" doc:"host:port or the path of its socket. Empty: no malware scanner."`
	Timeout conf.Duration `toml:"timeout" doc:"How long its answer is waited for." default:"30s"`
}

// MilterConfig says where a mail filter is.
type MilterConfig struct {
	Address string        `toml:"address" doc:"host:port or the path of its socket."`
	Timeout conf.Duration `toml:"timeout" doc:"How long all its answers to a message are waited for." default:"30s"`
	Fail    string        `toml:"fail" doc:"What becomes of a message it does not answer about: open lets it pass, closed defers it." enum:"open,closed" default:"closed"`
}

// maxMilters is how many filters may be asked: their times add up.
const maxMilters = 10

// Default is the configuration of an empty file.
func Default() Config { return Config{}.WithDefaults() }

// WithDefaults fills in what is not set.
func (c Config) WithDefaults() Config {
	c.Reserve = cmp.Or(c.Reserve, 1<<30)
	c.SegmentSize = cmp.Or(c.SegmentSize, 64<<20)
	c.HotMemory = cmp.Or(c.HotMemory, 256<<20)
	c.MaxMessages = cmp.Or(c.MaxMessages, 2_000_000)
	c.RemotePort = cmp.Or(c.RemotePort, 25)
	c.Drain = cmp.Or(c.Drain, conf.Duration(20*time.Second))
	c.DNS.TrustAD = cmp.Or(c.DNS.TrustAD, "auto")
	c.Rspamd.Timeout = cmp.Or(c.Rspamd.Timeout, conf.Duration(8*time.Second))
	c.Clamd.Timeout = cmp.Or(c.Clamd.Timeout, conf.Duration(30*time.Second))
	c.Milters = slices.Clone(c.Milters)
	for i := range c.Milters {
		m := &c.Milters[i]
		m.Timeout = cmp.Or(m.Timeout, conf.Duration(30*time.Second))
		m.Fail = cmp.Or(m.Fail, "closed")
	}
	return c
}

// Validate reports every setting that cannot work.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.MaxSize < 0 || c.Reserve < 0 || c.HotMemory < 0 || c.MaxMessages < 0 {
		bad("max_size: sizes cannot be negative")
	}
	if c.SegmentSize != 0 && (c.SegmentSize < 1<<20 || c.SegmentSize > 1<<30) {
		bad("segment_size %d: want 1 MiB to 1 GiB", c.SegmentSize)
	}
	if c.RemotePort < 0 || c.RemotePort > 65535 {
		bad("remote_port %d: want 1 to 65535", c.RemotePort)
	}
	families := map[bool]bool{}
	for _, s := range c.Source {
		a, err := netip.ParseAddr(s)
		switch {
		case err != nil:
			bad("source %q: want an address", s)
		case families[a.Is4()]:
			bad("source %q: one address of each family is enough", s)
		default:
			families[a.Is4()] = true
		}
	}
	if len(c.Milters) > maxMilters {
		bad("milter: %d of them, at most %d are asked", len(c.Milters), maxMilters)
	}
	addresses := map[string]bool{}
	for i, m := range c.Milters {
		switch _, _, err := net.SplitHostPort(m.Address); {
		case err != nil && !strings.Contains(m.Address, "/"):
			bad("milter[%d].address %q: want host:port or the path of a socket", i, m.Address)
		case addresses[m.Address]:
			bad("milter[%d].address %q: it is there already", i, m.Address)
		case m.Timeout < 0:
			bad("milter[%d].timeout %s: cannot be negative", i, m.Timeout.Std())
		}
		addresses[m.Address] = true
	}
	return errors.Join(errs...)
}
