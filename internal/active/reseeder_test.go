package active

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/active/reseed"
	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

// disks are the volumes of MBX2.
type disks struct {
	all     []mailbox.VolumeStatus
	problem string
}

func (d *disks) Volumes() []mailbox.VolumeStatus { return d.all }
func (d *disks) CheckSpare(context.Context, org.VolumeName, int64) ([]string, error) {
	if d.problem != "" {
		return []string{d.problem}, nil
	}
	return nil, nil
}

// reports are what servers tell of their copies.
type reports map[org.ServerName][]org.CopyStatus

func (r reports) PeerStatuses(s org.ServerName) []org.CopyStatus { return r[s] }
func (reports) Handover(context.Context, org.DatabaseName, org.ServerName, org.ServerName) (org.LSN, error) {
	return 0, nil
}
func (reports) CatchUp(context.Context, org.DatabaseName, org.ServerName) error { return nil }

func (reports) Gather(context.Context, org.DatabaseName, org.ServerName, org.ServerName) (org.LSN, error) {
	return 0, nil
}
func (reports) Thaw(context.Context, org.DatabaseName, org.ServerName) error { return nil }

// broken is a group whose server MBX2 lost Vol1 with DB01 and DB02; Vol2 and
// Vol3 are spares. Both databases are active on MBX3, MBX4 follows.
func broken(t *testing.T) (*group, *disks, reports, *reseeder) {
	t.Helper()
	g := &group{rows: map[string]cluster.Item{}}
	for _, s := range []org.ServerName{"MBX2", "MBX3", "MBX4"} {
		g.put(t, "servers/"+string(s), org.Server{Name: s, Site: "Site1", Identity: "id-" + string(s)})
	}
	r := reports{}
	for _, db := range []org.DatabaseName{"DB01", "DB02"} {
		g.put(t, mailbox.DatabaseKey(db), org.Database{Name: db, Copies: []org.Copy{{Server: "MBX2", Volume: "Vol1", Preference: 1}, {Server: "MBX3", Preference: 2}, {Server: "MBX4", Preference: 3}}})
		g.put(t, mailbox.MountKey(db), org.Mount{Database: db, Term: 3, Active: "MBX3", InSync: []org.ServerName{"MBX3", "MBX4", "MBX2"}})
		r["MBX2"] = append(r["MBX2"], org.CopyStatus{Database: db, State: org.CopyFailed, Cause: org.CauseGone, Volume: "Vol1", Reason: "gone"})
		r["MBX3"] = append(r["MBX3"], org.CopyStatus{Database: db, State: org.CopyMounted, DiskUsed: 100})
		r["MBX4"] = append(r["MBX4"], org.CopyStatus{Database: db, State: org.CopyHealthy})
	}
	d := &disks{all: []mailbox.VolumeStatus{{Volume: "Vol1", Cause: org.CauseGone, Why: "gone", Looked: true},
		{Volume: "Vol2", Size: 10, Calm: true, Looked: true}, {Volume: "Vol3", Size: 20, Calm: true, Looked: true}}}
	for _, v := range []org.VolumeName{"Vol1", "Vol2", "Vol3"} {
		state := org.VolumeSpare
		if v == "Vol1" {
			state = org.VolumeData
		}
		g.put(t, org.VolumeKey("MBX2", v), org.VolumeRow{Server: "MBX2", Volume: v, Member: "id-MBX2", State: state})
	}
	log := slog.New(slog.DiscardHandler)
	m := New(Config{PreferenceMoveFrequency: -1}, Deps{Group: g, Copies: r, Log: log, Events: event.NewLog(log), Volumes: d})
	work := newReseeder(m, d, true)
	work.t.Gone, work.t.Calm = 0, 0
	return g, d, r, work
}

func (g *group) stage(t *testing.T, v org.VolumeName) org.Reseed {
	t.Helper()
	it, ok := g.View().Get(org.ReseedKey("MBX2", v))
	if !ok {
		return org.Reseed{}
	}
	row, err := org.ParseReseed(it.Value)
	if err != nil {
		t.Fatal(err)
	}
	return row
}

func (g *group) state(v org.VolumeName) org.VolumeState {
	row, _ := volumeRow(g.View(), "MBX2", v)
	return row.State
}

func (g *group) recoveries() int {
	n := 0
	for range g.View().Prefix(org.RecoveryPrefix) {
		n++
	}
	return n
}

