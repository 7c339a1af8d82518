package active

import (
	"context"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/active/drill"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// scheduleEvery is the pause between two looks at the schedules of drills.
const scheduleEvery = 20 * time.Second

// strays takes this server's copies home that drills had to leave on a spare.
func (m *Manager) strays(ctx context.Context) {
	v := m.group.View()
	k := drill.Kind{World: m.works, Library: m.works.maintain}
	for _, row := range drill.Strays(v, m.me, m.works.ended) {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		err := k.Home(ctx, func(ctx context.Context, t cluster.Txn) error {
			_, err := m.group.Commit(ctx, t)
			return err
		}, row)
		cancel()
		if kind.Is(err, kind.Conflict) {
			m.deps.Log.Debug("a copy stays on the spare a drill gave it", "database", row.TrialOf.Database, "volume", row.Volume, "drill", row.Trial, "why", err)
			continue // it is needed there; another look comes
		}
		if err != nil {
			m.deps.Log.Warn("a copy stays on the spare a drill gave it", "database", row.TrialOf.Database, "volume", row.Volume, "drill", row.Trial, "error", err)
			continue
		}
		m.deps.Events.Emit(evPlan, "plan %s: %s on %s goes home from %s, where it had to stay", row.Trial, row.TrialOf.Database, m.me, row.Volume)
	}
}

// ended tells of a plan that it has ended, or is kept no more.
func (w *works) ended(id string) bool {
	p, err := w.engine.Get(id)
	return kind.Is(err, kind.NotFound) || err == nil && p.State.Ended()
}

// schedules begins the drills that are due, while this server is the primary.
func (m *Manager) schedules(ctx context.Context, now time.Time) {
	if m.decider() != m.me {
		return
	}
	for _, s := range drill.Schedules(m.group.View()) {
		if s.Validate() != nil || !s.Due(now) {
			continue
		}
		m.scheduled(ctx, s.Name, now)
		return // one at a time
	}
}

// scheduled begins a drill, or notes why it may not begin. The row is written
// before: a server that dies between the two leaves one drill out. What is written
// is the row as it is now, if it is still due and still this server's to begin.
func (m *Manager) scheduled(ctx context.Context, name string, now time.Time) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	err := m.group.Sync(ctx)
	if err != nil {
		return
	}
	v := m.group.View()
	all := drill.Schedules(v)
	i := slices.IndexFunc(all, func(s drill.Schedule) bool { return s.Name == name })
	if i < 0 || all[i].Validate() != nil || !all[i].Due(now) || m.decider() != m.me {
		return
	}
	s := all[i]
	var p org.Plan
	if why := drill.Repaired(v, now); why != "" {
		err = refused([]string{why})
	} else if busy, ok := m.works.engine.Running(); ok {
		err = refused([]string{"plan " + busy.ID + " (" + busy.Title + ") has not ended"})
	} else {
		p, err = m.drillPlan(ctx, s.Order(mailServers(v), databaseNames(v)))
	}
	s.Asked, s.Refused = now.UTC(), ""
	if err != nil {
		s.Refused = cut(err.Error(), 300)
	} else {
		s.Last, s.Turn = now.UTC(), s.Turn+1
	}
	t, terr := drill.ScheduleTxn(v, s)
	if terr == nil {
		_, terr = m.group.Commit(ctx, t)
	}
	if terr != nil {
		m.deps.Log.Warn("schedule of a drill not written", "schedule", s.Name, "error", terr)
		return
	}
	if err != nil {
		m.deps.Events.Emit(evDrill, "schedule %s: no drill begins: %v", s.Name, err)
		return
	}
	if p, err = m.works.engine.Start(ctx, p); err != nil {
		m.deps.Events.Emit(evDrill, "schedule %s: the drill did not begin: %v", s.Name, err)
		return
	}
	m.deps.Events.Emit(evDrill, "schedule %s begins drill %s (%s)", s.Name, p.ID, p.Title)
}

func mailServers(v *cluster.View) (out []org.ServerName) {
	for _, s := range v.Servers() {
		if !s.Witness {
			out = append(out, s.Name)
		}
	}
	return out
}

