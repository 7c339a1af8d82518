package dnsd

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"github.com/postern-mail/postern/internal/base/conf"
)

// Config is what an administrator may set.
type Config struct {
	Listen    []string      `toml:"listen" doc:"Addresses as host:port for DNS, UDP and TCP, usually port 53. Empty: this door is shut."`
	Zone      string        `toml:"zone" doc:"Name that clients use, delegated to these servers by NS records, as in mail.example.com. All servers of a group want the same."`
	TTL       conf.Duration `toml:"ttl" doc:"How long clients keep an answer."`
	Addresses []string      `toml:"addresses" doc:"Addresses of this server for clients, as the others answer with them. Empty: the one in its network."`
}

// Default returns the configuration of an empty file: the door is shut.
func Default() Config { return Config{TTL: conf.Duration(30 * time.Second)} }

// Validate reports everything that is wrong.
func (c Config) Validate() error {
	var errs []error
	for _, a := range c.Listen {
		if _, _, err := net.SplitHostPort(a); err != nil {
			errs = append(errs, fmt.Errorf("listen %q: want host:port", a))
		}
	}
	if len(c.Listen) > 0 && c.Zone == "" {
		errs = append(errs, errors.New("zone is missing: want the name that clients use, as in mail.example.com"))
	}
	if n, ok := dns.IsDomainName(c.Zone); c.Zone != "" && (!ok || n < 2 || len(c.Zone) > 180) {
		errs = append(errs, fmt.Errorf("zone %.200q: want a domain name of at least two labels", c.Zone))
	}
	if d := c.TTL.Std(); d < time.Second || d > time.Hour {
		errs = append(errs, fmt.Errorf("ttl %s: want 1s to 1h", d))
	}
	for _, a := range c.Addresses {
		if ip, err := netip.ParseAddr(a); err != nil || ip.IsUnspecified() || ip.Zone() != "" {
			errs = append(errs, fmt.Errorf("addresses %q: want an IP address", a))
		}
	}
	return errors.Join(errs...)
}
