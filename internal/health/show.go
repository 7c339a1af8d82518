package health

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/health/roll"
	"github.com/postern-mail/postern/internal/org"
)

// What the commands show.

// componentState tells in words how a component stands on a server.
func (d *Desk) componentState(s org.ServerName, c org.Component) string {
	if c == "" {
		return "NotApplicable"
	}
	state, _ := org.Combine(org.ComponentEntries(d.deps.Rows.Prefix(org.ComponentPrefix(s))), c, d.deps.Clock.Now())
	return string(state)
}

// member refuses names that are not in the group.
func (d *Desk) member(s org.ServerName) error {
	if s == "" || s == d.deps.Server || slices.Contains(d.deps.Mesh.Members(), s) {
		return nil
	}
	return kind.WithHint(kind.Errorf(kind.NotFound, "server %s is not in the group", s), "postern server list")
}

// Sets are the health sets that this version knows.
func (d *Desk) Sets() []Set { return slices.Clone(d.items.Sets) }

func (d *Desk) set(name string) (Set, bool) {
	i := slices.IndexFunc(d.items.Sets, func(s Set) bool { return s.Name == name })
	if i < 0 {
		return Set{}, false
	}
	return d.items.Sets[i], true
}

func (d *Desk) knownSet(name string) error {
	if _, ok := d.set(name); name != "" && !ok {
		return kind.WithHint(kind.Errorf(kind.NotFound, "there is no health set %s", name), "postern health definitions")
	}
	return nil
}

func (d *Desk) serverRows(in serverArgs) ([]MonitorRow, error) {
	if err := cmp.Or(d.member(in.Server), d.knownSet(in.Set)); err != nil {
		return nil, err
	}
	if in.Server != "" && in.Server != d.deps.Server {
		return d.otherRows(in)
	}
	monitors, _ := d.monitors()
	rows := []MonitorRow{}
	for _, m := range monitors {
		s, _ := d.set(m.Set)
		if in.Set != "" && m.Set != in.Set || in.HA && !s.HA {
			continue
		}
		rows = append(rows, MonitorRow{Server: d.deps.Server, Set: m.Set, Name: m.Name, Target: m.Target, State: m.State,
			Component: d.componentState(d.deps.Server, s.Component), HA: s.HA, Since: m.Since.UTC(), Why: m.Why})
	}
	slices.SortStableFunc(rows, func(a, b MonitorRow) int { return b.State.Badness() - a.State.Badness() })
	return rows, nil
}

// otherRows are the sets of another server, as it publishes them.
func (d *Desk) otherRows(in serverArgs) ([]MonitorRow, error) {
	h, ok := d.healthOf(in.Server)
	if !ok {
		return nil, kind.Errorf(kind.Busy, "server %s does not say how it is", in.Server)
	}
	rows := []MonitorRow{}
	for _, r := range d.setRows(in.Server, h, in.HA) {
		if in.Set == "" || in.Set == r.Set {
			rows = append(rows, MonitorRow{Server: r.Server, Set: r.Set, Name: fmt.Sprintf("%d monitors", r.Monitors), State: r.State,
				Component: r.Component, HA: r.HA, Since: r.Since, Why: r.Worst})
		}
	}
	slices.SortStableFunc(rows, func(a, b MonitorRow) int { return b.State.Badness() - a.State.Badness() })
	return rows, nil
}

func (d *Desk) setRows(s org.ServerName, h org.ServerHealth, haOnly bool) []SetRow {
	var rows []SetRow
	for name, x := range h.Sets {
		if haOnly && !x.HA {
			continue
		}
		def, _ := d.set(name)
		rows = append(rows, SetRow{Server: s, Set: name, Group: def.Group, Priority: x.Priority, State: x.State, Component: d.componentState(s, x.Component),
			Monitors: x.Monitors, HA: x.HA, Since: x.Since.UTC(), Worst: x.Worst})
	}
	slices.SortFunc(rows, func(a, b SetRow) int { return cmp.Compare(a.Set, b.Set) })
	return rows
}

