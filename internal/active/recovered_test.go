package active

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/active/site"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// entries are the rows of the recovery log, oldest first.
func entries(t *testing.T, v *cluster.View) []org.Recovery {
	t.Helper()
	var out []org.Recovery
	for _, it := range v.Prefix(org.RecoveryPrefix) {
		var r org.Recovery
		if err := json.Unmarshal(it.Value, &r); err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

// TestFailoverIsInRecoveryLog: what Active Manager does by itself is written with
// the deed, with cause and evidence, and its end when the target has mounted. What
// a person orders is not.
func TestFailoverIsInRecoveryLog(t *testing.T) {
	f := newFake(t, 3, 1)
	m := f.manager(Config{}, Deps{})
	if _, err := m.Move(t.Context(), Order{Database: "DB0001", To: "MBX02", Why: "by hand"}); err != nil {
		t.Fatal(err)
	}
	if got := entries(t, f.View()); len(got) != 0 {
		t.Errorf("a move by hand is an automatic action: %+v", got)
	}
	f.stuck["MBX03"] = org.CopyMounting
	f.lose("MBX02")
	m.decide(t.Context())
	var open org.Recovery
	for _, r := range entries(t, f.View()) {
		if r.Action == actFailover {
			open = r
		}
	}
	to := f.mount("DB0001").Active
	if open.Target != "DB0001" || !open.Allowed || !strings.Contains(open.Cause, "MBX02") || len(open.Evidence) < 2 || open.Decision != "DB0001-2" {
		t.Errorf("after the swap: %+v", open)
	}
	delete(f.stuck, "MBX03")
	f.set(to, "DB0001", org.CopyMounted, f.mount("DB0001").Term)
	m.decide(t.Context())
	m.decide(t.Context())
	done := entries(t, f.View())
	if len(done) != 1 || done[0].Ended.IsZero() || !strings.HasPrefix(done[0].Result, "mounted on "+string(to)) {
		t.Errorf("after the mount: %+v", done)
	}
}

// TestNoTargetIsInRecoveryLog: that nothing could be done is on record too.
func TestNoTargetIsInRecoveryLog(t *testing.T) {
	f := newFake(t, 3, 1)
	m := f.manager(Config{}, Deps{})
	for _, s := range []org.ServerName{"MBX01", "MBX02", "MBX03"} {
		f.lose(s)
	}
	m.decide(t.Context())
	got := entries(t, f.View())
	if len(got) != 1 || got[0].Allowed || got[0].Refused == "" || got[0].Action != actFailover {
		t.Errorf("%+v", got)
	}
}

// TestPrimaryIsInRecoveryLog: a standby that takes the role says from whom and why.
func TestPrimaryIsInRecoveryLog(t *testing.T) {
	f := newFake(t, 3, 1)
	f.put(primaryKey, primary{Server: "MBX01"})
	m := f.manager(Config{}, Deps{})
	f.lose("MBX01")
	m.turn(t.Context())
	var found bool
	for _, r := range entries(t, f.View()) {
		found = found || r.Action == actPrimary && r.Target == "MBX01" && r.Cause != "" && len(r.Evidence) == 1 && !r.Ended.IsZero()
	}
	if m.Primary() != "MBX02" || !found {
		t.Errorf("%s has the role; %+v", m.Primary(), entries(t, f.View()))
	}
}

// TestPreferenceMoves: inside the window databases go back as often as the pause
// says and not at all where it is negative; postern active rebalance does it now.
func TestPreferenceMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for every, want := range map[time.Duration]int{time.Hour: 3, 24 * time.Hour: 1, -1: 0} {
			f := newFake(t, 3, 1)
			m := f.manager(Config{BalanceWindow: "00:00-23:59", PreferenceMoveFrequency: every}, Deps{})
			home := 0
			for range 12 { // every quarter of an hour: somebody moves it away, and the primary looks
				if f.mount("DB0001").Active == "MBX01" {
					if _, err := m.Move(t.Context(), Order{Database: "DB0001", To: "MBX02", Why: "by hand"}); err != nil {
						t.Fatal(err)
					}
				}
				term := f.mount("DB0001").Term
				m.rebalanceSometimes(t.Context(), f.View())
				m.beside.Wait()
				home += int(f.mount("DB0001").Term - term)
				time.Sleep(15 * time.Minute)
			}
			if home != want {
				t.Errorf("a look each %s: %d times home in three hours, want %d", every, home, want)
			}
			if f.mount("DB0001").Active == "MBX01" {
				continue
			}
			for _, c := range Commands(m) {
				if c.Name() != "active rebalance" {
					continue
				}
				if _, err := c.Run(t.Context(), rebalanceArgs{DryRun: true}); err != nil || f.mount("DB0001").Active == "MBX01" {
					t.Errorf("dry run: %v, active on %s", err, f.mount("DB0001").Active)
				}
				if _, err := c.Run(t.Context(), rebalanceArgs{}); err != nil || f.mount("DB0001").Active != "MBX01" {
					t.Errorf("active rebalance: %v, active on %s", err, f.mount("DB0001").Active)
				}
			}
		}
	})
}

