package site

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/active/plan"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// Kinds of plans.
const (
	KindSwitchover = "site-switchover"
	KindFailback   = "site-failback"
)

// Names of the steps.
const (
	StepCheck = "check"
	StepMove  = "move databases"
	StepRoles = "move roles"
	StepStop  = "stop site"
	StepStart = "start site"
	StepSync  = "copies in sync"
)

// Order is what somebody wants.
type Order struct {
	// Site is left by a switchover, and gets its databases back by a failback.
	Site org.SiteName  `json:"site"`
	To   org.SiteName  `json:"to,omitempty"`
	Stop bool          `json:"stop,omitempty"` // the site gets no database until it is started
	Calm time.Duration `json:"calm,omitempty"` // how long copies have to be healthy
	By   string        `json:"by,omitempty"`
	Why  string        `json:"why,omitempty"`
}

// World is what the steps need of the group and of the rooms.
type World interface {
	View() *cluster.View
	// Heard tells whether a server lives and is heard.
	Heard(org.ServerName) bool
	// Statuses are what a server reports of its copies.
	Statuses(org.ServerName) []org.CopyStatus
	Primary() org.ServerName
	// PassRole makes another server the primary Active Manager.
	PassRole(ctx context.Context, p *plan.Pen, to org.ServerName, why string) error
	// MoveEach moves databases to the servers named, without loss, while holds
	// returns nil.
	MoveEach(ctx context.Context, to map[org.DatabaseName]org.ServerName, why string, holds func() error) error
}

// Times are how long steps wait.
type Times struct{ Check, Move, Roles, Row, Sync time.Duration }

// DefaultTimes are those of a group in production.
func DefaultTimes() Times {
	return Times{Check: 10 * time.Second, Move: 10 * time.Minute, Roles: 30 * time.Second, Row: 10 * time.Second, Sync: 24 * time.Hour}
}

// Kind is switchover and failback of sites as a kind of plans.
type Kind struct {
	World World
	Now   func() time.Time
	kind  string
}

// Kinds are the plans that concern whole sites.
func Kinds(w World, now func() time.Time) []plan.Kind {
	return []plan.Kind{Kind{w, now, KindSwitchover}, Kind{w, now, KindFailback}}
}

// Name implements plan.Kind.
func (k Kind) Name() string { return k.kind }

// Plan makes the plan of an order. The error is Conflict and says why where it
// cannot be carried out now.
func (k Kind) Plan(o Order, t Times) (org.Plan, error) {
	if err := k.known(o); err != nil {
		return org.Plan{}, err
	}
	p := org.Plan{Kind: k.kind, By: o.By, Why: o.Why}
	list := []org.PlanStep{
		{Name: StepStart, Detail: "servers of " + string(o.Site) + " may have databases", Deadline: t.Row},
		{Name: StepSync, Detail: fmt.Sprintf("every copy there is healthy for %s and has what is confirmed", o.Calm), Deadline: t.Sync},
		{Name: StepMove, Detail: "every database that prefers a copy there, without loss", Deadline: t.Move},
	}
	p.Title = "give " + string(o.Site) + " its databases back"
	if k.kind == KindSwitchover {
		if _, no := Targets(Look(k.World), o); len(no) > 0 {
			return p, kind.WithHint(kind.Errorf(kind.Conflict, "%s cannot be left now: %s", o.Site, strings.Join(no, "; ")), "postern copy status")
		}
		p.Title = fmt.Sprintf("move what is active in %s to %s", o.Site, o.To)
		list = []org.PlanStep{
			{Name: StepCheck, Detail: "every database has a complete copy in " + string(o.To), Deadline: t.Check},
			{Name: StepMove, Detail: "every database that is active in " + string(o.Site) + ", without loss", Deadline: t.Move},
			{Name: StepRoles, Detail: "primary Active Manager to a server in " + string(o.To), Deadline: t.Roles},
		}
		if o.Stop {
			list = append(list, org.PlanStep{Name: StepStop, Detail: "no database goes back there, nobody waits to hear from it, and the agreed state is led elsewhere", Deadline: t.Row})
		}
	}
	for i := range list {
		list[i].State = org.StepWaiting
	}
	p.Steps = list
	var err error
	p.Args, err = json.Marshal(o)
	return p, err
}

