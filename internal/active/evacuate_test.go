package active

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// TestEvacuate moves 30 databases off a server, eight at a time.
func TestEvacuate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, 4, 30)
		f.takes = 100 * time.Millisecond
		f.refuses["DB0005"] = 1 // once: it is tried again
		m := f.manager(Config{}, Deps{})
		var lines []string
		ctx := command.WithProgress(t.Context(), func(l string) { lines = append(lines, l) })
		began := time.Now()
		p, err := m.Evacuate(ctx, Evacuation{Server: "MBX01", Why: "patch day"})
		took := time.Since(began)
		if err != nil {
			t.Fatal(err)
		}
		count := map[org.ServerName]int{}
		for _, mt := range f.View().Mounts() {
			count[mt.Active]++
			if mt.Term != 4 || !mt.Handed || len(mt.InSync) != 3 {
				t.Errorf("%+v", mt)
			}
		}
		if count["MBX01"] != 0 || count["MBX02"] != 10 || count["MBX03"] != 10 || count["MBX04"] != 10 {
			t.Errorf("%v", count)
		}
		if f.max != movesAtOnce {
			t.Errorf("%d at a time", f.max)
		}
		if took > time.Second {
			t.Errorf("took %s", took)
		}
		t.Logf("30 databases, 100 ms each handover: %s", took)
		for _, s := range p.Steps {
			if !s.Done || s.Error != "" || !strings.HasPrefix(s.Detail, "from MBX01 to ") {
				t.Errorf("%+v", s)
			}
		}
		if len(lines) != 30 || !strings.HasPrefix(lines[29], "30 of 30 moved") {
			t.Errorf("%q", lines)
		}
	})
}

// TestEvacuatePartly: what cannot be moved stays and says why; all or none
// moves nothing; a dry run neither.
func TestEvacuatePartly(t *testing.T) {
	f := newFake(t, 3, 4)
	m := f.manager(Config{}, Deps{})
	mt := f.mount("DB0002")
	mt.InSync = mt.InSync[:1]
	f.put("mounts/DB0002", mt)
	moved := func() (n int) {
		for _, mt := range f.View().Mounts() {
			if mt.Active != "MBX01" {
				n++
			}
		}
		return n
	}
	p, err := m.Evacuate(t.Context(), Evacuation{Server: "MBX01", DryRun: true})
	if err != nil || len(p.Steps) != 4 || p.Steps[1].Error == "" || p.Steps[0].Error != "" || moved() != 0 {
		t.Errorf("dry run: %+v, %v, %d moved", p, err, moved())
	}
	if _, err = m.Evacuate(t.Context(), Evacuation{Server: "MBX01", AllOrNone: true}); !kind.Is(err, kind.Conflict) || moved() != 0 {
		t.Errorf("all or none: %v, %d moved", err, moved())
	}
	p, err = m.Evacuate(t.Context(), Evacuation{Server: "MBX01"})
	if !kind.Is(err, kind.Conflict) || !strings.Contains(err.Error(), "1 of 4 databases were not moved") || moved() != 3 || !strings.Contains(p.Steps[1].Error, "it is not in sync") {
		t.Errorf("%v, %d moved: %+v", err, moved(), p)
	}
	if p, err = m.Evacuate(t.Context(), Evacuation{Server: "MBX03"}); err != nil {
		t.Errorf("the other way: %v, %+v", err, p)
	}
	for _, e := range []Evacuation{{Server: "MBX9"}, {Server: "MBX01", To: "MBX01"}, {Server: "MBX01", To: "MBX9"}} {
		if _, err := m.Evacuate(t.Context(), e); err == nil {
			t.Errorf("%+v", e)
		}
	}
}

// TestEvacuateWithin: no server gets more than it may, and databases that
// prefer the server stay where that is asked for.
func TestEvacuateWithin(t *testing.T) {
	f := newFake(t, 3, 10)
	m := f.manager(Config{}, Deps{})
	f.put("servers/MBX02", org.Server{Name: "MBX02", MaximumActive: 2})
	f.put("servers/MBX03", org.Server{Name: "MBX03", MaximumActive: 3})
	if p, err := m.Evacuate(t.Context(), Evacuation{Server: "MBX01", PreferredOnly: true}); err != nil || len(p.Steps) != 0 {
		t.Errorf("%+v, %v", p, err)
	}
	_, err := m.Evacuate(t.Context(), Evacuation{Server: "MBX01"})
	if err == nil || !strings.Contains(err.Error(), "5 of 10 databases were not moved") {
		t.Error(err)
	}
	count := map[org.ServerName]int{}
	for _, mt := range f.View().Mounts() {
		count[mt.Active]++
	}
	if count["MBX02"] != 2 || count["MBX03"] != 3 {
		t.Errorf("%v", count)
	}
}

