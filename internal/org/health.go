package org

import (
	"encoding/json"
	"iter"
	"slices"
	"strings"
	"time"
)

// Component is a part of a server that can be taken out by itself (Exchange:
// ServerComponentState). Rooms may name more; an unknown one is kept and shown.
type Component string

// Components.
const (
	// ServerOffline is not a part but a wish about all of them: it holds back
	// every component except Monitoring and RecoveryActions
	// (Exchange: ServerWideOffline).
	ServerOffline    Component = "server_offline"
	SMTPComponent    Component = "smtp"
	Submission       Component = "submission"
	IMAPComponent    Component = "imap"
	AdminAPI         Component = "admin_api"
	Transport        Component = "transport"
	Delivery         Component = "delivery"
	DNSComponent     Component = "dns"
	HighAvailability Component = "high_availability"
	Monitoring       Component = "monitoring"
	RecoveryActions  Component = "recovery_actions"
)

// Components lists them in the order in which they are shown.
var components = []Component{ServerOffline, SMTPComponent, Submission, IMAPComponent, AdminAPI, Transport, Delivery,
	DNSComponent, HighAvailability, Monitoring, RecoveryActions}

// Components returns the known components in the order in which they are shown.
func Components() []Component { return slices.Clone(components) }

// ComponentState is what a component may do. The zero value means Active.
type ComponentState string

// Component states, from the weakest to the strongest.
const (
	Active   ComponentState = "Active"
	Draining ComponentState = "Draining" // finishes what it has, takes nothing new
	Inactive ComponentState = "Inactive"
)

// strength orders the states; an unknown one, from a newer version, counts as
// Inactive.
func (s ComponentState) strength() int {
	switch s {
	case "", Active:
		return 0
	case Draining:
		return 1
	}
	return 2
}

// Stronger returns the state that holds back more.
func (s ComponentState) Stronger(o ComponentState) ComponentState {
	strongest := s
	if o.strength() > s.strength() {
		strongest = o
	}
	switch strongest.strength() {
	case 0:
		return Active
	case 1:
		return Draining
	}
	return Inactive
}

// AtLeast tells whether a state holds back as much as another.
func (s ComponentState) AtLeast(o ComponentState) bool { return s.strength() >= o.strength() }

// Requester is on whose behalf a component is held back. Each requester has an
// entry of its own, so that one cannot end what another began.
type Requester string

// Requesters (Exchange: Set-ServerComponentState -Requester).
const (
	HealthAPI   Requester = "HealthAPI"   // a responder of Managed Availability
	Maintenance Requester = "Maintenance" // a maintenance plan
	Sidelined   Requester = "Sidelined"   // a person
	Functional  Requester = "Functional"  // an upgrade
	Deployment  Requester = "Deployment"  // a server that is being set up
)

// Requesters lists them.
func Requesters() []Requester {
	return []Requester{HealthAPI, Maintenance, Sidelined, Functional, Deployment}
}

// ComponentEntry is the wish of one requester about one component of a server,
// the row components/<server>/<component>/<requester>. No row means Active.
type ComponentEntry struct {
	Component Component      `json:"component"`
	Requester Requester      `json:"requester"`
	State     ComponentState `json:"state"`
	Since     time.Time      `json:"since"`
	By        string         `json:"by,omitempty"`
	Reason    string         `json:"reason,omitempty"`
	Plan      string         `json:"plan,omitempty"`
	// Expires is when the wish ends by itself; zero for never.
	Expires time.Time `json:"expires,omitzero"`
}

// ComponentKey is the row of an entry in the agreed state.
func ComponentKey(s ServerName, c Component, r Requester) string {
	return ComponentPrefix(s) + string(c) + "/" + string(r)
}

// ComponentPrefix is what the rows of a server's components begin with.
func ComponentPrefix(s ServerName) string { return "components/" + string(s) + "/" }

// ComponentGuard is a row that changes with each wish that holds a component back:
// who judges what is left of a component has its change depend on it.
const ComponentGuard = "component-guard"

