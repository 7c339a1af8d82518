package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// ServerInfo is a line of server list.
type ServerInfo struct {
	Server  org.ServerName `json:"server" col:"SERVER"`
	Site    org.SiteName   `json:"site" col:"SITE"`
	Role    string         `json:"role" col:"ROLE"` // "member" or "witness"
	Votes   bool           `json:"votes" col:"VOTES"`
	State   string         `json:"state" col:"STATE"` // as this server hears it
	Alive   bool           `json:"alive" col:"ALIVE"` // its lease is there
	Addr    string         `json:"cluster_addr" col:"ADDRESS"`
	Version string         `json:"version" col:"VERSION"`
}

// ServerDetails is what server show tells.
type ServerDetails struct {
	org.Server
	State       string     `json:"state"`
	StateSince  *time.Time `json:"state_since,omitempty"`
	LastHeard   *time.Time `json:"last_heard,omitempty"`
	RTTMicros   int64      `json:"rtt_us,omitempty"`
	Alive       bool       `json:"alive"`
	JudgedDead  bool       `json:"judged_dead"`
	Judgement   string     `json:"judgement"`
	Certificate *time.Time `json:"certificate_not_after,omitempty"` // of the server's present certificate, where known
}

type serverArg struct {
	Server org.ServerName `json:"server" arg:"1" required:"true" complete:"server list" doc:"name of the server"`
}

type setServerArgs struct {
	Server    org.ServerName       `json:"server" arg:"1" required:"true" complete:"server list" doc:"name of the server"`
	Site      org.SiteName         `json:"site" doc:"site the server stands in"`
	Policy    org.ActivationPolicy `json:"activation_policy" enum:"Unrestricted,IntrasiteOnly,Blocked" doc:"whether the system may activate copies on it"`
	Maximum   *int                 `json:"maximum_active_databases" doc:"most active databases, 0 for no limit"`
	Preferred *int                 `json:"maximum_preferred_active_databases" doc:"most active databases that the system gives it by itself, 0 for no limit"`
	Dial      org.MountDial        `json:"auto_database_mount_dial" enum:"Lossless,GoodAvailability,BestAvailability" doc:"how many log generations may be missing in a mount that the system does by itself"`
}

type removeServerArgs struct {
	Server org.ServerName `json:"server" arg:"1" required:"true" complete:"server list" doc:"name of the server"`
	Force  bool           `json:"force" doc:"also if it is alive or holds copies of databases"`
	DryRun bool           `json:"dry_run" doc:"only say what would be done"`
}

type tokenArgs struct {
	For org.ServerName `json:"for" doc:"only a server of this name may use the token"`
	TTL int            `json:"minutes" default:"60" doc:"how long the token is good, in minutes"`
}

type backupArgs struct {
	File string `json:"file" arg:"1" required:"true" doc:"path of the file to make, on the server that is asked; it must not exist"`
}

// backupTo writes a backup to a new file that only this user reads.
func (c *Cluster) backupTo(ctx context.Context, path string) (info BackupInfo, err error) {
	if !filepath.IsAbs(path) {
		return info, kind.Errorf(kind.Invalid, "backup: %q is not an absolute path", path)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return info, kind.Errorf(kind.Exists, "backup: %s exists", path)
	} else if err != nil {
		return info, kind.Errorf(kind.Invalid, "backup: %w", err)
	}
	info, err = c.Backup(ctx, f)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		os.Remove(path)
	}
	return info, err
}

// TokenInfo is a new join token.
type TokenInfo struct {
	Token   string    `json:"token" col:"TOKEN"`
	Expires time.Time `json:"expires" col:"EXPIRES"`
}

// Commands are the room's entries of the command table. c may be nil for
// listing them.
func Commands(c *Cluster) []command.Command {
	read := []command.Role{command.ServerAdmin, command.Auditor}
	return append([]command.Command{
		command.New(command.Command{Noun: "server", Verb: "list", Short: "List the servers of the group", Roles: read},
			func(context.Context, command.None) ([]ServerInfo, error) { return c.list(), nil }),
		command.New(command.Command{Noun: "server", Verb: "show", Short: "Show one server", Roles: read},
			func(_ context.Context, in serverArg) (ServerDetails, error) { return c.show(in.Server) }),
		command.New(command.Command{Noun: "server", Verb: "set", Short: "Change what a server may do", Changes: true,
			Example: "postern server set MBX2 --activation-policy Blocked"},
			func(ctx context.Context, in setServerArgs) (command.None, error) {
				return command.None{}, c.setServer(ctx, in)
			}),
		command.New(command.Command{Noun: "server", Verb: "remove", Short: "Take a server out of the group for good", Changes: true, Dangerous: true,
			Long:    "Its vote, its row and its certificate end. To take it in again it has to join with an empty cluster data folder. The last server cannot be removed; one that is alive or holds copies of databases only with --force.",
			Example: "postern server remove MBX3 --dry-run"},
			c.removeCommand),
		command.New(command.Command{Noun: "cluster", Verb: "token", Short: "Make a one-time token with which a server can join", Changes: true,
			Example: "postern cluster token --for MBX4"},
			func(ctx context.Context, in tokenArgs) (TokenInfo, error) {
				token, expires, err := c.CreateToken(ctx, TokenOptions{TTL: time.Duration(in.TTL) * time.Minute, For: in.For})
				return TokenInfo{token, expires}, err
			}),
		command.New(command.Command{Noun: "cluster", Verb: "backup", Short: "Write the group state to a new file on the server that is asked", Changes: true,
			Long:    "The file holds everything the servers agree on: members, databases, organizations, people, credentials (hashed) and the group's authority. Whoever has it can be the group: keep it as you keep keys. It holds no mail. Back with: postern cluster restore.",
			Example: "postern cluster backup /var/backups/group.backup"},
			func(ctx context.Context, in backupArgs) (BackupInfo, error) { return c.backupTo(ctx, in.File) }),
		command.New(command.Command{Noun: "cluster", Verb: "status", Short: "Show members, leader, quorum and alarms of the agreed state", Roles: read},
			func(ctx context.Context, _ command.None) (Status, error) { return c.Status(ctx), nil }),
	}, networkCommands(c)...)
}

