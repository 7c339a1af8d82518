package active

import (
	"cmp"
	"context"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// PlanRow is a line of plan list.
type PlanRow struct {
	ID      string         `json:"id" col:"ID"`
	Kind    string         `json:"kind" col:"KIND"`
	Title   string         `json:"title" col:"WHAT"`
	State   org.PlanState  `json:"state" col:"STATE"`
	Step    string         `json:"step,omitempty" col:"STEP"`
	Owner   org.ServerName `json:"owner,omitempty" col:"BY"`
	Created time.Time      `json:"created,omitzero" col:"CREATED"`
	Ended   *time.Time     `json:"ended,omitempty" col:"ENDED"`
	Held    string         `json:"held,omitempty" col:"WHY"`
}

// PlanStepRow is a step of a plan.
type PlanStepRow struct {
	Step   string         `json:"step" col:"STEP"`
	Server org.ServerName `json:"server,omitempty" col:"SERVER"`
	State  org.StepState  `json:"state" col:"STATE"`
	Took   time.Duration  `json:"took,omitempty" col:"TOOK"`
	Tries  int            `json:"tries,omitempty" col:"-"`
	Detail string         `json:"detail,omitempty" col:"DETAIL"`
}

// PlanDetails is a plan with its steps.
type PlanDetails struct {
	PlanRow
	By    string        `json:"by,omitempty" col:"ORDERED-BY"`
	Why   string        `json:"reason,omitempty" col:"REASON"`
	Steps []PlanStepRow `json:"steps" col:"STEPS"`
}

func planRow(p org.Plan) PlanRow {
	r := PlanRow{ID: p.ID, Kind: p.Kind, Title: p.Title, State: p.State, Owner: p.Owner, Created: p.Created, Held: p.Held}
	if !p.Ended.IsZero() {
		r.Ended = &p.Ended
	}
	if i := p.Step(); i < len(p.Steps) && !p.State.Ended() {
		r.Step = p.Steps[i].Name
	}
	return r
}

func planDetails(p org.Plan, now time.Time) PlanDetails {
	d := PlanDetails{PlanRow: planRow(p), By: p.By, Why: p.Why, Steps: []PlanStepRow{}}
	for _, s := range p.Steps {
		r := PlanStepRow{Step: s.Name, Server: s.Server, State: s.State, Tries: s.Tries, Detail: cmp.Or(s.Error, s.Wait, s.Detail)}
		switch {
		case s.Begun.IsZero():
		case s.Ended.IsZero():
			r.Took = now.Sub(s.Begun).Round(time.Second)
		default:
			r.Took = s.Ended.Sub(s.Begun).Round(time.Millisecond)
		}
		d.Steps = append(d.Steps, r)
	}
	return d
}

type planArg struct {
	ID string `json:"id" arg:"1" required:"true" doc:"id of the plan" complete:"plan list"`
}

type planListArgs struct {
	All bool `json:"all" doc:"also those that ended, the last 200"`
}

type planResumeArgs struct {
	ID   string `json:"id" arg:"1" required:"true" doc:"id of the plan" complete:"plan list"`
	Skip bool   `json:"skip" doc:"leave the step out at which it is held"`
}

type planAbortArgs struct {
	ID     string `json:"id" arg:"1" required:"true" doc:"id of the plan" complete:"plan list"`
	DryRun bool   `json:"dry_run" doc:"only say what would be taken back"`
}

// planCommands show plans and let people decide about them.
func planCommands(m *Manager) []command.Command {
	read := []command.Role{command.ServerAdmin, command.Auditor}
	return []command.Command{
		command.New(command.Command{Noun: "plan", Verb: "list", Short: "List the plans that run, or with --all also those that ended", Roles: read, Example: "postern plan list --all"},
			func(_ context.Context, in planListArgs) ([]PlanRow, error) {
				out := []PlanRow{}
				for _, p := range m.works.engine.List() {
					if in.All || !p.State.Ended() {
						out = append(out, planRow(p))
					}
				}
				return out, nil
			}),
		command.New(command.Command{Noun: "plan", Verb: "show", Short: "Show a plan: its steps, how far it is and what it waits for", Roles: read,
			Example: "postern plan show 261121-124455-3fa2"},
			func(_ context.Context, in planArg) (PlanDetails, error) {
				p, err := m.works.engine.Get(in.ID)
				return planDetails(p, time.Now()), err
			}),
		command.New(command.Command{Noun: "plan", Verb: "resume", Short: "Let a plan go on that is held", Changes: true,
			Long:    "The step at which it is held gets its time anew. With --skip it is left out, and the plan says by whom.",
			Example: "postern plan resume 261121-124455-3fa2"},
			func(ctx context.Context, in planResumeArgs) (command.None, error) {
				return command.None{}, m.works.engine.Resume(ctx, in.ID, command.CallerOf(ctx).Name, in.Skip)
			}),
		command.New(command.Command{Noun: "plan", Verb: "abort", Short: "End a plan and take back what it did", Changes: true, Dangerous: true,
			Long: "Wishes that the plan made are removed, the last first. Databases and roles that it moved stay where they are: they are as good there.", Example: "postern plan abort 261121-124455-3fa2 --dry-run"},
			m.abortPlan),
	}
}

func (m *Manager) abortPlan(ctx context.Context, in planAbortArgs) (command.Plan, error) {
	out := command.Plan{DryRun: in.DryRun}
	p, err := m.works.engine.Get(in.ID)
	if err != nil {
		return out, err
	}
	if p.State.Ended() {
		return out, kind.Errorf(kind.Conflict, "plan %s is %s already", p.ID, p.State)
	}
	for i := len(p.Steps) - 1; i >= 0; i-- {
		if s := p.Steps[i]; s.Tries > 0 {
			out.Steps = append(out.Steps, command.Step{Name: "take back", Detail: s.Name + " " + string(s.Server), Done: !in.DryRun})
		}
	}
	if in.DryRun {
		return out, nil
	}
	return out, m.works.engine.Abort(ctx, in.ID, command.CallerOf(ctx).Name)
}

// started is what a command answers that wrote a plan; with wait it waits until
// the plan has ended or is held.
func (m *Manager) started(ctx context.Context, p org.Plan, wait bool) (PlanDetails, error) {
	if !wait {
		return planDetails(p, time.Now()), nil
	}
	command.Progress(ctx, "plan %s: %s", p.ID, p.Title)
	p, err := m.works.engine.Await(ctx, p.ID, func(line string) { command.Progress(ctx, "%s", line) })
	if err != nil {
		return planDetails(p, time.Now()), kind.WithHint(err, "the plan goes on: postern plan show "+p.ID)
	}
	if p.State != org.PlanDone {
		err = kind.WithHint(kind.Errorf(kind.Conflict, "plan %s is %s: %s", p.ID, p.State, p.Held), "postern plan show "+p.ID)
	}
	return planDetails(p, time.Now()), err
}
