package active

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/active/balance"
	"github.com/postern-mail/postern/internal/active/choose"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

type moveArgs struct {
	Database org.DatabaseName `json:"database" arg:"1" required:"true" doc:"name of the database"`
	To       org.ServerName   `json:"to" doc:"server to move it to; the best one when not given"`
	Dial     org.MountDial    `json:"mount_dial" enum:"Lossless,GoodAvailability,BestAvailability,BestEffort" doc:"loss to accept where the active copy is gone and no copy in sync is left; none when not given"`
	Comment  string           `json:"comment" doc:"why, for the log"`
	DryRun   bool             `json:"dry_run" doc:"only say what would be done"`
	skipArgs
	SkipAll bool `json:"skip_all" doc:"drop all of these checks; only with --to"`
}

// skipArgs drop single checks of moves.
type skipArgs struct {
	SkipHealth           bool `json:"skip_health" doc:"take a server that is less healthy than the present one"`
	SkipActive           bool `json:"skip_active" doc:"move although another copy is being seeded from the active one; the seed goes on from the new one"`
	SkipLag              bool `json:"skip_lag" doc:"take a copy that has much to replay; clients wait for that"`
	SkipClientExperience bool `json:"skip_client_experience" doc:"take a copy whatever the state of its content index"`
	SkipMaximum          bool `json:"skip_maximum" doc:"pass the preferred maximum of a server; the hard maximum holds"`
	SkipCPU              bool `json:"skip_cpu" doc:"take a server whose processors are overcommitted"`
	SkipSuppression      bool `json:"skip_suppression" doc:"take a server that failed as target a moment ago"`
}

func (s skipArgs) skip() choose.Skip {
	return choose.Skip{Health: s.SkipHealth, Active: s.SkipActive, Lag: s.SkipLag, ClientExperience: s.SkipClientExperience,
		Maximum: s.SkipMaximum, CPU: s.SkipCPU, Suppression: s.SkipSuppression}
}

type evacuateArgs struct {
	Server        org.ServerName `json:"server" arg:"1" required:"true" doc:"server that is to have no active database" complete:"server list"`
	To            org.ServerName `json:"to" doc:"server to move all of them to; each to its best copy when not given" complete:"server list"`
	AllOrNone     bool           `json:"all_or_none" doc:"move nothing unless every database can be moved"`
	PreferredOnly bool           `json:"preferred_only" doc:"leave databases there that prefer this server"`
	Comment       string         `json:"comment" doc:"why, for the log"`
	DryRun        bool           `json:"dry_run" doc:"only say what would be done"`
	skipArgs
}

type balanceArgs struct {
	By        string `json:"by" enum:"preference,site" default:"preference" doc:"preference: each database to its most preferred copy that is fit; site: within the site of that copy, shared evenly"`
	Deviation int    `json:"deviation" default:"-1" doc:"by how many percent of the mean a server may have more databases than the mean; -1: by preference no limit, by site 20"`
	Show      bool   `json:"show" dry:"true" doc:"only show how databases would be spread: the moves, as with --dry-run"`
	DryRun    bool   `json:"dry_run" doc:"only say what would be done"`
}

type whyArgs struct {
	Database org.DatabaseName `json:"database" arg:"1" required:"true" doc:"name of the database" complete:"database list"`
	Last     int              `json:"last" default:"1" doc:"how many decisions to explain, at most 8"`
}

type dismountArgs struct {
	Database org.DatabaseName `json:"database" arg:"1" required:"true" doc:"name of the database"`
	DryRun   bool             `json:"dry_run" doc:"only say what would be done"`
}

type mountArgs struct {
	Database org.DatabaseName `json:"database" arg:"1" required:"true" doc:"name of the database"`
}

type rebalanceArgs struct {
	DryRun bool `json:"dry_run" doc:"only say what would be done"`
}

// Status tells who has which role.
type Status struct {
	Server  org.ServerName `json:"server" col:"SERVER"`
	Role    string         `json:"role" col:"ROLE"` // "primary", "standby", "down"
	Active  int            `json:"active_databases" col:"ACTIVE"`
	Since   *time.Time     `json:"since,omitempty" col:"SINCE"`
	Because string         `json:"why,omitempty" col:"WHY"`
}

// Commands are the room's entries of the command table. m may be nil for
// listing them.
func Commands(m *Manager) []command.Command {
	return slices.Concat(moveCommands(m), roleCommands(m), reseedCommands(m), planCommands(m), maintenanceCommands(m), upgradeCommands(m), drillCommands(m), scheduleCommands(m), sitePlanCommands(m))
}

