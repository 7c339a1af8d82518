package health

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/health/monitor"
	"github.com/postern-mail/postern/internal/health/respond"
	"github.com/postern-mail/postern/internal/org"
)

// Rows of the agreed state that this room has.
const (
	overridePrefix  = "health/override/"
	repairingPrefix = "health/repairing/"
	modePrefix      = "health/mode/"
	// overrideGuard is written with each override that is added: its value is the
	// identity of the last one.
	overrideGuard = "health/guard"
)

// maxOverrides is how many overrides a group may have at a time.
const maxOverrides = 200

// Properties that an override may change, by type of item.
const (
	propEnabled   = "Enabled"
	propInterval  = "IntervalSeconds"
	propTimeout   = "TimeoutSeconds"
	propThreshold = "Threshold"
	propWindow    = "WindowSeconds"
	propSamples   = "Samples"
	// propTransition is followed by a state: TransitionSeconds.Unhealthy1.
	propTransition = "TransitionSeconds."
	propAfter      = "AfterSeconds" // of a responder
)

// Types of items.
const (
	typeProbe     = "probe"
	typeMonitor   = "monitor"
	typeResponder = "responder"
)

func overrideKey(o org.Override) string {
	scope := string(o.Server)
	if scope == "" {
		scope = "*"
	}
	return overridePrefix + scope + "/" + o.ID
}

// rules is what people have set for now: overrides, repairs, recovery modes. It
// is read from rows, and crosses to the Engine.
type rules struct {
	Overrides []org.Override `cbor:"1,keyasint"`
	Repairing []repairing    `cbor:"2,keyasint"`
	Modes     []mode         `cbor:"3,keyasint"`
	// Monitoring and Recovery say why those components hold back, empty if they do not.
	Monitoring string `cbor:"4,keyasint"`
	Recovery   string `cbor:"5,keyasint"`
}

// repairing is a monitor that a person works on; row health/repairing/<server>/<monitor>.
type repairing struct {
	Server  org.ServerName `json:"server" cbor:"1,keyasint"`
	Monitor string         `json:"monitor" cbor:"2,keyasint"` // Set\Name or Set\Name\Target
	By      string         `json:"by,omitempty" cbor:"3,keyasint"`
	Why     string         `json:"why,omitempty" cbor:"4,keyasint"`
	Until   time.Time      `json:"until" cbor:"5,keyasint"`
}

// mode is a recovery mode; row health/mode/<scope>.
type mode struct {
	Server org.ServerName `json:"server,omitempty" cbor:"1,keyasint"` // empty: every server
	Set    string         `json:"set,omitempty" cbor:"2,keyasint"`    // empty: every set
	Mode   respond.Mode   `json:"mode" cbor:"3,keyasint"`
	By     string         `json:"by,omitempty" cbor:"4,keyasint"`
	Why    string         `json:"why,omitempty" cbor:"5,keyasint"`
	Until  time.Time      `json:"until,omitzero" cbor:"6,keyasint"`
}

func (m mode) key() string {
	scope := string(m.Server)
	if scope == "" {
		scope = "*"
	}
	if m.Set != "" {
		scope += "/" + m.Set
	}
	return modePrefix + scope
}

// readRules reads what holds for a server at a time and for a version.
func readRules(rows Rows, me org.ServerName, version string, now time.Time) rules {
	var r rules
	for _, scope := range []string{"*", string(me)} {
		for _, raw := range rows.Prefix(overridePrefix + scope + "/") {
			var o org.Override
			if json.Unmarshal(raw, &o) == nil && holds(o, version, now) && len(r.Overrides) < maxOverrides {
				r.Overrides = append(r.Overrides, o)
			}
		}
	}
	for _, raw := range rows.Prefix(repairingPrefix + string(me) + "/") {
		var x repairing
		if json.Unmarshal(raw, &x) == nil && now.Before(x.Until) {
			r.Repairing = append(r.Repairing, x)
		}
	}
	r.Modes = modesOf(rows, me, now)
	entries := org.ComponentEntries(rows.Prefix(org.ComponentPrefix(me)))
	r.Monitoring = heldBy(entries, org.Monitoring, now)
	r.Recovery = heldBy(entries, org.RecoveryActions, now)
	return r
}

// heldBy says who holds a component back, empty for nobody.
func heldBy(entries []org.ComponentEntry, c org.Component, now time.Time) string {
	state, holds := org.Combine(entries, c, now)
	if state == org.Active || len(holds) == 0 {
		return ""
	}
	return strings.TrimSpace(fmt.Sprintf("%s is %s by %s %s", c, state, holds[0].Requester, holds[0].Reason))
}

func holds(o org.Override, version string, now time.Time) bool {
	return (o.Until.IsZero() || now.Before(o.Until)) && (o.Version == "" || o.Version == version)
}

