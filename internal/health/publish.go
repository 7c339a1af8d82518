package health

import (
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/health/roll"
	"github.com/postern-mail/postern/internal/org"
)

// monitors are the states that the Engine reported last.
func (d *Desk) monitors() ([]roll.Monitor, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]roll.Monitor, 0, len(d.report.Monitors))
	for _, m := range d.report.Monitors {
		x := roll.Monitor{Set: m.Set, Name: m.Name, Target: m.Target, State: m.State, Since: d.reported.Add(-m.Age), Why: m.Why}
		if d.silent {
			x.State, x.Why = org.Unavailable, "the health worker does not report"
		}
		out = append(out, x)
	}
	return out, d.silent
}

func (x Items) rollSets() []roll.Set {
	out := make([]roll.Set, 0, len(x.Sets))
	for _, s := range x.Sets {
		out = append(out, roll.Set{Name: s.Name, Priority: s.Priority, Component: s.Component, HA: s.HA})
	}
	return out
}

// publish tells the group how this server is, where that has changed or always
// is set.
func (d *Desk) publish(always bool) bool {
	monitors, silent := d.monitors()
	h := org.ServerHealth{Sets: roll.Sets(d.items.rollSets(), monitors), Mode: string(d.modeFor("")), Silent: silent}
	if silent {
		s := h.Sets[setMonitoring]
		s.State, s.Worst, s.Since, s.Monitors = org.Unhealthy, "the health worker does not report", d.silentSince().UTC(), max(s.Monitors, 1)
		h.Sets[setMonitoring] = s
	}
	if d.deps.Figures != nil {
		h.CPUPressure, h.Steal = d.deps.Figures()
	}
	d.mu.Lock()
	h.Overrides = len(d.rules.Overrides)
	if !always && sameHealth(h, d.last) {
		d.mu.Unlock()
		return false
	}
	h.Seq = d.last.Seq + 1
	d.last = h
	seen := sights{Seen: aged(d.report.Seen, time.Since(d.reported))}
	d.mu.Unlock()
	seen.Seen = append(seen.Seen, d.watch.sights()...)
	d.deps.Mesh.Publish(org.HealthSection, codec.MustMarshal(h))
	d.deps.Mesh.Publish(seenSection, codec.MustMarshal(seen))
	return true
}

// aged are sights after some time.
func aged(all []sight, by time.Duration) []sight {
	out := slices.Clone(all)
	for i := range out {
		out[i].Age += by
	}
	return out
}

// sameHealth compares what others act upon; figures that always move do not count.
func sameHealth(a, b org.ServerHealth) bool {
	if a.Mode != b.Mode || a.Silent != b.Silent || a.Overrides != b.Overrides || len(a.Sets) != len(b.Sets) {
		return false
	}
	for n, s := range a.Sets {
		if o, ok := b.Sets[n]; !ok || o.State != s.State {
			return false
		}
	}
	return true
}
