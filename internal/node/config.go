package node

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/access/certs"
	"github.com/postern-mail/postern/internal/access/dnsd"
	"github.com/postern-mail/postern/internal/access/imapd"
	"github.com/postern-mail/postern/internal/access/smtpd"
	"github.com/postern-mail/postern/internal/active"
	"github.com/postern-mail/postern/internal/base/conf"
	"github.com/postern-mail/postern/internal/base/logging"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/health"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/node/settings"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport"
)

// Config is postern.toml: what one server needs to know by itself. All else
// is in the group's agreed state and changed by commands. An empty file is a
// working server.
type Config struct {
	Name    org.ServerName `toml:"name" doc:"Name of this server in the group. It counts at init and join only. Empty: the host name."`
	Site    org.SiteName   `toml:"site" doc:"Place of this server, with its own power and network. It counts at init and join only." default:"Site1"`
	Address string         `toml:"address" doc:"host:port at which the other servers reach this one. It counts at init and join only. Empty: this machine's address in its network, port 7443."`
	Timers  string         `toml:"timers" doc:"How fast failures are noticed. fast is for tests on one machine; all servers of a group want the same." enum:"default,fast" default:"default"`
	Drain   conf.Duration  `toml:"drain" doc:"Time that work under way has when the server stops."`

	Cluster   ClusterConfig    `toml:"cluster" doc:"The group and its agreed state."`
	Volumes   []mailbox.Volume `toml:"volume" doc:"Disks for mailbox databases. Without any, the folder volumes/Vol1 in the data folder is one."`
	Mailbox   mailbox.Config   `toml:"mailbox" hide:"volume" doc:"Mailbox databases."`
	Active    active.Config    `toml:"active" doc:"Active Manager, which decides where databases are active."`
	Directory directory.Config `toml:"directory" doc:"People and their passwords."`
	Transport transport.Config `toml:"transport" doc:"The queue and the way to other mail systems."`
	SMTP      smtpd.Config     `toml:"smtp" doc:"The doors for mail that comes in."`
	IMAP      imapd.Config     `toml:"imap" doc:"The doors for reading mail."`
	DNS       dnsd.Config      `toml:"dns" doc:"DNS that answers with the servers that work, as an option."`
	TLS       certs.Config     `toml:"tls" doc:"The certificate that clients see."`
	Health    HealthConfig     `toml:"health" doc:"Managed Availability: watching this server, and mending it."`
	Admin     AdminConfig      `toml:"admin" doc:"The admin API."`
	Metrics   MetricsConfig    `toml:"metrics" doc:"Figures for a monitoring system."`
	Log       logging.Config   `toml:"log" doc:"The log goes to standard error."`
	Faults    FaultsConfig     `toml:"faults" doc:"Breaking parts on purpose, in tests."`

	// Dir is the data folder; the command line says it.
	Dir string `toml:"-"`
	// Version is the program's.
	Version string `toml:"-"`
}

// ClusterConfig is about the group.
type ClusterConfig struct {
	Listen string     `toml:"listen" doc:"host:port to listen on for other servers, where it is not address."`
	Etcd   EtcdConfig `toml:"etcd" doc:"An etcd that you run yourself, instead of the one inside the servers."`
}

// EtcdConfig is how to reach an etcd of the user's.
type EtcdConfig struct {
	Endpoints []string `toml:"endpoints" doc:"Its client addresses, as in https://10.0.0.1:2379. Empty: the etcd inside the servers."`
	CA        string   `toml:"ca" doc:"File of the certificate authority to trust."`
	Cert      string   `toml:"cert" doc:"File of this server's client certificate."`
	Key       string   `toml:"key" doc:"File of its key."`
	User      string   `toml:"user" doc:"User name, where it wants one."`
	Password  string   `toml:"password" secret:"true" doc:"Password of that user."`
}

// HealthConfig is about watching. What is watched, and how, is in the program
// (postern health definitions) and changed by overrides.
type HealthConfig struct {
	MailFlow conf.Duration `toml:"mail_flow" doc:"How often a message is sent through this server into a health mailbox, read and removed. Below 0: never."`
	Recovery string        `toml:"recovery" doc:"What recovery actions may do on this server while the group says nothing else (postern health recovery mode): act, dry-run (only written down) or off." enum:"act,dry-run,off" default:"act"`
}

// Validate reports the first setting that cannot work.
func (h HealthConfig) Validate() error {
	if d := h.MailFlow.Std(); d >= 0 && d < leastFlow {
		return fmt.Errorf("mail_flow %s: want at least %s, or less than 0 for never", d, leastFlow)
	}
	return nil
}

func (c Config) healthConfig() health.Config {
	return health.Config{Fast: c.Timers == "fast", Recovery: health.Mode(c.Health.Recovery)}
}

const (
	defaultFlow = time.Minute
	leastFlow   = 10 * time.Second
)

// flowEvery is how often a message is sent, 0 for never. Tests with fast timers
// count what is in queues and logs: there it has to be asked for.
func (h HealthConfig) flowEvery(fast bool) time.Duration {
	if d := h.MailFlow.Std(); d > 0 && !(fast && d == defaultFlow) {
		return d
	}
	return 0
}

