package imapd

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/base/conf"
)

// Config is what an administrator may set. The zero value of any field means
// its default; Default shows them.
type Config struct {
	StartTLS Door `toml:"starttls" doc:"IMAP with STARTTLS, usually port 143. Passwords are taken only after STARTTLS."`
	TLS      Door `toml:"tls" doc:"IMAP with TLS from the first byte, usually port 993."`

	MaxConnections           int   `toml:"max_connections" doc:"Connections at a time on both doors."`
	MaxConnectionsPerAddress int   `toml:"max_connections_per_address" doc:"Connections at a time from one IPv4 address or IPv6 /64."`
	MaxSessionsPerAccount    int   `toml:"max_sessions_per_account" doc:"Sessions at a time of one account."`
	MaxAuthFailures          int   `toml:"max_auth_failures" doc:"Wrong passwords after which a connection is closed."`
	MaxMessageBytes          int64 `toml:"max_message_bytes" doc:"Largest message in bytes that APPEND takes."`
	AppendMemory             int64 `toml:"append_memory" doc:"Bytes that all messages being appended may hold in memory together."`

	PreAuthTimeout conf.Duration `toml:"pre_auth_timeout" doc:"Time from the connection to the login."`
	CommandTimeout conf.Duration `toml:"command_timeout" doc:"Time for a whole command to arrive, without the message of an APPEND."`
	IdleTimeout    conf.Duration `toml:"idle_timeout" doc:"Longest silence between commands and in IDLE."`
	WriteTimeout   conf.Duration `toml:"write_timeout" doc:"Time for a client to take some output."`
	WaitTimeout    conf.Duration `toml:"wait_timeout" doc:"Longest wait of a command for its database, failovers included."`
	SearchTimeout  conf.Duration `toml:"search_timeout" doc:"Longest time for a SEARCH."`
	DrainTimeout   conf.Duration `toml:"drain_timeout" doc:"Time commands under way have to finish when the server stops."`
	AuthDelay      conf.Duration `toml:"auth_delay" doc:"Pause before a wrong password is answered; it grows with each."`
}

// Door is where one of the two services listens.
type Door struct {
	Listen    []string `toml:"listen" doc:"Addresses as host:port. Empty: this door is shut."`
	ProxyFrom []string `toml:"proxy_from" doc:"Networks of load balancers. They must send the PROXY protocol version 2; nobody else may."`
}

// Default returns the configuration of an empty file: no door is open.
func Default() Config {
	return Config{
		MaxConnections:           20000,
		MaxConnectionsPerAddress: 1000,
		MaxSessionsPerAccount:    100,
		MaxAuthFailures:          3,
		MaxMessageBytes:          50 << 20,
		AppendMemory:             256 << 20,
		PreAuthTimeout:           conf.Duration(time.Minute),
		CommandTimeout:           conf.Duration(time.Minute),
		IdleTimeout:              conf.Duration(31 * time.Minute), // RFC 9051 section 5.4: at least 30
		WriteTimeout:             conf.Duration(time.Minute),
		WaitTimeout:              conf.Duration(time.Minute),
		SearchTimeout:            conf.Duration(5 * time.Minute),
		DrainTimeout:             conf.Duration(5 * time.Second),
		AuthDelay:                conf.Duration(time.Second),
	}
}

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// withDefaults fills the fields that are zero.
func (c Config) withDefaults() Config {
	d := Default()
	orDefault(&c.MaxConnections, d.MaxConnections)
	orDefault(&c.MaxConnectionsPerAddress, d.MaxConnectionsPerAddress)
	orDefault(&c.MaxSessionsPerAccount, d.MaxSessionsPerAccount)
	orDefault(&c.MaxAuthFailures, d.MaxAuthFailures)
	orDefault(&c.MaxMessageBytes, d.MaxMessageBytes)
	orDefault(&c.AppendMemory, d.AppendMemory)
	orDefault(&c.PreAuthTimeout, d.PreAuthTimeout)
	orDefault(&c.CommandTimeout, d.CommandTimeout)
	orDefault(&c.IdleTimeout, d.IdleTimeout)
	orDefault(&c.WriteTimeout, d.WriteTimeout)
	orDefault(&c.WaitTimeout, d.WaitTimeout)
	orDefault(&c.SearchTimeout, d.SearchTimeout)
	orDefault(&c.DrainTimeout, d.DrainTimeout)
	orDefault(&c.AuthDelay, d.AuthDelay)
	return c
}

// Validate tells what cannot work, key by key.
func (c Config) Validate() error {
	var errs []error
	for name, door := range map[string]Door{"starttls": c.StartTLS, "tls": c.TLS} {
		for _, a := range door.Listen {
			if _, _, err := net.SplitHostPort(a); err != nil {
				errs = append(errs, fmt.Errorf("%s.listen %q: want host:port: %w", name, a, err))
			}
		}
		if _, err := parseNetworks(door.ProxyFrom); err != nil {
			errs = append(errs, fmt.Errorf("%s.proxy_from: %w", name, err))
		}
	}
	for name, v := range map[string]int64{
		"max_connections": int64(c.MaxConnections), "max_connections_per_address": int64(c.MaxConnectionsPerAddress),
		"max_sessions_per_account": int64(c.MaxSessionsPerAccount), "max_auth_failures": int64(c.MaxAuthFailures),
		"max_message_bytes": c.MaxMessageBytes, "append_memory": c.AppendMemory,
		"pre_auth_timeout": int64(c.PreAuthTimeout), "command_timeout": int64(c.CommandTimeout),
		"idle_timeout": int64(c.IdleTimeout), "write_timeout": int64(c.WriteTimeout),
		"wait_timeout": int64(c.WaitTimeout), "search_timeout": int64(c.SearchTimeout),
		"drain_timeout": int64(c.DrainTimeout), "auth_delay": int64(c.AuthDelay),
	} {
		if v < 0 {
			errs = append(errs, fmt.Errorf("%s: must not be negative", name))
		}
	}
	full := c.withDefaults()
	if full.MaxMessageBytes > 1<<32-1 {
		errs = append(errs, fmt.Errorf("max_message_bytes: at most %d", uint32(1<<32-1)))
	}
	if full.AppendMemory < full.MaxMessageBytes {
		errs = append(errs, fmt.Errorf("append_memory: %d is less than max_message_bytes %d, so the largest message would never fit",
			full.AppendMemory, full.MaxMessageBytes))
	}
	slices.SortFunc(errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// parseNetworks reads addresses and prefixes.
func parseNetworks(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range list {
		if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, p)
			continue
		}
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("%q is neither an address nor a network", s)
		}
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out, nil
}
