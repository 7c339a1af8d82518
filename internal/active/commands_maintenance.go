package active

import (
	"context"
	"time"

	"github.com/postern-mail/postern/internal/active/maintain"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

type maintenanceStartArgs struct {
	Server org.ServerName `json:"server" arg:"1" required:"true" complete:"server list" doc:"server to take out"`
	Why    string         `json:"why" doc:"reason, for the log"`
	Accept bool           `json:"accept_single_copy" doc:"also where a database with two copies goes on with one"`
	Force  bool           `json:"force" doc:"go on although messages stay in its queue"`
	Wait   bool           `json:"wait" doc:"wait until it is out, and tell each step"`
	DryRun bool           `json:"dry_run" doc:"only show the plan"`
}

type maintenanceStopArgs struct {
	Server  org.ServerName `json:"server" arg:"1" required:"true" complete:"server list" doc:"server to bring back"`
	Balance bool           `json:"balance" doc:"then move databases back to their preferred copies"`
	Wait    bool           `json:"wait" doc:"wait until it is back, and tell each step"`
	DryRun  bool           `json:"dry_run" doc:"only show the plan"`
}

type maintenanceStatusArgs struct {
	Server org.ServerName `json:"server" arg:"1" complete:"server list" doc:"only this server"`
}

type databaseSetArgs struct {
	Database org.DatabaseName `json:"database" arg:"1" required:"true" complete:"database list" doc:"name of the database"`
	Minimum  int              `json:"minimum_copies" required:"true" doc:"copies that stay in sync when a server is taken out, fewer than it has; 0 for 2"`
}

// setDatabase changes what is wanted of a database.
func (m *Manager) setDatabase(ctx context.Context, in databaseSetArgs) (command.None, error) {
	return command.None{}, m.changeDatabase(ctx, in.Database, func(def *org.Database) error {
		if n := len(def.Copies); in.Minimum < 0 || in.Minimum > 0 && in.Minimum >= n {
			return kind.WithHint(kind.Errorf(kind.Invalid, "%s has %d copies: with %d of them to stay in sync no server with one could ever be taken out", def.Name, n, in.Minimum),
				"postern copy add; or fewer, or 0 for 2")
		}
		def.MinimumCopies = in.Minimum
		return nil
	})
}

// maintenanceCommands take servers out of service and bring them back.
func maintenanceCommands(m *Manager) []command.Command {
	return []command.Command{
		command.New(command.Command{Noun: "server", Verb: "maintenance start", Short: "Take a server out of service so that it can be stopped without anybody noticing",
			Changes: true, Dangerous: true, Stream: true,
			Long: "Refused while a database would keep fewer copies in sync than wanted (two, or as postern database set says), while too many other servers are out, or votes would be missing. " +
				"Then, step by step: no database becomes active there, doors close between commands, the queue is delivered or handed over, databases and roles move, nobody waits for its copies, and what is left ends. " +
				"The primary Active Manager carries it out, and a later one goes on if that dies. It stays out, also over restarts, until maintenance stop.",
			Example: "postern server maintenance start MBX1 --why \"new disks\" --wait"},
			m.startMaintenance),
		command.New(command.Command{Noun: "server", Verb: "maintenance stop", Short: "Bring a server back into service", Changes: true, Dangerous: true, Stream: true,
			Long:    "Its copies catch up first; then it takes mail, opens its doors and may have active databases. What others than maintenance hold back stays so and is named.",
			Example: "postern server maintenance stop MBX1 --balance --wait"},
			m.stopMaintenance),
		command.New(command.Command{Noun: "server", Verb: "maintenance status", Short: "Show which servers are out of service, and whether they can be stopped",
			Roles: []command.Role{command.ServerAdmin, command.Auditor}},
			m.maintenanceStatus),
		command.New(command.Command{Noun: "database", Verb: "set", Short: "Set how many copies of a database stay in sync when a server is taken out", Changes: true,
			Long:    "Maintenance, upgrades and drills are refused where fewer would be left. The default is 2.",
			Example: "postern database set DB01 --minimum-copies 3"},
			m.setDatabase),
	}
}

func (m *Manager) startMaintenance(ctx context.Context, in maintenanceStartArgs) (PlanDetails, error) {
	o := maintain.Order{Server: in.Server, AcceptSingle: in.Accept, Force: in.Force, By: command.CallerOf(ctx).Name, Why: in.Why}
	p, err := m.works.maintain.Start(m.works.maintain.Facts(ctx), o)
	return m.begin(ctx, p, err, in.DryRun, in.Wait)
}

func (m *Manager) stopMaintenance(ctx context.Context, in maintenanceStopArgs) (PlanDetails, error) {
	o := maintain.Order{Server: in.Server, Balance: in.Balance, By: command.CallerOf(ctx).Name}
	p, err := m.works.maintain.Stop(m.works.maintain.Facts(ctx), o)
	return m.begin(ctx, p, err, in.DryRun, in.Wait)
}

// begin starts a plan that was made, unless it is only to be shown.
func (m *Manager) begin(ctx context.Context, p org.Plan, err error, dry, wait bool) (PlanDetails, error) {
	if err != nil {
		return PlanDetails{}, err
	}
	if dry {
		p.State = org.PlanPlanned
		return planDetails(p, time.Now()), nil
	}
	if p, err = m.works.engine.Start(ctx, p); err != nil {
		return PlanDetails{}, err
	}
	return m.started(ctx, p, wait)
}

func (m *Manager) maintenanceStatus(ctx context.Context, in maintenanceStatusArgs) ([]maintain.Status, error) {
	if err := notFoundServer(m.group.View(), in.Server); err != nil {
		return nil, err
	}
	var running *org.Plan
	if p, ok := m.works.engine.Running(); ok {
		running = &p
	}
	return m.works.maintain.Status(ctx, in.Server, running), nil
}
