package org

import (
	"encoding/json"
	"time"
)

// Plan is dangerous work in named steps, written before it runs. The primary
// Active Manager carries it out; a later one goes on where it was. Row plans/<id>.
type Plan struct {
	ID      string          `json:"id"`
	Kind    string          `json:"kind"`
	Title   string          `json:"title"`
	By      string          `json:"by,omitempty"`
	Why     string          `json:"why,omitempty"`
	Args    json.RawMessage `json:"args,omitempty"`
	Created time.Time       `json:"created"`
	State   PlanState       `json:"state"`
	// Owner is who carries it out, OwnerRevision the revision of the role it had.
	Owner         ServerName `json:"owner,omitempty"`
	OwnerRevision int64      `json:"owner_revision,omitempty"`
	Steps         []PlanStep `json:"steps"`
	Ended         time.Time  `json:"ended,omitzero"`
	Held          string     `json:"held,omitempty"` // what it waits for, or why it failed
	// Ask tells that a plan that is Held does not go on by itself: a person has to
	// look and resume it.
	Ask bool `json:"ask,omitempty"`
	// AbortedBy is who ended it, while what was done is undone and afterwards.
	AbortedBy string `json:"aborted_by,omitempty"`
}

// Step returns the first step that is to come or under way, the number of steps
// where there is none.
func (p Plan) Step() int {
	for i, s := range p.Steps {
		if s.State == StepWaiting || s.State == StepRunning {
			return i
		}
	}
	return len(p.Steps)
}

// PlanPrefix is what the rows of plans begin with.
const PlanPrefix = "plans/"

// PlanState is how far a plan is.
type PlanState string

// Plan states.
const (
	PlanPlanned PlanState = "Planned"
	PlanRunning PlanState = "Running"
	PlanHeld    PlanState = "Held"    // goes on by `plan resume` or when the reason ends
	PlanUndoing PlanState = "Undoing" // it failed or was aborted, and what was done is taken back
	PlanDone    PlanState = "Done"
	PlanFailed  PlanState = "Failed" // and not everything could be taken back
	PlanUndone  PlanState = "Undone" // it failed, and nothing of it is left
	PlanAborted PlanState = "Aborted"
)

// Ended tells whether nothing of the plan is to come.
func (s PlanState) Ended() bool {
	return s == PlanDone || s == PlanFailed || s == PlanUndone || s == PlanAborted
}

// PlanStep is one named step of a plan.
type PlanStep struct {
	Name     string        `json:"name"`
	Detail   string        `json:"detail,omitempty"`
	Server   ServerName    `json:"server,omitempty"`
	State    StepState     `json:"state"`
	Begun    time.Time     `json:"begun,omitzero"`
	Ended    time.Time     `json:"ended,omitzero"`
	Tries    int           `json:"tries,omitempty"`
	Error    string        `json:"error,omitempty"`
	Wait     string        `json:"wait,omitempty"` // what it waits for, in words
	Deadline time.Duration `json:"deadline,omitempty"`
}

// StepState is how far a step is.
type StepState string

// Step states.
const (
	StepWaiting StepState = "waiting"
	StepRunning StepState = "running"
	StepDone    StepState = "done"
	StepSkipped StepState = "skipped"
	StepFailed  StepState = "failed"
	StepUndone  StepState = "undone"
)
