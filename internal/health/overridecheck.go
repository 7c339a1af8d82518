package health

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/health/monitor"
	"github.com/postern-mail/postern/internal/health/probe"
	"github.com/postern-mail/postern/internal/org"
)

// checkOverride says whether a new override means something, has a bound and
// leaves enough that watches. all are those that hold already.
func checkOverride(items Items, all []org.Override, o org.Override, force bool, now time.Time) error {
	if n := bounds(o); n != 1 {
		return kind.WithHint(kind.Errorf(kind.Invalid, "override %s: %d bounds, want one", o.Item, n),
			"give --for, --version or --until-removed")
	}
	switch {
	case !o.Until.IsZero() && (!o.Until.After(now) || o.Until.Sub(now) > 366*24*time.Hour):
		return kind.Errorf(kind.Invalid, "override %s: it ends at %s, want a time within a year", o.Item, o.Until.Format(time.RFC3339))
	case len(all) >= maxOverrides:
		return kind.WithHint(kind.Errorf(kind.Full, "%d overrides are enough", len(all)), "postern health override list")
	case len(o.Why) > 500 || len(o.Value) > 100 || len(o.Item) > 300:
		return kind.Errorf(kind.Invalid, "override %s: value, item or reason is too long", o.Item)
	}
	if err := checkValue(items, o); err != nil {
		return err
	}
	if o.Property != propEnabled || o.Value != "false" {
		return nil
	}
	why := disables(items, all, o)
	if why == "" {
		return nil
	}
	if force && !o.Until.IsZero() && o.Until.Sub(now) <= time.Hour {
		return nil
	}
	return kind.WithHint(kind.Errorf(kind.Denied, "override %s: %s", o.Item, why), "with --force it is possible for at most one hour (--for 1h)")
}

// bounds counts what ends an override; exactly one is wanted.
func bounds(o org.Override) (n int) {
	for _, has := range []bool{!o.Until.IsZero(), o.Version != "", o.UntilRemoved} {
		if has {
			n++
		}
	}
	return n
}

