package health

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// TestCommandTable: the table is there without a Desk, and has no mistake.
func TestCommandTable(t *testing.T) {
	table := Commands(nil)
	if err := command.Check(table); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range table {
		names = append(names, c.Name())
	}
	slices.Sort(names)
	want := []string{"health definitions", "health monitor set", "health override add", "health override list", "health override remove", "health probe run",
		"health recovery log", "health recovery mode", "health report", "health server"}
	if !slices.Equal(names, want) {
		t.Errorf("commands %v", names)
	}
}

// call runs a command as a door does.
func call[Out any](t *testing.T, s *server, name string, in any) (Out, error) {
	t.Helper()
	for _, c := range Commands(s.desk) {
		if c.Name() == name {
			out, err := c.Run(command.WithCaller(context.Background(), command.Caller{Name: "anna"}), in)
			v, _ := out.(Out)
			return v, err
		}
	}
	t.Fatalf("no command %s", name)
	panic("unreachable")
}

func TestCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &door{}
		s := newServer(t, "MBX1", newState(), newMesh("MBX1", "MBX2"), imap(d))
		s.mesh.down["MBX2"] = true
		s.start()
		defer s.stop()
		wait(time.Minute)

		rows, err := call[[]MonitorRow](t, s, "health server", serverArgs{Set: "IMAP.Protocol"})
		if err != nil || len(rows) != 1 || rows[0].State != org.HealthOK || rows[0].Component != "Active" || !rows[0].HA || rows[0].Since.IsZero() {
			t.Errorf("health server: %+v, %v", rows, err)
		}
		all, err := call[[]MonitorRow](t, s, "health server", serverArgs{})
		if err != nil || !slices.ContainsFunc(all, func(r MonitorRow) bool { return !r.HA }) {
			t.Errorf("health server without a filter: %+v, %v", all, err)
		}
		only, err := call[[]MonitorRow](t, s, "health server", serverArgs{HA: true})
		if err != nil || len(only) == 0 || len(only) >= len(all) || slices.ContainsFunc(only, func(r MonitorRow) bool { return !r.HA }) {
			t.Errorf("health server --ha-impacting: %+v, %v", only, err)
		}
		if _, err := call[[]MonitorRow](t, s, "health server", serverArgs{Server: "MBX9"}); !kind.Is(err, kind.NotFound) {
			t.Errorf("an unknown server: %v", err)
		}
		if _, err := call[[]MonitorRow](t, s, "health server", serverArgs{Server: "MBX2"}); !kind.Is(err, kind.Busy) {
			t.Errorf("a silent server: %v", err)
		}
		defs, err := call[[]DefinitionRow](t, s, "health definitions", definitionArgs{Set: "IMAP.Protocol"})
		if err != nil || len(defs) != 9 { // set, probe, monitor, six responders
			t.Errorf("health definitions: %d rows, %v", len(defs), err)
		}
		d.set(errBroken)
		ran, err := call[[]ProbeRow](t, s, "health probe run", probeRunArgs{Probe: `IMAP.Protocol\SelfTest`})
		if err != nil || len(ran) != 1 || ran[0].Result != "failed" || ran[0].Text != "no greeting" {
			t.Errorf("health probe run: %+v, %v", ran, err)
		}
		d.set(nil)
		for _, bad := range []probeRunArgs{{Probe: "x"}, {Probe: `UserPath\Path`}, {Probe: `IMAP.Protocol\SelfTest`, Target: "x"}, {Probe: `IMAP.Protocol\SelfTest`, Timeout: time.Hour}} {
			if _, err := call[[]ProbeRow](t, s, "health probe run", bad); err == nil {
				t.Errorf("%+v is taken", bad)
			}
		}
		rep, err := call[Report](t, s, "health report", reportArgs{Size: 12, Minimum: 70})
		if err != nil || len(rep.Sets) != 5 || !slices.Equal(rep.Silent, []string{"MBX2"}) || len(rep.Overrides) != 0 {
			t.Errorf("health report: %+v, %v", rep, err)
		}
		rep, err = call[Report](t, s, "health report", reportArgs{Size: 12, Minimum: 50, RollUp: true})
		if err != nil || len(rep.Groups) != 1 || rep.Groups[0].State != org.Degraded && rep.Groups[0].State != org.Unavailable {
			t.Errorf("health report --roll-up: %+v, %v", rep, err)
		}
		if _, err := call[Report](t, s, "health report", reportArgs{Size: 0, Minimum: 70}); !kind.Is(err, kind.Invalid) {
			t.Errorf("group size 0: %v", err)
		}
	})
}

