package choose

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// ranked is a candidate with its place.
type ranked struct {
	Candidate
	level Level
	worst string // what speaks against the next better level
	round int
}

// Choose ranks the copies and tells which one to activate. It reads nothing
// but its argument, and the order of the candidates does not matter.
func Choose(q Question) Decision {
	var d Decision
	var fit []ranked
	for _, c := range q.Candidates {
		if why := q.excludes(c); why != "" {
			d.pass(ranked{Candidate: c}, why)
			continue
		}
		r := ranked{Candidate: c, round: q.round(c)}
		r.level, r.worst = q.level(c)
		if why := q.refusesHealth(c, r.level, r.worst); why != "" {
			d.pass(r, why)
			continue
		}
		fit = append(fit, r)
	}
	slices.SortFunc(fit, q.compare)
	for i, c := range fit {
		if !c.InSync {
			if why := q.refusesLoss(c.Candidate); why != "" {
				d.pass(c, why)
				continue
			}
		}
		d.take(q, c)
		for _, r := range fit[i+1:] {
			d.pass(r, fmt.Sprintf("ranked behind %s: %s", c.Server, q.behind(c, r)))
		}
		break
	}
	slices.SortStableFunc(d.Passed, func(a, b Passed) int { return cmp.Compare(a.Server, b.Server) })
	return d
}

func (d *Decision) pass(r ranked, why string) {
	d.Passed = append(d.Passed, Passed{r.Server, r.level, r.round, why})
}

// take makes c the target.
func (d *Decision) take(q Question, c ranked) {
	d.Target, d.Level, d.Round = c.Server, c.level, c.round
	d.Why = fmt.Sprintf("in sync, %s, preference %d, %s, round %d", c.describe(), c.Preference, c.level, c.round)
	if !c.InSync {
		d.Lossy, d.Missing = true, c.Missing
		d.Why = fmt.Sprintf("not in sync, %d log generations missing, allowed by dial %s; %s, %s, round %d",
			c.Missing, q.dial(c.Candidate), c.describe(), c.level, c.round)
	}
	if q.named(c.Candidate) {
		d.Warnings = q.warnings(c)
	}
}

// warnings are what would have kept a copy from being chosen that was named.
func (q Question) warnings(c ranked) []string {
	var out []string
	add := func(on bool, format string, args ...any) {
		if on {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	add(!q.Skip.Health && c.level == NoLevel && q.SourceServes, "%s is less healthy than %s: %s", c.Server, q.Source, c.worst)
	add(!q.Skip.CPU && c.CPUHigh, "processors of %s are overcommitted", c.Server)
	add(!q.Skip.ClientExperience && c.ContentIndex != "" && c.ContentIndex != org.IndexHealthy, "content index on %s is %s: searches are slow until it is made", c.Server, c.ContentIndex)
	add(!q.Skip.Maximum && c.overPreferred(), "%s has as many active databases as preferred, %d", c.Server, c.MaximumPreferred)
	add(!q.Skip.Suppression && c.BackOff > 0, "%s", c.backOff())
	add(c.Policy == org.ActivationBlocked, "activation policy of %s is Blocked", c.Server)
	return out
}

// excludes says why a copy is no candidate at all, empty when it is one.
func (q Question) excludes(c Candidate) string {
	named := q.named(c)
	switch {
	case c.Server == q.Source:
		return "it is the source"
	case q.To != "" && q.To != c.Server:
		return "another target was named"
	case !c.Reachable:
		return "its server is not reachable"
	}
	if why := q.Barred(c); why != "" {
		return why
	}
	switch {
	case q.comfort() && !named && !q.Skip.Maximum && c.overPreferred():
		return fmt.Sprintf("its server has as many active databases as preferred, %d", c.MaximumPreferred)
	case q.Purpose != Failover && !c.InSync && q.Dial == "":
		return "it is not in sync"
	}
	return q.excludesState(c, named)
}

// Barred says why a copy may not be activated by what people, or plans, decided
// about it and its server, empty where it may. It looks at nothing else, so that
// it can be asked once more before what was chosen is written.
func (q Question) Barred(c Candidate) string {
	named := q.named(c)
	switch {
	case c.Blocked != "":
		return c.Blocked
	case !named && c.Policy == org.ActivationBlocked:
		return "activation policy of its server is Blocked"
	case !named && c.Policy == org.ActivationIntrasite && q.Source != "" && c.Site != q.Site:
		return "activation policy of its server is IntrasiteOnly and it is in another site"
	case c.MaximumActive > 0 && c.ActiveNow >= c.MaximumActive:
		return fmt.Sprintf("its server has the most active databases it may, %d", c.MaximumActive)
	}
	return ""
}

// excludesState says what about the copy itself makes it no candidate.
func (q Question) excludesState(c Candidate, named bool) string {
	switch {
	case !settled(c.State) && !opening(c.State):
		return "it is " + string(cmp.Or(c.State, "in an unknown state"))
	case opening(c.State) && (q.Purpose == HealthMove || q.Purpose == Rebalance):
		return "it is " + string(c.State)
	case named && q.SourceServes && !q.Skip.Lag && c.longReplay():
		return fmt.Sprintf("%d log generations wait for replay there, clients would wait for them (--skip-lag)", c.ReplayQueue)
	case q.SourceServes && !q.Skip.Active && len(q.Seeds) > 0 && q.Purpose != HealthMove:
		return fmt.Sprintf("the active copy is the source of a seed of %s (--skip-active)", q.Seeds[0])
	case c.BackOff > 0 && q.comfort() && !named && !q.Skip.Suppression:
		return c.backOff()
	}
	return ""
}

// comfort tells that clients are served meanwhile: only then may a database stay
// where it is, or lose nothing but a better place, for a limit that is soft.
func (q Question) comfort() bool { return q.Purpose != Failover && q.SourceServes }

// named tells that a person, or a plan, said that it has to be this one.
func (q Question) named(c Candidate) bool { return q.To == c.Server && q.Purpose != Rebalance }

func (c Candidate) backOff() string {
	return fmt.Sprintf("it failed as target %d times, next try in %s", c.Failures, c.BackOff.Round(time.Second))
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
	case !q.SourceFenced || q.SourceServes:
		return "not in sync, and " + string(q.Source) + " may still confirm changes"
	}
	return ""
}