// checkValue checks item, property and value by applying them.
func checkValue(items Items, o org.Override) error {
	parts := strings.SplitN(o.Item, `\`, 3)
	if len(parts) < 2 {
		return kind.WithHint(kind.Errorf(kind.Invalid, "override: item %q is not Set\\Item or Set\\Item\\Target", o.Item), "postern health definitions")
	}
	target := ""
	if len(parts) == 3 {
		target = parts[2]
	}
	r := rules{Overrides: []org.Override{o}}
	switch o.Type {
	case typeProbe:
		for _, p := range items.Probes {
			if p.Set == parts[0] && p.Name == parts[1] {
				return checkProbe(r, p, target, o)
			}
		}
	case typeMonitor:
		for _, m := range items.Monitors {
			if m.Set == parts[0] && m.Name == parts[1] {
				return checkMonitor(r, m, target, o)
			}
		}
	case typeResponder:
		for _, m := range items.Monitors {
			for _, x := range m.Chain.Steps {
				if m.Set == parts[0] && m.Name+"."+x.Name == parts[1] {
					return checkProperty(o, propEnabled, propAfter)
				}
			}
		}
	default:
		return kind.Errorf(kind.Invalid, "override %s: type %q is not probe, monitor or responder", o.Item, o.Type)
	}
	return kind.WithHint(kind.Errorf(kind.NotFound, "override: there is no %s %s", o.Type, o.Item), "names are case-sensitive; see postern health definitions")
}

func checkProbe(r rules, p Probe, target string, o org.Override) error {
	if err := checkProperty(o, propEnabled, propInterval, propTimeout); err != nil {
		return err
	}
	n, _ := r.probe(p, target)
	if p.Kind != Notification && (n.Every < leastTime || n.Timeout <= 0) {
		return kind.Errorf(kind.Invalid, "override %s: %s %s is out of range", o.Item, o.Property, o.Value)
	}
	return nil
}

func checkMonitor(r rules, m Monitor, target string, o org.Override) error {
	if state, ok := strings.CutPrefix(o.Property, propTransition); ok {
		return checkTransition(m, org.HealthState(state), o)
	}
	if err := checkProperty(o, propEnabled, propThreshold, propWindow, propSamples); err != nil {
		return err
	}
	n, _ := r.monitor(m, target)
	if bad := n.Rule.Check(); bad != "" {
		return kind.Errorf(kind.Invalid, "override %s: %s", o.Item, bad)
	}
	return nil
}

func checkTransition(m Monitor, state org.HealthState, o org.Override) error {
	steps := m.Timeline
	if len(steps) == 0 {
		steps = DefaultTimeline()
	}
	i := slices.IndexFunc(steps, func(s Step) bool { return s.State == state })
	if i < 0 {
		return kind.Errorf(kind.Invalid, "override %s: its timeline has no state %q", o.Item, state)
	}
	f, err := strconv.ParseFloat(o.Value, 64)
	if err != nil || f < 0 || f > 86400 {
		return kind.Errorf(kind.Invalid, "override %s: %q is no number of seconds of at most a day", o.Item, o.Value)
	}
	next := slices.Clone(steps)
	next[i].After = time.Duration(f * float64(time.Second))
	if bad := monitor.CheckTimeline(next); bad != "" {
		return kind.Errorf(kind.Invalid, "override %s: %s", o.Item, bad)
	}
	return nil
}

// checkProperty checks the name of a property and the form of its value.
func checkProperty(o org.Override, known ...string) error {
	if !slices.Contains(known, o.Property) {
		return kind.WithHint(kind.Errorf(kind.Invalid, "override %s: a %s has no property %q", o.Item, o.Type, o.Property), "known are "+strings.Join(known, ", "))
	}
	if o.Property == propEnabled {
		if o.Value != "true" && o.Value != "false" {
			return kind.Errorf(kind.Invalid, "override %s: Enabled is true or false, not %q", o.Item, o.Value)
		}
		return nil
	}
	f, err := strconv.ParseFloat(o.Value, 64)
	whole := o.Property != propSamples || f == float64(int(f))
	secs := o.Property != propThreshold && o.Property != propSamples
	if err != nil || !whole || f != f || f < 0 || secs && f > 86400 || f > 1e18 {
		return kind.Errorf(kind.Invalid, "override %s: %s %q is no number in range", o.Item, o.Property, o.Value)
	}
	return nil
}

// disables says what a new override would switch off, with all that hold
// already, that may not be, empty for nothing: every monitor of the critical
// sets, the last monitor of one of them, or more than half of all items. What is
// off for each target is off.
func disables(items Items, all []org.Override, o org.Override) string {
	targets := items.targets()
	before, _ := rules{Overrides: all}.watching(items, targets)
	after, off := rules{Overrides: append(slices.Clone(all), o)}.watching(items, targets)
	criticals, left := 0, 0
	blind := ""
	for _, s := range items.Sets {
		if s.Priority != org.PriorityCritical {
			continue
		}
		criticals += before[s.Name]
		left += after[s.Name]
		if before[s.Name] > 0 && after[s.Name] == 0 {
			blind = s.Name
		}
	}
	switch total := len(items.Probes) + len(items.Monitors); {
	case criticals > 0 && left == 0:
		return "no monitor of a critical health set would be left"
	case blind != "":
		return fmt.Sprintf("no monitor of the critical health set %s would be left", blind)
	case 2*off > total:
		return fmt.Sprintf("%d of %d items would be switched off", off, total)
	}
	return ""
}

// targets are those of each probe now, by Set\Name; one empty name where it has
// none of its own or none now.
func (x Items) targets() map[string][]string {
	out := map[string][]string{}
	for _, p := range x.Probes {
		all := probe.TargetsOf(p)
		if len(all) == 0 {
			all = []string{""}
		}
		out[p.Set+`\`+p.Name] = all
	}
	return out
}

// anyTarget are the items without the targets that they have at this server.
func (x Items) anyTarget() Items {
	x.Probes = slices.Clone(x.Probes)
	for i := range x.Probes {
		x.Probes[i].Targets = nil
	}
	return x
}

// watching counts the monitors of each set that are on, and whose probe is, for
// some target; and all items that are off for each of theirs.
func (r rules) watching(items Items, targets map[string][]string) (on map[string]int, off int) {
	probes := map[string]Probe{}
	for _, p := range items.Probes {
		id := p.Set + `\` + p.Name
		probes[id] = p
		if !slices.ContainsFunc(targets[id], func(t string) bool { _, on := r.probe(p, t); return on }) {
			off++
		}
	}
	on = map[string]int{}
	for _, m := range items.Monitors {
		p, monitors, watches := probes[m.probe()], false, false
		for _, t := range targets[m.probe()] {
			_, its := r.probe(p, t)
			if m.Whole {
				t = ""
			}
			_, mine := r.monitor(m, t)
			monitors, watches = monitors || mine, watches || mine && its
		}
		if !monitors {
			off++
		}
		if watches {
			on[m.Set]++
		}
	}
	return on, off
}
