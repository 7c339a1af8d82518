package active

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

// overtaken are changes of others after a move was decided, whose target was
// MBX02 then.
var overtaken = []struct {
	name   string
	dead   bool // the active copy, so that nobody hands over
	change func(f *fake)
	says   string // empty: it is moved all the same
}{
	{"out of sync, handed over", false, takeOut("MBX02"), "no longer in sync"},
	{"out of sync, the active copy is dead", true, takeOut("MBX02"), "no longer in sync"},
	{"the handover was taken back", false, takeBack, "took the handover back"},
	{"another out of sync", false, takeOut("MBX03"), ""},
	{"another out of sync, the active copy is dead", true, takeOut("MBX03"), ""},
	{"activation suspended", false, editCopy("MBX02", func(c *org.Copy) { c.ActivationSuspended = true }), "activation of this copy is suspended"},
	{"no copy there", true, dropCopy("MBX02"), "it has no copy any more"},
	{"maintenance", false, wish("MBX02", org.HighAvailability, org.Maintenance), "its component high_availability is Draining"},
	{"offline, the active copy is dead", true, wish("MBX02", org.ServerOffline, org.Sidelined), "its component high_availability is Draining"},
	{"full", false, func(f *fake) { f.put("servers/MBX02", org.Server{Name: "MBX02", Site: "A", MaximumActive: 1}) }, "the most active databases it may"},
	{"blocked", false, func(f *fake) {
		f.put("servers/MBX02", org.Server{Name: "MBX02", ActivationPolicy: org.ActivationBlocked})
	}, "activation policy of its server is Blocked"},
	{"another copy changed", false, editCopy("MBX03", func(c *org.Copy) { c.ActivationSuspended = true }), ""},
	{"the copy changed", true, editCopy("MBX02", func(c *org.Copy) { c.ReplayLag = time.Second }), ""},
	{"another part held back", false, wish("MBX02", org.IMAPComponent, org.Sidelined), ""},
}

func takeOut(s org.ServerName) func(*fake) {
	return func(f *fake) {
		mt := f.mount("DB0001")
		mt.InSync = slices.DeleteFunc(slices.Clone(mt.InSync), func(x org.ServerName) bool { return x == s })
		f.put(mailbox.MountKey("DB0001"), mt)
	}
}

// takeBack is what an active copy does that waited too long for its successor.
func takeBack(f *fake) {
	mt := f.mount("DB0001")
	mt.Thaws++
	f.put(mailbox.MountKey("DB0001"), mt)
}

func editCopy(s org.ServerName, edit func(*org.Copy)) func(*fake) {
	return func(f *fake) {
		def, _ := f.View().Database("DB0001")
		def.Copies = slices.Clone(def.Copies)
		edit(&def.Copies[slices.IndexFunc(def.Copies, func(c org.Copy) bool { return c.Server == s })])
		f.put(mailbox.DatabaseKey("DB0001"), def)
	}
}

func dropCopy(s org.ServerName) func(*fake) {
	return func(f *fake) {
		def, _ := f.View().Database("DB0001")
		def.Copies = slices.DeleteFunc(slices.Clone(def.Copies), func(c org.Copy) bool { return c.Server == s })
		f.put(mailbox.DatabaseKey("DB0001"), def)
	}
}

func wish(s org.ServerName, c org.Component, r org.Requester) func(*fake) {
	return func(f *fake) {
		f.put(org.ComponentKey(s, c, r), org.ComponentEntry{Component: c, Requester: r, State: org.Draining})
	}
}

// component is a server's by the agreed state.
func (f *fake) component(s org.ServerName, c org.Component) org.ComponentState {
	st, _ := f.View().Component(s, c, time.Now())
	return st
}

// busyServers makes a group of which MBX02 has an active database already.
func busyServers(t *testing.T) *fake {
	f := newFake(t, 3, 2)
	mt := f.mount("DB0002")
	mt.Active = "MBX02"
	f.put(mailbox.MountKey("DB0002"), mt)
	f.set("MBX01", "DB0002", org.CopyHealthy, 3)
	f.set("MBX02", "DB0002", org.CopyMounted, 3)
	return f
}

// TestOvertakenMove: what others change between the choice of a target and the
// new term is looked at once more, and what they change between that look and the
// write keeps it from being written.
func TestOvertakenMove(t *testing.T) {
	for _, c := range overtaken {
		for _, late := range []bool{false, true} {
			f := busyServers(t)
			m := f.manager(Config{}, Deps{Component: f.component})
			if c.dead {
				f.lose("MBX01")
			}
			if late && c.name == "full" || late && c.name == "blocked" {
				continue // rows of servers are no condition
			}
			f.onSync = func(n int) {
				switch {
				case n == 2 && late: // the first is before the choice
					f.onCommit = func() { c.change(f) }
				case n == 2:
					c.change(f)
				}
			}
			_, err := m.Move(t.Context(), Order{Database: "DB0001", Why: "a test"})
			mt := f.mount("DB0001")
			if c.says == "" {
				if err != nil || mt.Active != "MBX02" || mt.Term != 4 || mt.Handed == c.dead {
					t.Errorf("%s, late %v: %v, %+v", c.name, late, err, mt)
				}
				continue
			}
			if !kind.Is(err, kind.Conflict) || !strings.Contains(err.Error(), c.says) || mt.Active != "MBX01" || mt.Term != 3 {
				t.Errorf("%s, late %v: %v, %+v", c.name, late, err, mt)
			}
		}
	}
}

