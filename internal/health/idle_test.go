package health

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// idleItems are about as many probes as a server with 30 databases has, with
// nothing behind them: what is measured is the room itself.
func idleItems(databases int) Items {
	var x Items
	var dbs, vols []string
	for i := range databases {
		dbs = append(dbs, fmt.Sprintf("DB%02d", i+1))
	}
	for i := range 4 {
		vols = append(vols, fmt.Sprintf("vol%d", i+1))
	}
	run := func(context.Context, string) (Reading, error) { return Reading{Value: 1, Text: "fine"}, nil }
	add := func(set, probe string, where Where, every time.Duration, targets []string, chain Chain, rules ...Rule) {
		p := Probe{Set: set, Name: probe, Kind: Recurrent, Where: where, Every: every, Timeout: 5 * time.Second, Run: run}
		if targets != nil {
			p.Targets = func() []string { return targets }
		}
		if len(x.Sets) == 0 || x.Sets[len(x.Sets)-1].Name != set {
			x.Sets = append(x.Sets, Set{Name: set, Group: Services, Priority: org.PriorityCritical, HA: true})
		}
		x.Probes = append(x.Probes, p)
		for i, r := range rules {
			x.Monitors = append(x.Monitors, Monitor{Set: set, Name: fmt.Sprintf("%s%d", probe, i), Probe: probe, Rule: r, Chain: chain})
		}
	}
	add("Store", "Read", Inside, 10*time.Second, dbs, StoreChain(), ConsecutiveFailures(3), AboveFor(2, "s", time.Minute))
	add("Store", "Commit", Inside, 10*time.Second, dbs, StoreChain(), ConsecutiveFailures(3))
	add("DataProtection", "Copy", Inside, 5*time.Second, dbs, CopyChain(), AboveFor(10, "generations", 5*time.Minute))
	add("DataProtection", "Replay", Inside, 5*time.Second, dbs, CopyChain(), AboveFor(50, "generations", 5*time.Minute))
	add("Search", "Index", Inside, 30*time.Second, dbs, CopyChain(), ConsecutiveFailures(10))
	add("Volume", "Write", Inside, 2*time.Second, vols, VolumeChain(), ConsecutiveFailures(1), AboveFor(1, "s", 30*time.Second))
	for _, door := range []string{"SMTP.Protocol", "Submission.Protocol", "IMAP.Protocol"} {
		add(door, "SelfTest", Outside, 5*time.Second, nil, DoorChain("imap", org.IMAPComponent), ConsecutiveFailures(3))
		add(door, "DeepTest", Outside, 30*time.Second, nil, DoorChain("imap", org.IMAPComponent), ConsecutiveFailures(3))
	}
	for _, res := range []string{"Network", "Memory", "Handles", "CPU", "Clock", "AgreedState", "HubTransport"} {
		add(res, "Look", Inside, 2*time.Second, nil, TellChain(), AboveFor(50, "%", time.Minute))
	}
	return x
}

// cpu is what this process has used.
func cpu(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestIdleCost lets the room of a server with 30 databases run for ten minutes of
// simulated time: Desk and Engine together stay far below 2 % of a core.
func TestIdleCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, "MBX1", newState(), newMesh("MBX1", "MBX2", "MBX3"), idleItems(30))
		s.start()
		defer s.stop()
		wait(time.Minute)
		before := cpu(t)
		const span = 10 * time.Minute
		wait(span)
		used := cpu(t) - before
		share := 100 * used.Seconds() / span.Seconds()
		monitors, _ := s.desk.monitors()
		t.Logf("%d monitors of 30 databases: %.2f %% of a core", len(monitors), share)
		if len(monitors) < 200 || share > 1 {
			t.Errorf("%d monitors, %.2f %% of a core", len(monitors), share)
		}
		for _, m := range monitors {
			if m.State != org.HealthOK && m.Set != setRemote {
				t.Errorf("%s is %s", m.ID(), m.State)
			}
		}
		if s.rows.commits != 0 {
			t.Errorf("an idle server has written the agreed state %d times", s.rows.commits)
		}
	})
}

// BenchmarkIdleProbes measures one second of an idle server with 30 databases:
// its results taken, crossed to the Engine, judged and published. 2 % of a core
// would be 20 ms.
func BenchmarkIdleProbes(b *testing.B) {
	items := idleItems(30)
	s := &server{name: "MBX1", dir: b.TempDir(), items: items, rows: newState(), mesh: newMesh("MBX1", "MBX2", "MBX3"), hands: &hands{}, host: &hands{}, spares: &spares{}, wire: &wire{}}
	d, err := NewDesk(Config{}, DeskDeps{Server: s.name, Dir: s.dir, Items: items, Rows: s.rows, Mesh: meshAt{s.mesh, s.name}, Actor: s.hands, Spares: s.spares, Log: discard()})
	if err != nil {
		b.Fatal(err)
	}
	s.connect(d)
	e, err := NewEngine(Config{}, EngineDeps{Server: s.name, Dir: s.dir, Items: items, Desk: s.client(), Host: s.host, Log: discard()})
	if err != nil {
		b.Fatal(err)
	}
	var boot, after uint64
	second, results := 0, 0
	for b.Loop() {
		now := time.Now()
		for _, p := range d.items.Probes {
			if p.Where != Inside || p.Run == nil || second%max(int(p.Every/time.Second), 1) != 0 {
				continue
			}
			targets := []string{""}
			if p.Targets != nil {
				targets = p.Targets()
			}
			for _, t := range targets {
				d.take(Result{Set: p.Set, Probe: p.Name, Target: t, Outcome: Passed, Value: 1, Text: "fine", At: now})
				results++
			}
		}
		n, err := e.desk.results(b.Context(), boot, after)
		if err != nil {
			b.Fatal(err)
		}
		boot, after = n.Boot, n.Next
		e.heard(polled{news: n, at: now})
		e.turn(b.Context())
		if second%5 == 0 {
			if err := e.desk.state(b.Context(), e.report()); err != nil {
				b.Fatal(err)
			}
			e.events = nil
		}
		d.readRules()
		d.publish(second%5 == 0)
		second++
	}
	b.ReportMetric(float64(results)/float64(second), "results/op")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(second)/1e7, "%core")
}
