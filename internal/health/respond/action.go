package respond

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// Action is what a responder may do.
type Action string

// Actions, from the smallest to the largest.
const (
	Escalate       Action = "Escalate"       // tell people; always allowed
	RestartService Action = "RestartService" // target: a service of node (smtp, imap, ...)
	RestartCopy    Action = "RestartCopy"    // target: a database whose copy here begins anew
	SuspendCopy    Action = "SuspendCopy"    // target: a database; suspended by the system
	RefuseWork     Action = "RefuseWork"     // target: component; new work is refused for a while
	Offline        Action = "Offline"        // target: component, for HealthAPI
	Online         Action = "Online"         // target: component; ends what Offline did
	RestartWorker  Action = "RestartWorker"  // target: mail or health
	MoveDatabase   Action = "MoveDatabase"   // target: database; only to a better copy
	MoveDatabases  Action = "MoveDatabases"  // target: volume; all active databases on it
	Evacuate       Action = "Evacuate"       // all active databases of this server
	RebootHook     Action = "RebootHook"     // a command of the operator's; off by default
)

// moves tells whether a only moves databases: one that failed took nothing away.
func (a Action) moves() bool { return a == MoveDatabase || a == MoveDatabases || a == Evacuate }

// Targets of RestartWorker.
const (
	MailWorker   = "mail"
	HealthWorker = "health"
)

// Deed is an action that was granted, as the Actor gets it.
type Deed struct {
	ID     string // of its row in the recovery log
	Action Action
	Target string
	// Component is the part that fails, empty where none is tied to it: a target
	// of a move has to be better in it.
	Component org.Component
	Set       string          // health set of the monitor
	Monitor   string          // Set\Name, with \Target
	State     org.HealthState // of the monitor
	Why       string          // one sentence
	// Lossless asks Evacuate to move only what loses nothing and has somewhere
	// better to go.
	Lossless bool
}

// Actor does deeds. Only Gate calls it. It returns when the deed has ended or
// ctx has, with one sentence about what became of it; an error means that it
// failed, and the chain goes on at the next state.
type Actor interface {
	Act(ctx context.Context, d Deed) (result string, err error)
}

// Responder is one step of a chain: what is done when its monitor enters a state.
type Responder struct {
	Name   string
	At     org.HealthState // the state that fires it; HealthOK: when all is well again
	After  time.Duration   // how long the state must have lasted
	Wait   time.Duration   // time given to the deed before the next step fires
	Action Action
	// Target is what the deed is done to; empty: the monitor's target.
	Target string
	// Second asks for a second opinion: without a server that agrees it is not done.
	Second   bool
	Lossless bool
	// Again is after which time a deed that failed is tried once more while the
	// monitor is red, within the limits of its action; 0: never.
	Again time.Duration
}

// Chain is the responders of a monitor in the order in which they are tried.
type Chain struct {
	Name  string // letter in docs/design/health.md, 3.6
	Steps []Responder
}

// actions are the known ones.
var actions = []Action{Escalate, RestartService, RestartCopy, SuspendCopy, RefuseWork, Offline, Online, RestartWorker,
	MoveDatabase, MoveDatabases, Evacuate, RebootHook}

// CheckChain says what is wrong with a chain, empty for nothing.
func CheckChain(c Chain) string {
	if len(c.Steps) > 16 {
		return fmt.Sprintf("chain %s has more than 16 steps", c.Name)
	}
	names := map[string]bool{}
	for _, r := range c.Steps {
		switch {
		case r.Name == "" || names[r.Name]:
			return fmt.Sprintf("chain %s: responder %q is there twice or has no name", c.Name, r.Name)
		case !slices.Contains(actions, r.Action):
			return fmt.Sprintf("responder %s: action %q is not known", r.Name, r.Action)
		case r.At != org.HealthOK && !r.At.Red():
			return fmt.Sprintf("responder %s: nothing enters the state %q", r.Name, r.At)
		case (r.Action == Offline || r.Action == Online || r.Action == RestartService) && r.Target == "":
			return fmt.Sprintf("responder %s: %s needs a target", r.Name, r.Action)
		case min(r.After, r.Wait, r.Again) < 0 || max(r.After, r.Wait, r.Again) > time.Hour:
			return fmt.Sprintf("responder %s: times are not from 0 to 1 h", r.Name)
		}
		names[r.Name] = true
	}
	return ""
}
