package health

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/health/monitor"
	"github.com/postern-mail/postern/internal/health/respond"
)

// itemName is what a set, a probe, a monitor and a responder may be called.
var itemName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9.-]{0,63}$`)

// Limits of items.
const (
	maxItems  = 1000           // definitions
	leastTime = time.Second    // between two runs of a probe
	mostTime  = 24 * time.Hour // the same
)

// Check says what is wrong with items; a test of each room that brings some
// calls it. It fills in nothing.
func (x Items) Check() error {
	if n := len(x.Sets) + len(x.Probes) + len(x.Monitors); n > maxItems {
		return kind.Errorf(kind.Invalid, "health items: %d are more than %d", n, maxItems)
	}
	sets, probes, monitors := map[string]bool{}, map[string]Probe{}, map[string]bool{}
	for _, s := range x.Sets {
		if !itemName.MatchString(s.Name) || sets[s.Name] {
			return kind.Errorf(kind.Invalid, "health set %q: bad name or there twice", s.Name)
		}
		if s.Group == "" || s.Priority == "" {
			return kind.Errorf(kind.Invalid, "health set %s: no group or no priority", s.Name)
		}
		sets[s.Name] = true
	}
	for _, p := range x.Probes {
		id := p.Set + `\` + p.Name
		_, twice := probes[id]
		switch {
		case !sets[p.Set]:
			return kind.Errorf(kind.Invalid, "probe %s: there is no such health set", id)
		case !itemName.MatchString(p.Name) || twice:
			return kind.Errorf(kind.Invalid, "probe %s: bad name or there twice", id)
		case p.Where != Inside && p.Where != Outside:
			return kind.Errorf(kind.Invalid, "probe %s: place %q is not known", id, p.Where)
		case p.Kind != Notification && (p.Every < leastTime || p.Every > mostTime || p.Timeout <= 0 || p.Timeout > time.Hour):
			return kind.Errorf(kind.Invalid, "probe %s: interval %v or time-out %v is out of range", id, p.Every, p.Timeout)
		}
		probes[id] = p
	}
	for _, m := range x.Monitors {
		id := m.Set + `\` + m.Name
		switch _, ok := probes[m.probe()]; {
		case !sets[m.Set]:
			return kind.Errorf(kind.Invalid, "monitor %s: there is no such health set", id)
		case !itemName.MatchString(m.Name) || monitors[id]:
			return kind.Errorf(kind.Invalid, "monitor %s: bad name or there twice", id)
		case !ok:
			return kind.Errorf(kind.Invalid, "monitor %s: there is no probe %s", id, m.probe())
		}
		if bad := cmp.Or(m.Rule.Check(), monitor.CheckTimeline(m.Timeline), respond.CheckChain(m.Chain)); bad != "" {
			return kind.Errorf(kind.Invalid, "monitor %s: %s", id, bad)
		}
		monitors[id] = true
	}
	return nil
}

// probe is the whole name of the probe that the monitor reads.
func (m Monitor) probe() string {
	if strings.Contains(m.Probe, `\`) {
		return m.Probe
	}
	return m.Set + `\` + m.Probe
}

// sorted returns the items in the order of their names.
func (x Items) sorted() Items {
	x.Sets, x.Probes, x.Monitors = slices.Clone(x.Sets), slices.Clone(x.Probes), slices.Clone(x.Monitors)
	slices.SortFunc(x.Sets, func(a, b Set) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(x.Probes, func(a, b Probe) int { return cmp.Or(cmp.Compare(a.Set, b.Set), cmp.Compare(a.Name, b.Name)) })
	slices.SortFunc(x.Monitors, func(a, b Monitor) int { return cmp.Or(cmp.Compare(a.Set, b.Set), cmp.Compare(a.Name, b.Name)) })
	return x
}
