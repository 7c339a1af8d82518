package site

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// Scene is what plans of sites look at.
type Scene struct {
	Servers map[org.ServerName]Place
	Bases   []Base
}

// Place is a server as plans see it.
type Place struct {
	Site  org.SiteName
	Heard bool
}

// Base is a database with its copies.
type Base struct {
	Name   org.DatabaseName
	Active org.ServerName
	Copies []BaseCopy
}

// BaseCopy is a copy of a database.
type BaseCopy struct {
	Server     org.ServerName
	Preference int
	InSync     bool
	Suspended  bool // it is not to be activated
	State      org.CopyState
	Since      time.Time // of State, zero where that is not known
}

// Look gathers the scene of now.
func Look(w World) Scene {
	v := w.View()
	sc := Scene{Servers: map[org.ServerName]Place{}}
	states := map[org.ServerName][]org.CopyStatus{}
	for _, s := range v.Servers() {
		sc.Servers[s.Name] = Place{s.Site, w.Heard(s.Name)}
		states[s.Name] = w.Statuses(s.Name)
	}
	for _, def := range v.Databases() {
		mt, _ := v.Mount(def.Name)
		if mt.Active == "" && def.Dismounted {
			continue
		}
		b := Base{Name: def.Name, Active: mt.Active}
		for _, c := range def.Copies {
			bc := BaseCopy{Server: c.Server, Preference: c.Preference, InSync: mt.IsInSync(c.Server), Suspended: c.Suspended || c.ActivationSuspended}
			for _, st := range states[c.Server] {
				if st.Database == def.Name {
					bc.State = st.State
					if st.Since != 0 {
						bc.Since = time.Unix(0, st.Since)
					}
				}
			}
			b.Copies = append(b.Copies, bc)
		}
		sc.Bases = append(sc.Bases, b)
	}
	return sc
}

// Targets is where databases go: in a switchover (o.To is set) all that are active
// in o.Site to their most preferred complete copies in o.To, and the second result
// says of which there is none; in a failback all that prefer a copy in o.Site and
// are active elsewhere, as far as a complete one is there.
func Targets(sc Scene, o Order) (map[org.DatabaseName]org.ServerName, []string) {
	out, no := map[org.DatabaseName]org.ServerName{}, []string(nil)
	for _, b := range sc.Bases {
		at := sc.Servers[b.Active].Site
		to, leave := o.To, at == o.Site
		if o.To == "" {
			to, leave = o.Site, at != o.Site && sc.prefers(b, o.Site)
		}
		if !leave {
			continue
		}
		if s := sc.complete(b, to); s != "" {
			out[b.Name] = s
		} else if o.To != "" {
			no = append(no, fmt.Sprintf("%s has no complete copy in %s that may be activated", b.Name, to))
		}
	}
	return out, no
}

// prefers tells whether the most preferred copy stands in a site.
func (sc Scene) prefers(b Base, at org.SiteName) bool {
	if len(b.Copies) == 0 {
		return false
	}
	first := slices.MinFunc(b.Copies, func(x, y BaseCopy) int { return cmp.Compare(x.Preference, y.Preference) })
	return sc.Servers[first.Server].Site == at
}

// complete is the server of the most preferred copy in a site that has everything
// that was confirmed.
func (sc Scene) complete(b Base, at org.SiteName) (best org.ServerName) {
	least := 0
	for _, c := range b.Copies {
		p := sc.Servers[c.Server]
		if p.Site == at && p.Heard && c.InSync && !c.Suspended && (best == "" || c.Preference < least) {
			best, least = c.Server, c.Preference
		}
	}
	return best
}

// Unready names the copies in o.Site that are not yet healthy and in sync for as
// long as o.Calm.
func Unready(sc Scene, o Order, now time.Time) []string {
	var out []string
	for _, b := range sc.Bases {
		for _, c := range b.Copies {
			if sc.Servers[c.Server].Site != o.Site || c.Suspended {
				continue
			}
			what := string(b.Name) + " on " + string(c.Server)
			switch {
			case !sc.Servers[c.Server].Heard:
				out = append(out, what+" (not heard)")
			case !c.InSync || c.State != org.CopyHealthy && c.State != org.CopyMounted:
				out = append(out, fmt.Sprintf("%s (%s)", what, cmp.Or(c.State, "unknown")))
			case o.Calm > 0 && (c.Since.IsZero() || now.Sub(c.Since) < o.Calm):
				out = append(out, what+" (not for long enough)")
			}
		}
	}
	return out
}