// AdminConfig is about the admin API.
type AdminConfig struct {
	Listen []string `toml:"listen" doc:"Addresses as host:port for HTTPS. The unix socket run/admin.sock in the data folder is always there."`
	Closed bool     `toml:"closed" doc:"Only the unix socket."`
}

// MetricsConfig is about figures.
type MetricsConfig struct {
	Listen string `toml:"listen" doc:"host:port for /metrics, /healthz and /readyz in plain HTTP. Keep it on an inner address."`
}

// Names of things in a data folder.
const (
	configName    = "postern.toml"
	clusterFolder = "cluster"
	defaultVolume = "Vol1"
	queueFolder   = "queue"
	certFolder    = "certificates"
)

// DefaultConfig is the configuration of an empty file, before what depends on
// the machine (Complete).
func DefaultConfig() Config {
	return Config{
		Site: "Site1", Timers: "default", Drain: conf.Duration(20 * time.Second),
		Mailbox: mailbox.Config{}.WithDefaults(), Transport: transport.Default(),
		SMTP: smtpd.Default(), IMAP: imapd.Default(),
		DNS: dnsd.Default(), TLS: certs.Default(), Health: HealthConfig{MailFlow: conf.Duration(defaultFlow), Recovery: "act"},
		Log: logging.Config{Format: "text", Level: "info"},
	}
}

// Load reads the configuration of a data folder. file may be empty: then it is
// postern.toml in the folder, which need not exist. Errors are
// settings.Problems where the file is to blame.
func Load(dir, file string) (Config, error) {
	c := DefaultConfig()
	given := file != ""
	file = cmp.Or(file, filepath.Join(dir, configName))
	pos, err := settings.File(file, &c)
	if errors.Is(err, os.ErrNotExist) && !given {
		pos, err = nil, nil
	}
	if err != nil {
		return c, err
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return c, fmt.Errorf("data folder: %w", err)
	}
	c.Dir = abs
	if ps := c.problems(file, pos); len(ps) > 0 {
		return c, ps
	}
	return c, nil
}

// problems runs the rooms' own checks and finds the lines to blame.
func (c Config) problems(file string, pos settings.Positions) settings.Problems {
	var out settings.Problems
	add := func(key, reason, remedy string) {
		out = append(out, settings.Problem{File: file, Line: pos.Line(key), Key: key, Reason: reason, Remedy: remedy})
	}
	if c.Name != "" {
		if err := org.ValidName(string(c.Name)); err != nil {
			add("name", err.Error(), "for example MBX1")
		}
	}
	if err := org.ValidName(string(c.Site)); err != nil {
		add("site", err.Error(), "for example Site1")
	}
	for key, a := range map[string]string{"address": c.Address, "cluster.listen": c.Cluster.Listen, "metrics.listen": c.Metrics.Listen} {
		if a != "" && !strings.Contains(a, ":") {
			add(key, fmt.Sprintf("%q has no port", a), "want host:port, for example 10.0.0.1:7443")
		}
	}
	m := c.Mailbox
	m.Volumes = c.Volumes
	for _, r := range []struct {
		section string
		err     error
	}{{"mailbox", m.Validate()}, {"transport", c.Transport.Validate()}, {"active", c.Active.Validate()}, {"directory", c.Directory.Validate()}, {"smtp", c.SMTP.Validate()}, {"imap", c.IMAP.Validate()}, {"faults", c.Faults.validate(c.Timers)}, {"dns", c.DNS.Validate()}, {"health", c.Health.Validate()}, {"tls", c.TLS.Validate()}, {"log", c.Log.Validate()}} {
		for _, err := range unjoin(r.err) {
			add(keyIn(r.section, err.Error()), err.Error(), "")
		}
	}
	return out
}

// unjoin takes apart what errors.Join put together.
func unjoin(err error) []error {
	if err == nil {
		return nil
	}
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		return j.Unwrap()
	}
	return []error{err}
}

var leadingKey = regexp.MustCompile(`^(?:mailbox |log )?([a-z_]+(?:\.[a-z_]+)*)[ :]`)

// keyIn finds the setting an error of a room begins with.
func keyIn(section, text string) string {
	m := leadingKey.FindStringSubmatch(text)
	switch {
	case m == nil:
		return section
	case m[1] == "volume":
		return "volume"
	}
	return section + "." + m[1]
}

// Sample is examples/postern.toml.
func Sample() (string, error) {
	var b strings.Builder
	err := settings.Sample(&b, sampleHead, DefaultConfig())
	return b.String(), err
}

const sampleHead = `postern.toml: the settings of one Postern server.

Every setting is optional: an empty file is a working server. What is commented
out shows the default. All that is not here (databases, organizations,
people...) belongs to the whole group and is changed with the postern command.

Durations are text with a unit ("30s", "5m"); sizes are bytes or text with a
unit ("10GiB"). This file is made from the program: postern config sample.`