// TestRepairing: while somebody works on it nothing is done; afterwards the
// ladder begins anew.
func TestRepairing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &door{}
		s := newServer(t, "MBX1", newState(), newMesh("MBX1"), imap(d))
		s.start()
		defer s.stop()
		wait(time.Minute)
		const id = `IMAP.Protocol\SelfTest`
		if _, err := call[command.None](t, s, "health monitor set", monitorSetArgs{Monitor: id, Repairing: true, For: time.Hour, Why: "new port"}); err != nil {
			t.Fatal(err)
		}
		d.set(errBroken)
		wait(30 * time.Minute)
		if got := s.shown(id); got != org.Repairing || len(s.hands.all()) != 0 {
			t.Errorf("%s, deeds %v", got, s.hands.all())
		}
		wait(31 * time.Minute) // the hour is over, and the door still broken
		if got := s.shown(id); got != org.Degraded && got != org.Unhealthy {
			t.Errorf("after the repair: %s", got)
		}
		if got := s.hands.all(); len(got) != 1 || !strings.Contains(got[0], "RestartService imap") {
			t.Errorf("after the repair: %v", got)
		}
		for _, bad := range []monitorSetArgs{{Monitor: "x", Repairing: true, For: time.Hour}, {Monitor: id, Repairing: true, For: 8 * 24 * time.Hour}, {Monitor: id, Repairing: true},
			{Monitor: id, Server: "MBX9", Repairing: true, For: time.Hour}} {
			if _, err := call[command.None](t, s, "health monitor set", bad); err == nil {
				t.Errorf("%+v is taken", bad)
			}
		}
	})
}

// TestOverrideTakesEffect at once, ends by itself, and is in the report.
func TestOverrideTakesEffect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &door{}
		s := newServer(t, "MBX1", newState(), newMesh("MBX1"), imap(d))
		s.start()
		defer s.stop()
		wait(time.Minute)
		d.mu.Lock()
		before := d.runs
		d.mu.Unlock()
		add := overrideAddArgs{Item: `IMAP.Protocol\SelfTest`, Type: "probe", Property: "IntervalSeconds", Value: "1", For: 10 * time.Minute, Why: "a look"}
		dry := add
		dry.DryRun = true
		if p, err := call[command.Plan](t, s, "health override add", dry); err != nil || !p.DryRun || len(s.desk.allOverrides()) != 0 {
			t.Errorf("dry run: %+v, %v", p, err)
		}
		if _, err := call[command.Plan](t, s, "health override add", add); err != nil {
			t.Fatal(err)
		}
		wait(time.Minute)
		d.mu.Lock()
		if n := d.runs - before; n < 45 {
			t.Errorf("%d runs in a minute of one each second", n)
		}
		d.mu.Unlock()
		rep, err := call[Report](t, s, "health report", reportArgs{Size: 12, Minimum: 70})
		if err != nil || len(rep.Overrides) != 1 || rep.Overrides[0].By != "anna" || rep.Overrides[0].Ends == "" {
			t.Errorf("report: %+v, %v", rep.Overrides, err)
		}
		wait(10 * time.Minute)
		if n := len(s.desk.allOverrides()); n != 0 {
			t.Errorf("%d overrides after their end", n)
		}
		left := s.rows.keys("recovery/")
		if delete(left, overrideGuard); len(left) != 0 {
			t.Errorf("rows are left: %v", left)
		}
		add.For, add.Forever = 0, true
		if _, err := call[command.Plan](t, s, "health override add", add); err != nil {
			t.Fatal(err)
		}
		id := s.desk.allOverrides()[0].ID
		add.Value = "2"
		if _, err := call[command.Plan](t, s, "health override add", add); !kind.Is(err, kind.Exists) || !strings.Contains(err.Error(), id) {
			t.Errorf("a second one about the same: %v", err)
		}
		if _, err := call[command.None](t, s, "health override remove", overrideArg{ID: id}); err != nil {
			t.Error(err)
		}
		if _, err := call[command.None](t, s, "health override remove", overrideArg{ID: id}); !kind.Is(err, kind.NotFound) {
			t.Errorf("removed twice: %v", err)
		}
	})
}