// turns runs the loop until a stage is reached.
func turns(t *testing.T, g *group, r *reseeder, want org.ReseedStage) {
	t.Helper()
	for range 20 {
		if g.stage(t, "Vol1").Stage == want {
			return
		}
		r.turn(t.Context())
	}
	t.Fatalf("it stays at %+v, want %s", g.stage(t, "Vol1"), want)
}

// TestReseedAssignsSpare changes everything in one transaction, with its entry
// of the recovery log.
func TestReseedAssignsSpare(t *testing.T) {
	g, d, r, work := broken(t)
	turns(t, g, work, org.ReseedSpare)
	before := g.rev
	turns(t, g, work, org.ReseedSeed)
	if g.rev != before+1 {
		t.Errorf("%d transactions for one deed", g.rev-before)
	}
	v := g.View()
	row := g.stage(t, "Vol1")
	from := map[org.ServerName]int{}
	for _, db := range []org.DatabaseName{"DB01", "DB02"} {
		def, _ := v.Database(db)
		c, _ := def.Copy("MBX2")
		mt, _ := v.Mount(db)
		if c.Volume != "Vol2" || c.SeedCount != 1 || mt.IsInSync("MBX2") || len(mt.InSync) != 2 {
			t.Errorf("%s: %+v, in sync %v", db, c, mt.InSync)
		}
		from[row.Sources[db]]++
		if row.Sources[db] == "MBX3" && c.SeedFrom != "" || row.Sources[db] == "MBX4" && c.SeedFrom != "MBX4" {
			t.Errorf("%s is seeded from %q, chosen was %q", db, c.SeedFrom, row.Sources[db])
		}
	}
	if from["MBX3"] != 1 || from["MBX4"] != 1 {
		t.Errorf("sources %v: not one each", row.Sources)
	}
	if g.state("Vol1") != org.VolumeFailed || g.state("Vol2") != org.VolumeData || g.state("Vol3") != org.VolumeSpare || g.recoveries() != 1 {
		t.Errorf("volumes %s %s %s, %d entries in the recovery log", g.state("Vol1"), g.state("Vol2"), g.state("Vol3"), g.recoveries())
	}
	// The spare fails: it is condemned, and the next one used.
	r["MBX2"][0].Volume, r["MBX2"][1].Volume = "Vol2", "Vol2"
	d.all[1].Cause, d.all[1].Why = org.CauseIO, "it fails"
	turns(t, g, work, org.ReseedSpare)
	turns(t, g, work, org.ReseedSeed)
	if row := g.stage(t, "Vol1"); g.state("Vol2") != org.VolumeSuspect || g.state("Vol3") != org.VolumeData || row.Spare != "Vol3" || row.Tries[org.ReseedSpare] != 2 {
		t.Errorf("after the spare failed: %s %s, %+v", g.state("Vol2"), g.state("Vol3"), row)
	}
	if other := g.stage(t, "Vol2"); other.Stage != org.ReseedIdle {
		t.Errorf("work on the spare as well: %+v", other)
	}
	for i := range r["MBX2"] {
		r["MBX2"][i] = org.CopyStatus{Database: r["MBX2"][i].Database, State: org.CopyHealthy, Volume: "Vol3"}
		mt, _ := g.View().Mount(r["MBX2"][i].Database)
		mt.InSync = append(mt.InSync, "MBX2")
		g.put(t, mailbox.MountKey(mt.Database), mt)
	}
	turns(t, g, work, org.ReseedDone)
}

// TestReseedAndDrills takes no spare that a drill has not emptied yet, and no
// drill has a say in what it takes.
func TestReseedAndDrills(t *testing.T) {
	g, _, _, work := broken(t)
	trial := func(v org.VolumeName, id string) {
		row, _ := volumeRow(g.View(), "MBX2", v)
		row.Trial, row.TrialOf = id, org.VolumeTrial{Database: "DB01", Home: "Vol1"}
		g.put(t, org.VolumeKey("MBX2", v), row)
	}
	trial("Vol2", "x")
	turns(t, g, work, org.ReseedSpare)
	turns(t, g, work, org.ReseedSeed)
	if row := g.stage(t, "Vol1"); row.Spare != "Vol3" {
		t.Errorf("it took %s", row.Spare)
	}
	var c change
	c.v, c.me, c.now = g.View(), "MBX2", time.Now()
	next := org.Reseed{Server: "MBX2", Volume: "Vol1"}
	if err := work.deed(&c, reseed.Facts{}, &next, reseed.Step{Do: reseed.Assign, Spare: "Vol2"}); err != nil {
		t.Fatal(err)
	}
	for _, op := range c.txn.Then {
		if row, err := org.ParseVolume(op.Value); err != nil || row.Trial != "" || row.TrialOf.Home != "" {
			t.Errorf("%s: %+v, %v", op.Key, row, err)
		}
	}
}

