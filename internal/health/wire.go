package health

import (
	"time"

	"github.com/postern-mail/postern/internal/health/monitor"
	"github.com/postern-mail/postern/internal/health/respond"
	"github.com/postern-mail/postern/internal/org"
)

// What Desk and Engine say to each other over the admin socket, in CBOR. Times
// are ages: the monotonic clocks of two processes have no common beginning.

// Paths at the admin socket.
const (
	pathResults = "/health/results"
	pathState   = "/health/state"
	pathAct     = "/health/act"
	pathLog     = "/health/log"
)

// maxBody is the size of a request or an answer; a report of 2,000 monitors is
// a fifth of it.
const maxBody = 2 << 20

// wireResult is a result as it crosses.
type wireResult struct {
	Set     string          `cbor:"1,keyasint"`
	Probe   string          `cbor:"2,keyasint"`
	Target  string          `cbor:"3,keyasint,omitempty"`
	Outcome monitor.Outcome `cbor:"4,keyasint"`
	Value   float64         `cbor:"5,keyasint,omitempty"`
	Text    string          `cbor:"6,keyasint,omitempty"`
	Age     time.Duration   `cbor:"7,keyasint"`
	Took    time.Duration   `cbor:"8,keyasint"`
}

// news answers GET /health/results?boot=B&after=N.
type news struct {
	Boot    uint64       `cbor:"1,keyasint"` // of the Desk; another one begins at result 1
	Next    uint64       `cbor:"2,keyasint"` // what to ask after
	Results []wireResult `cbor:"3,keyasint"`
	// Targets are those that inside probes have now, by Set\Name; monitors of
	// others are forgotten.
	Targets map[string][]string `cbor:"4,keyasint"`
	Rules   rules               `cbor:"5,keyasint"`
}

// report is POST /health/state: how the Engine judges the server.
type report struct {
	Monitors []wireMonitor `cbor:"1,keyasint"`
	Seen     []sight       `cbor:"2,keyasint"` // of other servers
	Hung     []string      `cbor:"3,keyasint"` // outside probes
	// CPU is the share of a core in percent that the Engine used since the last report.
	Events []wireEvent `cbor:"4,keyasint"`
}

// wireMonitor is the state of one monitor about one target.
type wireMonitor struct {
	Set    string          `cbor:"1,keyasint"`
	Name   string          `cbor:"2,keyasint"`
	Target string          `cbor:"3,keyasint,omitempty"`
	State  org.HealthState `cbor:"4,keyasint"`
	Age    time.Duration   `cbor:"5,keyasint"` // in State
	Why    string          `cbor:"6,keyasint,omitempty"`
}

// wireEvent is an event that the mail worker emits for the Engine, so that the
// event list of the server has it.
type wireEvent struct {
	Code     int    `cbor:"1,keyasint"`
	Sentence string `cbor:"2,keyasint"`
}

// sight is what this server last saw of a component of another one, as a user would.
type sight struct {
	Server    org.ServerName `cbor:"1,keyasint"`
	Component org.Component  `cbor:"2,keyasint"`
	OK        bool           `cbor:"3,keyasint"`
	Age       time.Duration  `cbor:"4,keyasint"`
	Text      string         `cbor:"5,keyasint,omitempty"`
}

// sights is what a server publishes in section seenSection.
type sights struct {
	Seen []sight `cbor:"1,keyasint"`
}

// seenSection is the mesh section of sights.
const seenSection = "health-seen"

// answer answers POST /health/act.
type answer struct {
	Row   org.Recovery `cbor:"1,keyasint"`
	Error string       `cbor:"2,keyasint,omitempty"`
	Busy  bool         `cbor:"3,keyasint,omitempty"` // try again: another deed is under way
}

// order is what crosses to be done.
type order = respond.Order
