package respond

import (
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// Grant is a deed that was allowed, in the row BudgetKey.
type Grant struct {
	ID     string         `json:"id"`
	At     time.Time      `json:"at"`
	Ended  time.Time      `json:"ended,omitzero"`
	Server org.ServerName `json:"server"`
	Action Action         `json:"action"`
	Target string         `json:"target,omitempty"`
	Failed bool           `json:"failed,omitempty"`
}

// Budget is what was granted in the last 24 hours; the row BudgetKey.
type Budget struct {
	Grants []Grant `json:"grants"`
}

// BudgetKey is the row of the group's Budget.
const BudgetKey = "recovery/budget"

// Limits of the budget.
const (
	budgetFor = 24 * time.Hour
	maxGrants = 1000
	// maxFailedMoves is how often a move of one target may fail in an hour.
	maxFailedMoves = 10
	// ahead is how far the wall time of a grant may lie in the future until it
	// counts as now: another server's clock was wrong.
	ahead = 10 * time.Minute
)

// Request asks whether a deed is allowed.
type Request struct {
	Server org.ServerName
	Action Action
	Target string
	// Mode is the recovery mode that holds for it.
	Mode Mode
	// Held says why the component recovery_actions holds deeds back, empty if
	// it does not; Clock why this server's clock is not believed.
	Held, Clock string
	Quorum      bool
	// Servers and Databases count the group's servers with mailboxes, and the
	// copies of databases on this server.
	Servers, Databases int
	Fast               bool
}

// Mode is whether deeds are done (recovery_mode).
type Mode string

// Recovery modes.
const (
	Act    Mode = "act"
	DryRun Mode = "dry-run"
	Off    Mode = "off"
)

// Spare is what the group has beside the server that asks.
type Spare struct {
	// Held says which plan holds the spare of the group, empty for none.
	Held string
	// Serving are the servers whose component is Active and Healthy, by component.
	Serving map[org.Component][]org.ServerName
	// Databases are those with a copy on the server that asks.
	Databases []DatabaseSpare
}

// DatabaseSpare is the redundancy of a database without one server.
type DatabaseSpare struct {
	Database org.DatabaseName
	InSync   []org.ServerName // others that are up and have a copy in sync
	Minimum  int              // how many of them have to remain
}

// Allow judges a request by the budget and the spare at a wall time: empty if
// the deed is allowed, else why not. It reads nothing but its arguments.
func Allow(b Budget, q Request, s Spare, now time.Time) (refused string) {
	if q.Action == Escalate {
		return ""
	}
	t := ThrottleOf(q.Action, q.Fast)
	if q.Action == RestartWorker && q.Target == HealthWorker {
		t.Spare, t.Takes = NoSpare, false // no user feels it
	}
	switch {
	case q.Mode == Off:
		return "recovery is off"
	case q.Held != "" && q.Action != Online:
		return "recovery actions are held back: " + q.Held
	case q.Clock != "":
		return "the clock is not trusted: " + q.Clock
	case !q.Quorum && !t.Alone:
		return "the group has no quorum"
	}
	b = b.at(now)
	if len(b.Grants) >= maxGrants && q.Action != Online {
		return fmt.Sprintf("%d deeds in %v are enough", len(b.Grants), budgetFor)
	}
	if why := b.throttled(t, q, now); why != "" {
		return why
	}
	if t.Takes && s.Held != "" {
		return "the spare of the group is held by " + s.Held
	}
	return b.spared(t, q, s, now)
}

// at is the budget as it counts at a time: old grants are gone, times ahead are now.
func (b Budget) at(now time.Time) Budget {
	out := make([]Grant, 0, len(b.Grants))
	for _, g := range b.Grants {
		if now.Sub(g.At) >= budgetFor {
			continue
		}
		if g.At.Sub(now) > ahead {
			g.At = now
		}
		out = append(out, g)
	}
	return Budget{out}
}

// With is the budget after a grant.
func (b Budget) With(g Grant, now time.Time) Budget {
	b = b.at(now)
	b.Grants = append(b.Grants, g)
	if n := len(b.Grants) - maxGrants; n > 0 { // only by Online, which is never kept back by the number
		b.Grants = b.Grants[n:]
	}
	return b
}

// Ended is the budget after the deed of a row has ended.
func (b Budget) Ended(row org.Recovery, now time.Time) Budget {
	b.Grants = slices.Clone(b.Grants)
	for i := range b.Grants {
		if b.Grants[i].ID == row.ID {
			b.Grants[i].Ended, b.Grants[i].Failed = now, row.Failed
		}
	}
	return b
}

func (b Budget) throttled(t Throttle, q Request, now time.Time) string {
	hour, day, group, failed, under := 0, 0, 0, 0, map[string]bool{}
	for i, g := range b.Grants {
		if g.Action != q.Action {
			continue
		}
		age := now.Sub(g.At)
		mine := g.Server == q.Server && g.Target == q.Target
		if g.Failed && g.Action.moves() { // it took nothing away
			if mine && age < time.Hour {
				failed++
			}
			continue
		}
		group++
		if mine {
			day++
			if age < time.Hour {
				hour++
			}
			if age < t.LocalGap {
				return fmt.Sprintf("%s %s was done here %v ago, the gap is %v", q.Action, q.Target, show(age), t.LocalGap)
			}
		}
		if g.Server != q.Server && age < t.GroupGap {
			return fmt.Sprintf("%s did %s %v ago, the gap in the group is %v", g.Server, q.Action, show(age), t.GroupGap)
		}
		if b.underWay(i, now) && !mine {
			under[q.key(g, t)] = true
		}
	}
	delete(under, q.key(Grant{Server: q.Server, Target: q.Target}, t))
	limit := t.AtOnce
	if t.ShareAtOnce > 0 {
		limit = (q.Servers + t.ShareAtOnce - 1) / t.ShareAtOnce
	}
	perDay := t.GroupDay + t.DayPerServer*q.Servers + t.DayPerDatabase*q.Databases
	switch {
	case failed >= maxFailedMoves:
		return fmt.Sprintf("%s %s failed here %d times in an hour", q.Action, q.Target, failed)
	case t.LocalHour > 0 && hour >= t.LocalHour:
		return fmt.Sprintf("%s %s was done here %d times in an hour", q.Action, q.Target, hour)
	case t.LocalDay > 0 && day >= t.LocalDay:
		return fmt.Sprintf("%s %s was done here %d times in a day", q.Action, q.Target, day)
	case perDay > 0 && group >= perDay:
		return fmt.Sprintf("the group did %s %d times in a day", q.Action, group)
	case limit > 0 && len(under) >= limit:
		return fmt.Sprintf("%s is under way %d times in the group, the limit is %d", q.Action, len(under), limit)
	}
	return ""
}

// key tells what "at once" counts: servers, but single moves.
func (q Request) key(g Grant, t Throttle) string {
	if t.AtOnce > 1 {
		return string(g.Server) + "/" + g.Target
	}
	return string(g.Server)
}

// underWay tells whether the deed of a grant may still be going on, or what it
// took out is still out.
func (b Budget) underWay(i int, now time.Time) bool {
	g := b.Grants[i]
	if now.Sub(g.At) >= underWay(g.Action) {
		return false
	}
	if g.Action != Offline && g.Action != RefuseWork {
		return g.Ended.IsZero()
	}
	for _, o := range b.Grants[i+1:] { // in the order of their commits
		if o.Action == Online && o.Server == g.Server && o.Target == g.Target {
			return false
		}
	}
	return true
}

// spared tells whether enough is left elsewhere, counting out what others were
// granted though the view may not show it yet.
func (b Budget) spared(t Throttle, q Request, s Spare, now time.Time) string {
	switch t.Spare {
	case SpareComponent:
		left := 0
		for _, srv := range s.Serving[org.Component(q.Target)] {
			if srv != q.Server && !b.takenOut(srv, q.Target, now) {
				left++
			}
		}
		if left == 0 {
			return fmt.Sprintf("no other server serves %s", q.Target)
		}
	case SpareDatabases:
		for _, d := range s.Databases {
			left := 0
			for _, srv := range d.InSync {
				if srv != q.Server && !b.takenOut(srv, "", now) {
					left++
				}
			}
			if left < d.Minimum {
				return fmt.Sprintf("%s has %d copies in sync elsewhere, %d have to remain", d.Database, left, d.Minimum)
			}
		}
	}
	return ""
}

// takenOut tells whether a grant may have taken a server out: as a whole, or for
// a component.
func (b Budget) takenOut(srv org.ServerName, component string, now time.Time) bool {
	for i, g := range b.Grants {
		if g.Server != srv || !b.underWay(i, now) {
			continue
		}
		switch g.Action {
		case RestartWorker, RebootHook:
			return true
		case Offline, RefuseWork:
			if g.Target == component {
				return true
			}
		case RestartService:
			if g.Target == component {
				return true
			}
		}
	}
	return false
}

func show(d time.Duration) time.Duration {
	if d < time.Minute {
		return d.Round(time.Second)
	}
	return d.Round(time.Minute)
}
