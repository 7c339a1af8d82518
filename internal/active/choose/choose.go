// Package choose decides, from values alone, which copy of a database should
// become the active one, and says why the others were passed over
// (Exchange: best copy and server selection).
package choose

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/org"
)

// Limits of queue lengths, in log generations, as in Exchange's rounds.
const (
	copyQueueLimit   = 10
	replayQueueLimit = 50
)

// Candidate is what is known of one copy and its server.
type Candidate struct {
	Server     org.ServerName
	Site       org.SiteName
	Preference int
	State      org.CopyState
	InSync     bool
	// Missing is how many log generations this copy lacks of what the former
	// active was last known to have.
	Missing     uint64
	ReplayQueue uint64
	// Reachable tells that the server is a live member.
	Reachable bool
	// Blocked says why an administrator does not want it active, empty otherwise.
	Blocked string
	Policy  org.ActivationPolicy
	// ActiveNow counts databases active on the server; the maxima are 0 for none.
	ActiveNow, MaximumActive, MaximumPreferred int
	Dial                                       org.MountDial
	// Health orders servers by how well they are: 0 is best. Server health
	// from Managed Availability has its place here.
	Health int
}

// Purpose is why a copy is sought.
type Purpose string

// Purposes.
const (
	Failover   Purpose = "failover"   // the active copy is gone
	Switchover Purpose = "switchover" // an administrator moves it
	Rebalance  Purpose = "rebalance"  // back to the preferred server
)

// Question is everything a decision may look at.
type Question struct {
	Database org.DatabaseName
	Purpose  Purpose
	Source   org.ServerName // active until now, empty for none
	Site     org.SiteName   // of the source
	// SourceFenced tells that the source can no longer confirm anything by
	// itself: its lease ended. A lossy mount waits for that.
	SourceFenced bool
	// To is the target an administrator named, empty for any.
	To org.ServerName
	// Dial overrides the servers' own mount dials, empty for none.
	Dial       org.MountDial
	Candidates []Candidate
}

// Passed tells why a candidate was not taken.
type Passed struct {
	Server org.ServerName `json:"server"`
	Why    string         `json:"why"`
}

// Decision is the answer. Target is empty when no copy may be activated.
type Decision struct {
	Target  org.ServerName `json:"target"`
	Lossy   bool           `json:"lossy"`
	Missing uint64         `json:"missing"` // log generations, of a lossy mount
	Why     string         `json:"why"`
	Passed  []Passed       `json:"passed"`
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

// Choose ranks the copies and tells which one to activate. It reads nothing
// but its argument.
func Choose(q Question) Decision {
	var d Decision
	var fit []Candidate
	for _, c := range q.Candidates {
		if why := q.excludes(c); why != "" {
			d.Passed = append(d.Passed, Passed{c.Server, why})
			continue
		}
		fit = append(fit, c)
	}
	slices.SortStableFunc(fit, q.compare)
	for i, c := range fit {
		if c.InSync {
			d.Target = c.Server
			d.Why = fmt.Sprintf("in sync, %s, replay queue %d, preference %d", c.State, c.ReplayQueue, c.Preference)
			d.passRest(fit[i+1:], "ranked behind "+string(c.Server))
			return d
		}
		if why := q.refusesLoss(c); why != "" {
			d.Passed = append(d.Passed, Passed{c.Server, why})
			continue
		}
		d.Target, d.Lossy, d.Missing = c.Server, true, c.Missing
		d.Why = fmt.Sprintf("not in sync, %d log generations missing, allowed by dial %s", c.Missing, q.dial(c))
		d.passRest(fit[i+1:], "ranked behind "+string(c.Server))
		return d
	}
	return d
}

func (d *Decision) passRest(rest []Candidate, why string) {
	for _, c := range rest {
		d.Passed = append(d.Passed, Passed{c.Server, why})
	}
}

// excludes says why a copy is no candidate at all, empty when it is one.
func (q Question) excludes(c Candidate) string {
	named := q.To == c.Server
	switch {
	case c.Server == q.Source:
		return "it is the source"
	case q.To != "" && !named:
		return "another target was named"
	case !c.Reachable:
		return "its server is not reachable"
	case c.Blocked != "":
		return c.Blocked
	case !named && c.Policy == org.ActivationBlocked:
		return "activation policy of its server is Blocked"
	case !named && c.Policy == org.ActivationIntrasite && q.Source != "" && c.Site != q.Site:
		return "activation policy of its server is IntrasiteOnly and it is in another site"
	case c.MaximumActive > 0 && c.ActiveNow >= c.MaximumActive:
		return fmt.Sprintf("its server has the most active databases it may, %d", c.MaximumActive)
	case q.Purpose != Failover && !named && c.MaximumPreferred > 0 && c.ActiveNow >= c.MaximumPreferred:
		return fmt.Sprintf("its server has as many active databases as preferred, %d", c.MaximumPreferred)
	case q.Purpose != Failover && !c.InSync && q.Dial == "":
		return "it is not in sync"
	}
	switch c.State {
	case org.CopyHealthy, org.CopyDisconnectedAndHealthy, org.CopyMounted, org.CopyMounting:
	case org.CopyInitializing, org.CopyResynchronizing, org.CopyDismounted:
		// Without an active copy to follow, a copy stays in these states;
		// what it lacks is counted, and the dial decides.
	default:
		return "it is " + string(cmp.Or(c.State, "in an unknown state"))
	}
	return ""
}

// dial is the mount dial that counts for a candidate.
func (q Question) dial(c Candidate) org.MountDial {
	return cmp.Or(q.Dial, c.Dial, org.DialLossless)
}

// refusesLoss says why a copy that is not in sync may not be mounted.
func (q Question) refusesLoss(c Candidate) string {
	dial := q.dial(c)
	switch {
	case dial == org.DialLossless:
		return "not in sync, and dial Lossless allows no loss"
	case dial == org.DialBestEffort && q.Dial == "":
		return "dial BestEffort counts only for a move by hand"
	case c.Missing > dial.MissingAllowed():
		return fmt.Sprintf("%d log generations missing, dial %s allows %d", c.Missing, dial, dial.MissingAllowed())
	case !q.SourceFenced:
		return "not in sync, and " + string(q.Source) + " may still confirm changes"
	}
	return ""
}

// compare orders candidates, best first: no loss before loss, then server health,
// the preferred maximum, copy state, queues, preference, name.
func (q Question) compare(a, b Candidate) int {
	return cmp.Or(
		boolFirst(a.InSync, b.InSync),
		cmp.Compare(a.Health, b.Health),
		boolFirst(!a.overPreferred(), !b.overPreferred()),
		boolFirst(a.State != org.CopyInitializing, b.State != org.CopyInitializing),
		boolFirst(a.ReplayQueue < replayQueueLimit, b.ReplayQueue < replayQueueLimit),
		boolFirst(a.Missing < copyQueueLimit, b.Missing < copyQueueLimit),
		q.compareMissing(a, b),
		cmp.Compare(a.Preference, b.Preference),
		cmp.Compare(a.ReplayQueue, b.ReplayQueue),
		cmp.Compare(a.Server, b.Server),
	)
}

// compareMissing prefers the copy that lacks least; between copies in sync
// nothing is missing, whatever a report says that is a moment old.
func (q Question) compareMissing(a, b Candidate) int {
	if a.InSync && b.InSync {
		return 0
	}
	return cmp.Compare(a.Missing, b.Missing)
}

func (c Candidate) overPreferred() bool {
	return c.MaximumPreferred > 0 && c.ActiveNow >= c.MaximumPreferred
}

func boolFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}