// TestOvertakenFailover: the target of a failover is taken out of service at the
// moment of its write: the next turn chooses another.
func TestOvertakenFailover(t *testing.T) {
	for _, change := range []func(*fake){wish("MBX02", org.HighAvailability, org.Maintenance), editCopy("MBX02", func(c *org.Copy) { c.ActivationSuspended = true })} {
		f := busyServers(t)
		m := f.manager(Config{}, Deps{Component: f.component})
		f.lose("MBX01")
		f.onCommit = func() { change(f) }
		if m.decide(t.Context()); f.mount("DB0001").Term != 3 {
			t.Errorf("decided before it was taken out of service: %+v", f.mount("DB0001"))
		}
		if m.decide(t.Context()); f.mount("DB0001").Active != "MBX03" || f.mount("DB0001").Term != 4 {
			t.Errorf("the next turn: %+v", f.mount("DB0001"))
		}
	}
}

// sites is the group as orders about sites see it.
type sites struct{ *fake }

func (g sites) Peers() (out []cluster.Peer) {
	for _, s := range g.View().Servers() {
		if _, dead := g.Dead(s.Name); !dead && s.Name != g.me {
			out = append(out, cluster.Peer{Server: s.Name, State: cluster.PeerUp})
		}
	}
	return out
}
func (g sites) Boot(org.ServerName) (boot, version string)         { return "b", "v" }
func (g sites) Newer() int64                                       { return 0 }
func (g sites) Activate(context.Context, cluster.Activation) error { return nil }
func (g sites) Voting() bool                                       { return true }

// TestOvertakenSite: a database becomes active at a site while that is stopped,
// or the site is stopped while a database goes there: one of the two is refused.
func TestOvertakenSite(t *testing.T) {
	with := func() (*fake, *Sites, *Manager) {
		f := newFake(t, 3, 1)
		f.put("servers/MBX02", org.Server{Name: "MBX02", Site: "B"})
		x := NewSites(SitesDeps{Group: sites{f}})
		return f, x, f.manager(Config{}, Deps{Sites: x})
	}
	active := func(s org.ServerName) func(*fake) {
		return func(f *fake) {
			mt := f.mount("DB0001")
			mt.Term, mt.Active = mt.Term+1, s
			f.put(mailbox.MountKey("DB0001"), mt)
		}
	}
	for name, c := range map[string]struct {
		change  func(*fake)
		refused string
		stopped bool
	}{
		"active there":       {active("MBX02"), "DB0001 is active on MBX02, which is heard", false},
		"active elsewhere":   {active("MBX03"), "", true},
		"in-sync set":        {takeOut("MBX03"), "", true},
		"stopped by another": {func(f *fake) { f.put(org.SitePrefix+"B", org.Site{Name: "B", State: org.SiteStopped}) }, "", true},
	} {
		f, x, _ := with()
		f.onCommit = func() { c.change(f) }
		p, err := x.stop(t.Context(), siteStopArgs{Site: "B"})
		if got := errText(err); (got == "") != (c.refused == "") || !strings.Contains(got, c.refused) || c.refused == "" && !p.Steps[0].Done {
			t.Errorf("%s: %v, %+v", name, err, p)
		}
		if got := siteRow(f.View(), "B"); (got.State == org.SiteStopped) != c.stopped {
			t.Errorf("%s: %+v", name, got)
		}
	}
	f, x, m := with()
	f.onCommit = func() {
		if _, err := x.stop(t.Context(), siteStopArgs{Site: "B"}); err != nil {
			t.Error(err)
		}
	}
	_, err := m.Move(t.Context(), Order{Database: "DB0001", To: "MBX02"})
	if !kind.Is(err, kind.Conflict) || !strings.Contains(err.Error(), "site B is stopped") || f.mount("DB0001").Active != "MBX01" {
		t.Errorf("moved to a stopped site: %v, %+v", err, f.mount("DB0001"))
	}
}

// TestOvertakenGather: the target of a lossy mount is taken out of service while
// log is brought to it.
func TestOvertakenGather(t *testing.T) {
	for name, change := range map[string]func(*fake){
		"maintenance": wish("MBX02", org.HighAvailability, org.Maintenance),
		"suspended":   editCopy("MBX02", func(c *org.Copy) { c.ActivationSuspended = true }),
		"made anew":   editCopy("MBX02", func(c *org.Copy) { c.SeedCount++ }),
		"nothing":     func(*fake) {},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(t, 3, 1)
			m := f.manager(Config{}, Deps{Component: f.component})
			mt := f.mount("DB0001")
			mt.InSync = mt.InSync[:1]
			f.put(mailbox.MountKey("DB0001"), mt)
			f.put("servers/MBX02", org.Server{Name: "MBX02", Site: "A", AutoDatabaseMountDial: org.DialGoodAvailability})
			st := f.states["MBX03"]["DB0001"]
			st.Copied = 20
			f.states["MBX03"]["DB0001"] = st
			f.lose("MBX01")
			f.onGather = func() { change(f) }
			m.decide(t.Context())
			synctest.Wait()
			if mt = f.mount("DB0001"); (mt.Active == "MBX02") != (name == "nothing") {
				t.Errorf("%s: %+v", name, mt)
			}
		})
	}
}