// TestReseedKeepsOff does nothing that could cost the last copy, or that
// somebody forbade.
func TestReseedKeepsOff(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*testing.T, *group, *disks, reports)
		at   org.ReseedStage
		why  string
	}{
		{"active here", func(t *testing.T, g *group, _ *disks, _ reports) {
			g.put(t, mailbox.MountKey("DB02"), org.Mount{Database: "DB02", Term: 4, Active: "MBX2", InSync: []org.ServerName{"MBX2", "MBX3"}})
		}, org.ReseedWatch, "DB02 is still active here"},
		{"nobody else in sync", func(t *testing.T, g *group, _ *disks, _ reports) {
			g.put(t, mailbox.MountKey("DB01"), org.Mount{Database: "DB01", Term: 4, Active: "MBX1", InSync: []org.ServerName{"MBX2"}})
		}, org.ReseedPreCheck, "no healthy copy"},
		{"in maintenance", func(t *testing.T, g *group, _ *disks, _ reports) {
			g.put(t, org.ComponentKey("MBX2", org.HighAvailability, org.Maintenance), org.ComponentEntry{Component: org.HighAvailability, Requester: org.Maintenance, State: org.Inactive})
		}, org.ReseedPreCheck, "high availability of this server is Inactive"},
		{"recovery actions off", func(t *testing.T, g *group, _ *disks, _ reports) {
			g.put(t, org.ComponentKey("MBX2", org.RecoveryActions, org.Sidelined), org.ComponentEntry{Component: org.RecoveryActions, Requester: org.Sidelined, State: org.Inactive})
		}, org.ReseedIdle, ""},
		{"spare is foreign", func(_ *testing.T, _ *group, d *disks, _ reports) { d.problem = "belongs to server MBX9" }, org.ReseedSpare, "belongs to server MBX9"},
	} {
		g, d, r, work := broken(t)
		c.do(t, g, d, r)
		for range 10 {
			work.turn(t.Context())
		}
		row := g.stage(t, "Vol1")
		if row.Stage != c.at || !strings.Contains(row.Why+row.Error, c.why) {
			t.Errorf("%s: %s: %s %s", c.name, row.Stage, row.Why, row.Error)
		}
		for _, db := range []org.DatabaseName{"DB01", "DB02"} {
			def, _ := g.View().Database(db)
			if cp, _ := def.Copy("MBX2"); cp.SeedCount != 0 || cp.Volume != "Vol1" {
				t.Errorf("%s: %s was emptied: %+v", c.name, db, cp)
			}
		}
	}
}

func TestSecondFailureRetires(t *testing.T) {
	now := time.Now()
	var row org.VolumeRow
	fail(&row, now.Add(-8*24*time.Hour), org.VolumeFailed, "x")
	fail(&row, now.Add(-time.Hour), org.VolumeFailed, "x")
	if row.State != org.VolumeFailed {
		t.Errorf("a failure more than a week ago counts: %+v", row)
	}
	if fail(&row, now, org.VolumeSuspect, "x"); row.State != org.VolumeRetired {
		t.Errorf("two failures in a week: %+v", row)
	}
}

// TestReseedCommands retries and cancels.
func TestReseedCommands(t *testing.T) {
	g, _, _, work := broken(t)
	in := reseedArg{"MBX2", "Vol1"}
	if err := work.m.editReseed(t.Context(), in, func(*org.Reseed) {}); err == nil {
		t.Error("work that is not there was changed")
	}
	turns(t, g, work, org.ReseedPreCheck)
	for _, c := range reseedCommands(work.m) {
		switch c.Name() {
		case "reseed cancel":
			if _, err := c.Run(t.Context(), reseedCancel{in, "I do it"}); err != nil {
				t.Fatal(err)
			}
			for range 5 {
				work.turn(t.Context())
			}
			if row := g.stage(t, "Vol1"); row.Stage != org.ReseedPreCheck {
				t.Errorf("it went on: %+v", row)
			}
		}
	}
	for _, c := range reseedCommands(work.m) {
		if c.Name() == "reseed retry" {
			if _, err := c.Run(t.Context(), in); err != nil {
				t.Fatal(err)
			}
		}
	}
	turns(t, g, work, org.ReseedSeed)
	if rows := work.m.reseeds("MBX2"); len(rows) != 1 || rows[0].Spare != "Vol2" {
		t.Errorf("%+v", rows)
	}
}