// TestHealthMove: what a responder orders has its own limits.
func TestHealthMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, 3, 1)
		sick := map[org.ServerName]bool{"MBX01": true, "MBX02": true}
		age := time.Second
		health := func(s org.ServerName) (map[string]org.SetHealth, time.Duration) {
			st := org.HealthOK
			if sick[s] {
				st = org.Unhealthy
			}
			return map[string]org.SetHealth{"Store": {State: st, Priority: org.PriorityCritical}}, age
		}
		m := f.manager(Config{}, Deps{Health: health})
		o := Order{Database: "DB0001", Purpose: HealthMove, Failing: "Store", Why: "Store is Unhealthy"}
		move := func() error { _, err := m.Move(t.Context(), o); return err }
		if err := move(); err != nil || f.mount("DB0001").Active != "MBX03" {
			t.Fatalf("%v, %+v", err, f.mount("DB0001"))
		}
		sick = map[org.ServerName]bool{"MBX03": true}
		if err := move(); !kind.Is(err, kind.Busy) || !strings.Contains(err.Error(), "moved a moment ago") {
			t.Errorf("twice in a moment: %v", err)
		}
		for range 3 {
			time.Sleep(5*time.Minute + time.Second)
			sick = map[org.ServerName]bool{f.mount("DB0001").Active: true}
			if err := move(); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Hour)
		sick = map[org.ServerName]bool{f.mount("DB0001").Active: true}
		if err := move(); !kind.Is(err, kind.Busy) || !strings.Contains(err.Error(), "as often as it may") {
			t.Errorf("the fifth of a day: %v", err)
		}
		time.Sleep(24 * time.Hour)
		age = time.Minute
		if err := move(); !kind.Is(err, kind.Conflict) || !strings.Contains(err.Error(), "its health is not known") {
			t.Errorf("old news: %v", err)
		}
		age = time.Second
		sick = map[org.ServerName]bool{"MBX01": true, "MBX02": true, "MBX03": true}
		if err := move(); !kind.Is(err, kind.Conflict) || !strings.Contains(err.Error(), "no better there") {
			t.Errorf("all are sick: %v", err)
		}
	})
}

// TestComponent: nothing is activated where high availability is held back, and
// the primary role goes elsewhere.
func TestComponent(t *testing.T) {
	f := newFake(t, 3, 1)
	held := map[org.ServerName]org.ComponentState{"MBX02": org.Draining}
	m := f.manager(Config{}, Deps{Component: func(s org.ServerName, c org.Component) org.ComponentState {
		if c != org.HighAvailability {
			t.Error(c)
		}
		return held[s]
	}})
	if _, err := m.Move(t.Context(), Order{Database: "DB0001"}); err != nil || f.mount("DB0001").Active != "MBX03" {
		t.Errorf("%v, %+v", err, f.mount("DB0001"))
	}
	if _, err := m.Move(t.Context(), Order{Database: "DB0001", To: "MBX02"}); err == nil || !strings.Contains(err.Error(), "its component high_availability is Draining") {
		t.Error(err)
	}
	f.put(primaryKey, primary{Server: "MBX02"})
	m.turn(t.Context())
	if got := m.Primary(); got != "MBX01" {
		t.Errorf("%s has the primary role", got)
	}
	if err := m.GivePrimary(t.Context(), "", "patch day"); err != nil || m.Primary() != "MBX03" {
		t.Errorf("%v, %s has the primary role", err, m.Primary())
	}
	// Its holder dies: MBX02 leaves the role to MBX01 although it looks first.
	f.lose("MBX03")
	m.turn(t.Context())
	if got := m.Primary(); got != "MBX03" {
		t.Errorf("%s took the role", got)
	}
	held["MBX01"] = org.Inactive
	f.lose("MBX01")
	m.turn(t.Context())
	if got := m.Primary(); got != "MBX02" {
		t.Errorf("%s has the role, nobody else is left", got)
	}
	if err := m.GivePrimary(t.Context(), "MBX01", ""); err == nil {
		t.Error("the role was given to a dead server")
	}
}

