package site

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/active/plan"
	"github.com/postern-mail/postern/internal/active/plan/plantest"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// ground is a group of two sites in memory. A move is a new mount row.
type ground struct {
	*plantest.State
	silent map[org.ServerName]bool
}

func newGround() *ground {
	g := &ground{State: plantest.New(), silent: map[org.ServerName]bool{}}
	for name, at := range map[org.ServerName]org.SiteName{"A1": "A", "B1": "B"} {
		g.Put("servers/"+string(name), org.Server{Name: name, Site: at})
	}
	for db, prefers := range map[org.DatabaseName]org.ServerName{"DB01": "A1", "DB02": "B1"} {
		def := org.Database{Name: db}
		for _, s := range []org.ServerName{"A1", "B1"} {
			p := 2
			if s == prefers {
				p = 1
			}
			def.Copies = append(def.Copies, org.Copy{Server: s, Preference: p})
		}
		g.Put("databases/"+string(db), def)
		g.Put("mounts/"+string(db), org.Mount{Database: db, Term: 1, Active: prefers, InSync: []org.ServerName{"A1", "B1"}})
	}
	g.Put(plantest.RoleKey, "A1")
	return g
}

func (g *ground) Heard(s org.ServerName) bool { return !g.silent[s] }

func (g *ground) Statuses(s org.ServerName) (out []org.CopyStatus) {
	for _, mt := range g.View().Mounts() {
		out = append(out, org.CopyStatus{Database: mt.Database, Server: s, State: org.CopyHealthy, Since: time.Now().Add(-time.Hour).UnixNano()})
	}
	return out
}

func (g *ground) Primary() org.ServerName {
	it, _ := g.View().Get(plantest.RoleKey)
	return org.ServerName(it.Value)
}

func (g *ground) PassRole(ctx context.Context, p *plan.Pen, to org.ServerName, _ string) error {
	return p.Commit(ctx, cluster.Txn{Then: []cluster.Op{{Key: plantest.RoleKey, Value: []byte(to)}}})
}

func (g *ground) MoveEach(_ context.Context, to map[org.DatabaseName]org.ServerName, _ string, _ func() error) error {
	for db, s := range to {
		mt, _ := g.View().Mount(db)
		mt.Term, mt.Active = mt.Term+1, s
		g.Put("mounts/"+string(db), mt)
	}
	return nil
}

func (g *ground) engine(s org.ServerName) *plan.Engine {
	return plan.New(plan.Deps{Group: g.Server(s), RoleKey: plantest.RoleKey, Primary: g.Primary, Log: slog.New(slog.DiscardHandler)}, Kinds(g, time.Now)...)
}

// awaitEnd waits in the bubble's time until a plan has ended.
func awaitEnd(t *testing.T, g *ground, id string) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for range 60 {
		it, _ := g.View().Get(plan.Key(id))
		var p org.Plan
		if json.Unmarshal(it.Value, &p) == nil && p.State.Ended() {
			return
		}
		<-tick.C
	}
	t.Errorf("plan %s does not end", id)
}

// TestSwitchoverAndFailback leaves a site, carried out by a server of it first and
// by one of the other then, and goes back.
func TestSwitchoverAndFailback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGround()
		ctx, cancel := context.WithCancel(t.Context())
		engines := map[org.ServerName]*plan.Engine{}
		ended := make(chan error, 2)
		for _, s := range []org.ServerName{"A1", "B1"} {
			e := g.engine(s)
			engines[s] = e
			go func() { ended <- e.Run(ctx) }()
		}
		play := func(kindName string, o Order) org.Plan {
			p, err := (Kind{g, time.Now, kindName}).Plan(o, DefaultTimes())
			if err != nil {
				t.Fatal(err)
			}
			if p, err = engines[g.Primary()].Start(ctx, p); err != nil {
				t.Fatal(err)
			}
			awaitEnd(t, g, p.ID)
			it, _ := g.View().Get(plan.Key(p.ID))
			if err := json.Unmarshal(it.Value, &p); err != nil {
				t.Fatal(err)
			}
			return p
		}
		p := play(KindSwitchover, Order{Site: "A", To: "B", Stop: true})
		if p.State != org.PlanDone || g.Primary() != "B1" || StateOf(g.View(), "A") != org.SiteStopped {
			t.Errorf("%s %s, primary %s, site A %s", p.State, p.Held, g.Primary(), StateOf(g.View(), "A"))
		}
		for _, mt := range g.View().Mounts() {
			if mt.Active != "B1" {
				t.Errorf("%s is active on %s", mt.Database, mt.Active)
			}
		}
		p = play(KindFailback, Order{Site: "A", Calm: 10 * time.Minute})
		mt1, _ := g.View().Mount("DB01")
		mt2, _ := g.View().Mount("DB02")
		if p.State != org.PlanDone || mt1.Active != "A1" || mt2.Active != "B1" || StateOf(g.View(), "A") != org.SiteStarted {
			t.Errorf("%s %s, DB01 on %s, DB02 on %s, site A %s", p.State, p.Held, mt1.Active, mt2.Active, StateOf(g.View(), "A"))
		}
		cancel()
		for range engines {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
}

// TestSwitchoverRefused: what cannot go is said before anything is done.
func TestSwitchoverRefused(t *testing.T) {
	g := newGround()
	g.silent["B1"] = true
	for _, c := range []struct {
		o    Order
		kind kind.Kind
		say  string
	}{
		{Order{Site: "A", To: "B"}, kind.Conflict, "DB01 has no complete copy in B"},
		{Order{Site: "A", To: "A"}, kind.Invalid, "to itself"},
		{Order{Site: "A", To: "C"}, kind.NotFound, `site "C"`},
	} {
		if _, err := (Kind{g, time.Now, KindSwitchover}).Plan(c.o, DefaultTimes()); !kind.Is(err, c.kind) || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%+v: %v", c.o, err)
		}
	}
}