// TestDryRunMode: faults for an hour change no row but those of the log.
func TestDryRunMode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &door{}
		s := newServer(t, "MBX1", newState(), newMesh("MBX1"), imap(d))
		s.start()
		defer s.stop()
		if _, err := call[command.Plan](t, s, "health recovery mode", modeArgs{Mode: "dry-run"}); err != nil {
			t.Fatal(err)
		}
		wait(time.Minute)
		before := s.rows.keys(org.RecoveryPrefix)
		d.set(errBroken)
		wait(time.Hour)
		if got := s.hands.all(); len(got) != 0 {
			t.Errorf("deeds %v", got)
		}
		after := s.rows.keys(org.RecoveryPrefix)
		if len(before) != len(after) {
			t.Errorf("rows before %v, after %v", before, after)
		}
		would := 0
		for _, r := range s.log() {
			if r.DryRun && r.Allowed && r.Action == "RestartService" {
				would++
			}
		}
		rows, err := call[[]RecoveryRow](t, s, "health recovery log", recoveryLogArgs{Since: 2 * time.Hour, Dry: true})
		if err != nil || would != 1 || len(rows) == 0 || !rows[0].DryRun || rows[0].Result != "would be done" || rows[0].Evidence != nil {
			t.Errorf("would %d, %+v, %v", would, rows, err)
		}
		one, err := call[[]RecoveryRow](t, s, "health recovery log", recoveryLogArgs{ID: rows[0].ID})
		if err != nil || len(one) != 1 || len(one[0].Evidence) == 0 || one[0].Cause == "" {
			t.Errorf("%+v, %v", one, err)
		}
		if _, err := call[[]RecoveryRow](t, s, "health recovery log", recoveryLogArgs{ID: "x"}); !kind.Is(err, kind.NotFound) {
			t.Errorf("unknown identity: %v", err)
		}
		if _, err := call[command.Plan](t, s, "health recovery mode", modeArgs{Mode: "default"}); err != nil || s.desk.modeFor("") != "dry-run" && len(s.desk.modeRows()) != 0 {
			t.Errorf("%v, %v", s.desk.modeRows(), err)
		}
	})
}

