package maintain

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/active/plan"
	"github.com/postern-mail/postern/internal/active/plan/plantest"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// TestJudge is who may be taken out when.
func TestJudge(t *testing.T) {
	three := func() Facts {
		f := Facts{Primary: "MBX1", Leader: "MBX1"}
		for _, n := range []org.ServerName{"MBX1", "MBX2", "MBX3"} {
			f.Servers = append(f.Servers, Server{Name: n, Voter: true, Heard: true, HighAvailability: org.Active})
		}
		all := []org.ServerName{"MBX1", "MBX2", "MBX3"}
		f.Databases = []Database{{Name: "DB01", Active: "MBX1", Copies: all, InSync: all, Minimum: 2}}
		return f
	}
	two := []org.ServerName{"MBX1", "MBX2"}
	for _, c := range []struct {
		name   string
		change func(*Facts)
		order  Order
		want   string // a part of what is said, empty for allowed
	}{
		{"all well", func(*Facts) {}, Order{Server: "MBX1"}, ""},
		{"a stranger", func(*Facts) {}, Order{Server: "MBX9"}, "MBX9 is not a member"},
		{"one that is down", func(f *Facts) { f.Servers[0].Heard = false }, Order{Server: "MBX1"}, "MBX1 is not heard"},
		{"another is out", func(f *Facts) { f.Servers[1].Out = true }, Order{Server: "MBX1"}, "MBX2 is in maintenance already, and a group of 3 servers can spare 1"},
		{"votes", func(f *Facts) { f.Servers[1].Heard = false }, Order{Server: "MBX1"}, "1 of 3 votes would be left, 2 are a majority"},
		{"votes of others do not matter for who has none", func(f *Facts) {
			f.Servers = append(f.Servers, Server{Name: "MBX4", Heard: true})
			f.Servers[1].Heard = false
		}, Order{Server: "MBX4"}, ""},
		{"a copy is not in sync", func(f *Facts) { f.Databases[0].InSync = two }, Order{Server: "MBX1"}, "DB01 would be in sync on MBX2 only, 2 copies are wanted"},
		{"a copy elsewhere is out", func(f *Facts) { f.Databases[0].InSync = two }, Order{Server: "MBX3"}, ""},
		{"two copies", func(f *Facts) { f.Databases[0].Copies, f.Databases[0].InSync = two, two }, Order{Server: "MBX1"}, "it has 2 copies: --accept-single-copy"},
		{"two copies, accepted", func(f *Facts) { f.Databases[0].Copies, f.Databases[0].InSync = two, two }, Order{Server: "MBX1", AcceptSingle: true}, ""},
		{"two copies, accepted, the other is not in sync", func(f *Facts) { f.Databases[0].Copies, f.Databases[0].InSync = two, two[:1] },
			Order{Server: "MBX1", AcceptSingle: true}, "DB01 would be in sync nowhere, 1 copies are wanted"},
		{"three copies are not two", func(f *Facts) { f.Databases[0].InSync = two }, Order{Server: "MBX1", AcceptSingle: true}, "2 copies are wanted"},
		{"the only copy", func(f *Facts) { f.Databases[0].Copies, f.Databases[0].InSync = two[:1], two[:1] }, Order{Server: "MBX1", AcceptSingle: true}, "it has 1 copies"},
		{"three are wanted", func(f *Facts) { f.Databases[0].Minimum = 3 }, Order{Server: "MBX1"}, "DB01 would be in sync on MBX2, MBX3 only, 3 copies are wanted; it has 3 copies"},
		{"one is enough", func(f *Facts) { f.Databases[0].InSync, f.Databases[0].Minimum = two, 1 }, Order{Server: "MBX1"}, ""},
		{"a seed comes from it", func(f *Facts) { f.Databases[0].Seeding = map[org.ServerName]org.ServerName{"MBX3": "MBX1"} },
			Order{Server: "MBX1"}, "DB01 on MBX3 is being seeded from MBX1"},
		{"a seed goes to it", func(f *Facts) {
			f.Databases[0].Seeding = map[org.ServerName]org.ServerName{"MBX1": "MBX3"}
			f.Databases[0].InSync = []org.ServerName{"MBX2", "MBX3"}
		}, Order{Server: "MBX1"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := three()
			c.change(&f)
			got := strings.Join(Judge(f, c.order), "; ")
			if c.want == "" && got != "" || c.want != "" && !strings.Contains(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
	for n, want := range map[int]int{1: 1, 3: 1, 6: 1, 7: 2, 9: 2, 10: 3, 16: 5} {
		if got := Spare(n); got != want {
			t.Errorf("%d servers spare %d, want %d", n, got, want)
		}
	}
}

func TestSuccessor(t *testing.T) {
	f := Facts{Servers: []Server{
		{Name: "A", Heard: true, HighAvailability: org.Active}, {Name: "B", Heard: true, HighAvailability: org.Draining}, {Name: "C", HighAvailability: org.Active},
		{Name: "D", Heard: true, HighAvailability: org.Active, Witness: true}, {Name: "E", Heard: true, HighAvailability: org.Active, Out: true},
		{Name: "F", Heard: true, HighAvailability: org.Active}, {Name: "G", Heard: true, HighAvailability: org.Active}},
		Databases: []Database{{Active: "F"}, {Active: "A"}}}
	if got := Successor(f, "A"); got != "G" {
		t.Errorf("%s, want G: it has nothing active", got)
	}
	if got := Successor(Facts{Servers: f.Servers[:5]}, "A"); got != "" {
		t.Errorf("%s, want nobody", got)
	}
}

// TestInterrupted takes a server out and back, with the primary dying before
// and after each write it makes.
func TestInterrupted(t *testing.T) {
	for _, how := range []string{"before", "after"} {
		points := 0
		for n := 1; ; n++ {
			reached := false
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.times.Queue = 2 * time.Second // what is only waited for says nothing here
				w.servers("MBX1", "MBX2", "MBX3")
				w.database("DB01", "MBX1", "MBX1", "MBX2", "MBX3")
				w.database("DB02", "MBX2", "MBX2", "MBX3", "MBX1")
				w.state.Put("queue/MBX1", "7")
				writes := 0
				w.state.Hook(func(by org.ServerName, done bool) bool {
					if by != "MBX1" || done != (how == "after") {
						return by != "MBX1" || writes < n
					}
					if writes++; writes == n {
						reached = true
						// Its process is gone for plans; whoever holds the role next goes on.
						w.cancel["MBX1"]()
						if w.state.Snapshot().Len() > 0 && primaryOf(w) == "MBX1" {
							w.state.Set(plantest.RoleKey, "MBX3")
						}
					}
					return writes < n
				})
				w.run(nil, "MBX1", "MBX2", "MBX3")
				defer w.stop()
				e, l := w.engine("Z", nil), w.library("Z")
				p, err := l.Start(l.Facts(t.Context()), Order{Server: "MBX1"})
				if err != nil {
					t.Fatal(err)
				}
				if p, err = e.Start(t.Context(), p); err != nil {
					t.Fatal(err)
				}
				p = ended(t, e, p.ID)
				st := l.Status(t.Context(), "MBX1", nil)[0]
				if p.State != org.PlanDone || !st.Safe || st.State != "in maintenance" || w.state.Primary() == "MBX1" {
					t.Fatalf("%s write %d: %s (%s) %+v", how, n, p.State, p.Held, st)
				}
				back, err := l.Stop(l.Facts(t.Context()), Order{Server: "MBX1", Balance: true})
				if err != nil {
					t.Fatal(err)
				}
				if back, err = e.Start(t.Context(), back); err != nil {
					t.Fatal(err)
				}
				back = ended(t, e, back.ID)
				mt, _ := w.state.View().Mount("DB01")
				if back.State != org.PlanDone || len(w.wishes("MBX1")) > 0 || mt.Active != "MBX1" || len(mt.InSync) != 3 {
					t.Errorf("%s write %d: %s (%s), wishes %q, %+v", how, n, back.State, back.Held, w.wishes("MBX1"), mt)
				}
			})
			if !reached {
				break
			}
			points++
		}
		t.Logf("%s: %d points", how, points)
		if points < 15 {
			t.Errorf("%s: only %d points", how, points)
		}
	}
}

// ended waits until a plan has ended or is held.
func ended(t *testing.T, e *plan.Engine, id string) org.Plan {
	t.Helper()
	p, err := e.Await(t.Context(), id, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func primaryOf(w *world) string {
	it, _ := w.state.Snapshot().Get(plantest.RoleKey)
	return string(it.Value)
}

// TestAbort leaves nothing behind, at whichever step it comes.
func TestAbort(t *testing.T) {
	for _, d := range []time.Duration{0, time.Second, 3 * time.Second, 10 * time.Second, 91 * time.Second, 95 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.servers("MBX1", "MBX2", "MBX3")
			w.database("DB01", "MBX1", "MBX1", "MBX2", "MBX3")
			w.state.Put("queue/MBX1", "3")
			w.sessions["MBX1"] = 4
			w.run(nil, "MBX1", "MBX2", "MBX3")
			defer w.stop()
			e, l := w.engine("Z", nil), w.library("Z")
			p, err := l.Start(l.Facts(t.Context()), Order{Server: "MBX1"})
			if err != nil {
				t.Fatal(err)
			}
			if p, err = e.Start(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			<-time.After(d)
			if err := e.Abort(t.Context(), p.ID, "ann"); err != nil {
				if got, _ := e.Get(p.ID); got.State == org.PlanDone {
					return // it was faster
				}
				t.Fatal(err)
			}
			<-time.After(time.Minute)
			synctest.Wait()
			p, _ = e.Get(p.ID)
			_, accepting, _ := l.World.Queue(t.Context(), "MBX1")
			if p.State != org.PlanAborted || len(w.wishes("MBX1")) > 0 || !accepting {
				t.Errorf("after %s: %s (%s), wishes %q, accepting %v", d, p.State, p.Held, w.wishes("MBX1"), accepting)
			}
		})
	}
}

// TestRefused is what commands refuse.
func TestRefused(t *testing.T) {
	w := newWorld(t)
	w.servers("MBX1", "MBX2", "MBX3")
	l := w.library("MBX1")
	f := l.Facts(t.Context())
	if _, err := l.Start(f, Order{Server: "MBX7"}); !kind.Is(err, kind.NotFound) {
		t.Error(err)
	}
	if _, err := l.Stop(f, Order{Server: "MBX7"}); !kind.Is(err, kind.NotFound) {
		t.Error(err)
	}
	if _, err := l.Stop(f, Order{Server: "MBX1"}); !kind.Is(err, kind.Conflict) {
		t.Error(err)
	}
	w.state.Put(org.ComponentKey("MBX1", org.HighAvailability, org.Maintenance), org.ComponentEntry{State: org.Draining})
	f = l.Facts(t.Context())
	if _, err := l.Start(f, Order{Server: "MBX1"}); !kind.Is(err, kind.Conflict) || !strings.Contains(err.Error(), "already") {
		t.Error(err)
	}
	if _, err := l.Start(f, Order{Server: "MBX2"}); !kind.Is(err, kind.Conflict) || !strings.Contains(err.Error(), "can spare 1") {
		t.Error(err)
	}
	k := Kinds(l)[0]
	if _, ok := k.Step(org.Plan{Args: json.RawMessage("{")}, org.PlanStep{Name: StepCheck}); ok {
		t.Error("a plan whose order cannot be read was carried out")
	}
	if _, ok := k.Step(org.Plan{Args: json.RawMessage("{}")}, org.PlanStep{Name: "odd"}); ok {
		t.Error("an odd step is known")
	}
	for _, s := range append(StartSteps("A", Fast()), StopSteps("A", Fast(), true)...) {
		if _, ok := l.Step(s, Order{}); !ok || s.Deadline == 0 || s.Server != "A" {
			t.Errorf("step %+v", s)
		}
	}
}
