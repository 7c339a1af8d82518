package drill

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// Most of what a report names.
const (
	mostChanges = 50
	mostDeeds   = 50
)

// describe fills in what people want to read besides figures: how was measured,
// what was done, by the drill and by the group itself, and what is otherwise
// afterwards.
func (r *Report) describe(o Order, p org.Plan, v *cluster.View) {
	r.Method = fmt.Sprintf("%s each wrote a message into a mailbox of their own in %s every %s and read it back; what failed was tried again until it succeeded, and counts from the first try. At the end every confirmed message was looked for.",
		names(o.Meters), names(o.Databases), meterEvery)
	r.Rule = fmt.Sprintf("nobody waits longer than %s, nothing is lost or doubled, every copy is in sync again at the end", o.Allowed)
	if o.Exercise == Restore {
		r.Method += " Messages of known content were written into the health mailbox, removed, and recovered as postern mailbox recover does; content, dates, flags and keywords of what came back were compared."
		r.Rule += ", and every message comes back as it was"
	}
	if p.State == org.PlanUndoing {
		r.Failed = p.Held
	}
	for _, s := range p.Steps {
		if s.Name == StepReport {
			continue
		}
		x := Step{Step: s.Name, Server: s.Server, State: s.State, Begun: s.Begun, Detail: cmp.Or(s.Error, s.Detail)}
		if !s.Begun.IsZero() && !s.Ended.IsZero() {
			x.Took = s.Ended.Sub(s.Begun).Round(time.Millisecond)
		}
		r.Steps = append(r.Steps, x)
	}
	r.Changed, r.Behind = changes(o.Active, v)
	r.Deeds = deeds(v, r.Begun, r.Ended)
}

// changes are what is otherwise than it was, in words, and the copies that are not
// in sync.
func changes(before map[org.DatabaseName]org.ServerName, v *cluster.View) (changed, behind []string) {
	for _, def := range v.Databases() {
		mt, _ := v.Mount(def.Name)
		was, known := before[def.Name]
		switch {
		case !known:
			changed = append(changed, fmt.Sprintf("%s was made meanwhile", def.Name))
		case was != mt.Active:
			changed = append(changed, fmt.Sprintf("%s is active on %s, it was on %s", def.Name, cmp.Or(mt.Active, "no server"), cmp.Or(was, "no server")))
		}
		for _, c := range def.Copies {
			if !c.Suspended && !mt.IsInSync(c.Server) {
				behind = append(behind, fmt.Sprintf("%s on %s is not in sync", def.Name, c.Server))
			}
		}
	}
	return shorten(changed, mostChanges), shorten(behind, mostChanges)
}

func shorten(list []string, most int) []string {
	if n := len(list); n > most {
		return append(list[:most], fmt.Sprintf("%d more", n-most))
	}
	return list
}

// deeds are the entries of the recovery log that were begun in a span of time,
// oldest first.
func deeds(v *cluster.View, from, to time.Time) (out []Deed) {
	for _, it := range v.Prefix(org.RecoveryPrefix) {
		var x org.Recovery
		if json.Unmarshal(it.Value, &x) != nil || x.DryRun || !x.Allowed || x.Begun.Before(from) || x.Begun.After(to) {
			continue
		}
		out = append(out, Deed{At: x.Begun, Server: x.Server, Action: x.Action, Target: x.Target, Cause: x.Cause, Result: x.Result, ID: x.ID})
	}
	slices.SortStableFunc(out, func(a, b Deed) int { return a.At.Compare(b.At) })
	return out[:min(len(out), mostDeeds)]
}
