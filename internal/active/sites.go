package active

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/active/site"
	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// SitesGroup is what Sites need of the group; *cluster.Cluster is one.
type SitesGroup interface {
	Name() org.ServerName
	View() *cluster.View
	Changed() <-chan struct{}
	Peers() []cluster.Peer
	PeersChanged() <-chan struct{}
	Publish(section string, v []byte)
	Published(s org.ServerName, section string) ([]byte, time.Time, bool)
	Quorum() bool
	Sync(context.Context) error
	Commit(context.Context, cluster.Txn) (int64, error)
	Boot(org.ServerName) (boot, version string)
	Newer() int64
	Activate(context.Context, cluster.Activation) error
	Voting() bool
}

// SitesDeps are what Sites are built from.
type SitesDeps struct {
	Group  SitesGroup
	Fast   bool           // shortens the wait before a forced activation, for tests
	Noted  func(org.Note) // writes the recovery log, without waiting; nil: nobody
	Log    *slog.Logger
	Events *event.Log
}

// Sites keeps this server's permission to lead, and the orders that concern
// whole sites. It stands before the rooms that it permits things.
type Sites struct {
	deps  SitesDeps
	group SitesGroup
	me    org.ServerName

	mu      sync.Mutex // guards the rest
	bit     bool
	why     string
	changed chan struct{} // closed when bit or why change
	told    string        // the last reason that was an event
	since   time.Time     // of bit
	lost    time.Time     // when the agreed state was last heard, zero while it is
}

// NewSites builds them; nothing runs before Run. Until then this server may
// not lead.
func NewSites(d SitesDeps) *Sites {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	return &Sites{deps: d, group: d.Group, me: d.Group.Name(), why: "this server has just started", changed: make(chan struct{}), since: time.Now()}
}

// Pauses between two looks: a server that may not lead hopes to hear soon.
const (
	bitSoon = 50 * time.Millisecond
	bitLook = 500 * time.Millisecond
)

// oldVersion is how long a server has to be heard without a word about its
// permission to count as one of a version that knows none, and leads.
const oldVersion = 5 * time.Second

// holdPatience is how long a server waits for the others before that is an event.
const holdPatience = 5 * time.Second

// Run keeps the permission until ctx ends.
func (x *Sites) Run(ctx context.Context) error {
	for {
		view, peers := x.group.Changed(), x.group.PeersChanged()
		x.look(time.Now())
		pause := bitLook
		if _, ok := x.MayLead(); !ok {
			pause = bitSoon
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-view:
		case <-peers:
		case <-t.C:
		}
		t.Stop()
	}
}

// MayLead tells whether this server may have active databases and the primary
// role, and in one sentence why.
func (x *Sites) MayLead() (why string, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.why, x.bit
}

// LeadChanged is closed at the next change of what MayLead answers. Take it
// before MayLead.
func (x *Sites) LeadChanged() <-chan struct{} {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.changed
}

// look decides once, and tells the others.
func (x *Sites) look(now time.Time) {
	f := x.facts(now)
	x.mu.Lock()
	bit, why := site.Next(f, x.bit)
	if bit != x.bit {
		x.since = now
	}
	if bit != x.bit || why != x.why {
		x.bit, x.why = bit, why
		close(x.changed)
		x.changed = make(chan struct{})
	}
	quorum := x.group.Quorum()
	switch {
	case quorum:
		x.lost = time.Time{}
	case x.lost.IsZero():
		x.lost = now
	}
	say := !bit && why != x.told && now.Sub(x.since) >= holdPatience
	if say {
		x.told = why
	}
	back := bit && x.told != ""
	if back {
		x.told = ""
	}
	x.mu.Unlock()
	if say {
		x.note("HoldMounts", why, f, "no database is mounted here")
		x.deps.Events.Emit(evHolds, "%s mounts no database: %s", x.me, why)
	}
	if back {
		x.note("AllowMounts", why, f, "databases may be mounted here")
		x.deps.Events.Emit(evMayLead, "%s may mount databases: %s", x.me, why)
	}
	x.tell(f, bit, why, quorum)
}

