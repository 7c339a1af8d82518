package maintain

import (
	"context"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/active/plan"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// World is what the steps need of the group and of the rooms.
type World interface {
	View() *cluster.View
	// Heard tells whether a server lives and is heard.
	Heard(org.ServerName) bool
	// Statuses are what a server reports of its copies.
	Statuses(org.ServerName) []org.CopyStatus
	Primary() org.ServerName
	// Leader leads the agreed state, empty where that is not known now.
	Leader(context.Context) org.ServerName
	// Obeyed is what a server does about the wishes, false where it does not tell.
	Obeyed(org.ServerName) (org.ServerComponents, bool)
	// Queue is what waits in a server's queue, and whether it accepts more.
	Queue(context.Context, org.ServerName) (waiting int64, accepting bool, err error)
	// Evacuate moves what is active on a server to other copies without loss,
	// while holds returns nil.
	Evacuate(ctx context.Context, s org.ServerName, why string, holds func() error) error
	// Unbalanced names the databases that could go to a copy more preferred,
	// and Balance moves them.
	Unbalanced() []string
	Balance(ctx context.Context) error
	// PassRole makes another server the primary Active Manager.
	PassRole(ctx context.Context, p *plan.Pen, to org.ServerName, why string) error
}

// Facts are what a judgement looks at.
type Facts struct {
	Servers   []Server
	Databases []Database
	Primary   org.ServerName
	Leader    org.ServerName
}

// Server is a member of the group.
type Server struct {
	Name    org.ServerName
	Witness bool
	Voter   bool
	Heard   bool
	// Out tells that it is in maintenance, or on its way there or back.
	Out bool
	// HighAvailability is whether it may have roles and active copies.
	HighAvailability org.ComponentState
}

// Database is a database with where it is whole.
type Database struct {
	Name   org.DatabaseName
	Active org.ServerName
	Copies []org.ServerName
	InSync []org.ServerName
	// Minimum is how many copies have to stay in sync.
	Minimum int
	// Seeding are the servers whose copy is made from the one on the value.
	Seeding map[org.ServerName]org.ServerName
}

// Look gathers the facts of now.
func Look(w World, leader org.ServerName, now time.Time) Facts {
	v := w.View()
	f := Facts{Primary: w.Primary(), Leader: leader}
	for _, s := range v.Servers() {
		ha, _ := v.Component(s.Name, org.HighAvailability, now)
		f.Servers = append(f.Servers, Server{Name: s.Name, Witness: s.Witness, Voter: s.Voter, Heard: w.Heard(s.Name),
			Out: inMaintenance(v, s.Name, now), HighAvailability: ha})
	}
	for _, def := range v.Databases() {
		mt, _ := v.Mount(def.Name)
		d := Database{Name: def.Name, Active: mt.Active, InSync: mt.InSync, Minimum: def.KeptInSync(), Seeding: map[org.ServerName]org.ServerName{}}
		for _, c := range def.Copies {
			d.Copies = append(d.Copies, c.Server)
			for _, st := range w.Statuses(c.Server) {
				if st.Database == def.Name && st.State == org.CopySeeding && st.SeedSource != "" {
					d.Seeding[c.Server] = st.SeedSource
				}
			}
		}
		f.Databases = append(f.Databases, d)
	}
	return f
}

// inMaintenance tells whether a server has wishes of the requester Maintenance.
func inMaintenance(v *cluster.View, s org.ServerName, now time.Time) bool {
	return slices.ContainsFunc(v.ComponentEntries(s), func(e org.ComponentEntry) bool {
		return e.Requester == org.Maintenance && e.State.AtLeast(org.Draining) && (e.Expires.IsZero() || now.Before(e.Expires))
	})
}

func (f Facts) server(name org.ServerName) (Server, bool) {
	i := slices.IndexFunc(f.Servers, func(s Server) bool { return s.Name == name })
	if i < 0 {
		return Server{}, false
	}
	return f.Servers[i], true
}
