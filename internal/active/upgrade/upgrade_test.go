package upgrade

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/active/maintain"
	"github.com/postern-mail/postern/internal/active/plan"
	"github.com/postern-mail/postern/internal/active/plan/plantest"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

func TestSkew(t *testing.T) {
	for _, c := range []struct {
		from, to string
		ok       bool
	}{
		{"v1.4.2", "v1.4.9", true}, {"v1.4.2", "v1.5.0", true}, {"v1.5.0", "v1.4.2", true}, {"v1.4.2", "v1.6.0", false}, {"v1.6.0", "v1.4.0", false},
		{"v1.9.0", "v2.0.0", true}, {"v1.9.0", "v2.1.0", false}, {"v2.0.0", "v1.9.0", false}, {"1.4.2", "1.5", true}, {"v1.4.2-3-gabc", "v1.7.0", false},
		{"devel", "v9.9.9", true}, {"v1.4.2", "2a70ee7", true}, {"", "", true}, {"v99999999999999999999.1", "v1.0", true},
	} {
		if why := Skew(c.from, c.to); (why == "") != c.ok {
			t.Errorf("%s to %s: %q", c.from, c.to, why)
		}
	}
}

func facts() maintain.Facts {
	return maintain.Facts{Primary: "MBX2",
		Servers:   []maintain.Server{{Name: "MBX1", Heard: true}, {Name: "MBX2", Heard: true}, {Name: "MBX3", Heard: true}, {Name: "WIT1", Heard: true, Witness: true}},
		Databases: []maintain.Database{{Active: "MBX1"}, {Active: "MBX1"}, {Active: "MBX3"}}}
}

func programs(running, installed string) map[org.ServerName]org.Program {
	out := map[org.ServerName]org.Program{}
	for _, s := range []org.ServerName{"MBX1", "MBX2", "MBX3", "WIT1"} {
		out[s] = org.Program{Running: running, Installed: installed}
	}
	return out
}