// Combine tells the state of a component from all entries of its server: the
// strongest unexpired wish of any requester about it or, but for Monitoring and
// RecoveryActions, about ServerOffline. It also returns the entries that hold
// it back, strongest first.
func Combine(entries []ComponentEntry, c Component, now time.Time) (ComponentState, []ComponentEntry) {
	state, holds := Active, []ComponentEntry(nil)
	for _, e := range entries {
		about := e.Component == c || e.Component == ServerOffline && c != Monitoring && c != RecoveryActions
		expired := !e.Expires.IsZero() && !now.Before(e.Expires)
		if !about || expired || e.State.strength() == 0 {
			continue
		}
		state = state.Stronger(e.State)
		holds = append(holds, e)
	}
	slices.SortStableFunc(holds, func(a, b ComponentEntry) int { return b.State.strength() - a.State.strength() })
	return state, holds
}

// ComponentEntries reads the rows of a server's components, as they stand under
// ComponentPrefix. A row that cannot be read counts as Inactive: whoever wrote it
// wanted something held back.
func ComponentEntries(rows iter.Seq2[string, []byte]) []ComponentEntry {
	var out []ComponentEntry
	for key, value := range rows {
		parts := strings.Split(key, "/")
		if len(parts) != 4 {
			continue
		}
		var e ComponentEntry
		if json.Unmarshal(value, &e) != nil || e.State == "" {
			e = ComponentEntry{State: Inactive, Reason: "the entry cannot be read"}
		}
		e.Component, e.Requester = Component(parts[2]), Requester(parts[3])
		out = append(out, e)
	}
	return out
}

// HealthState is the state of a monitor, a health set or a server
// (Exchange: Get-ServerHealth).
type HealthState string

// Health states. Degraded to Unrecoverable2 are the ladder that a monitor climbs
// while it stays red; Disabled, Repairing and Unavailable are shown over it.
const (
	UnInitialized  HealthState = "UnInitialized"
	HealthOK       HealthState = "Healthy"
	Degraded       HealthState = "Degraded"
	Degraded1      HealthState = "Degraded1"
	Degraded2      HealthState = "Degraded2"
	Unhealthy      HealthState = "Unhealthy"
	Unhealthy1     HealthState = "Unhealthy1"
	Unhealthy2     HealthState = "Unhealthy2"
	Unrecoverable  HealthState = "Unrecoverable"
	Unrecoverable1 HealthState = "Unrecoverable1"
	Unrecoverable2 HealthState = "Unrecoverable2"
	Repairing      HealthState = "Repairing"   // a person works on it: no automatic action
	HealthDisabled HealthState = "Disabled"    // an override or the component Monitoring
	Unavailable    HealthState = "Unavailable" // no news of it
)

// healthOrder is how bad a state is for those who choose or roll up
// (docs/design/health.md, 3.4).
var healthOrder = []HealthState{HealthDisabled, UnInitialized, HealthOK, Degraded, Degraded1, Degraded2, Repairing, Unavailable,
	Unhealthy, Unhealthy1, Unhealthy2, Unrecoverable, Unrecoverable1, Unrecoverable2}

// Badness orders states: more is worse. An unknown state counts as Unavailable.
func (s HealthState) Badness() int {
	if i := slices.Index(healthOrder, s); i >= 0 {
		return i
	}
	return slices.Index(healthOrder, Unavailable)
}

// Red tells whether something is wrong (Degraded or worse), as far as is known.
func (s HealthState) Red() bool {
	return s.Badness() > HealthOK.Badness() && s != Repairing && s != Unavailable
}

// HealthPriority says how much a health set means to users.
type HealthPriority string

// Priorities.
const (
	PriorityCritical HealthPriority = "critical"
	PriorityNormal   HealthPriority = "normal"
	PriorityLow      HealthPriority = "low"
)

// SetHealth is the published state of a health set of a server.
type SetHealth struct {
	State     HealthState    `json:"state" cbor:"1,keyasint"`
	Priority  HealthPriority `json:"priority" cbor:"2,keyasint"`
	Component Component      `json:"component,omitempty" cbor:"3,keyasint,omitempty"`
	Since     time.Time      `json:"since" cbor:"4,keyasint"`
	Worst     string         `json:"worst,omitempty" cbor:"5,keyasint,omitempty"` // the least healthy monitor and why
	Monitors  int            `json:"monitors" cbor:"6,keyasint"`
	HA        bool           `json:"ha_impacting,omitempty" cbor:"7,keyasint,omitempty"`
}

