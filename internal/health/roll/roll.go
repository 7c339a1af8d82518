package roll

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// Monitor is the state of one monitor, as it is shown.
type Monitor struct {
	Set, Name, Target string
	State             org.HealthState
	Since             time.Time
	Why               string
}

// ID is Set\Name, with \Target.
func (m Monitor) ID() string {
	if m.Target == "" {
		return m.Set + `\` + m.Name
	}
	return m.Set + `\` + m.Name + `\` + m.Target
}

// Set is what is known of a health set beside its monitors.
type Set struct {
	Name      string
	Priority  org.HealthPriority
	Component org.Component
	HA        bool
}

// maxWorst bounds what is published of the worst monitor.
const maxWorst = 120

// Sets rolls monitors up to their sets. A set is as its least healthy monitor
// that is not Disabled; a set without any is UnInitialized, one with nothing but
// disabled ones Disabled.
func Sets(sets []Set, monitors []Monitor) map[string]org.SetHealth {
	out := make(map[string]org.SetHealth, len(sets))
	for _, s := range sets {
		out[s.Name] = org.SetHealth{State: org.UnInitialized, Priority: s.Priority, Component: s.Component, HA: s.HA}
	}
	for _, m := range monitors {
		h, ok := out[m.Set]
		if !ok {
			continue
		}
		first := h.Monitors == 0
		h.Monitors++
		if first || worse(m.State, h.State) {
			h.State, h.Since, h.Worst = m.State, m.Since.UTC(), worst(m)
		}
		out[m.Set] = h
	}
	return out
}

// worse orders states for a roll-up: what is Disabled counts least, and what was
// never seen does not hide what was.
func worse(a, b org.HealthState) bool { return a.Badness() > b.Badness() }

// worst says which monitor it is and why, for those that are not well.
func worst(m Monitor) string {
	if m.State == org.HealthOK || m.State == org.UnInitialized {
		return ""
	}
	s := m.ID()
	if m.Why != "" {
		s += ": " + m.Why
	}
	if len(s) > maxWorst {
		s = s[:maxWorst-3] + "..."
	}
	return s
}

// Server is the state of a server: its worst set, and which one that is. With
// haOnly only sets that bear on where databases may be active count.
func Server(sets map[string]org.SetHealth, haOnly bool) (org.HealthState, string) {
	state, name := org.UnInitialized, ""
	names := make([]string, 0, len(sets))
	for n := range sets {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		s := sets[n]
		if haOnly && !s.HA || s.State == org.HealthDisabled {
			continue
		}
		if worse(s.State, state) {
			state, name = s.State, n
		}
	}
	return state, name
}

// Member is a server as a group of servers sees it.
type Member struct {
	Server org.ServerName
	State  org.HealthState
}

// Row is the state of one group of servers.
type Row struct {
	Servers []org.ServerName
	Working int // servers that are not red
	State   org.HealthState
}

// Groups rolls servers up in groups of size. A group is as its worst server, but
// Degraded where at least minimum percent of its servers work
// (Exchange: Get-HealthReport -GroupSize, -MinimumOnlinePercent).
func Groups(members []Member, size int, minimum float64) []Row {
	members = slices.Clone(members)
	slices.SortFunc(members, func(a, b Member) int { return cmp.Compare(a.Server, b.Server) })
	var out []Row
	for part := range slices.Chunk(members, max(size, 1)) {
		r := Row{State: org.UnInitialized}
		for _, m := range part {
			r.Servers = append(r.Servers, m.Server)
			if m.State.Badness() <= org.Degraded2.Badness() {
				r.Working++
			}
			if worse(m.State, r.State) {
				r.State = m.State
			}
		}
		if r.State.Badness() > org.Degraded2.Badness() && 100*float64(r.Working) >= minimum*float64(len(part)) {
			r.State = org.Degraded
		}
		out = append(out, r)
	}
	return out
}

func (r Row) String() string {
	return fmt.Sprintf("%s: %d of %d servers work", r.State, r.Working, len(r.Servers))
}