func moveCommands(m *Manager) []command.Command {
	read := []command.Role{command.ServerAdmin, command.Auditor}
	return []command.Command{
		command.New(command.Command{Noun: "database", Verb: "move", Short: "Make another copy of a database the active one (switchover)", Changes: true, Dangerous: true,
			Long:    "The active copy stops, the target confirms that it has everything, and clients go on there after a short pause. Without --to the best copy is chosen: by the health of its server, content index, queues and activation preference; postern database why explains the choice. With --mount-dial a copy that is not in sync may be activated when the active one is gone; what is missing is delivered again when the former active copy comes back.",
			Example: "postern database move DB01 --to MBX2"}, m.moveCommand),
		command.New(command.Command{Noun: "server", Verb: "evacuate", Short: "Move all active databases off a server", Changes: true, Dangerous: true, Stream: true,
			Long:    "Targets are chosen for all databases in one pass, then up to 8 are moved at the same time, without loss. What cannot be moved stays, and the plan says why. New databases may become active there afterwards: see --activation-policy of postern server set, or postern server maintenance.",
			Example: "postern server evacuate MBX1 --dry-run"}, m.evacuateCommand),
		command.New(command.Command{Noun: "database", Verb: "balance", Short: "Move databases to where they should be", Changes: true, Dangerous: true, Stream: true,
			Example: "postern database balance --by site --deviation 20 --show"}, m.balanceCommand),
		command.New(command.Command{Noun: "database", Verb: "spread", Short: "Show how many databases are active on each server, and how many prefer it", Roles: read},
			func(context.Context, command.None) ([]Spread, error) { return m.spread(), nil }),
		command.New(command.Command{Noun: "database", Verb: "why", Short: "Explain why a database is active where it is", Roles: read,
			Long:    "The last decisions about the database, the newest first: what made each necessary, what was chosen, and for each other copy why it was not. Eight are kept; --json has everything they were made from.",
			Example: "postern database why DB01 --last 3"},
			func(_ context.Context, in whyArgs) ([]Why, error) {
				if in.Last < 1 || in.Last > decisionsKept {
					return nil, kind.Errorf(kind.Invalid, "last %d: want 1 to %d", in.Last, decisionsKept)
				}
				return m.why(in.Database, in.Last)
			}),
		command.New(command.Command{Noun: "database", Verb: "dismount", Short: "Take a database offline", Changes: true, Dangerous: true},
			func(ctx context.Context, in dismountArgs) (command.Plan, error) {
				return m.dismount(ctx, in.Database, in.DryRun)
			}),
		activateCommand(m),
		command.New(command.Command{Noun: "database", Verb: "mount", Short: "Bring a dismounted database online", Changes: true},
			func(ctx context.Context, in mountArgs) (command.None, error) {
				return command.None{}, m.mount(ctx, in.Database)
			}),
	}
}

func roleCommands(m *Manager) []command.Command {
	read := []command.Role{command.ServerAdmin, command.Auditor}
	return []command.Command{
		command.New(command.Command{Noun: "active", Verb: "log", Short: "Show what Active Manager decided, one sentence per turn", Roles: read},
			func(context.Context, command.None) ([]Sentence, error) { return m.collect(), nil }),
		command.New(command.Command{Noun: "active", Verb: "status", Short: "Show which server has the primary role and how many databases are active where", Roles: read},
			func(context.Context, command.None) ([]Status, error) { return m.roles(), nil }),
		command.New(command.Command{Noun: "active", Verb: "rebalance", Short: "Move databases back to their preferred servers", Changes: true, Dangerous: true},
			func(ctx context.Context, in rebalanceArgs) (command.Plan, error) {
				return m.rebalance(ctx, balance.Rules{By: balance.Preference, Deviation: -1}, in.DryRun)
			}),
	}
}

func (m *Manager) moveCommand(ctx context.Context, in moveArgs) (command.Plan, error) {
	o := Order{Database: in.Database, To: in.To, Dial: in.Dial, Why: cmp.Or(in.Comment, "moved by an administrator"), Skip: in.skip(), DryRun: in.DryRun}
	if in.SkipAll {
		if in.To == "" {
			return command.Plan{}, kind.WithHint(kind.Errorf(kind.Invalid, "--skip-all without a target"), "name the server with --to")
		}
		o.Skip = choose.SkipAll()
	}
	return m.Move(ctx, o)
}

func (m *Manager) evacuateCommand(ctx context.Context, in evacuateArgs) (command.Plan, error) {
	return m.Evacuate(ctx, Evacuation{Server: in.Server, To: in.To, AllOrNone: in.AllOrNone, PreferredOnly: in.PreferredOnly,
		Why: in.Comment, Skip: in.skip(), DryRun: in.DryRun})
}

func (m *Manager) balanceCommand(ctx context.Context, in balanceArgs) (command.Plan, error) {
	if in.Deviation < -1 || in.Deviation > 1000 {
		return command.Plan{}, kind.Errorf(kind.Invalid, "deviation %d: want 0 to 1000 percent", in.Deviation)
	}
	r := balance.Rules{By: balance.By(in.By), Deviation: in.Deviation}
	if r.By == balance.Site && r.Deviation < 0 {
		r.Deviation = 20
	}
	return m.rebalance(ctx, r, in.DryRun || in.Show)
}

func (m *Manager) roles() []Status {
	v := m.group.View()
	row, _ := m.primary()
	var out []Status
	for _, s := range v.Servers() {
		st := Status{Server: s.Name, Role: "standby"}
		if s.Witness {
			st.Role = "witness"
		}
		if s.Name == row.Server {
			st.Role, st.Since, st.Because = "primary", &row.Since, row.Why
		}
		if why, dead := m.group.Dead(s.Name); dead {
			st.Role, st.Because = "down", why
		}
		for _, mt := range v.Mounts() {
			if mt.Active == s.Name {
				st.Active++
			}
		}
		out = append(out, st)
	}
	return out
}
