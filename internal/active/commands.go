package active

import (
	"context"
	"time"

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
	return append(databaseCommands(m), reseedCommands(m)...)
}

// databaseCommands are the entries about where databases are active.
func databaseCommands(m *Manager) []command.Command {
	read := []command.Role{command.ServerAdmin, command.Auditor}
	return []command.Command{
		command.New(command.Command{Noun: "database", Verb: "move", Short: "Make another copy of a database the active one (switchover)", Changes: true, Dangerous: true,
			Long:    "The active copy stops, the target confirms that it has everything, and clients go on there after a short pause. With --mount-dial a copy that is not in sync may be activated when the active one is gone; what is missing is delivered again when the former active copy comes back.",
			Example: "postern database move DB01 --to MBX2"},
			func(ctx context.Context, in moveArgs) (command.Plan, error) {
				why := in.Comment
				if why == "" {
					why = "moved by an administrator"
				}
				return m.move(ctx, order{db: in.Database, to: in.To, dial: in.Dial, why: why, purpose: choose.Switchover, dry: in.DryRun})
			}),
		command.New(command.Command{Noun: "database", Verb: "dismount", Short: "Take a database offline", Changes: true, Dangerous: true},
			func(ctx context.Context, in dismountArgs) (command.Plan, error) {
				return m.dismount(ctx, in.Database, in.DryRun)
			}),
		command.New(command.Command{Noun: "database", Verb: "mount", Short: "Bring a dismounted database online", Changes: true},
			func(ctx context.Context, in mountArgs) (command.None, error) {
				return command.None{}, m.mount(ctx, in.Database)
			}),
		command.New(command.Command{Noun: "active", Verb: "log", Short: "Show what Active Manager decided, one sentence per turn", Roles: read},
			func(context.Context, command.None) ([]Sentence, error) { return m.collect(), nil }),
		command.New(command.Command{Noun: "active", Verb: "status", Short: "Show which server has the primary role and how many databases are active where", Roles: read},
			func(context.Context, command.None) ([]Status, error) { return m.roles(), nil }),
		command.New(command.Command{Noun: "active", Verb: "rebalance", Short: "Move databases back to their preferred servers", Changes: true, Dangerous: true}, m.rebalance),
	}
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

func (m *Manager) rebalance(ctx context.Context, in rebalanceArgs) (command.Plan, error) {
	p := command.Plan{DryRun: in.DryRun}
	var failed error
	for _, o := range m.unbalanced(m.group.View()) {
		step := command.Step{Name: "move " + string(o.db), Detail: "to " + string(o.to)}
		if !in.DryRun {
			if _, err := m.move(ctx, o); err != nil {
				step.Error, failed = err.Error(), err
			} else {
				step.Done = true
			}
		}
		p.Steps = append(p.Steps, step)
	}
	if failed != nil {
		return p, kind.Errorf(kind.Of(failed), "not every database was moved: %w", failed)
	}
	return p, nil
}