func databaseNames(v *cluster.View) (out []org.DatabaseName) {
	for _, def := range v.Databases() {
		out = append(out, def.Name)
	}
	return out
}

type scheduleArgs struct {
	Name     string           `json:"name" arg:"1" required:"true" doc:"name of the schedule; one that exists is changed"`
	Exercise string           `json:"exercise" arg:"2" required:"true" enum:"move,kill-worker,maintenance,reseed,reseed-spare,restore-mailbox,network,failover" doc:"what is exercised"`
	Window   string           `json:"window" required:"true" doc:"when a drill may begin, for example Sat,Sun 01:00-04:00 in the time of the primary server"`
	Every    time.Duration    `json:"every" default:"168h" doc:"pause between two drills, 1h to a year"`
	Server   org.ServerName   `json:"server" complete:"server list" doc:"server; each in its turn when not given"`
	Database org.DatabaseName `json:"database" complete:"database list" doc:"database of a move, a reseed or recovered mail; each in its turn when not given"`
	Allowed  time.Duration    `json:"max_unavailable" default:"5s" doc:"how long clients may wait; at twice that the drill ends"`
	Allow    string           `json:"allow" enum:",failover" doc:"failover: people may notice it"`
}

type scheduleArg struct {
	Name string `json:"name" arg:"1" required:"true" doc:"name of the schedule"`
}

// scheduleCommands are about drills that begin by themselves.
func scheduleCommands(m *Manager) []command.Command {
	return []command.Command{
		command.New(command.Command{Noun: "drill", Verb: "schedule add", Short: "Have drills begin by themselves, inside a window", Changes: true,
			Long: "There are none unless somebody adds one. A drill begins only inside its window, only where drill run would not be refused, and only when nothing was repaired for 10 minutes; " +
				"otherwise the reason stands in drill schedule list, and it is asked again 15 minutes later.",
			Example: "postern drill schedule add weekly kill-worker --window \"Sun 02:00-04:00\""}, m.addSchedule),
		command.New(command.Command{Noun: "drill", Verb: "schedule list", Short: "List the schedules of drills, when each had its last, and why one was refused",
			Roles: []command.Role{command.ServerAdmin, command.Auditor}, Example: "postern drill schedule list"},
			func(context.Context, command.None) ([]drill.Schedule, error) {
				return append([]drill.Schedule{}, drill.Schedules(m.group.View())...), nil
			}),
		command.New(command.Command{Noun: "drill", Verb: "schedule remove", Short: "End a schedule of drills", Changes: true, Example: "postern drill schedule remove weekly"},
			func(ctx context.Context, in scheduleArg) (command.None, error) {
				key := drill.SchedulePrefix + in.Name
				if _, ok := m.group.View().Get(key); !ok {
					return command.None{}, kind.WithHint(kind.Errorf(kind.NotFound, "there is no schedule %q", in.Name), "postern drill schedule list")
				}
				_, err := m.group.Commit(ctx, cluster.Txn{Then: []cluster.Op{{Key: key, Delete: true}}})
				return command.None{}, err
			}),
	}
}

func (m *Manager) addSchedule(ctx context.Context, in scheduleArgs) (command.None, error) {
	s := drill.Schedule{Name: in.Name, Exercise: in.Exercise, Server: in.Server, Database: in.Database, Window: in.Window, Every: in.Every,
		Allowed: in.Allowed, Allow: in.Allow, By: command.CallerOf(ctx).Name, Created: time.Now().UTC()}
	if err := s.Validate(); err != nil {
		return command.None{}, err
	}
	v := m.group.View()
	if err := notFoundServer(v, s.Server); err != nil {
		return command.None{}, err
	}
	if _, ok := v.Database(s.Database); s.Database != "" && !ok {
		return command.None{}, kind.WithHint(kind.Errorf(kind.NotFound, "database %s does not exist", s.Database), "postern database list")
	}
	t, err := drill.ScheduleTxn(v, s)
	if err == nil {
		_, err = m.group.Commit(ctx, t)
	}
	return command.None{}, err
}