func (d *Desk) reportOf(in reportArgs) (Report, error) {
	if err := d.member(in.Server); err != nil {
		return Report{}, err
	}
	if in.Size < 1 || in.Size > 1000 || in.Minimum < 1 || in.Minimum > 100 {
		return Report{}, kind.Errorf(kind.Invalid, "group size %d or minimum %d %% is out of range", in.Size, in.Minimum)
	}
	rep := Report{Overrides: d.overrideRows(), Modes: d.modeRows()}
	var members []roll.Member
	for _, s := range d.deps.Mesh.Members() {
		if in.Server != "" && s != in.Server {
			continue
		}
		h, ok := d.healthOf(s)
		state := org.Unavailable
		if ok && (s == d.deps.Server || d.deps.Mesh.Up(s)) {
			state, _ = roll.Server(h.Sets, in.HA)
			rep.Sets = append(rep.Sets, d.setRows(s, h, in.HA)...)
		} else {
			rep.Silent = append(rep.Silent, string(s))
		}
		members = append(members, roll.Member{Server: s, State: state})
	}
	if in.RollUp {
		rep.Sets = nil
		for _, r := range roll.Groups(members, in.Size, float64(in.Minimum)) {
			rep.Groups = append(rep.Groups, GroupRow{Servers: r.Servers, State: r.State, Working: r.Working, Of: len(r.Servers)})
		}
	}
	return rep, nil
}

