package choose

import (
	"fmt"
	"strings"

	"github.com/postern-mail/postern/internal/org"
)

// Level is which of the health criteria a server meets, the best is the least
// (Exchange: the four checks of best copy and server selection).
type Level int

// Levels.
const (
	AllHealthy    Level = 1 + iota // every health set
	NormalHealthy                  // every one of priority normal and critical
	BetterThan                     // none worse than on the source, at least one better
	NotWorseThan                   // none worse than on the source
	NoLevel                        // worse than the source, or not known: only where the source serves nobody
)

func (l Level) String() string {
	switch l {
	case AllHealthy:
		return "all healthy"
	case NormalHealthy:
		return "normal and critical healthy"
	case BetterThan:
		return "better than the source"
	case NotWorseThan:
		return "not worse than the source"
	case NoLevel:
		return "no health criterion met"
	}
	return ""
}

// badness orders states for comparing servers. What is not watched counts as
// healthy.
func badness(s org.HealthState) int { return max(s.Badness(), org.HealthOK.Badness()) }

// fine is how bad a healthy set is.
var fine = org.HealthOK.Badness()

// state is how bad a set of a server is; unheard servers are Unavailable in
// every set, and a set that a server does not report is healthy.
func state(sets map[string]org.SetHealth, unheard bool, name string) int {
	if unheard {
		return badness(org.Unavailable)
	}
	if s, ok := sets[name]; ok {
		return badness(s.State)
	}
	return fine
}

// level tells which criterion the server of c meets, and which of its sets
// speaks against the next better one.
func (q Question) level(c Candidate) (Level, string) {
	l, worst := q.setsLevel(c)
	if !q.Skip.CPU && c.CPUHigh {
		l++
		worst = "its processors are overcommitted"
	}
	return min(l+Level(c.Health), NoLevel), worst
}

func (q Question) setsLevel(c Candidate) (Level, string) {
	if c.Unheard {
		if q.SourceUnheard {
			return NotWorseThan, "its health is not known"
		}
		return NoLevel, "its health is not known"
	}
	all, normal, least, name := true, true, fine, ""
	for n, s := range c.Sets {
		b := badness(s.State)
		if b <= fine {
			continue
		}
		all = false
		normal = normal && s.Priority == org.PriorityLow
		if b > least || b == least && n < name {
			least, name = b, n
		}
	}
	if all {
		return AllHealthy, ""
	}
	worst := fmt.Sprintf("%s is %s", name, c.Sets[name].State)
	if normal {
		return NormalHealthy, worst
	}
	better, worse := q.compareSets(c)
	switch {
	case worse != "":
		return NoLevel, worse
	case better:
		return BetterThan, worst
	}
	return NotWorseThan, worst
}

// compareSets tells whether any set is better than on the source, and names one
// that is worse. A set that only one of them reports is healthy on the other.
func (q Question) compareSets(c Candidate) (better bool, worse string) {
	name := ""
	for n := range c.Sets {
		theirs, here := state(c.Sets, false, n), state(q.SourceSets, q.SourceUnheard, n)
		better = better || theirs < here
		if theirs > here && (name == "" || n < name) {
			name = n
		}
	}
	for n := range q.SourceSets {
		better = better || state(c.Sets, false, n) < state(q.SourceSets, q.SourceUnheard, n)
	}
	if name == "" {
		return better, ""
	}
	worse = fmt.Sprintf("%s is %s", name, c.Sets[name].State)
	if !q.SourceUnheard {
		worse += ", worse than on the source"
	}
	return better, worse
}

// better tells whether what fails, a component or a health set with or without
// its target ("Volume/vol1"), is in a strictly better state on the server of c
// than on the source.
func (q Question) better(c Candidate) bool {
	here := worstOf(q.Failing, q.SourceSets)
	if q.FailingState != "" {
		here = max(here, badness(q.FailingState))
	}
	return worstOf(q.Failing, c.Sets) < here
}

// worstOf is the state of the worst set that concerns what fails.
func worstOf(failing string, sets map[string]org.SetHealth) int {
	worst := fine
	for name, s := range sets {
		if about(failing, name, s.Component) {
			worst = max(worst, badness(s.State))
		}
	}
	return worst
}

func about(failing, set string, c org.Component) bool {
	short, _, _ := strings.Cut(failing, "/")
	return set == failing || set == short || strings.HasPrefix(set, failing+".") || failing != "" && string(c) == failing
}

// refusesHealth says why the health of its server keeps c from being the
// target, empty when it does not.
func (q Question) refusesHealth(c Candidate, l Level, worst string) string {
	if q.Purpose == HealthMove {
		switch {
		case c.Unheard:
			return "its health is not known, and " + q.Failing + " has to be better there than on the source"
		case !q.SourceUnheard && !q.better(c):
			return q.Failing + " is no better there than on the source"
		}
	}
	if q.Skip.Health || q.named(c) {
		return ""
	}
	switch {
	case l == NoLevel && (q.SourceServes || q.Purpose == HealthMove):
		return "its server is less healthy than the source: " + worst
	case q.Purpose == Rebalance && l > NormalHealthy:
		return "its server is not healthy: " + worst
	}
	return ""
}
