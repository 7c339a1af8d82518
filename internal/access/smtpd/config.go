package smtpd

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/conf"
	"github.com/postern-mail/postern/internal/mail"
)

// Config is what an administrator may set. The zero value of any field means
// its default; Default shows them.
type Config struct {
	Hostname   string `toml:"hostname" doc:"Name in the greeting and in Received lines, best the one in MX and certificate. Empty: the name of the machine."`
	Postmaster string `toml:"postmaster" doc:"Mailbox that gets mail for <postmaster> without a domain (RFC 5321 4.5.1). Empty: refused."`

	Receive     Door `toml:"receive" doc:"Mail from other servers, usually port 25. STARTTLS is offered, AUTH is not."`
	Submission  Door `toml:"submission" doc:"Mail from users with STARTTLS, usually port 587."`
	Submissions Door `toml:"submissions" doc:"Mail from users, TLS from the first byte, usually port 465."`

	MaxMessageBytes          int64 `toml:"max_message_bytes" doc:"Largest message in bytes, at most 100 MiB."`
	MaxRecipients            int   `toml:"max_recipients" doc:"RCPT commands per message, 100 to 10000."`
	MaxReceived              int   `toml:"max_received" doc:"Received lines at which a message is taken for a loop."`
	MessageMemory            int64 `toml:"message_memory" doc:"Bytes that all messages being received may hold in memory together."`
	MaxConnections           int   `toml:"max_connections" doc:"Connections at a time on all doors."`
	MaxConnectionsPerAddress int   `toml:"max_connections_per_address" doc:"Connections at a time from one IPv4 address or IPv6 /64."`
	MaxErrors                int   `toml:"max_errors" doc:"Wrong commands after which a connection is closed."`
	MaxRefused               int   `toml:"max_refused_recipients" doc:"Refused recipients after which a connection is closed."`
	MaxIdleCommands          int   `toml:"max_idle_commands" doc:"Commands without a message between them after which a connection is closed."`
	MaxAuthFailures          int   `toml:"max_auth_failures" doc:"Wrong passwords after which a connection is closed."`

	AccountMessagesPerMinute int `toml:"account_messages_per_minute" doc:"Messages an account may submit per minute at this server, -1 for no limit."`
	AccountRecipientsPerHour int `toml:"account_recipients_per_hour" doc:"Recipients an account may send to per hour at this server, -1 for no limit."`

	CommandTimeout   conf.Duration `toml:"command_timeout" doc:"Time for a whole command line to arrive."`
	DataTimeout      conf.Duration `toml:"data_timeout" doc:"Longest silence inside a message."`
	HandshakeTimeout conf.Duration `toml:"handshake_timeout" doc:"Time for a TLS handshake."`
	WriteTimeout     conf.Duration `toml:"write_timeout" doc:"Time for a client to take an answer."`
	DeliverTimeout   conf.Duration `toml:"deliver_timeout" doc:"Longest wait for the queue to keep a message on two servers, and for the judgement of its content."`
	DrainTimeout     conf.Duration `toml:"drain_timeout" doc:"Time messages under way have to finish when the server stops."`
	ErrorDelay       conf.Duration `toml:"error_delay" doc:"Pause before each refusal from the fourth on, against guessing."`
	MinRate          int64         `toml:"min_rate" doc:"Bytes per second a message must reach on the whole, once data_timeout is over."`
}

// Door is where one of the three services listens.
type Door struct {
	Listen    []string `toml:"listen" doc:"Addresses as host:port. Empty: this door is shut."`
	ProxyFrom []string `toml:"proxy_from" doc:"Networks of load balancers. They must send the PROXY protocol version 2; nobody else may."`
}

// maxMessage is the most that max_message_bytes may be: servers hand messages
// to each other in one piece.
const maxMessage = 100 << 20

// maxRecipients is the most that max_recipients may be: the queue takes no more
// in one message.
const maxRecipients = 10000

// Default returns the configuration of an empty file: no door is open.
func Default() Config {
	return Config{
		MaxMessageBytes:          50 << 20,
		MaxRecipients:            1000,
		MaxReceived:              100,
		MessageMemory:            512 << 20,
		MaxConnections:           4096,
		MaxConnectionsPerAddress: 256,
		MaxErrors:                10,
		MaxRefused:               50,
		MaxIdleCommands:          100,
		MaxAuthFailures:          3,
		AccountMessagesPerMinute: 300,
		AccountRecipientsPerHour: 10000,
		CommandTimeout:           conf.Duration(5 * time.Minute), // RFC 5321 section 4.5.3.2.7
		DataTimeout:              conf.Duration(3 * time.Minute), // RFC 5321 section 4.5.3.2.5
		HandshakeTimeout:         conf.Duration(30 * time.Second),
		WriteTimeout:             conf.Duration(time.Minute),
		DeliverTimeout:           conf.Duration(time.Minute),
		DrainTimeout:             conf.Duration(30 * time.Second),
		ErrorDelay:               conf.Duration(time.Second),
		MinRate:                  1024,
	}
}

