package upgrade

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/active/maintain"
	"github.com/postern-mail/postern/internal/active/plan"
	"github.com/postern-mail/postern/internal/org"
)

// World is what an upgrade needs beyond what maintenance does.
type World interface {
	// Boot tells one run of a server from another, and the version that runs.
	Boot(org.ServerName) (boot, version string)
	// Program is what a server runs and would run, false where it does not tell.
	Program(org.ServerName) (org.Program, bool)
	// Health is what a server says of itself, false where it does not.
	Health(org.ServerName) (org.ServerHealth, bool)
}

// Kind is upgrades as a kind of plans.
type Kind struct {
	World   World
	Library *maintain.Library
	// calms are since when nothing was in doubt, as far as this server saw it.
	calms *calms
}

// New is the kind of upgrades.
func New(w World, l *maintain.Library) Kind {
	return Kind{World: w, Library: l, calms: &calms{since: map[string]time.Time{}}}
}

// calms remember since when there is no doubt, by plan and server: of what is
// waited for now, which is one thing at a time.
type calms struct {
	mu    sync.Mutex // guards since
	since map[string]time.Time
}

// lasts is how long a calm lasts, zero where it is over.
func (c *calms) lasts(of string, calm bool, now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	since, ok := c.since[of]
	if !ok || !calm {
		clear(c.since)
		c.since[of], since = now, now
	}
	return now.Sub(since)
}

// Name implements plan.Kind.
func (Kind) Name() string { return KindName }

// Step implements plan.Kind. What would undo maintenance asks a person here: an
// upgrade that is in doubt stops where it is.
func (k Kind) Step(p org.Plan, s org.PlanStep) (plan.Step, bool) {
	var o Order
	if json.Unmarshal(p.Args, &o) != nil {
		return plan.Step{}, false
	}
	switch s.Name {
	case StepReady:
		return k.ready(o, s), true
	case StepRun:
		return k.run(o, p, s), true
	case StepCalm:
		return k.calm(o, p, s), true
	}
	def, ok := k.Library.Step(s, maintain.Order{Server: s.Server, AcceptSingle: o.AcceptSingle, By: o.By, Why: "upgrade"})
	if def.Late == plan.Fail {
		def.Late = plan.Ask
	}
	return def, ok
}

// ready is what has to be well before a server goes out.
func (k Kind) ready(o Order, s org.PlanStep) plan.Step {
	return plan.Step{Late: plan.Ask, Check: func(ctx context.Context) plan.Finding {
		doubts := k.doubts()
		if no := maintain.Judge(k.Library.Facts(ctx), maintain.Order{Server: s.Server, AcceptSingle: o.AcceptSingle}); len(no) > 0 {
			doubts = append(doubts, no...)
		}
		fault := k.fault(s.Server)
		return plan.Finding{Done: len(doubts) == 0 && fault == "", Stop: fault, Wait: "for calm: " + strings.Join(doubts, "; ")}
	}}
}

// fault says why the program installed on a server cannot be started, empty
// where it can or is not known.
func (k Kind) fault(s org.ServerName) string {
	if p, _ := k.World.Program(s); p.Fault != "" {
		return fmt.Sprintf("the program installed on %s does not start: %s", s, p.Fault)
	}
	return ""
}

// doubts are what is not well with the group: a copy that is not in sync, a
// critical health set that is red, a server that is not heard.
func (k Kind) doubts() []string {
	var out []string
	v := k.Library.World.View()
	for _, def := range v.Databases() {
		mt, ok := v.Mount(def.Name)
		if !ok || mt.Active == "" {
			if !def.Dismounted {
				out = append(out, string(def.Name)+" is active nowhere")
			}
			continue
		}
		for _, c := range def.Copies {
			if !c.Suspended && !mt.IsInSync(c.Server) {
				out = append(out, fmt.Sprintf("%s on %s is not in sync", def.Name, c.Server))
			}
		}
	}
	for _, s := range v.Servers() {
		if !k.Library.World.Heard(s.Name) {
			out = append(out, string(s.Name)+" is not heard")
		}
		h, ok := k.World.Health(s.Name)
		if !ok {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(h.Sets)) {
			if set := h.Sets[name]; set.Priority == org.PriorityCritical && set.State.Red() {
				out = append(out, fmt.Sprintf("%s on %s is %s: %s", name, s.Name, set.State, set.Worst))
			}
		}
	}
	if len(out) > 5 {
		out = append(out[:5], fmt.Sprintf("%d more", len(out)-5))
	}
	return out
}

// run has the host start the installed program. The order names the run of the
// server that it is meant for, so that it is obeyed once.
func (k Kind) run(o Order, p org.Plan, s org.PlanStep) plan.Step {
	return plan.Step{Late: plan.Ask,
		Check: func(context.Context) plan.Finding {
			x, ok := k.Library.Ordered(p.ID, s.Server, org.OrderReexecute)
			if !ok {
				return plan.Finding{Wait: "for the order to be written"}
			}
			boot, version := k.World.Boot(s.Server)
			switch {
			case boot == "" || !k.Library.World.Heard(s.Server):
				return plan.Finding{Wait: fmt.Sprintf("for %s to be heard again", s.Server)}
			case boot == x.Boot:
				return plan.Finding{Wait: fmt.Sprintf("for %s to end its workers", s.Server), Stop: k.fault(s.Server)}
			case !o.RestartOnly && version != s.Detail:
				return plan.Finding{Stop: fmt.Sprintf("%s runs %s, %s was wanted", s.Server, version, s.Detail)}
			}
			return plan.Finding{Done: true, Note: "runs " + version}
		},
		Do: func(ctx context.Context, pen *plan.Pen) error {
			boot, _ := k.World.Boot(s.Server)
			return k.Library.OrderHost(ctx, pen, org.OrderReexecute, boot, o.By)
		}}
}

// calm waits until nothing was in doubt for a while after a server came back. A
// server that takes the plan over begins to count anew.
func (k Kind) calm(o Order, p org.Plan, s org.PlanStep) plan.Step {
	return plan.Step{Late: plan.Ask, Check: func(context.Context) plan.Finding {
		d := k.doubts()
		calm := k.calms.lasts(p.ID+" "+string(s.Server), len(d) == 0, k.Library.Now())
		if len(d) > 0 {
			return plan.Finding{Wait: "for calm: " + strings.Join(d, "; ")}
		}
		return plan.Finding{Done: calm >= o.Pause, Wait: fmt.Sprintf("for %s of calm", o.Pause)}
	}}
}
