package upgrade

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"sync"
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
		if s.Turn != Turn(i+1) || s.Wanted != "v1.1.0" {
			t.Errorf("%+v", s)
		}
	}
	if !slices.Equal(names, []string{"WIT1", "MBX3", "MBX1", "MBX2"}) {
		t.Errorf("order %q: want the witness, the fewest active, the primary last", names)
	}
	for _, s := range Turns(facts(), programs("v1.1.0", "v1.1.0"), Order{}) {
		if s.Turn != 0 || s.Turn.String() != "-" {
			t.Errorf("nothing is to do: %+v", s)
		}
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
		{"broken", func(_ *maintain.Facts, p map[org.ServerName]org.Program, o *Order) {
			p["MBX1"], o.RestartOnly = org.Program{Running: "v1.0.0", Fault: "exit status 1"}, true
		}, "MBX1: the installed program does not start: exit status 1"},
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
	*facts3
}

// facts3 is what all servers see alike.
type facts3 struct {
	mu    sync.Mutex // guards the rest
	comes string     // version that runs after an order, empty: it does not start
	red   bool
	deaf  bool
	fault string
}

func (w *facts3) set(f func(*facts3)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w)
}

func (w *world) Heard(s org.ServerName) bool {
	boot, _ := w.Boot(s)
	return boot != ""
}
func (w *world) Statuses(org.ServerName) []org.CopyStatus { return nil }
func (w *world) Leader(context.Context) org.ServerName    { return "MBX1" }
func (w *world) Primary() org.ServerName                  { return w.State.Primary() }
func (w *world) View() *cluster.View                      { return w.State.View() }

func (w *world) Program(s org.ServerName) (p org.Program, _ bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s == "MBX3" {
		p.Fault = w.fault
	}
	return p, true
}

func (w *world) Boot(s org.ServerName) (boot, version string) {
	it, _ := w.View().Get("boot/" + string(s))
	boot, version, _ = strings.Cut(string(it.Value), " ")
	return boot, version
}

func (w *world) Health(org.ServerName) (org.ServerHealth, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.red {
		return org.ServerHealth{}, false
	}
	return org.ServerHealth{Sets: map[string]org.SetHealth{"IMAP": {State: org.Unhealthy, Priority: org.PriorityCritical, Worst: "no greeting"}}}, true
}

// obey is a host that starts the installed program once for each order.
func (w *facts3) obey(s *plantest.State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v := s.Snapshot()
	it, ok := v.Get(org.HostOrderKey("MBX3"))
	var o org.HostOrder
	if !ok || w.deaf || w.fault != "" || json.Unmarshal(it.Value, &o) != nil {
		return
	}
	if b, _ := v.Get("boot/MBX3"); strings.HasPrefix(string(b.Value), o.Boot+" ") {
		if w.comes == "" {
			s.Drop("boot/MBX3")
			return
		}
		s.Set("boot/MBX3", o.Boot+"x "+w.comes)
	}
}

// group is an agreed state with three servers and a database, and what is so on
// them.
func group(comes string) (*plantest.State, *facts3) {
	st, w := plantest.New(), &facts3{comes: comes}
	st.Obey(w.obey)
	st.Put(plantest.RoleKey, "MBX1")
	var copies []org.Copy
	all := []org.ServerName{"MBX1", "MBX2", "MBX3"}
	for _, s := range all {
		st.Put("servers/"+string(s), org.Server{Name: s, Voter: true})
		st.Put("boot/"+string(s), "b v1.0.0")
		copies = append(copies, org.Copy{Server: s})
	}
	st.Put("databases/DB01", org.Database{Name: "DB01", Copies: copies})
	st.Put("mounts/DB01", org.Mount{Database: "DB01", Active: "MBX1", InSync: all})
	return st, w
}

// member is one server's engine, and its kind of upgrades.
func member(st *plantest.State, w *facts3, name org.ServerName) (*plan.Engine, Kind) {
	me := &world{Server: st.Server(name), facts3: w}
	k := New(me, &maintain.Library{World: me, Times: maintain.Defaults(), Now: time.Now})
	return plan.New(plan.Deps{Group: me.Server, RoleKey: plantest.RoleKey, Primary: st.Primary, Log: slog.New(slog.DiscardHandler)}, k), k
}

// ownSteps is the plan that upgrades MBX3, without the steps of maintenance.
func ownSteps(t *testing.T, k Kind, o Order) org.Plan {
	t.Helper()
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
	return p
}