// known refuses sites in which nobody stands, and a switchover to itself.
func (k Kind) known(o Order) error {
	seen := map[org.SiteName]bool{}
	for _, s := range k.World.View().Servers() {
		seen[s.Site] = seen[s.Site] || !s.Witness
	}
	for _, s := range []org.SiteName{o.Site, o.To} {
		if !seen[s] && (s != "" || k.kind == KindSwitchover) {
			return kind.WithHint(kind.Errorf(kind.NotFound, "no mailbox server stands in a site %q", s), "postern site list")
		}
	}
	if o.Site == o.To {
		return kind.Errorf(kind.Invalid, "switchover of %s to itself", o.Site)
	}
	return nil
}

// Step implements plan.Kind.
func (k Kind) Step(p org.Plan, s org.PlanStep) (plan.Step, bool) {
	var o Order
	if json.Unmarshal(p.Args, &o) != nil {
		return plan.Step{}, false
	}
	switch s.Name {
	case StepCheck:
		return plan.Step{Late: plan.Fail, Check: func(context.Context) plan.Finding {
			if _, no := Targets(Look(k.World), o); len(no) > 0 {
				return plan.Finding{Stop: strings.Join(no, "; ")}
			}
			return plan.Finding{Done: true}
		}}, true
	case StepMove:
		return k.move(o), true
	case StepRoles:
		return k.roles(o), true
	case StepStop:
		return k.row(o, org.SiteStopped), true
	case StepStart:
		return k.row(o, org.SiteStarted), true
	case StepSync:
		return plan.Step{Late: plan.Hold, Check: func(context.Context) plan.Finding {
			left := Unready(Look(k.World), o, k.Now())
			return plan.Finding{Done: len(left) == 0, Wait: "for " + strings.Join(left, ", ")}
		}}, true
	}
	return plan.Step{}, false
}

// move is not undone: where a database is active does not matter.
func (k Kind) move(o Order) plan.Step {
	return plan.Step{Late: plan.Hold,
		Check: func(context.Context) plan.Finding {
			to, no := Targets(Look(k.World), o)
			left := no
			for db := range to {
				left = append(left, string(db))
			}
			slices.Sort(left)
			return plan.Finding{Done: len(left) == 0, Wait: "for " + strings.Join(left, ", ")}
		},
		Do: func(ctx context.Context, p *plan.Pen) error {
			to, _ := Targets(Look(k.World), o)
			if len(to) == 0 {
				return nil
			}
			return k.World.MoveEach(ctx, to, p.Plan.Title, p.Holds)
		}}
}

func (k Kind) roles(o Order) plan.Step {
	at := func(s org.ServerName) org.SiteName {
		row, _ := k.World.View().Server(s)
		return row.Site
	}
	return plan.Step{Late: plan.Hold,
		Check: func(context.Context) plan.Finding {
			return plan.Finding{Done: at(k.World.Primary()) != o.Site, Wait: "for another primary Active Manager"}
		},
		Do: func(ctx context.Context, p *plan.Pen) error {
			for _, s := range k.World.View().Servers() {
				if s.Site == o.To && !s.Witness && k.World.Heard(s.Name) && at(k.World.Primary()) == o.Site {
					return k.World.PassRole(ctx, p, s.Name, p.Plan.Title)
				}
			}
			return nil
		}}
}

// row writes what was decided about the site; undoing it starts it again.
func (k Kind) row(o Order, want org.SiteState) plan.Step {
	put := func(state org.SiteState) func(context.Context, *plan.Pen) error {
		return func(ctx context.Context, p *plan.Pen) error {
			b, err := json.Marshal(org.Site{Name: o.Site, State: state, Since: k.Now().UTC(), By: o.By, Why: cmp.Or(o.Why, p.Plan.Title)})
			if err != nil {
				return err
			}
			return p.Commit(ctx, cluster.Txn{Then: []cluster.Op{{Key: org.SitePrefix + string(o.Site), Value: b}}})
		}
	}
	s := plan.Step{Late: plan.Fail, Do: put(want), Check: func(context.Context) plan.Finding {
		return plan.Finding{Done: StateOf(k.World.View(), o.Site) == want, Wait: "for the site's row"}
	}}
	if want == org.SiteStopped {
		s.Undo = put(org.SiteStarted)
	}
	return s
}

// StateOf is what people decided about a site.
func StateOf(v *cluster.View, name org.SiteName) org.SiteState {
	it, ok := v.Get(org.SitePrefix + string(name))
	var s org.Site
	if !ok || json.Unmarshal(it.Value, &s) != nil || s.State == "" {
		return org.SiteStarted
	}
	return s.State
}
