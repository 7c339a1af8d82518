package bubble

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// The times of the mesh (cluster.Config).
const (
	meshInterval = 100 * time.Millisecond
	silentAfter  = time.Second
)

// neighbour is what a process finds of another server.
type neighbour struct {
	state    cluster.PeerState
	since    time.Time
	heard    time.Time
	watched  time.Time
	refused  time.Time // since when nobody listens there
	sections map[string][]byte
	says     map[org.ServerName]cluster.PeerState
}

// listen is one heartbeat of everybody to this member.
func (m *member) listen(now time.Time) {
	type said struct {
		sections map[string][]byte
		says     map[org.ServerName]cluster.PeerState
	}
	me := m.Name()
	heard, gone := map[org.ServerName]said{}, map[org.ServerName]bool{}
	for _, s := range m.a.names {
		if s == me {
			continue
		}
		if other := m.l.answers(s); other != nil && m.l.passes(s, me) {
			sec, says := other.group.tell()
			heard[s] = said{sec, says}
		} else {
			gone[s] = m.l.refuses(me, s)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	moved := false
	for s, n := range m.peers {
		to := n.state
		if h, ok := heard[s]; ok {
			moved = moved || !maps.Equal(h.says, n.says)
			n.heard, n.sections, n.says, to = now, h.sections, h.says, cluster.PeerUp
			n.refused = time.Time{}
		} else if gone[s] {
			if n.refused.IsZero() {
				n.refused = now
			} else if now.Sub(n.refused) >= meshInterval {
				to = cluster.PeerRefused
			}
		} else if now.Sub(latest(n.heard, n.watched, m.deaf)) >= silentAfter && to != cluster.PeerRefused {
			to = cluster.PeerSilent
		}
		if to != n.state {
			n.state, n.since, moved = to, now, true
		}
	}
	if moved {
		close(m.turned)
		m.turned = make(chan struct{})
	}
}

func latest(all ...time.Time) time.Time {
	return slices.MaxFunc(all, time.Time.Compare)
}

// tell is what this member says in a heartbeat.
func (m *member) tell() (map[string][]byte, map[org.ServerName]cluster.PeerState) {
	m.mu.Lock()
	defer m.mu.Unlock()
	says := map[org.ServerName]cluster.PeerState{}
	for s, n := range m.peers {
		says[s] = n.state
	}
	return maps.Clone(m.sections), says
}

// heldUp tells that the process was stopped until now: it finds nobody silent
// before it has listened for a while.
func (m *member) heldUp(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.deaf = now
}

// Peers implements the rooms' Group.
func (m *member) Peers() []cluster.Peer {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []cluster.Peer
	for _, s := range slices.Sorted(maps.Keys(m.peers)) {
		n := m.peers[s]
		out = append(out, cluster.Peer{Server: s, State: n.state, Since: n.since, LastHeard: n.heard})
	}
	return out
}

// PeersChanged implements the rooms' Group.
func (m *member) PeersChanged() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.turned
}

// Dead implements the rooms' Group by the rule of cluster/mesh: gone here, and
// for more than half of those who can be heard; with nobody to ask, only where
// its machine says so itself.
func (m *member) Dead(s org.ServerName) (why string, dead bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.peers[s]
	if n == nil {
		return "not a peer", false
	}
	if n.state != cluster.PeerRefused && n.state != cluster.PeerSilent {
		return string(n.state) + " here", false
	}
	agree, all := 0, 0
	for o, w := range m.peers {
		if o == s || w.state != cluster.PeerUp {
			continue
		}
		all++
		if st := cmp.Or(w.says[s], cluster.PeerUnknown); st == cluster.PeerRefused || st == cluster.PeerSilent {
			agree++
		}
	}
	why = fmt.Sprintf("%s here, gone for %d of %d others", n.state, agree, all)
	if all == 0 {
		return why, n.state == cluster.PeerRefused
	}
	return why, 2*agree > all
}

// Published implements the rooms' Group.
func (m *member) Published(s org.ServerName, section string) ([]byte, time.Time, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s == m.p.srv.name {
		v, ok := m.sections[section]
		return v, time.Now(), ok
	}
	n := m.peers[s]
	if n == nil {
		return nil, time.Time{}, false
	}
	v, ok := n.sections[section]
	return v, n.heard, ok
}
