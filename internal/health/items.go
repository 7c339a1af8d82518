package health

import (
	"github.com/postern-mail/postern/internal/health/monitor"
	"github.com/postern-mail/postern/internal/health/probe"
	"github.com/postern-mail/postern/internal/health/respond"
	"github.com/postern-mail/postern/internal/org"
)

// The words of the packages inside, for the rooms that bring items.
type (
	// Probe looks at one thing again and again.
	Probe = probe.Probe
	// Kind is what makes a probe run.
	Kind = probe.Kind
	// Where says in which process a probe runs.
	Where = probe.Where
	// Reading is what a probe saw beside whether it passed.
	Reading = probe.Reading
	// Result is the result of one run of a probe, or of one notification.
	Result = probe.Result
	// Outcome is what a result says: passed, failed, timed out.
	Outcome = monitor.Outcome
	// Rule says when results mean that something is wrong.
	Rule = monitor.Rule
	// Step is an entry of a monitor's timeline.
	Step = monitor.Step
	// Chain is the responders of a monitor.
	Chain = respond.Chain
	// Responder is one step of a chain.
	Responder = respond.Responder
	// Action is what a responder may do.
	Action = respond.Action
	// Deed is an action that was granted.
	Deed = respond.Deed
	// Mode says what recovery actions may do.
	Mode = respond.Mode
	// Actor does deeds.
	Actor = respond.Actor
	// Rows is the agreed state.
	Rows = respond.Rows
	// Op changes one row.
	Op = respond.Op
	// DatabaseSpare is the redundancy of a database without one server.
	DatabaseSpare = respond.DatabaseSpare
	// Clock is wall time that is not believed when it jumps.
	Clock = respond.Clock
)

// Kinds and places of probes.
const (
	Recurrent    = probe.Recurrent
	Check        = probe.Check
	Notification = probe.Notification
	Inside       = probe.Inside
	Outside      = probe.Outside
)

// Outcomes of probes.
const (
	TimedOut = monitor.TimedOut
	Passed   = monitor.Passed
	Failed   = monitor.Failed
)

// Actions.
const (
	Escalate       = respond.Escalate
	RestartService = respond.RestartService
	RestartCopy    = respond.RestartCopy
	SuspendCopy    = respond.SuspendCopy
	RefuseWork     = respond.RefuseWork
	Offline        = respond.Offline
	Online         = respond.Online
	RestartWorker  = respond.RestartWorker
	MoveDatabase   = respond.MoveDatabase
	MoveDatabases  = respond.MoveDatabases
	Evacuate       = respond.Evacuate
	RebootHook     = respond.RebootHook
	MailWorker     = respond.MailWorker
	HealthWorker   = respond.HealthWorker
)

// Group is one of Exchange's four health groups.
type Group string

// Health groups.
const (
	TouchPoints  Group = "customer touch points"
	Services     Group = "service components"
	Resources    Group = "server resources"
	Dependencies Group = "key dependencies"
)

// Set is a health set: the items of one component.
type Set struct {
	Name     string
	Group    Group
	Priority org.HealthPriority
	// Component is the part of the server that the set is about; empty: none.
	Component org.Component
	// HA says that the set bears on where databases may be active.
	HA  bool
	Doc string
}

// Monitor judges the results of one probe.
type Monitor struct {
	Set, Name string
	// Probe is the name of a probe of the same set, or Set\Name.
	Probe string
	// Whole judges the results of all targets together; else each target has a
	// state and a chain of its own.
	Whole bool
	Rule  Rule
	// Timeline is the ladder; nil: monitor.DefaultTimeline.
	Timeline []Step
	Chain    Chain
	Doc      string
}

// Items are what a room brings.
type Items struct {
	Sets     []Set
	Probes   []Probe
	Monitors []Monitor
}

// Join puts the items of several rooms together. A set that several rooms name is
// that of the first.
func Join(all ...Items) Items {
	var out Items
	seen := map[string]bool{}
	for _, x := range all {
		for _, s := range x.Sets {
			if !seen[s.Name] {
				seen[s.Name] = true
				out.Sets = append(out.Sets, s)
			}
		}
		out.Probes = append(out.Probes, x.Probes...)
		out.Monitors = append(out.Monitors, x.Monitors...)
	}
	return out
}
