package maintain

import (
	"encoding/json"
	"strings"

	"github.com/postern-mail/postern/internal/active/plan"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// Kinds of plans.
const (
	KindStart = "maintenance-start"
	KindStop  = "maintenance-stop"
)

// Kind is maintenance as a kind of plans.
type Kind struct {
	Library *Library
	kind    string
}

// Kinds are the plans that take servers out and bring them back.
func Kinds(l *Library) []plan.Kind {
	return []plan.Kind{Kind{l, KindStart}, Kind{l, KindStop}}
}

// Name implements plan.Kind.
func (k Kind) Name() string { return k.kind }

// Step implements plan.Kind.
func (k Kind) Step(p org.Plan, s org.PlanStep) (plan.Step, bool) {
	var o Order
	if json.Unmarshal(p.Args, &o) != nil {
		return plan.Step{}, false
	}
	return k.Library.Step(s, o)
}

// Start is the plan that takes a server out. The error is Conflict and says why
// where it may not be taken out now.
func (l *Library) Start(f Facts, o Order) (org.Plan, error) {
	p, err := newPlan(KindStart, "take "+string(o.Server)+" out for maintenance", o, StartSteps(o.Server, l.Times))
	if err != nil {
		return p, err
	}
	if self, ok := f.server(o.Server); !ok {
		return p, kind.WithHint(kind.Errorf(kind.NotFound, "server %s: not a member of the group", o.Server), "postern server list")
	} else if self.Out {
		return p, kind.WithHint(kind.Errorf(kind.Conflict, "%s is in maintenance already", o.Server), "postern server maintenance status "+string(o.Server))
	}
	if no := Judge(f, o); len(no) > 0 {
		return p, kind.WithHint(kind.Errorf(kind.Conflict, "%s cannot be taken out now: %s", o.Server, strings.Join(no, "; ")), "postern copy status")
	}
	return p, nil
}

// Stop is the plan that brings a server back.
func (l *Library) Stop(f Facts, o Order) (org.Plan, error) {
	p, err := newPlan(KindStop, "bring "+string(o.Server)+" back from maintenance", o, StopSteps(o.Server, l.Times, o.Balance))
	if err != nil {
		return p, err
	}
	if self, ok := f.server(o.Server); !ok {
		return p, kind.WithHint(kind.Errorf(kind.NotFound, "server %s: not a member of the group", o.Server), "postern server list")
	} else if !self.Out {
		return p, kind.WithHint(kind.Errorf(kind.Conflict, "%s is not in maintenance", o.Server), "postern component list "+string(o.Server))
	}
	return p, nil
}

func newPlan(name, title string, o Order, steps []org.PlanStep) (org.Plan, error) {
	b, err := json.Marshal(o)
	return org.Plan{Kind: name, Title: title, By: o.By, Why: o.Why, Args: b, Steps: steps}, err
}