func (c *Cluster) list() []ServerInfo {
	states := c.states()
	var out []ServerInfo
	for _, s := range c.View().Servers() {
		role := "member"
		if s.Witness {
			role = "witness"
		}
		out = append(out, ServerInfo{s.Name, s.Site, role, s.Voter, string(states[s.Name].State), c.Alive(s.Name), s.ClusterAddr, s.Version})
	}
	return out
}

// states is how all servers are heard here; this one is up.
func (c *Cluster) states() map[org.ServerName]Peer {
	out := map[org.ServerName]Peer{c.self.Name: {Server: c.self.Name, State: PeerUp, LastHeard: time.Now()}}
	for _, p := range c.Peers() {
		out[p.Server] = p
	}
	return out
}

func (c *Cluster) show(name org.ServerName) (ServerDetails, error) {
	row, ok := c.View().Server(name)
	if !ok {
		return ServerDetails{}, kind.Errorf(kind.NotFound, "server %s: not a member of the group", name)
	}
	p := c.states()[name]
	d := ServerDetails{Server: row, State: string(p.State), Alive: c.Alive(name), RTTMicros: p.RTT.Microseconds()}
	if !p.Since.IsZero() {
		d.StateSince = &p.Since
	}
	if !p.LastHeard.IsZero() {
		d.LastHeard = &p.LastHeard
	}
	if name == c.self.Name {
		d.Judgement = "this server"
	} else {
		d.Judgement, d.JudgedDead = c.Dead(name)
	}
	if v, _, ok := c.Published(name, sectionCertificate); ok {
		var t time.Time
		if t.UnmarshalText(v) == nil {
			d.Certificate = &t
		}
	}
	return d, nil
}

func (c *Cluster) setServer(ctx context.Context, in setServerArgs) error {
	if in.Site != "" {
		if err := org.ValidName(string(in.Site)); err != nil {
			return kind.Errorf(kind.Invalid, "site %w", err)
		}
	}
	for _, n := range []*int{in.Maximum, in.Preferred} {
		if n != nil && *n < 0 {
			return kind.Errorf(kind.Invalid, "maximum of %d active databases: want 0 or more", *n)
		}
	}
	v := c.View()
	row, ok := v.Server(in.Server)
	if !ok {
		return kind.Errorf(kind.NotFound, "server %s: not a member of the group", in.Server)
	}
	if in.Site != "" {
		row.Site = in.Site
	}
	if in.Policy != "" {
		row.ActivationPolicy = in.Policy
	}
	if in.Maximum != nil {
		row.MaximumActive = *in.Maximum
	}
	if in.Preferred != nil {
		row.MaximumPreferredActive = *in.Preferred
	}
	if in.Dial != "" {
		row.AutoDatabaseMountDial = in.Dial
	}
	return c.putServer(ctx, v, row)
}

// removeCommand shows the steps of a removal and, without dry_run, does them.
func (c *Cluster) removeCommand(ctx context.Context, in removeServerArgs) (command.Plan, error) {
	plan := command.Plan{DryRun: in.DryRun}
	row, err := c.mayRemove(c.View(), in.Server, in.Force)
	if err != nil {
		return plan, err
	}
	plan.Steps = append(plan.Steps, command.Step{Name: "refuse certificate", Detail: fmt.Sprintf("of %s, identity %s; connections to it are closed", row.Name, row.Identity)},
		command.Step{Name: "remove server", Detail: "row and lease of " + string(row.Name)})
	if row.Voter {
		plan.Steps = append(plan.Steps, command.Step{Name: "remove vote", Detail: row.PeerURL})
	}
	if in.DryRun {
		return plan, nil
	}
	if err := c.RemoveServer(ctx, in.Server, in.Force); err != nil {
		return plan, err
	}
	for i := range plan.Steps {
		plan.Steps[i].Done = true
	}
	return plan, nil
}