// ServerHealth is what a server publishes of itself in the mesh section
// HealthSection.
type ServerHealth struct {
	Seq       uint64               `json:"seq" cbor:"1,keyasint"`
	Sets      map[string]SetHealth `json:"sets" cbor:"2,keyasint"`
	Mode      string               `json:"recovery_mode" cbor:"3,keyasint"`
	Overrides int                  `json:"overrides,omitempty" cbor:"4,keyasint,omitempty"`
	// Silent tells that the health worker has not reported.
	Silent bool `json:"silent,omitempty" cbor:"5,keyasint,omitempty"`
	// CPUPressure is the share of the last minute in percent in which work waited
	// for a processor, Steal what the hypervisor kept for others.
	CPUPressure float64 `json:"cpu_pressure,omitempty" cbor:"6,keyasint,omitempty"`
	Steal       float64 `json:"steal,omitempty" cbor:"7,keyasint,omitempty"`
}

// HealthSection is the mesh section of ServerHealth.
const HealthSection = "health"

// Override changes a property of a health item for a time
// (Exchange: Add-ServerMonitoringOverride, Add-GlobalMonitoringOverride).
// Row health/override/<scope>/<id>, where the scope is a server or "*".
type Override struct {
	ID       string     `json:"id"`
	Item     string     `json:"item"` // Set\Item or Set\Item\Target
	Type     string     `json:"type"` // probe, monitor, responder (of item Set\Monitor.Responder)
	Property string     `json:"property"`
	Value    string     `json:"value"`
	Server   ServerName `json:"server,omitempty"` // empty: every server
	By       string     `json:"by,omitempty"`
	Why      string     `json:"why,omitempty"`
	Created  time.Time  `json:"created"`
	Until    time.Time  `json:"until,omitzero"`
	// Version bounds it to a version of the program; UntilRemoved says that it
	// has no end on purpose.
	Version      string `json:"version,omitempty"`
	UntilRemoved bool   `json:"until_removed,omitempty"`
}

// RecoveryEvidence is one result that led to an action.
type RecoveryEvidence struct {
	At     time.Time `json:"at"`
	Item   string    `json:"item"`
	Target string    `json:"target,omitempty"`
	Result string    `json:"result"` // passed, failed, timed out
	Text   string    `json:"text,omitempty"`
}

// Recovery is one automatic action with its cause, its evidence and its result;
// row recovery/log/<id>.
type Recovery struct {
	ID        string             `json:"id"`
	Server    ServerName         `json:"server"`
	Action    string             `json:"action"`
	Target    string             `json:"target,omitempty"`
	Responder string             `json:"responder,omitempty"`
	Monitor   string             `json:"monitor,omitempty"`
	State     HealthState        `json:"state,omitempty"`
	Begun     time.Time          `json:"begun"`
	Ended     time.Time          `json:"ended,omitzero"`
	DryRun    bool               `json:"dry_run,omitempty"`
	Cause     string             `json:"cause"`
	Evidence  []RecoveryEvidence `json:"evidence,omitempty"` // at most 10
	Allowed   bool               `json:"allowed"`
	Refused   string             `json:"refused,omitempty"`
	Failed    bool               `json:"failed,omitempty"`
	Result    string             `json:"result,omitempty"`
	Plan      string             `json:"plan,omitempty"`
	Decision  string             `json:"decision,omitempty"`
	Second    string             `json:"second,omitempty"` // who else saw it
	// Note tells that it was gathered from what rooms told (org.Note) after they did
	// it: the first to go when the log is too long.
	Note bool `json:"note,omitempty"`
}

// RecoveryPrefix is what the rows of the recovery log begin with; the rest of a
// key is ordered by time.
const RecoveryPrefix = "recovery/log/"

// RecoveryTime is how the identity of an entry begins, as a layout of time.
const RecoveryTime = "20060102T150405.000"

// RecoveryID makes the identity of an entry: ordered by time, and by a suffix
// of the server's own unlike any other.
func RecoveryID(at time.Time, s ServerName, suffix string) string {
	return at.UTC().Format(RecoveryTime) + "-" + string(s) + "-" + suffix
}
