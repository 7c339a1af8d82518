package safetynet

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// The states of a request.
const (
	StateNew             = "New"             // nobody has begun
	StateRunning         = "Running"         //
	StateCompleted       = "Completed"       // all that was kept is in the mailboxes
	StatePartlyCompleted = "PartlyCompleted" // of some servers' messages nobody knows
	StateDisabled        = "Disabled"        // an administrator holds it back
	StateFailed          = "Failed"          // some messages could not be delivered
	StateExpired         = "Expired"         // what it asks for is no longer kept
)

// Member is a server that delivered mail in the interval of a request, or may
// have.
type Member struct {
	Name org.ServerName
	// Away: it does not answer now, or is no longer in the group.
	Away bool
}

// Question is what the state of a request depends on.
type Question struct {
	Request org.SafetyNetRequest
	Parts   []org.SafetyNetPart
	Members []Member
	Copies  bool          // messages have copies on second servers
	Hold    time.Duration // how long messages are kept
	Now     time.Time
}

// State tells where a request is, and why it is not Completed where that does
// not follow from its parts. It reads nothing but its argument.
func State(q Question) (state, why string) {
	if q.Request.Disabled {
		return StateDisabled, ""
	}
	pending, unknown := q.left()
	switch {
	case len(pending) > 0 && q.Now.After(q.Request.To.Add(q.Hold)):
		return StateExpired, "nothing of its interval is kept any more; not done: " + strings.Join(pending, ", ")
	case len(q.Parts) == 0:
		return StateNew, ""
	case len(pending) > 0:
		return StateRunning, "not done: " + strings.Join(pending, ", ")
	case len(unknown) > 0:
		return StatePartlyCompleted, "what only these had is missing: " + strings.Join(unknown, ", ")
	}
	for _, p := range q.Parts {
		if p.State == org.SafetyNetFailed || p.Failed > 0 {
			return StateFailed, p.Error
		}
	}
	return StateCompleted, ""
}

// left lists what has still to be done, and the servers whose messages cannot
// all be had.
func (q *Question) left() (pending, unknown []string) {
	present := 0
	for _, m := range q.Members {
		own, copies := q.due(m)
		if own {
			pending = append(pending, string(m.Name))
		}
		if copies {
			unknown = append(unknown, string(m.Name))
		}
		if !m.Away {
			present++
		}
		for _, s := range q.Members {
			if copies && q.Copies && q.standsIn(s, m) {
				pending = append(pending, fmt.Sprintf("%s for %s", s.Name, m.Name))
			}
		}
	}
	if q.Copies && len(unknown) == 1 {
		unknown = nil // each of its messages had its copy on one that answered
	}
	if present == 0 {
		pending = append(pending, "all servers are away")
	}
	return pending, unknown
}

// due tells whether a server has to do its own part, and whether the others
// have to do theirs for it.
func (q *Question) due(m Member) (own, copies bool) {
	if p, ended := q.ended(m.Name, ""); ended {
		return false, p.Except != ""
	}
	return !m.Away, m.Away
}

// standsIn tells whether s has to answer for m, and has not.
func (q *Question) standsIn(s, m Member) bool {
	p, ended := q.ended(s.Name, m.Name)
	return s.Name != m.Name && !s.Away && !(ended && (p.Except == "" || !q.all(m)))
}

// all tells whether others have to answer also for the queue a server has now.
func (q *Question) all(m Member) bool {
	_, ended := q.ended(m.Name, "")
	return m.Away && !ended
}

// ended tells whether server is through with whose messages.
func (q *Question) ended(server, whose org.ServerName) (org.SafetyNetPart, bool) {
	for _, p := range q.Parts {
		if p.Server == server && p.For == whose && p.State != org.SafetyNetRunning {
			return p, true
		}
	}
	return org.SafetyNetPart{}, false
}

// members are the servers that a request concerns. margin is by how much clocks
// may differ.
func members(v *cluster.View, r *org.SafetyNetRequest, margin time.Duration, alive func(org.ServerName) bool) []Member {
	var out []Member
	for _, it := range v.Prefix(org.QueuePrefix) {
		var row org.QueueRow
		if json.Unmarshal(it.Value, &row) != nil || row.Server == "" {
			continue
		}
		_, member := v.Server(row.Server)
		if member || row.TakenUpTo == 0 || taken(&row, r, margin) { // else it had no deliveries in the interval
			out = append(out, Member{Name: row.Server, Away: !member || !alive(row.Server)})
		}
	}
	return out
}

// taken tells whether the messages of a server were taken from it since the
// interval began, as far as clocks can tell.
func taken(row *org.QueueRow, r *org.SafetyNetRequest, margin time.Duration) bool {
	return row.TakenUpTo > 0 && (row.TakenAt.IsZero() || !row.TakenAt.Before(r.From.Add(-2*margin)))
}

// queueOf is the queue row of a server, and its revision.
func queueOf(v *cluster.View, s org.ServerName) (row org.QueueRow, revision int64) {
	it, ok := v.Get(org.QueueKey(s))
	if !ok || json.Unmarshal(it.Value, &row) != nil {
		return org.QueueRow{}, it.Revision
	}
	return row, it.Revision
}

// Status is a request as it is listed.
type Status struct {
	Request    org.SafetyNetRequest `json:"request"`
	State      string               `json:"state"`
	Why        string               `json:"why,omitempty"`
	Parts      []org.SafetyNetPart  `json:"parts"`
	Found      int                  `json:"found"`
	Delivered  int                  `json:"delivered"`
	Duplicates int                  `json:"duplicates"`
	Failed     int                  `json:"failed"`
}