func TestOverrideChecks(t *testing.T) {
	items := hasten(Join(builtIn(nil), imap(&door{})), Config{})
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	base := org.Override{Item: `IMAP.Protocol\SelfTest`, Type: "monitor", Property: "Threshold", Value: "5", Until: now.Add(time.Hour)}
	with := func(f func(*org.Override)) org.Override { o := base; f(&o); return o }
	off := func(typ, item string) org.Override {
		return with(func(o *org.Override) { o.Type, o.Item, o.Property, o.Value = typ, item, "Enabled", "false" })
	}
	worker := off("monitor", `MailWorker\Silent`)
	for _, c := range []struct {
		name  string
		o     org.Override
		all   []org.Override
		force bool
		want  string // part of the error, empty: taken
	}{
		{"plain", base, nil, false, ""},
		{"of one target", with(func(o *org.Override) { o.Item += `\DB01` }), nil, false, ""},
		{"no bound", with(func(o *org.Override) { o.Until = time.Time{} }), nil, false, "0 bounds"},
		{"two bounds", with(func(o *org.Override) { o.Version = "1.2" }), nil, false, "2 bounds"},
		{"over already", with(func(o *org.Override) { o.Until = now }), nil, false, "it ends at"},
		{"in two years", with(func(o *org.Override) { o.Until = now.AddDate(2, 0, 0) }), nil, false, "it ends at"},
		{"no such item", with(func(o *org.Override) { o.Item = `IMAP.Protocol\selftest` }), nil, false, "case-sensitive"},
		{"no item at all", with(func(o *org.Override) { o.Item = `IMAP` }), nil, false, "is not Set"},
		{"no such type", with(func(o *org.Override) { o.Type = "thing" }), nil, false, "is not probe"},
		{"no such property", with(func(o *org.Override) { o.Property = "Colour" }), nil, false, "known are"},
		{"a probe has no threshold", with(func(o *org.Override) { o.Type = "probe" }), nil, false, "known are"},
		{"no number", with(func(o *org.Override) { o.Value = "many" }), nil, false, "no number"},
		{"not a number", with(func(o *org.Override) { o.Value = "NaN" }), nil, false, "no number"},
		{"below zero", with(func(o *org.Override) { o.Value = "-1" }), nil, false, "no number"},
		{"too many results", with(func(o *org.Override) { o.Value = "100000" }), nil, false, "is no number of results"},
		{"a probe ten times a second", with(func(o *org.Override) { o.Type, o.Property, o.Value = "probe", "IntervalSeconds", "0.1" }), nil, false, "out of range"},
		{"a step of the ladder", with(func(o *org.Override) { o.Property, o.Value = "TransitionSeconds.Unhealthy", "120" }), nil, false, ""},
		{"a step that breaks the order", with(func(o *org.Override) { o.Property, o.Value = "TransitionSeconds.Unhealthy", "86400" }), nil, false, "does not come after"},
		{"a state it has not", with(func(o *org.Override) { o.Property, o.Value = "TransitionSeconds.Degraded2", "5" }), nil, false, "no state"},
		{"a responder", with(func(o *org.Override) {
			o.Type, o.Item, o.Property, o.Value = "responder", `IMAP.Protocol\SelfTest.Restart`, "Enabled", "false"
		}), nil, false, ""},
		{"a responder that is not there", with(func(o *org.Override) { o.Type, o.Item = "responder", `IMAP.Protocol\SelfTest.Reboot` }), nil, false, "there is no responder"},
		{"the only monitor of a critical set off", off("monitor", base.Item), nil, false, "critical health set IMAP.Protocol"},
		{"what is off already stays off", off("probe", `Monitoring\Stalled`), []org.Override{worker}, false, ""},
		{"the last critical monitor off", off("monitor", base.Item), []org.Override{worker}, false, "no monitor of a critical health set"},
		{"by its probe", off("probe", base.Item), []org.Override{worker}, false, "no monitor of a critical health set"},
		{"by force, for an hour", off("monitor", base.Item), []org.Override{worker}, true, ""},
		{"by force, for longer", with(func(o *org.Override) { *o = off("monitor", base.Item); o.Until = now.Add(2 * time.Hour) }), []org.Override{worker}, true, "no monitor of a critical"},
		{"more than half", off("probe", `UserPath\Path`), []org.Override{off("probe", `Monitoring\HungProbes`), off("probe", `Monitoring\Stalled`), off("probe", `MailWorker\Socket`),
			off("monitor", `Monitoring\Hung`), off("monitor", `Monitoring\Stalled`)}, false, "would be switched off"},
		{"enough of them", base, make([]org.Override, maxOverrides), false, "are enough"},
	} {
		err := checkOverride(items, c.all, c.o, c.force, now)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// TestOverridesLeaveEachSetWatched: the monitors of one critical set are not
// switched off one after the other, whatever others watch.
func TestOverridesLeaveEachSetWatched(t *testing.T) {
	look := func(context.Context, string) (Reading, error) { return Reading{}, nil }
	items := hasten(whole(look, func() []string { return []string{"DB01", "DB02"} }), Config{})
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	off := func(typ, name string) org.Override {
		return org.Override{Type: typ, Item: `Store\` + name, Property: propEnabled, Value: "false", Until: now.Add(time.Hour)}
	}
	three := []org.Override{off(typeMonitor, "Read"), off(typeMonitor, "Commit"), off(typeMonitor, "ReadLatency")}
	for _, c := range []struct {
		name  string
		all   []org.Override
		o     org.Override
		force bool
		taken bool
	}{
		{"the first", nil, three[0], false, true},
		{"the third", three[:2], three[2], false, true},
		{"the last", three, off(typeMonitor, "CommitLatency"), false, false},
		{"the last, by force", three, off(typeMonitor, "CommitLatency"), true, true},
		{"the probe of the last", three, off(typeProbe, "Commit"), false, false},
		{"one probe of two", nil, off(typeProbe, "Commit"), false, true},
		{"the other probe", []org.Override{off(typeProbe, "Commit")}, off(typeProbe, "Read"), false, false},
		{"one target of the last", three, off(typeMonitor, `CommitLatency\DB01`), false, true},
		{"the last target of the last", append(three, off(typeMonitor, `CommitLatency\DB02`)), off(typeMonitor, `CommitLatency\DB01`), false, false},
		{"its probe, by target", append(three, off(typeMonitor, `CommitLatency\DB02`)), off(typeProbe, `Commit\DB01`), false, false},
		{"the same target twice", append(three, off(typeMonitor, `CommitLatency\DB01`)), off(typeProbe, `Commit\DB01`), false, true},
	} {
		err := checkOverride(items, c.all, c.o, c.force, now)
		if (err == nil) != c.taken || err != nil && !(kind.Is(err, kind.Denied) && strings.Contains(err.Error(), "critical health set Store")) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestOverridesAtOnce: of two overrides that were both judged before either was
// written only one is taken where both together leave nothing that watches.
func TestOverridesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := imap(&door{})
		second := x.Monitors[0]
		second.Name = "Second"
		x.Monitors = append(x.Monitors, second)
		s := newServer(t, "MBX1", newState(), newMesh("MBX1"), x)
		s.start()
		defer s.stop()
		off := func(server org.ServerName, name string) error {
			_, err := call[command.Plan](t, s, "health override add", overrideAddArgs{Server: server, Item: `IMAP.Protocol\` + name, Type: "monitor", Property: "Enabled", Value: "false", For: time.Hour})
			return err
		}
		s.rows.meanwhile(overridePrefix, func() {
			if err := off("MBX1", "Second"); err != nil {
				t.Error(err)
			}
		})
		if err := off("", "SelfTest"); !kind.Is(err, kind.Denied) || len(s.desk.allOverrides()) != 1 {
			t.Errorf("both are taken: %v, %+v", err, s.desk.allOverrides())
		}
		s.rows.meanwhile(overridePrefix, func() {
			if _, err := call[command.Plan](t, s, "health override add", overrideAddArgs{Item: `IMAP.Protocol\SelfTest`, Type: "monitor", Property: "Threshold", Value: "5", For: time.Hour}); err != nil {
				t.Error(err)
			}
		})
		wait(time.Second)
		if _, err := call[command.Plan](t, s, "health override add", overrideAddArgs{Server: "MBX1", Item: `IMAP.Protocol\SelfTest`, Type: "probe", Property: "IntervalSeconds", Value: "2", For: time.Hour}); err != nil {
			t.Errorf("two that go together: %v", err)
		}
	})
}

// TestRenewedRowStays: a repair that is renewed while its old end is tidied up.
func TestRenewedRowStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, "MBX1", newState(), newMesh("MBX1"), imap(&door{}))
		s.start()
		defer s.stop()
		repair := func(d time.Duration) {
			t.Helper()
			if _, err := call[command.None](t, s, "health monitor set", monitorSetArgs{Monitor: `IMAP.Protocol\SelfTest`, Repairing: true, For: d}); err != nil {
				t.Fatal(err)
			}
		}
		rows := func() (n int) {
			for range s.rows.Prefix(repairingPrefix) {
				n++
			}
			return n
		}
		repair(time.Minute)
		s.rows.meanwhile(repairingPrefix, func() { repair(time.Hour) })
		wait(2 * time.Minute)
		if rows() != 1 {
			t.Error("the renewed row is gone")
		}
		wait(time.Hour)
		if rows() != 0 {
			t.Error("a row is left after its end")
		}
	})
}

func TestItemsCheck(t *testing.T) {
	good := imap(&door{})
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Items){
		"a set twice":             func(x *Items) { x.Sets = append(x.Sets, x.Sets[0]) },
		"a set without group":     func(x *Items) { x.Sets[0].Group = "" },
		"a probe of no set":       func(x *Items) { x.Probes[0].Set = "x" },
		"a probe twice":           func(x *Items) { x.Probes = append(x.Probes, x.Probes[0]) },
		"a probe nowhere":         func(x *Items) { x.Probes[0].Where = "" },
		"a probe all the time":    func(x *Items) { x.Probes[0].Every = time.Millisecond },
		"a probe without time":    func(x *Items) { x.Probes[0].Timeout = 0 },
		"a monitor of no probe":   func(x *Items) { x.Monitors[0].Probe = "x" },
		"a monitor without rule":  func(x *Items) { x.Monitors[0].Rule = Rule{} },
		"a bad timeline":          func(x *Items) { x.Monitors[0].Timeline = []Step{{After: time.Second, State: org.Degraded}} },
		"a bad chain":             func(x *Items) { x.Monitors[0].Chain.Steps[0].Action = "Format" },
		"a name with a backslash": func(x *Items) { x.Monitors[0].Name = `a\b` },
		"too many":                func(x *Items) { x.Monitors = slices.Repeat(x.Monitors, 2000) },
	} {
		x := imap(&door{})
		change(&x)
		if err := x.Check(); !kind.Is(err, kind.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := errors.Join(Join(good, good).Check()); err == nil {
		t.Error("the same items twice are taken")
	}
	for name, chain := range map[string]Chain{"A": DoorChain("imap", org.IMAPComponent), "B": StoreChain(), "C": VolumeChain(), "D": CopyChain(), "E": TellChain(),
		"F": NetworkChain(org.SMTPComponent, org.IMAPComponent), "G": MemoryChain(), "H": WorkerChain(MailWorker)} {
		x := imap(&door{})
		x.Monitors[0].Chain = chain
		if err := x.Check(); err != nil || chain.Name != name {
			t.Errorf("chain %s: %v", name, err)
		}
	}
}
