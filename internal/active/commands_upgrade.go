package active

import (
	"context"
	"time"

	"github.com/postern-mail/postern/internal/active/upgrade"
	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// Boot tells one run of a server from another; it implements upgrade.World, as do
// the methods below.
func (w *works) Boot(s org.ServerName) (boot, version string) {
	if w.m.deps.Plans.Boot == nil {
		return "", ""
	}
	return w.m.deps.Plans.Boot(s)
}

// Program is what a server runs and would run.
func (w *works) Program(s org.ServerName) (p org.Program, ok bool) {
	b, _, ok := w.m.group.Published(s, org.ProgramSection)
	return p, ok && codec.Unmarshal(b, &p) == nil
}

// Health is what a server says of itself.
func (w *works) Health(s org.ServerName) (h org.ServerHealth, ok bool) {
	b, _, ok := w.m.group.Published(s, org.HealthSection)
	return h, ok && codec.Unmarshal(b, &h) == nil
}

type upgradePlanArgs struct {
	Version string `json:"version" doc:"version that has to run at the end; what is installed when not given"`
	Restart bool   `json:"restart_only" doc:"restart every server, whatever it runs"`
}

type upgradeRunArgs struct {
	Version string        `json:"version" doc:"version that has to run at the end; what is installed when not given"`
	Restart bool          `json:"restart_only" doc:"restart every server, whatever it runs"`
	Accept  bool          `json:"accept_single_copy" doc:"also where a database with two copies goes on with one"`
	Pause   time.Duration `json:"pause" default:"2m" doc:"how long the group has to stay calm before the next server"`
	Why     string        `json:"why" doc:"reason, for the log"`
	Wait    bool          `json:"wait" doc:"wait until it is done, and tell each step"`
	DryRun  bool          `json:"dry_run" doc:"only show the plan"`
}

// upgradeCommands bring the group to another version.
func upgradeCommands(m *Manager) []command.Command {
	return []command.Command{
		command.New(command.Command{Noun: "upgrade", Verb: "plan", Short: "Show what each server runs, what is installed there, and in which order they have their turn",
			Roles: []command.Role{command.ServerAdmin, command.Auditor}, Example: "postern upgrade plan"},
			func(ctx context.Context, in upgradePlanArgs) ([]upgrade.Server, error) {
				return m.upgradeServers(ctx, upgrade.Order{Version: in.Version, RestartOnly: in.Restart}), nil
			}),
		command.New(command.Command{Noun: "upgrade", Verb: "run", Short: "Bring every server to the installed version, one after the other", Changes: true, Dangerous: true, Stream: true,
			Long: "Install the new program on every server first, with its package; nothing is restarted by that. " +
				"Then each server goes out as for maintenance, starts the installed program, and comes back with all copies in sync; the group has to stay calm before the next. " +
				"Any doubt holds the plan until postern plan resume. With --restart-only it is a rolling restart.",
			Example: "postern upgrade run --restart-only --wait"},
			m.runUpgrade),
	}
}

func (m *Manager) upgradeServers(ctx context.Context, o upgrade.Order) []upgrade.Server {
	programs := map[org.ServerName]org.Program{}
	for _, s := range m.group.View().Servers() {
		p, _ := m.works.Program(s.Name)
		if _, running := m.works.Boot(s.Name); running != "" {
			p.Running = running
		}
		programs[s.Name] = p
	}
	return upgrade.Turns(m.works.maintain.Facts(ctx), programs, o)
}

func (m *Manager) runUpgrade(ctx context.Context, in upgradeRunArgs) (PlanDetails, error) {
	if in.Pause < 0 || in.Pause > 24*time.Hour {
		return PlanDetails{}, kind.Errorf(kind.Invalid, "pause %s: want 0 to 24h", in.Pause)
	}
	o := upgrade.Order{Version: in.Version, RestartOnly: in.Restart, AcceptSingle: in.Accept, Pause: in.Pause, By: command.CallerOf(ctx).Name, Why: in.Why}
	p, err := upgrade.Plan(m.upgradeServers(ctx, o), o, m.works.maintain.Times)
	return m.begin(ctx, p, err, in.DryRun, in.Wait)
}
