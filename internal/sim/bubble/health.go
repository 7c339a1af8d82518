package bubble

import (
	"time"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/org"
)

// illness is a health set that is not well.
type illness struct {
	set    string
	health org.SetHealth
}

// illnesses are those a fault may bring.
func illnesses() []illness {
	return []illness{
		{"Store", org.SetHealth{State: org.Unhealthy, Priority: org.PriorityCritical, Monitors: 1, HA: true}},
		{"Store", org.SetHealth{State: org.Degraded, Priority: org.PriorityCritical, Monitors: 1, HA: true}},
		{"IMAP", org.SetHealth{State: org.Unhealthy, Priority: org.PriorityNormal, Monitors: 1}},
		{"Certificates", org.SetHealth{State: org.Unrecoverable, Priority: org.PriorityLow, Monitors: 1}},
	}
}

// tellHealth publishes what is wrong with this server, nothing where it is well.
func (p *process) tellHealth(ill *illness) {
	h := org.ServerHealth{Sets: map[string]org.SetHealth{}}
	for _, x := range illnesses() {
		h.Sets[x.set] = org.SetHealth{State: org.HealthOK, Priority: x.health.Priority, Monitors: 1}
	}
	if ill != nil {
		h.Sets[ill.set] = ill.health
	}
	p.group.Publish(org.HealthSection, codec.MustMarshal(h))
}

// health is what this process knows of a server's health sets.
func (p *process) health(s org.ServerName) (map[string]org.SetHealth, time.Duration) {
	b, heard, ok := p.group.Published(s, org.HealthSection)
	var h org.ServerHealth
	if !ok || codec.Unmarshal(b, &h) != nil {
		return nil, 0
	}
	return h.Sets, time.Since(heard)
}

// sicken turns a health set of a server for a while. Its process tells, and the
// next one after a restart does.
func (w *world) sicken(f Fault, s *server) {
	all := illnesses()
	ill := all[w.rnd.intN(len(all))]
	w.setIll(s, &ill)
	w.lasts(f)
	w.setIll(s, nil)
}

func (w *world) setIll(s *server, ill *illness) {
	w.mu.Lock()
	s.ill = ill
	w.mu.Unlock()
	if p := w.links.running(s.name); p != nil {
		p.tellHealth(ill)
	}
}
