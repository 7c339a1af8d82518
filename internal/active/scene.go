package active

import (
	"time"

	"github.com/postern-mail/postern/internal/active/choose"
	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

// healthFresh is how old the health of a server may be to count.
const healthFresh = 15 * time.Second

// copiesFresh is how old the word of a server about its copies may be where its
// silence would count against it.
const copiesFresh = 5 * time.Second

// A server is overcommitted for new databases above these shares of the last
// minute, in percent.
const (
	pressureHigh = 60
	stealHigh    = 20
)

// scene is what one pass of decisions looks at, read once, so that its cost
// does not grow with databases times copies.
type scene struct {
	m       *Manager
	v       *cluster.View
	now     time.Time
	active  map[org.ServerName]int
	servers map[org.ServerName]*seen
}

// seen is what is known of one server.
type seen struct {
	row     org.Server
	member  bool
	up      bool // a live member, not judged dead
	dead    string
	alive   bool // its lease has not ended
	copies  map[org.DatabaseName]org.CopyStatus
	fresh   bool // copies were heard a moment ago
	sets    map[string]org.SetHealth
	unheard bool
	cpuHigh bool
	held    string // why nothing is activated on it
}

// look reads what decisions need.
func (m *Manager) look(v *cluster.View) *scene {
	sc := &scene{m: m, v: v, now: time.Now(), active: map[org.ServerName]int{}, servers: map[org.ServerName]*seen{}}
	for _, mt := range v.Mounts() {
		if mt.Active != "" {
			sc.active[mt.Active]++
		}
	}
	return sc
}

// server is what is known of s, read at the first question about it.
func (sc *scene) server(s org.ServerName) *seen {
	if k := sc.servers[s]; k != nil {
		return k
	}
	k := &seen{copies: map[org.DatabaseName]org.CopyStatus{}}
	sc.servers[s] = k
	if s == "" {
		return k
	}
	m := sc.m
	k.row, k.member = sc.v.Server(s)
	why, dead := m.group.Dead(s)
	k.alive = m.group.Alive(s)
	k.up = k.member && !dead && k.alive
	switch {
	case !k.member:
		k.dead = string(s) + " is no longer a member"
	case dead:
		k.dead = why
	}
	_, heard, ok := m.group.Published(s, mailbox.StatusSection)
	k.fresh = ok && sc.now.Sub(heard) < copiesFresh
	for _, st := range m.copies.PeerStatuses(s) {
		k.copies[st.Database] = st
	}
	if m.deps.Health != nil {
		sets, age := m.deps.Health(s)
		k.sets, k.unheard = sets, sets == nil || age > healthFresh || !k.up
	}
	if raw, _, ok := m.group.Published(s, org.HealthSection); ok {
		var h org.ServerHealth
		if codec.Unmarshal(raw, &h) == nil {
			k.cpuHigh = h.CPUPressure > pressureHigh || h.Steal > stealHigh
		}
	}
	if st := m.component(s); st != org.Active {
		k.held = "its component " + string(org.HighAvailability) + " is " + string(st)
	}
	if m.deps.Sites != nil && k.member && k.held == "" {
		k.held = m.deps.Sites.holds(sc.v, k.row)
	}
	return k
}

// component is the state of high availability on a server.
func (m *Manager) component(s org.ServerName) org.ComponentState {
	if m.deps.Component == nil {
		return org.Active
	}
	return m.deps.Component(s, org.HighAvailability).Stronger(org.Active)
}

// serves tells that clients are served by the active copy of a database, as far
// as is known.
func (sc *scene) serves(mt org.Mount) bool {
	k := sc.server(mt.Active)
	if mt.Active == "" || !k.up {
		return false
	}
	st, known := k.copies[mt.Database]
	return !known || st.State != org.CopyFailed && st.State != org.CopyFailedAndSuspended
}

// question gathers what a decision may look at.
func (sc *scene) question(def org.Database, mt org.Mount, p choose.Purpose) choose.Question {
	src := sc.server(mt.Active)
	q := choose.Question{
		Database: def.Name, Purpose: p, Source: mt.Active, Site: src.row.Site,
		SourceFenced: mt.Active == "" || !src.alive, SourceSets: src.sets,
		SourceUnheard: src.unheard || mt.Active == "" && sc.m.deps.Health != nil,
		SourceServes:  p != choose.Failover && sc.serves(mt), PreferSite: sc.m.cfg.SitePreference != siteNone,
	}
	var newest org.LSN
	for _, c := range def.Copies {
		if st, ok := sc.server(c.Server).copies[def.Name]; ok {
			newest = max(newest, st.Generated, st.Copied)
			if st.State == org.CopySeeding && st.SeedSource == mt.Active {
				q.Seeds = append(q.Seeds, c.Server)
			}
		}
	}
	past, _ := historyOf(sc.v, def.Name)
	for _, c := range def.Copies {
		cand := sc.candidate(def, mt, c, newest)
		cand.BackOff, cand.Failures = past.backOff(c.Server, sc.now)
		q.Candidates = append(q.Candidates, cand)
	}
	return q
}

func (sc *scene) candidate(def org.Database, mt org.Mount, c org.Copy, newest org.LSN) choose.Candidate {
	k := sc.server(c.Server)
	cand := choose.Candidate{
		Server: c.Server, Site: k.row.Site, Preference: c.Preference, InSync: mt.IsInSync(c.Server),
		Reachable: k.up, Policy: k.row.ActivationPolicy,
		ActiveNow: sc.active[c.Server], MaximumActive: k.row.MaximumActive, MaximumPreferred: k.row.MaximumPreferredActive,
		Dial: k.row.AutoDatabaseMountDial, State: org.CopyInitializing,
		Lagged: c.ReplayLag > 0, Sets: k.sets, Unheard: k.unheard, CPUHigh: k.cpuHigh,
	}
	if st, known := k.copies[def.Name]; known {
		cand.State, cand.ReplayQueue, cand.ContentIndex = st.State, st.ReplayQueueLength(), st.ContentIndex
		cand.Missing = org.Generations(st.Copied, newest)
	}
	switch {
	case c.Suspended && !cand.InSync:
		cand.Blocked = "it is suspended"
	case c.ActivationSuspended:
		cand.Blocked = "activation of this copy is suspended: " + c.SuspendComment
	case k.held != "":
		cand.Blocked = k.held
	}
	return cand
}

// longest is the live copy that holds more log than the one on target, and up
// to where; empty when there is none.
func (sc *scene) longest(def org.Database, target org.ServerName) (org.ServerName, org.LSN) {
	best, end := org.ServerName(""), sc.server(target).copies[def.Name].Copied
	for _, c := range def.Copies {
		k := sc.server(c.Server)
		st, ok := k.copies[def.Name]
		if ok && k.up && c.Server != target && st.Copied > end && st.State != org.CopyFailed && st.State != org.CopySeeding {
			best, end = c.Server, st.Copied
		}
	}
	return best, end
}

// status is what a server last said of its copy of a database.
func (m *Manager) status(s org.ServerName, db org.DatabaseName) (org.CopyStatus, bool) {
	for _, st := range m.copies.PeerStatuses(s) {
		if st.Database == db {
			return st, true
		}
	}
	return org.CopyStatus{}, false
}
