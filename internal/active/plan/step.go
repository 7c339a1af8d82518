package plan

import (
	"context"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// Kind is a kind of plans.
type Kind interface {
	// Name is what org.Plan.Kind says.
	Name() string
	// Step tells how a step of a plan is carried out, false where this version
	// does not know it.
	Step(p org.Plan, s org.PlanStep) (Step, bool)
}

// Late says what becomes of a plan when a step does not come about.
type Late int

// What becomes of it.
const (
	Fail Late = iota // the plan fails, and what was done is undone
	Hold             // it waits until the step comes about after all, or somebody resumes it
	Ask              // it waits until somebody resumes it
	GoOn             // the step is left out, and the row says so
)

// Finding is what a look at the facts tells of a step.
type Finding struct {
	// Done tells that the step has come about.
	Done bool
	// Wait is what it waits for, in words.
	Wait string
	// Stop says why it cannot come about; the plan does not wait for the
	// step's deadline then.
	Stop string
	// Note is a result worth keeping in the row.
	Note string
}

// Step is how a step is carried out. Check reads facts and changes nothing; Do
// and Undo write wishes, return soon or when ctx ends, and may be called again.
type Step struct {
	Check func(ctx context.Context) Finding
	Do    func(ctx context.Context, p *Pen) error
	// Undo takes back what Do may have done; nil where nothing is taken back.
	Undo func(ctx context.Context, p *Pen) error
	// Late is for a step whose deadline has passed or that cannot come about.
	Late Late
}

// Group is what plans need of the group; *cluster.Cluster is one.
type Group interface {
	Name() org.ServerName
	View() *cluster.View
	Changed() <-chan struct{}
	Commit(context.Context, cluster.Txn) (int64, error)
	Sync(context.Context) error
}

// Pen writes on behalf of a plan.
type Pen struct {
	group Group
	conds []cluster.Cond
	// Plan is the plan as it was when the step was begun, At the number of the step.
	Plan org.Plan
	At   int
}

// Step is the step on whose behalf the pen writes.
func (p *Pen) Step() org.PlanStep { return p.Plan.Steps[p.At] }

// Commit writes, if the plan and the role are still what they were. The error
// is Conflict where they are not, or where a condition of t does not hold.
func (p *Pen) Commit(ctx context.Context, t cluster.Txn) error {
	if len(t.Then) == 0 {
		return nil
	}
	t.If = append(append([]cluster.Cond(nil), p.conds...), t.If...)
	_, err := p.group.Commit(ctx, t)
	return err
}

// Holds tells whether the plan and the role are what they were, as far as this
// server knows now; work that is not a write looks at it before it begins.
func (p *Pen) Holds() error {
	v := p.group.View()
	for _, c := range p.conds {
		if it, _ := v.Get(c.Key); it.Revision != c.Revision {
			return kind.Errorf(kind.Conflict, "%s has changed: this server does not carry out plan %s any more", c.Key, p.Plan.ID)
		}
	}
	return nil
}