// TestBalanceDryRun: inside the balance window a dry run writes down what would be
// moved and moves nothing, off does neither, act does both.
func TestBalanceDryRun(t *testing.T) {
	for mode, want := range map[string]struct{ moved, entries, dry int }{"dry-run": {0, 1, 1}, "off": {}, "act": {1, 1, 0}} {
		f := newFake(t, 3, 1)
		m := f.manager(Config{BalanceWindow: time.Now().Add(-time.Hour).Format("15:04") + time.Now().Add(time.Hour).Format("-15:04")}, Deps{Recovery: func(string) string { return mode }})
		if _, err := m.Move(t.Context(), Order{Database: "DB0001", To: "MBX02", Why: "by hand"}); err != nil {
			t.Fatal(err)
		}
		term := f.mount("DB0001").Term
		m.rebalanceSometimes(t.Context(), f.View())
		m.beside.Wait()
		m.settleMoves(t.Context(), m.look(f.View()))
		all := entries(t, f.View())
		dry := 0
		for _, r := range all {
			if r.Action != actBalance || len(r.Evidence) == 0 || r.Ended.IsZero() {
				t.Errorf("%s: %+v", mode, r)
			}
			if r.DryRun {
				dry++
			}
		}
		if moved := int(f.mount("DB0001").Term - term); moved != want.moved || len(all) != want.entries || dry != want.dry {
			t.Errorf("%s: %d moves, %d entries, %d of them dry; want %+v", mode, moved, len(all), dry, want)
		}
	}
}

// TestReseedDryRun: AutoReseed in dry-run mode writes what it would do first, once,
// and changes nothing; off it does nothing.
func TestReseedDryRun(t *testing.T) {
	for mode, want := range map[string]int{"dry-run": 1, "off": 0} {
		g, _, _, work := broken(t)
		work.m.deps.Recovery = func(string) string { return mode }
		before := map[string]string{}
		for k, it := range g.View().Prefix("") {
			before[k] = string(it.Value)
		}
		for range 20 {
			work.turn(t.Context())
		}
		for k, it := range g.View().Prefix("") {
			if !strings.HasPrefix(k, org.RecoveryPrefix) && before[k] != string(it.Value) {
				t.Errorf("%s: row %s was changed to %s", mode, k, it.Value)
			}
		}
		for k, was := range before {
			if it, ok := g.View().Get(k); !ok || string(it.Value) != was {
				t.Errorf("%s: row %s is not what it was", mode, k)
			}
		}
		all := entries(t, g.View())
		if len(all) != want {
			t.Fatalf("%s: %d entries: %+v", mode, len(all), all)
		}
		if want == 1 && (!all[0].DryRun || all[0].Action != "reseed-assign" || all[0].Cause == "" || len(all[0].Evidence) == 0 || time.Since(all[0].Begun) > time.Minute) {
			t.Errorf("%+v", all[0])
		}
	}
}

// TestStormIsInRecoveryLog: that moves wait is told once, with who was lost.
func TestStormIsInRecoveryLog(t *testing.T) {
	f := newFake(t, 8, 1)
	var notes []org.Note
	m := f.manager(Config{}, Deps{Noted: func(n org.Note) { notes = append(notes, n) }})
	for i := range 4 {
		f.put("servers/"+string(f.server(i)), org.Server{Name: f.server(i), Site: org.SiteName([]string{"A", "B"}[i%2])})
		f.lose(f.server(i))
	}
	m.noteLost(f.View(), time.Now())
	m.noteLost(f.View(), time.Now())
	if len(notes) != 1 || notes[0].Action != "DampMoves" || len(notes[0].Evidence) != 4 || !strings.HasPrefix(notes[0].Cause, "4 servers were lost") {
		t.Errorf("%+v", notes)
	}
}

// TestHoldIsInRecoveryLog: what a server saw that may not mount.
func TestHoldIsInRecoveryLog(t *testing.T) {
	var got []org.Note
	x := &Sites{me: "MBX1", deps: SitesDeps{Noted: func(n org.Note) { got = append(got, n) }}}
	x.note("HoldMounts", "nobody who leads is heard", site.Facts{Generation: 3, Members: []site.Member{
		{Name: "MBX2"}, {Name: "MBX3", Heard: true, Bit: true}, {Name: "MBX4", GivenUp: true}, {Name: "MBX5", Heard: true}}}, "no database is mounted here")
	if len(got) != 1 || got[0].Target != "MBX1" || got[0].Cause == "" ||
		got[0].Evidence[0].Text != "generation 3; MBX2 not heard; MBX3 leads; MBX4 given up; MBX5 waits too" {
		t.Errorf("%+v", got)
	}
}