// TestSteps carries the steps out that are upgrades' own: it stops at the first
// doubt, and goes on when a person says so.
func TestSteps(t *testing.T) {
	behind := func(st *plantest.State) {
		st.Put("mounts/DB01", org.Mount{Database: "DB01", Active: "MBX1", InSync: []org.ServerName{"MBX1", "MBX3"}})
	}
	for _, c := range []struct {
		name  string
		set   func(*plantest.State, *facts3)
		later func(*plantest.State, *facts3) // when the program has been started for 90 s
		want  org.PlanState
		held  string
	}{
		{name: "well", want: org.PlanDone},
		{name: "another version comes", set: func(_ *plantest.State, w *facts3) { w.comes = "v1.0.0" },
			want: org.PlanHeld, held: "start the installed program: MBX3 runs v1.0.0, v1.1.0 was wanted"},
		{name: "the host does not obey", set: func(_ *plantest.State, w *facts3) { w.deaf = true },
			want: org.PlanHeld, held: "start the installed program: not within 5m0s: for MBX3 to end its workers"},
		{name: "the program does not start", set: func(_ *plantest.State, w *facts3) { w.comes = "" },
			want: org.PlanHeld, held: "start the installed program: not within 5m0s: for MBX3 to be heard again"},
		{name: "the program cannot be run", set: func(_ *plantest.State, w *facts3) { w.fault = "exit status 1" },
			want: org.PlanHeld, held: "preconditions: the program installed on MBX3 does not start: exit status 1"},
		{name: "something is red", set: func(_ *plantest.State, w *facts3) { w.red = true },
			want: org.PlanHeld, held: "preconditions: not within 1m0s: for calm: IMAP on MBX1 is Unhealthy: no greeting"},
		{name: "a copy is not in sync", set: func(st *plantest.State, _ *facts3) { behind(st) },
			want: org.PlanHeld, held: "preconditions: not within 1m0s: for calm: DB01 on MBX2 is not in sync; DB01 would be in sync on MBX1 only, 2 copies are wanted"},
		{name: "a server is not heard", set: func(st *plantest.State, _ *facts3) { st.Remove("boot/MBX2") },
			want: org.PlanHeld, held: "preconditions: not within 1m0s: for calm: MBX2 is not heard"},
		{name: "red afterwards, for good", later: func(_ *plantest.State, w *facts3) { w.set(func(w *facts3) { w.red = true }) },
			want: org.PlanHeld, held: "calm: not within 12m0s: for calm: IMAP on MBX1 is Unhealthy: no greeting"},
		{name: "a copy falls behind afterwards", later: func(st *plantest.State, _ *facts3) { behind(st) },
			want: org.PlanHeld, held: "calm: not within 12m0s: for calm: DB01 on MBX2 is not in sync"},
		{name: "red afterwards, for a moment", later: func(_ *plantest.State, w *facts3) {
			w.set(func(w *facts3) { w.red = true })
			<-time.After(5 * time.Second)
			w.set(func(w *facts3) { w.red = false })
		}, want: org.PlanDone},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st, w := group("v1.1.0")
				e, k := member(st, w, "MBX1")
				o := Order{Pause: 2 * time.Minute}
				p := ownSteps(t, k, o)
				if c.set != nil {
					c.set(st, w)
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- e.Run(ctx) }()
				begun, since := time.Now(), time.Now()
				p, err := e.Start(t.Context(), p)
				if err != nil {
					t.Fatal(err)
				}
				if c.later != nil {
					<-time.After(90 * time.Second)
					c.later(st, w)
					since = time.Now()
				}
				p, err = e.Await(t.Context(), p.ID, func(string) {})
				if err != nil || p.State != c.want || !strings.HasPrefix(p.Held, c.held) {
					t.Errorf("%v: %s (%s), want %s (%s)", err, p.State, p.Held, c.want, c.held)
				}
				if c.want == org.PlanDone && time.Since(since) < o.Pause-time.Second {
					t.Errorf("calm for %s only, %s after the begin", time.Since(since), since.Sub(begun))
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestInterrupted has the server that carries an upgrade out die before and after
// each of its writes: another goes on, and the host obeys once.
func TestInterrupted(t *testing.T) {
	for _, how := range []string{"before", "after"} {
		points := 0
		for n := 1; ; n++ {
			reached := false
			synctest.Test(t, func(t *testing.T) {
				st, w := group("v1.1.0")
				a, k := member(st, w, "MBX1")
				b, _ := member(st, w, "MBX2")
				inner, die := context.WithCancel(t.Context())
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() { _ = a.Run(inner) }) // it returns nil
				wg.Go(func() { _ = b.Run(ctx) })
				writes := 0
				st.Hook(func(by org.ServerName, done bool) bool {
					if by != "MBX1" || done != (how == "after") {
						return by != "MBX1" || writes < n
					}
					if writes++; writes == n {
						reached = true
						st.Set(plantest.RoleKey, "MBX2")
						die()
					}
					return writes < n
				})
				p, err := b.Start(t.Context(), ownSteps(t, k, Order{Pause: 20 * time.Second}))
				if err != nil {
					t.Fatal(err)
				}
				p, err = b.Await(t.Context(), p.ID, func(string) {})
				boot, _ := st.View().Get("boot/MBX3")
				if err != nil || p.State != org.PlanDone || string(boot.Value) != "bx v1.1.0" {
					t.Errorf("%s write %d: %v, %s (%s), MBX3 runs %q: want it started once", how, n, err, p.State, p.Held, boot.Value)
				}
				die()
				cancel()
				wg.Wait()
			})
			if !reached {
				break
			}
			points++
		}
		if points < 6 {
			t.Errorf("%s: only %d points", how, points)
		}
	}
}

// TestDoubtAsks: what would undo maintenance holds an upgrade instead.
func TestDoubtAsks(t *testing.T) {
	st := plantest.New()
	w := &world{Server: st.Server("MBX1"), facts3: &facts3{}}
	k := New(w, &maintain.Library{World: w, Times: maintain.Defaults(), Now: time.Now})
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
