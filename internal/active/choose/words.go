package choose

import (
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// Limits of queue lengths, in log generations, as in Exchange's rounds.
const (
	copyQueueLimit   = 10
	replayQueueLimit = 50
)

// Candidate is what is known of one copy and its server.
type Candidate struct {
	Server     org.ServerName `json:"server"`
	Site       org.SiteName   `json:"site,omitempty"`
	Preference int            `json:"preference"`
	State      org.CopyState  `json:"state"`
	InSync     bool           `json:"in_sync,omitempty"`
	// Missing is how many log generations this copy lacks of what the former
	// active was last known to have: its copy queue.
	Missing     uint64 `json:"missing,omitempty"`
	ReplayQueue uint64 `json:"replay_queue,omitempty"`
	// Lagged tells that the copy replays late on purpose. All it has not
	// replayed has to be replayed first, so its replay queue counts as long.
	Lagged bool `json:"lagged,omitempty"`
	// ContentIndex is the state of its search index; empty counts as Healthy.
	ContentIndex org.IndexState `json:"content_index,omitempty"`
	// Reachable tells that the server is a live member.
	Reachable bool `json:"reachable,omitempty"`
	// Blocked says why an administrator, a plan or a component state does not
	// want it active, empty otherwise.
	Blocked string               `json:"blocked,omitempty"`
	Policy  org.ActivationPolicy `json:"policy,omitempty"`
	// ActiveNow counts databases active on the server; the maxima are 0 for none.
	ActiveNow        int           `json:"active_now,omitempty"`
	MaximumActive    int           `json:"maximum_active,omitempty"`
	MaximumPreferred int           `json:"maximum_preferred,omitempty"`
	Dial             org.MountDial `json:"dial,omitempty"`
	// Sets are the health sets of the server; Unheard tells that it has not
	// reported them lately, so that nothing good is known of it.
	Sets    map[string]org.SetHealth `json:"-"`
	Unheard bool                     `json:"unheard,omitempty"`
	// CPUHigh tells that work waits for a processor there: one level worse.
	CPUHigh bool `json:"cpu_high,omitempty"`
	// Health is by how many levels its server counts as worse for other reasons.
	Health int `json:"health,omitempty"`
	// BackOff is how long the server is still avoided for this database, as it
	// failed as its target Failures times in a row.
	BackOff  time.Duration `json:"back_off,omitempty"`
	Failures int           `json:"failures,omitempty"`
}

// Purpose is why a copy is sought.
type Purpose string

// Purposes.
const (
	Failover   Purpose = "failover"   // the active copy is gone
	Switchover Purpose = "switchover" // an administrator or a plan moves it
	Rebalance  Purpose = "rebalance"  // back to where it should be
	// HealthMove is a move that a responder of Managed Availability ordered.
	HealthMove Purpose = "health move"
)

// Skip drops single checks of a move by hand (Exchange:
// Move-ActiveMailboxDatabase -Skip...). The hard maximum is never dropped, nor
// what keeps changes safe.
type Skip struct {
	Health           bool `json:"health,omitempty"`            // server health
	Active           bool `json:"active,omitempty"`            // that the active copy is the source of a seed
	Lag              bool `json:"lag,omitempty"`               // queue lengths
	ClientExperience bool `json:"client_experience,omitempty"` // content index
	Maximum          bool `json:"maximum,omitempty"`           // preferred maximum
	CPU              bool `json:"cpu,omitempty"`
	Suppression      bool `json:"suppression,omitempty"` // back-off of servers that failed as target
}

// SkipAll drops every check that can be dropped.
func SkipAll() Skip { return Skip{true, true, true, true, true, true, true} }

// Question is everything a decision may look at.
type Question struct {
	Database org.DatabaseName `json:"database"`
	Purpose  Purpose          `json:"purpose"`
	Source   org.ServerName   `json:"source,omitempty"` // active until now, empty for none
	Site     org.SiteName     `json:"site,omitempty"`   // of the source
	// SourceServes tells that clients are served by the source: only then a
	// target may be too bad to be taken.
	SourceServes bool `json:"source_serves,omitempty"`
	// SourceFenced tells that the source can no longer confirm anything by
	// itself: its lease ended. A lossy mount waits for that.
	SourceFenced bool `json:"source_fenced,omitempty"`
	// SourceSets are the health sets of the source, SourceUnheard that it has not
	// reported them lately.
	SourceSets    map[string]org.SetHealth `json:"-"`
	SourceUnheard bool                     `json:"source_unheard,omitempty"`
	// Seeds names the copies that are being seeded from the source.
	Seeds []org.ServerName `json:"seeds,omitempty"`
	// Failing is the component or health set that a HealthMove was ordered for;
	// it has to be better on the target than on the source.
	Failing string `json:"failing,omitempty"`
	// FailingState is how bad that is on the source at least: a monitor that has
	// just turned may order a move before its server has published the state.
	FailingState org.HealthState `json:"failing_state,omitempty"`
	// To is the target an administrator named, empty for any.
	To org.ServerName `json:"to,omitempty"`
	// Dial overrides the servers' own mount dials, empty for none.
	Dial org.MountDial `json:"dial,omitempty"`
	Skip Skip          `json:"skip,omitzero"`
	// PreferSite ranks servers of the source's site before others.
	PreferSite bool        `json:"prefer_site,omitempty"`
	Candidates []Candidate `json:"candidates"`
}

// Passed tells why a candidate was not taken. Level and Round are zero where it
// was excluded before they were looked at.
type Passed struct {
	Server org.ServerName `json:"server"`
	Level  Level          `json:"level,omitempty"`
	Round  int            `json:"round,omitempty"`
	Why    string         `json:"why"`
}

// Decision is the answer. Target is empty when no copy may be activated.
type Decision struct {
	Target  org.ServerName `json:"target,omitempty"`
	Lossy   bool           `json:"lossy,omitempty"`
	Missing uint64         `json:"missing,omitempty"` // log generations, of a lossy mount
	Level   Level          `json:"level,omitempty"`
	Round   int            `json:"round,omitempty"`
	Why     string         `json:"why,omitempty"`
	Passed  []Passed       `json:"passed,omitempty"`
	// Warnings are what speaks against a target that was named.
	Warnings []string `json:"warnings,omitempty"`
}

// String is the decision as one sentence.
func (d Decision) String() string {
	var b strings.Builder
	if d.Target == "" {
		b.WriteString("no copy can be activated")
	} else {
		fmt.Fprintf(&b, "activate on %s: %s", d.Target, d.Why)
	}
	for _, p := range d.Passed {
		fmt.Fprintf(&b, "; not %s: %s", p.Server, p.Why)
	}
	return b.String()
}