// RecoveryMode is the recovery mode of a health set of a server at a time, for rooms
// that repair by themselves; an empty set asks for what belongs to none.
func RecoveryMode(c Config, rows Rows, me org.ServerName, set string, now time.Time) respond.Mode {
	return rules{Modes: append(modesOf(rows, me, now), c.rules().Modes...)}.modeFor(set)
}

// modesOf reads the recovery modes that hold for a server.
func modesOf(rows Rows, me org.ServerName, now time.Time) []mode {
	var out []mode
	for _, raw := range rows.Prefix(modePrefix) {
		var x mode
		if json.Unmarshal(raw, &x) == nil && (x.Server == "" || x.Server == me) && (x.Until.IsZero() || now.Before(x.Until)) {
			out = append(out, x)
		}
	}
	return out
}

// modeFor is the recovery mode of a set: the narrowest wins.
func (r rules) modeFor(set string) respond.Mode {
	best, rank := respond.Act, -1
	for _, m := range r.Modes {
		if m.Set != "" && m.Set != set {
			continue
		}
		n := 0
		if m.Server != "" {
			n++
		}
		if m.Set != "" {
			n += 2
		}
		if n > rank {
			best, rank = m.Mode, n
		}
	}
	return best
}

// repairs tells whether somebody works on a monitor.
func (r rules) repairs(set, name, target string) bool {
	for _, x := range r.Repairing {
		if covers(x.Monitor, set, name, target) {
			return true
		}
	}
	return false
}

// covers tells whether an item, Set\Name or Set\Name\Target, means a definition.
func covers(item, set, name, target string) bool {
	rest, ok := strings.CutPrefix(item, set+`\`+name)
	return ok && (rest == "" || rest == `\`+target)
}

// overrides are those about one item, wide ones first so that the narrow win.
func (r rules) overrides(typ, set, name, target string) []org.Override {
	var out []org.Override
	for _, o := range r.Overrides {
		if o.Type == typ && covers(o.Item, set, name, target) {
			out = append(out, o)
		}
	}
	slices.SortStableFunc(out, func(a, b org.Override) int { return narrowness(a) - narrowness(b) })
	return out
}

func narrowness(o org.Override) int {
	n := strings.Count(o.Item, `\`) * 2
	if o.Server != "" {
		n++
	}
	return n
}

// probe applies overrides to a probe; false: it is switched off.
func (r rules) probe(p Probe, target string) (Probe, bool) {
	on := r.Monitoring == ""
	for _, o := range r.overrides(typeProbe, p.Set, p.Name, target) {
		switch o.Property {
		case propEnabled:
			on = on && o.Value != "false"
		case propInterval:
			p.Every = seconds(o.Value, p.Every)
		case propTimeout:
			p.Timeout = seconds(o.Value, p.Timeout)
		}
	}
	return p, on
}

// monitor applies overrides to a monitor; false: it is switched off.
func (r rules) monitor(m Monitor, target string) (Monitor, bool) {
	on := r.Monitoring == ""
	for _, o := range r.overrides(typeMonitor, m.Set, m.Name, target) {
		switch o.Property {
		case propEnabled:
			on = on && o.Value != "false"
		case propThreshold:
			if v, err := strconv.ParseFloat(o.Value, 64); err == nil {
				m.Rule.Threshold = v
			}
		case propWindow:
			m.Rule.Window = seconds(o.Value, m.Rule.Window)
		case propSamples:
			if n, err := strconv.Atoi(o.Value); err == nil {
				m.Rule.Samples = n
			}
		default:
			if state, ok := strings.CutPrefix(o.Property, propTransition); ok {
				m.Timeline = retimed(m.Timeline, org.HealthState(state), seconds(o.Value, 0))
			}
		}
	}
	return m, on
}

// retimed is a timeline with another time for one state. Where that breaks the
// order the override has no effect.
func retimed(steps []Step, state org.HealthState, after time.Duration) []Step {
	if len(steps) == 0 {
		steps = DefaultTimeline()
	}
	next := slices.Clone(steps)
	for i := range next {
		if next[i].State == state {
			next[i].After = after
		}
	}
	if monitor.CheckTimeline(next) != "" {
		return steps
	}
	return next
}

// responder applies overrides to a step of a monitor's chain; its item is the
// monitor's, with the responder's name as property prefix.
func (r rules) responder(m Monitor, target string, x Responder) (Responder, bool) {
	on := true
	for _, o := range r.overrides(typeResponder, m.Set, m.Name+"."+x.Name, target) {
		switch o.Property {
		case propEnabled:
			on = on && o.Value != "false"
		case propAfter:
			x.After = seconds(o.Value, x.After)
		}
	}
	return x, on
}

func seconds(text string, def time.Duration) time.Duration {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f < 0 || f > 86400 {
		return def
	}
	return time.Duration(f * float64(time.Second))
}
