package probe

import (
	"context"
	"time"

	"github.com/postern-mail/postern/internal/health/monitor"
)

// Kind is what makes a probe run.
type Kind string

// Kinds of probes.
const (
	Recurrent    Kind = "recurrent"    // on a timer; the error is the result
	Check        Kind = "check"        // on a timer; the value is the result, a monitor has the limit
	Notification Kind = "notification" // a part of the program tells by itself
)

// Where says in which process a probe runs.
type Where string

// Places of probes.
const (
	Inside  Where = "inside"  // in the mail worker
	Outside Where = "outside" // in the health worker, as a client
)

// Reading is what a probe saw beside whether it passed.
type Reading struct {
	Value float64 // in the probe's Unit; what monitors Above and Below judge
	Text  string  // a few words for people; at most 256 bytes are kept
}

// Probe looks at one thing again and again.
type Probe struct {
	Set, Name string
	Kind      Kind
	Where     Where
	// Every is the pause between two runs, Timeout how long one may take.
	Every, Timeout time.Duration
	Unit           string // of Reading.Value, for people
	Doc            string // one sentence
	// Targets lists what the probe is about now, such as the databases that are
	// active here; nil where there is one thing only. It must not block.
	Targets func() []string
	// Run looks once; an error means that it failed. It must end when ctx does.
	// nil for notifications, and where the definition is only listed.
	Run func(ctx context.Context, target string) (Reading, error)
}

// Result is the result of one run, or one notification.
type Result struct {
	Set, Probe, Target string
	Outcome            monitor.Outcome
	Value              float64
	Text               string // the error, or the reading's words
	// At is when the run ended, as this process's clock had it; its monotonic
	// reading is what counts.
	At   time.Time
	Took time.Duration
	// Seq numbers the results of one process, from 1.
	Seq uint64
}
