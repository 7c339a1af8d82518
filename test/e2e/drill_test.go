package e2e

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"
)

// long has TestDrill exercise all there is (make maintenance).
var long = flag.Bool("long", false, "all drills, not only one")

// TestDrill moves 30 databases off a server, and then exercises failures of
// servers with many databases: what the signed report says is what an auditor
// gets.
func TestDrill(t *testing.T) {
	t.Parallel()
	g := startLab(t, 10600, "--databases", "30", "--users", "3", "--volumes", "1", "--spares", "1", "--volume-size", fmt.Sprint(4<<30))
	for _, s := range []string{"MBX2", "MBX3"} { // everything to MBX1
		must(t, g.command(t.Context(), nil, "server", "evacuate", s, "--to", "MBX1"))
	}
	begun := time.Now()
	must(t, g.command(t.Context(), nil, "server", "evacuate", "MBX1", "--skip-health")) // a machine that runs many tests is overcommitted
	took := time.Since(begun)
	t.Logf("30 databases moved off MBX1 in %.2f s, the command included", took.Seconds())
	if took > 10*time.Second {
		t.Errorf("it took %s, want less than 10 s", took)
	}
	for db, at := range g.activeAt() {
		if at == "MBX1" || at == "" {
			t.Errorf("%s is active at %q", db, at)
		}
	}
	g.inSync(time.Minute)

	if err := g.command(t.Context(), nil, "drill", "run", "failover", "--server", "MBX2"); err == nil || !strings.Contains(err.Error(), "--allow failover") {
		t.Errorf("a failover that nobody allowed: %v", err)
	}
	exercises := [][]string{{"kill-worker", "--server", "MBX3"}}
	if *long {
		exercises = append(exercises, []string{"move", "--database", "DB02"}, []string{"reseed", "--database", "DB01"},
			[]string{"failover", "--server", "MBX2", "--allow", "failover"}, []string{"maintenance", "--server", "MBX1"},
			[]string{"reseed-spare", "--database", "DB04"}, []string{"restore-mailbox", "--database", "DB03"})
	}
	for _, args := range exercises {
		if args[0] == "restore-mailbox" {
			if err := g.command(t.Context(), nil, append([]string{"drill", "run"}, args...)...); err == nil || !strings.Contains(err.Error(), "no copy of DB03 will show") {
				t.Errorf("mail was to be recovered from nowhere: %v", err)
			}
			late := g.others(g.database("DB03").Active)[1]
			must(t, g.command(t.Context(), nil, "copy", "set", "DB03", late, "--replay-lag", "1d"))
		}
		var p planOf
		eventually(t, time.Minute, "a drill may begin", func() error { // it waits until nothing is red
			return g.command(t.Context(), &p, append([]string{"drill", "run", "--max-unavailable", "30s"}, args...)...)
		})
		p = g.planDone(p, 2*time.Minute)
		var r struct {
			Passed   bool     `json:"passed"`
			Verdict  string   `json:"verdict"`
			Lost     int      `json:"lost"`
			Doubled  int      `json:"doubled"`
			Verified []string `json:"verified"`
			Steps    []any    `json:"steps"`
			Deeds    []any    `json:"deeds"`
			Restored []any    `json:"restored"`
			Measures []struct {
				Operations int `json:"operations"`
			} `json:"measures"`
		}
		must(t, g.command(t.Context(), &r, "drill", "report", p.ID, "--verify"))
		if !r.Passed || r.Lost+r.Doubled > 0 || len(r.Verified) == 0 || len(r.Steps) < 4 || len(r.Measures) == 0 || r.Measures[0].Operations < 10 {
			t.Errorf("%s: %+v", args[0], r)
		}
		if args[0] == "failover" && len(r.Deeds) == 0 {
			t.Error("databases failed over, and the report names no entry of the recovery log")
		}
		if args[0] == "restore-mailbox" && len(r.Restored) != 1 {
			t.Error("the report does not say what was recovered")
		}
		t.Logf("%s: %s", args[0], r.Verdict)
		words, err := postern.run(t.Context(), "--lab", g.dir, "drill", "report", p.ID, "--verify")
		must(t, err)
		t.Logf("the report:\n%s", words)
		g.inSync(time.Minute)
	}
	g.identical()
}
