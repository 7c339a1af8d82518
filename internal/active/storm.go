package active

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// A storm is more servers lost within a short time than one cause explains.
// Then nothing is moved but what has no service, until it has been calm.
const (
	stormServers = 3
	stormWithin  = time.Minute
	stormCalm    = 10 * time.Minute
)

type storm struct {
	lost  map[org.ServerName]lostServer
	until time.Time // of the calm
}

type lostServer struct {
	at   time.Time
	site org.SiteName
}

// noteLost counts the servers that are judged dead, and damps moves where they
// are many that have no site in common.
func (m *Manager) noteLost(v *cluster.View, now time.Time) {
	dead := map[org.ServerName]lostServer{}
	for _, s := range v.Servers() {
		if _, gone := m.group.Dead(s.Name); gone && !s.Witness {
			dead[s.Name] = lostServer{now, s.Site}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.storm.note(dead, now) {
		m.noteStorm(now)
		m.deps.Events.Emit(evStorm, "%d servers were lost within %s and have no site in common: databases that are served stay where they are until %s",
			len(m.storm.recent(now)), stormWithin, m.storm.until.UTC().Format(time.RFC3339))
	}
}

// noteStorm tells the recovery log that moves wait, and which servers were lost.
func (m *Manager) noteStorm(now time.Time) {
	if m.deps.Noted == nil {
		return
	}
	n := org.Note{Action: "DampMoves", Target: string(m.me), Responder: byManager,
		Cause:  fmt.Sprintf("%d servers were lost within %s and have no site in common", len(m.storm.recent(now)), stormWithin),
		Result: "databases that are served stay where they are until " + m.storm.until.UTC().Format(time.RFC3339)}
	for _, s := range slices.Sorted(maps.Keys(m.storm.lost)) {
		n.Evidence = append(n.Evidence, org.RecoveryEvidence{At: m.storm.lost[s].at, Item: byManager, Target: string(s), Result: "lost"})
	}
	m.deps.Noted(n)
}

// note takes the servers that are dead now, and tells that a storm began.
func (s *storm) note(dead map[org.ServerName]lostServer, now time.Time) bool {
	for name, l := range s.lost {
		if _, still := dead[name]; !still && now.Sub(l.at) > stormWithin {
			delete(s.lost, name)
		}
	}
	for name, l := range dead {
		if _, known := s.lost[name]; !known {
			s.lost[name] = l
		}
	}
	fresh := s.recent(now)
	sites := map[org.SiteName]bool{}
	for _, l := range fresh {
		sites[l.site] = true
	}
	if len(fresh) <= stormServers || len(sites) < 2 {
		return false
	}
	began := !now.Before(s.until)
	s.until = now.Add(stormCalm)
	return began
}

func (s *storm) recent(now time.Time) []lostServer {
	var out []lostServer
	for _, l := range s.lost {
		if now.Sub(l.at) <= stormWithin {
			out = append(out, l)
		}
	}
	return out
}

// damped says why moves wait that no dead server forces, empty when they need not.
func (m *Manager) damped(now time.Time) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.Before(m.storm.until) {
		return "many servers were lost a moment ago: databases that are served stay until " + m.storm.until.UTC().Format(time.RFC3339)
	}
	return ""
}
