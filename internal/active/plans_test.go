package active

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// TestPlanDetails is how plans are shown.
func TestPlanDetails(t *testing.T) {
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	p := org.Plan{ID: "x", Kind: "works", Title: "do it", State: org.PlanRunning, By: "ann", Why: "disks", Created: at, Steps: []org.PlanStep{
		{Name: "one", Server: "MBX01", State: org.StepDone, Begun: at, Ended: at.Add(1500 * time.Millisecond), Detail: "well"},
		{Name: "two", State: org.StepRunning, Begun: at, Wait: "for the moon", Detail: "x"},
		{Name: "three", State: org.StepWaiting, Detail: "later"},
		{Name: "four", State: org.StepSkipped, Error: "left out: no moon", Detail: "x"},
	}}
	d := planDetails(p, at.Add(3*time.Second))
	if d.Step != "two" || d.Ended != nil || d.By != "ann" || len(d.Steps) != 4 {
		t.Fatalf("%+v", d)
	}
	for i, want := range []PlanStepRow{
		{Step: "one", Server: "MBX01", State: org.StepDone, Took: 1500 * time.Millisecond, Detail: "well"},
		{Step: "two", State: org.StepRunning, Took: 3 * time.Second, Detail: "for the moon"},
		{Step: "three", State: org.StepWaiting, Detail: "later"},
		{Step: "four", State: org.StepSkipped, Detail: "left out: no moon"},
	} {
		if d.Steps[i] != want {
			t.Errorf("%+v, want %+v", d.Steps[i], want)
		}
	}
	p.State, p.Ended = org.PlanDone, at
	if b, err := json.Marshal(planDetails(org.Plan{Kind: "maintenance"}, at)); err != nil || strings.Contains(string(b), "created") {
		t.Errorf("a plan that was only shown: %s, %v", b, err)
	}
	if d := planDetails(p, at); d.Step != "" || d.Ended == nil {
		t.Errorf("%+v", d)
	}
}

// TestWorldOfPlans is what plans see of a group.
func TestWorldOfPlans(t *testing.T) {
	f := newFake(t, 3, 2)
	w := f.manager(Config{}, Deps{}).works
	tells := func(s org.ServerName, section string, b []byte) { f.said[string(s)+"/"+section] = b }
	if _, ok := w.Obeyed("MBX01"); ok {
		t.Error("a server that tells nothing is believed to")
	}
	obeyed := codec.MustMarshal(org.ServerComponents{Components: map[org.Component]org.ComponentNow{org.IMAPComponent: {State: org.Draining}}})
	tells("MBX01", org.ComponentsSection, obeyed)
	if _, ok := w.Obeyed("MBX01"); ok {
		t.Error("news that nobody heard for long are believed")
	}
	tells("MBX02", org.ComponentsSection, obeyed)
	if o, ok := w.Obeyed("MBX02"); !ok || o.Components[org.IMAPComponent].State != org.Draining {
		t.Error(o, ok)
	}
	tells("MBX01", org.ProgramSection, codec.MustMarshal(org.Program{Running: "v1", Installed: "v2"}))
	if p, ok := w.Program("MBX01"); !ok || p.Installed != "v2" {
		t.Error(p, ok)
	}
	tells("MBX03", org.ProgramSection, []byte("nonsense"))
	if _, ok := w.Program("MBX03"); ok {
		t.Error("nonsense was read")
	}
	if _, _, err := w.Queue(t.Context(), "MBX01"); err == nil {
		t.Error("a server without a queue knows that of another")
	}
	if w.Leader(t.Context()) != "" {
		t.Error("nobody tells who leads")
	}
	if err := w.Evacuate(t.Context(), "MBX01", "x", func() error { return kind.Errorf(kind.Conflict, "the plan changed") }); !kind.Is(err, kind.Conflict) {
		t.Errorf("moves although the plan changed: %v", err)
	}
}

// TestPlanCommands is what commands answer before anything is carried out.
func TestPlanCommands(t *testing.T) {
	f := newFake(t, 3, 2)
	m := f.manager(Config{}, Deps{})
	ctx := t.Context()
	if _, err := m.startMaintenance(ctx, maintenanceStartArgs{Server: "MBX9"}); !kind.Is(err, kind.NotFound) {
		t.Error(err)
	}
	if _, err := m.maintenanceStatus(ctx, maintenanceStatusArgs{Server: "MBX9"}); !kind.Is(err, kind.NotFound) {
		t.Error(err)
	}
	dry, err := m.startMaintenance(ctx, maintenanceStartArgs{Server: "MBX01", DryRun: true})
	if err != nil || len(dry.Steps) != 9 || len(m.works.engine.List()) != 0 {
		t.Fatalf("dry run: %v, %d steps, %d plans written", err, len(dry.Steps), len(m.works.engine.List()))
	}
	p, err := m.startMaintenance(ctx, maintenanceStartArgs{Server: "MBX01"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.startMaintenance(ctx, maintenanceStartArgs{Server: "MBX03"}); !kind.Is(err, kind.Conflict) || !strings.Contains(err.Error(), p.ID) {
		t.Errorf("a second plan: %v", err)
	}
	if _, err := m.runUpgrade(ctx, upgradeRunArgs{Pause: -1}); !kind.Is(err, kind.Invalid) {
		t.Errorf("pause: %v", err)
	}
	out, err := m.abortPlan(ctx, planAbortArgs{ID: p.ID, DryRun: true})
	if err != nil || len(out.Steps) != 0 {
		t.Errorf("nothing was begun, but %+v would be taken back (%v)", out, err)
	}
	if _, err := m.abortPlan(ctx, planAbortArgs{ID: p.ID}); err != nil {
		t.Error(err)
	}
	var row org.Plan
	it, _ := m.group.View().Get(org.PlanPrefix + p.ID)
	if err := json.Unmarshal(it.Value, &row); err != nil || row.State != org.PlanUndoing {
		t.Errorf("%v %+v", err, row)
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := m.started(short, row, true); err == nil {
		t.Error("a wait that was given up tells of success")
	}
}

// TestSetDatabase is what may be wanted of a database.
func TestSetDatabase(t *testing.T) {
	f := newFake(t, 3, 2)
	m := f.manager(Config{}, Deps{})
	db := m.group.View().Databases()[0]
	for _, c := range []struct {
		name org.DatabaseName
		n    int
		want kind.Kind
	}{{"DB77", 2, kind.NotFound}, {db.Name, -1, kind.Invalid}, {db.Name, len(db.Copies), kind.Invalid}} {
		if _, err := m.setDatabase(t.Context(), databaseSetArgs{Database: c.name, Minimum: c.n}); !kind.Is(err, c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, err := m.setDatabase(t.Context(), databaseSetArgs{Database: db.Name, Minimum: len(db.Copies) - 1}); err != nil {
		t.Fatal(err)
	}
	if got, _ := m.group.View().Database(db.Name); got.KeptInSync() != len(db.Copies)-1 {
		t.Errorf("%+v", got)
	}
}