// note has a change that was told written into the recovery log, some time.
func (x *Sites) note(action, why string, f site.Facts, result string) {
	if x.deps.Noted != nil {
		x.deps.Noted(org.Note{Action: action, Target: string(x.me), Responder: "Sites", Cause: why, Result: result,
			Evidence: []org.RecoveryEvidence{{Item: "Sites", Target: string(x.me), Result: "judged", Text: seenOf(f)}}})
	}
}

// seenOf is what a decision about the permission rests on.
func seenOf(f site.Facts) string {
	s := fmt.Sprintf("generation %d", f.Generation)
	for _, m := range f.Members {
		switch {
		case m.GivenUp:
			s += fmt.Sprintf("; %s given up", m.Name)
		case !m.Heard:
			s += fmt.Sprintf("; %s not heard", m.Name)
		case m.Bit:
			s += fmt.Sprintf("; %s leads", m.Name)
		default:
			s += fmt.Sprintf("; %s waits too", m.Name)
		}
	}
	return s
}

// tell publishes the permission and who is heard.
func (x *Sites) tell(f site.Facts, bit bool, why string, quorum bool) {
	s := org.ServerActivation{Generation: f.Generation, Bit: bit, Why: why, Quorum: quorum}
	for _, m := range f.Members {
		if m.Heard && m.Name != x.me {
			s.Hears = append(s.Hears, m.Name)
		}
	}
	if !quorum {
		s.Revision = x.group.View().Revision()
	}
	x.group.Publish(org.ActivationSection, codec.MustMarshal(s))
}

// facts are those of now.
func (x *Sites) facts(now time.Time) site.Facts {
	v := x.group.View()
	g := generationOf(v)
	f := site.Facts{Me: x.me, Generation: g.Generation, Newer: x.group.Newer()}
	for _, s := range sitesOf(v) {
		if s.State == org.SiteStopped {
			f.Stopped = append(f.Stopped, s.Name)
		}
		if boot, ok := s.Allowed[x.me]; ok {
			mine, _ := x.group.Boot(x.me)
			f.Allowed = f.Allowed || mine != "" && boot == mine
		}
	}
	peers := map[org.ServerName]cluster.Peer{}
	for _, p := range x.group.Peers() {
		peers[p.Server] = p
	}
	for _, s := range v.Servers() {
		m := site.Member{Name: s.Name, Site: s.Site, Witness: s.Witness, GivenUp: g.Left(s)}
		if p := peers[s.Name]; p.State == cluster.PeerUp {
			said, ok := x.said(s.Name)
			m.Heard, m.Generation, m.Bit = ok, said.Generation, said.Bit
			if !ok && now.Sub(p.Since) >= oldVersion {
				m.Heard, m.Generation, m.Bit = true, f.Generation, true
			}
		}
		if s.Name == x.me {
			m.Heard = true
		}
		f.Members = append(f.Members, m)
	}
	return f
}

// said is what a server tells of its permission.
func (x *Sites) said(s org.ServerName) (a org.ServerActivation, ok bool) {
	b, _, ok := x.group.Published(s, org.ActivationSection)
	if !ok || codec.Unmarshal(b, &a) != nil {
		return org.ServerActivation{}, false
	}
	return a, true
}

// holds says why a server may not be given a database, empty where it may: its
// site is stopped, or it waits for permission.
func (x *Sites) holds(v *cluster.View, s org.Server) string {
	if slices.ContainsFunc(sitesOf(v), func(r org.Site) bool { return r.Name == s.Site && r.State == org.SiteStopped }) {
		return "site " + string(s.Site) + " is stopped"
	}
	if a, ok := x.said(s.Name); ok && !a.Bit {
		return "it may not lead: " + a.Why
	}
	return ""
}

// generationOf is the group's generation, the first where nothing was forced.
func generationOf(v *cluster.View) org.Generation {
	g := org.Generation{Generation: 1}
	if it, ok := v.Get(org.GenerationKey); ok && json.Unmarshal(it.Value, &g) != nil {
		g = org.Generation{Generation: 1}
	}
	return g
}

// sitesOf are the rows of sites, by name.
func sitesOf(v *cluster.View) (out []org.Site) {
	for _, it := range v.Prefix(org.SitePrefix) {
		var s org.Site
		if json.Unmarshal(it.Value, &s) == nil {
			out = append(out, s)
		}
	}
	return out
}