// TestTurns is who comes when, and what is refused.
func TestTurns(t *testing.T) {
	times := maintain.Defaults()
	got := Turns(facts(), programs("v1.0.0", "v1.1.0"), Order{})
	var names []string
	for i, s := range got {
		names = append(names, string(s.Name))
		if s.Turn != i+1 || s.Wanted != "v1.1.0" {
			t.Errorf("%+v", s)
		}
	}
	if !slices.Equal(names, []string{"WIT1", "MBX3", "MBX1", "MBX2"}) {
		t.Errorf("order %q: want the witness, the fewest active, the primary last", names)
	}
	p, err := Plan(got, Order{Pause: time.Minute}, times)
	if err != nil || p.Steps[0].Server != "WIT1" || p.Steps[0].Name != StepReady || p.Steps[len(p.Steps)-1].Name != StepCalm || len(p.Steps)%4 != 0 {
		t.Errorf("%v %+v", err, p)
	}
	for _, c := range []struct {
		name   string
		change func(*maintain.Facts, map[org.ServerName]org.Program, *Order)
		want   string
	}{
		{"nothing to do", func(_ *maintain.Facts, p map[org.ServerName]org.Program, _ *Order) {
			for s := range p {
				p[s] = org.Program{Running: "v1.1.0", Installed: "v1.1.0"}
			}
		}, "every server runs v1.1.0 already"},
		{"not installed", func(_ *maintain.Facts, p map[org.ServerName]org.Program, o *Order) { o.Version = "v1.2.0" }, "v1.2.0 has to be installed first, v1.1.0 is"},
		{"does not tell", func(_ *maintain.Facts, p map[org.ServerName]org.Program, o *Order) {
			p["MBX1"], o.Version = org.Program{Running: "v1.0.0"}, "v1.1.0"
		}, "MBX1: it does not tell"},
		{"down", func(f *maintain.Facts, _ map[org.ServerName]org.Program, _ *Order) { f.Servers[0].Heard = false }, "MBX1: it is not heard"},
		{"out", func(f *maintain.Facts, _ map[org.ServerName]org.Program, _ *Order) { f.Servers[2].Out = true }, "MBX3: it is in maintenance"},
		{"too far", func(_ *maintain.Facts, p map[org.ServerName]org.Program, _ *Order) {
			p["MBX1"] = org.Program{Running: "v0.7.0", Installed: "v1.1.0"}
		}, "MBX1: v1.1.0 does not follow v0.7.0"},
	} {
		f, ps, o := facts(), programs("v1.0.0", "v1.1.0"), Order{}
		c.change(&f, ps, &o)
		if _, err := Plan(Turns(f, ps, o), o, times); !kind.Is(err, kind.Conflict) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	o := Order{RestartOnly: true}
	if p, err := Plan(Turns(facts(), programs("v1.1.0", ""), o), o, times); err != nil || p.Title != "restart the group" {
		t.Errorf("%v %+v", err, p)
	}
}

// world is three servers whose hosts obey orders.
type world struct {
	maintain.World // what these tests do not need
	*plantest.Server
	comes string // version that runs after an order
	red   bool
	deaf  bool
}

func (w *world) Heard(org.ServerName) bool                      { return true }
func (w *world) Statuses(org.ServerName) []org.CopyStatus       { return nil }
func (w *world) Leader(context.Context) org.ServerName          { return "MBX1" }
func (w *world) Primary() org.ServerName                        { return w.State.Primary() }
func (w *world) View() *cluster.View                            { return w.State.View() }
func (w *world) Program(org.ServerName) (p org.Program, _ bool) { return p, false }

func (w *world) Boot(s org.ServerName) (boot, version string) {
	it, _ := w.View().Get("boot/" + string(s))
	boot, version, _ = strings.Cut(string(it.Value), " ")
	return boot, version
}

func (w *world) Health(org.ServerName) (org.ServerHealth, bool) {
	if !w.red {
		return org.ServerHealth{}, false
	}
	return org.ServerHealth{Sets: map[string]org.SetHealth{"IMAP": {State: org.Unhealthy, Priority: org.PriorityCritical, Worst: "no greeting"}}}, true
}

// obey is a host that starts the installed program once for each order.
func (w *world) obey(s *plantest.State) {
	v := s.Snapshot()
	it, ok := v.Get(org.HostOrderKey("MBX3"))
	var o org.HostOrder
	if !ok || w.deaf || json.Unmarshal(it.Value, &o) != nil {
		return
	}
	if b, _ := v.Get("boot/MBX3"); strings.HasPrefix(string(b.Value), o.Boot+" ") {
		s.Set("boot/MBX3", o.Boot+"x "+w.comes)
	}
}

// TestSteps carries the steps out that are upgrades' own.
func TestSteps(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*world)
		want org.PlanState
		held string
	}{
		{"well", func(*world) {}, org.PlanDone, ""},
		{"another version comes", func(w *world) { w.comes = "v1.0.0" }, org.PlanHeld, "start the installed program: MBX3 runs v1.0.0, v1.1.0 was wanted"},
		{"the host does not obey", func(w *world) { w.deaf = true }, org.PlanHeld, "start the installed program: not within 5m0s: for MBX3 to end its workers"},
		{"something is red", func(w *world) { w.red = true }, org.PlanHeld, "preconditions: not within 1m0s: for IMAP on MBX1 is Unhealthy: no greeting"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := plantest.New()
				w := &world{Server: st.Server("MBX1"), comes: "v1.1.0"}
				c.set(w)
				st.Obey(w.obey)
				st.Put(plantest.RoleKey, "MBX1")
				for _, s := range []org.ServerName{"MBX1", "MBX2", "MBX3"} {
					st.Put("servers/"+string(s), org.Server{Name: s, Voter: true})
					st.Put("boot/"+string(s), "b v1.0.0")
				}
				k := Kind{World: w, Library: &maintain.Library{World: w, Times: maintain.Defaults(), Now: time.Now}}
				e := plan.New(plan.Deps{Group: w.Server, RoleKey: plantest.RoleKey, Primary: st.Primary, Log: slog.New(slog.DiscardHandler)}, k)
				o := Order{Pause: 2 * time.Minute}
				ss := Turns(k.Library.Facts(t.Context()), map[org.ServerName]org.Program{"MBX1": {Running: "v1.1.0"}, "MBX2": {Running: "v1.1.0"},
					"MBX3": {Running: "v1.0.0", Installed: "v1.1.0"}}, o)
				p, err := Plan(ss, o, k.Library.Times)
				if err != nil {
					t.Fatal(err)
				}
				p.Steps = slices.DeleteFunc(p.Steps, func(s org.PlanStep) bool { return s.Name != StepReady && s.Name != StepRun && s.Name != StepCalm })
				if len(p.Steps) != 3 {
					t.Fatalf("%d steps", len(p.Steps))
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- e.Run(ctx) }()
				begun := time.Now()
				if p, err = e.Start(t.Context(), p); err != nil {
					t.Fatal(err)
				}
				p, err = e.Await(t.Context(), p.ID, func(string) {})
				if err != nil || p.State != c.want || !strings.HasPrefix(p.Held, c.held) {
					t.Errorf("%v: %s (%s), want %s (%s)", err, p.State, p.Held, c.want, c.held)
				}
				if c.want == org.PlanDone && time.Since(begun) < o.Pause {
					t.Errorf("calm for %s only", time.Since(begun))
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestDoubtAsks: what would undo maintenance holds an upgrade instead.
func TestDoubtAsks(t *testing.T) {
	st := plantest.New()
	w := &world{Server: st.Server("MBX1")}
	k := Kind{World: w, Library: &maintain.Library{World: w, Times: maintain.Defaults(), Now: time.Now}}
	args, err := json.Marshal(Order{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range append(maintain.StartSteps("MBX1", maintain.Defaults()), maintain.StopSteps("MBX1", maintain.Defaults(), false)...) {
		def, ok := k.Step(org.Plan{Args: args}, s)
		if !ok || def.Late == plan.Fail {
			t.Errorf("%s: known %v, late %d", s.Name, ok, def.Late)
		}
	}
	if _, ok := k.Step(org.Plan{Args: args}, org.PlanStep{Name: "odd"}); ok {
		t.Error("an odd step is known")
	}
	if _, ok := k.Step(org.Plan{Args: json.RawMessage("[")}, org.PlanStep{Name: StepReady}); ok {
		t.Error("an order that cannot be read was carried out")
	}
}