func (d *Desk) definitions(in definitionArgs) ([]DefinitionRow, error) {
	if err := d.knownSet(in.Set); err != nil {
		return nil, err
	}
	rows := []DefinitionRow{}
	want := func(set string) bool { return in.Set == "" || in.Set == set }
	for _, s := range d.items.Sets {
		if !want(s.Name) {
			continue
		}
		rows = append(rows, DefinitionRow{Set: s.Name, Type: "set", Item: s.Name, Rule: fmt.Sprintf("%s, %s", s.Group, s.Priority), Doc: s.Doc})
		for _, p := range d.items.Probes {
			if p.Set == s.Name {
				r := DefinitionRow{Set: s.Name, Type: typeProbe, Item: p.Set + `\` + p.Name, Where: string(p.Where), Rule: string(p.Kind), Doc: p.Doc}
				if p.Every > 0 && p.Kind != Notification {
					r.Every, r.Timeout = p.Every.String(), p.Timeout.String()
				}
				rows = append(rows, r)
			}
		}
		for _, m := range d.items.Monitors {
			if m.Set == s.Name {
				rows = append(rows, monitorDefinition(m)...)
			}
		}
	}
	return rows, nil
}

func monitorDefinition(m Monitor) []DefinitionRow {
	id := m.Set + `\` + m.Name
	steps := m.Timeline
	if len(steps) == 0 {
		steps = DefaultTimeline()
	}
	var line []string
	for _, s := range steps {
		line = append(line, fmt.Sprintf("%v %s", s.After, s.State))
	}
	rows := []DefinitionRow{{Set: m.Set, Type: typeMonitor, Item: id, Rule: ruleText(m.Rule) + "; " + strings.Join(line, ", "), Chain: m.Chain.Name, Doc: m.Doc}}
	for _, r := range m.Chain.Steps {
		doc := "when " + string(r.At)
		if r.After > 0 {
			doc += fmt.Sprintf(" for %v", r.After)
		}
		if r.Second {
			doc += ", with a second opinion"
		}
		rows = append(rows, DefinitionRow{Set: m.Set, Type: typeResponder, Item: id + "." + r.Name, Chain: m.Chain.Name,
			Rule: strings.TrimSpace(string(r.Action) + " " + r.Target), Doc: doc})
	}
	return rows
}

// ruleText is a rule in words.
func ruleText(r Rule) string {
	s := fmt.Sprintf("%s %v", r.Type, r.Threshold)
	if r.Unit != "" {
		s += " " + r.Unit
	}
	if r.Window > 0 {
		s += fmt.Sprintf(" within %v", r.Window)
	}
	if r.Samples > 0 {
		s += fmt.Sprintf(", %d results", r.Samples)
	}
	return s
}

// allOverrides are those of every scope.
func (d *Desk) allOverrides() []org.Override {
	var all []org.Override
	now := d.deps.Clock.Now()
	for _, raw := range d.deps.Rows.Prefix(overridePrefix) {
		var o org.Override
		if json.Unmarshal(raw, &o) == nil && (o.Until.IsZero() || now.Before(o.Until)) {
			all = append(all, o)
		}
	}
	return all
}

func (d *Desk) overrideRows() []OverrideRow {
	rows := []OverrideRow{}
	for _, o := range d.allOverrides() {
		rows = append(rows, OverrideRow{ID: o.ID, Type: o.Type, Item: o.Item, Property: o.Property, Value: o.Value, Server: o.Server, Ends: endOf(o), By: o.By, Why: o.Why})
	}
	return rows
}

func endOf(o org.Override) string {
	switch {
	case !o.Until.IsZero():
		return o.Until.UTC().Format(time.RFC3339)
	case o.Version != "":
		return "with version " + o.Version
	}
	return "when removed"
}

func (d *Desk) modeRows() []ModeRow {
	rows := []ModeRow{}
	now := d.deps.Clock.Now()
	for _, raw := range d.deps.Rows.Prefix(modePrefix) {
		var m mode
		if json.Unmarshal(raw, &m) != nil || !m.Until.IsZero() && !now.Before(m.Until) {
			continue
		}
		ends := "when changed"
		if !m.Until.IsZero() {
			ends = m.Until.UTC().Format(time.RFC3339)
		}
		rows = append(rows, ModeRow{Server: m.Server, Set: m.Set, Mode: string(m.Mode), Ends: ends, By: m.By, Why: m.Why})
	}
	return rows
}

// maxShown is how many entries of the recovery log are shown at once.
const maxShown = 1000

func (d *Desk) recoveryRows(in recoveryLogArgs) ([]RecoveryRow, error) {
	rows := []RecoveryRow{}
	oldest := d.deps.Clock.Now().Add(-in.Since)
	for _, raw := range d.deps.Rows.Prefix(org.RecoveryPrefix) {
		var r org.Recovery
		if json.Unmarshal(raw, &r) != nil {
			continue
		}
		switch {
		case in.ID != "":
			if r.ID != in.ID {
				continue
			}
		case r.Begun.Before(oldest) || in.Server != "" && r.Server != in.Server || in.Action != "" && r.Action != in.Action || in.Dry && !r.DryRun:
			continue
		}
		row := RecoveryRow{ID: r.ID, Begun: r.Begun, Server: r.Server, Action: r.Action, Target: r.Target, Monitor: r.Monitor, State: r.State,
			Result: resultOf(r), DryRun: r.DryRun, Ended: r.Ended, Cause: r.Cause, Responder: r.Responder, Second: r.Second, Plan: r.Plan, Decision: r.Decision}
		if in.ID != "" {
			row.Evidence = r.Evidence
		}
		rows = append(rows, row)
	}
	if in.ID != "" && len(rows) == 0 {
		return nil, kind.WithHint(kind.Errorf(kind.NotFound, "there is no recovery action %s", in.ID), "postern health recovery log --since 720h")
	}
	return rows[max(0, len(rows)-maxShown):], nil
}

// resultOf is what became of an action, in words.
func resultOf(r org.Recovery) string {
	switch {
	case !r.Allowed:
		return "refused: " + r.Refused
	case r.DryRun && r.Result != "":
		return "would be done: " + r.Result
	case r.DryRun:
		return "would be done"
	case r.Action == string(Escalate):
		return "told"
	case r.Ended.IsZero():
		return "under way"
	}
	return cmp.Or(r.Result, "done")
}