// TestBalanceCommand: databases go home, and only inside the window by themselves.
func TestBalanceCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, 3, 6)
		m := f.manager(Config{}, Deps{})
		if _, err := m.Evacuate(t.Context(), Evacuation{Server: "MBX01"}); err != nil {
			t.Fatal(err)
		}
		home := func() (n int) {
			for _, mt := range f.View().Mounts() {
				if mt.Active == "MBX01" {
					n++
				}
			}
			return n
		}
		for range 10 {
			m.decide(t.Context())
			time.Sleep(time.Hour)
		}
		if home() != 0 {
			t.Error("it balanced without a window")
		}
		if p, err := m.balanceCommand(t.Context(), balanceArgs{By: "preference", Deviation: -1, Show: true}); err != nil || len(p.Steps) != 6 || home() != 0 {
			t.Errorf("%+v, %v", p, err)
		}
		f.set("MBX01", "DB0003", org.CopyResynchronizing, 4)
		if p, err := m.balanceCommand(t.Context(), balanceArgs{By: "preference", Deviation: -1}); err != nil || len(p.Steps) != 5 || home() != 5 {
			t.Errorf("%+v, %v, %d are home", p, err, home())
		}
		if p, err := m.balanceCommand(t.Context(), balanceArgs{By: "preference", Deviation: -1}); err != nil || len(p.Steps) != 1 || p.Steps[0].Name != "leave DB0003" || !strings.Contains(p.Steps[0].Detail, "not MBX01: ") {
			t.Errorf("nothing can be done: %+v, %v", p, err)
		}
		if sp := m.spread(); sp[0].Active != 5 || sp[0].Preferred != 5 || sp[0].Prefer != 6 || sp[0].Copies != 6 {
			t.Errorf("%+v", sp)
		}
		f.set("MBX01", "DB0003", org.CopyHealthy, 4)
		own := f.manager(Config{BalanceWindow: "00:00-23:59"}, Deps{})
		own.decide(t.Context())
		synctest.Wait()
		if home() != 6 {
			t.Errorf("inside the window %d are home", home())
		}
		if p, err := m.balanceCommand(t.Context(), balanceArgs{By: "preference", Deviation: -1}); err != nil || len(p.Steps) != 1 || p.Steps[0].Detail != "every database is where it should be (6)" {
			t.Errorf("nothing to do: %+v, %v", p, err)
		}
		if p, err := m.balanceCommand(t.Context(), balanceArgs{By: "site", Deviation: 20}); err != nil || home() > 3 || len(p.Steps) == 0 {
			// What came home a moment ago stays for five minutes.
			if !kind.Is(err, kind.Busy) {
				t.Errorf("%+v, %v, %d are home", p, err, home())
			}
		}
		time.Sleep(6 * time.Minute)
		if _, err := m.balanceCommand(t.Context(), balanceArgs{By: "site", Deviation: 20}); err != nil || home() > 3 {
			t.Errorf("%v, %d are home", err, home())
		}
	})
}

// TestSkipAllNeedsTarget: whoever drops every check says where to.
func TestSkipAllNeedsTarget(t *testing.T) {
	m := newFake(t, 3, 1).manager(Config{}, Deps{})
	if _, err := m.moveCommand(context.Background(), moveArgs{Database: "DB0001", SkipAll: true}); !kind.Is(err, kind.Invalid) {
		t.Error(err)
	}
	if _, err := m.moveCommand(context.Background(), moveArgs{Database: "DB0001", SkipAll: true, To: "MBX03"}); err != nil {
		t.Error(err)
	}
}

// TestHungPrimary: a primary whose loop stands still loses the role, although
// its server lives; one that never said that it turns does not.
func TestHungPrimary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, 3, 1)
		m := f.manager(Config{}, Deps{})
		f.put(primaryKey, primary{Server: "MBX03"})
		turns := func(seconds int, beats bool) {
			for i := range 4 * seconds {
				if beats {
					f.mu.Lock()
					f.said["MBX03/"+pulseSection] = []byte{byte(i), 1}
					f.mu.Unlock()
				}
				m.turn(t.Context())
				time.Sleep(turnPause)
			}
		}
		f.me = "MBX02"
		f.lose("MBX01")
		if turns(60, false); m.Primary() != "MBX03" {
			t.Error("it was not heard of at all")
		}
		if turns(60, true); m.Primary() != "MBX03" {
			t.Error("it turns")
		}
		if turns(9, false); m.Primary() != "MBX03" {
			t.Error("it may be busy")
		}
		if turns(3, false); m.Primary() != "MBX02" {
			t.Error("it hangs and has the role")
		}
		if turns(30, false); m.Primary() != "MBX02" || len(f.said["MBX02/"+pulseSection]) == 0 {
			t.Error("the new one does not say that it turns")
		}
	})
}

// TestEvacuateToTheIll: a server that goes out of service gives its databases to
// the others also where none of them is as healthy as itself; an administrator
// who only wants them elsewhere has to say so.
func TestEvacuateToTheIll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, 3, 6)
		ill := map[string]org.SetHealth{"CPU": {State: org.Unhealthy, Priority: org.PriorityNormal, Worst: "overcommitted"}}
		m := f.manager(Config{}, Deps{Health: func(s org.ServerName) (map[string]org.SetHealth, time.Duration) {
			if s == "MBX01" {
				return map[string]org.SetHealth{"CPU": {State: org.HealthOK, Priority: org.PriorityNormal}}, 0
			}
			return ill, 0
		}})
		if _, err := m.Evacuate(t.Context(), Evacuation{Server: "MBX01"}); err == nil || !strings.Contains(err.Error(), "less healthy than the source") {
			t.Errorf("moved to the ill: %v", err)
		}
		if err := m.works.Evacuate(t.Context(), "MBX01", "maintenance of MBX01", func() error { return nil }); err != nil {
			t.Error(err)
		}
		for _, mt := range f.View().Mounts() {
			if mt.Active == "MBX01" {
				t.Errorf("%s is left", mt.Database)
			}
		}
	})
}