// withDefaults fills the fields that are zero.
func (c Config) withDefaults() Config {
	d := Default()
	orInt := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	orInt64 := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	orTime := func(p *conf.Duration, v conf.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	if c.Hostname == "" {
		c.Hostname, _ = os.Hostname() // empty is caught by Validate
	}
	orInt64(&c.MaxMessageBytes, d.MaxMessageBytes)
	orInt64(&c.MessageMemory, d.MessageMemory)
	orInt64(&c.MinRate, d.MinRate)
	orInt(&c.MaxRecipients, d.MaxRecipients)
	orInt(&c.MaxReceived, d.MaxReceived)
	orInt(&c.MaxConnections, d.MaxConnections)
	orInt(&c.MaxConnectionsPerAddress, d.MaxConnectionsPerAddress)
	orInt(&c.MaxErrors, d.MaxErrors)
	orInt(&c.MaxRefused, d.MaxRefused)
	orInt(&c.MaxIdleCommands, d.MaxIdleCommands)
	orInt(&c.MaxAuthFailures, d.MaxAuthFailures)
	orInt(&c.AccountMessagesPerMinute, d.AccountMessagesPerMinute)
	orInt(&c.AccountRecipientsPerHour, d.AccountRecipientsPerHour)
	orTime(&c.CommandTimeout, d.CommandTimeout)
	orTime(&c.DataTimeout, d.DataTimeout)
	orTime(&c.HandshakeTimeout, d.HandshakeTimeout)
	orTime(&c.WriteTimeout, d.WriteTimeout)
	orTime(&c.DeliverTimeout, d.DeliverTimeout)
	orTime(&c.DrainTimeout, d.DrainTimeout)
	orTime(&c.ErrorDelay, d.ErrorDelay)
	return c
}

// Validate tells every wrong setting at once, each with its remedy.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	wrong := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	wrong(!validHelo(c.Hostname), "hostname %q: want a host name of at most 255 characters", c.Hostname)
	if c.Postmaster != "" {
		_, err := mail.ParseAddress(c.Postmaster)
		wrong(err != nil, "postmaster %q: want an address", c.Postmaster)
	}
	wrong(c.MaxMessageBytes < 64<<10 || c.MaxMessageBytes > maxMessage, "max_message_bytes %d: want 65536 to %d", c.MaxMessageBytes, maxMessage)
	wrong(c.MessageMemory < c.MaxMessageBytes, "message_memory %d: want at least max_message_bytes (%d)", c.MessageMemory, c.MaxMessageBytes)
	wrong(c.MaxRecipients < 100 || c.MaxRecipients > maxRecipients, "max_recipients %d: want 100 (RFC 5321 section 4.5.3.1.8) to %d", c.MaxRecipients, maxRecipients)
	for _, n := range []struct {
		key string
		v   int
	}{{"max_received", c.MaxReceived}, {"max_connections", c.MaxConnections}, {"max_connections_per_address", c.MaxConnectionsPerAddress},
		{"max_errors", c.MaxErrors}, {"max_refused_recipients", c.MaxRefused}, {"max_idle_commands", c.MaxIdleCommands},
		{"max_auth_failures", c.MaxAuthFailures}, {"min_rate", int(c.MinRate)}} {
		wrong(n.v < 1, "%s %d: want at least 1", n.key, n.v)
	}
	for _, d := range []struct {
		key string
		v   conf.Duration
	}{{"command_timeout", c.CommandTimeout}, {"data_timeout", c.DataTimeout}, {"handshake_timeout", c.HandshakeTimeout},
		{"write_timeout", c.WriteTimeout}, {"deliver_timeout", c.DeliverTimeout}, {"drain_timeout", c.DrainTimeout},
		{"error_delay", c.ErrorDelay}} {
		wrong(d.v < 0, "%s %s: want a positive duration", d.key, d.v)
	}
	for name, d := range map[string]Door{"receive": c.Receive, "submission": c.Submission, "submissions": c.Submissions} {
		_, err := d.networks()
		wrong(err != nil, "%s.proxy_from: %v", name, err)
		for _, a := range d.Listen {
			wrong(!strings.Contains(a, ":"), "%s.listen %q: want host:port, for example :25", name, a)
		}
	}
	return errors.Join(errs...)
}

// networks parses ProxyFrom; a bare address stands for itself.
func (d Door) networks() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range d.ProxyFrom {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, aerr := netip.ParseAddr(s)
			if aerr != nil {
				return nil, fmt.Errorf("%q: want a network such as 10.0.0.0/8", s)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		out = append(out, p.Masked())
	}
	return out, nil
}
