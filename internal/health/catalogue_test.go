package health

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// whole is the catalogue with one look behind every probe.
func whole(look Look, targets List) Items {
	var all []Items
	for _, d := range []Door{{"SMTP", org.SMTPComponent, "smtp", look, look}, {"Submission", org.Submission, "submission", look, look}, {"IMAP", org.IMAPComponent, "imap", look, look}} {
		all = append(all, DoorItems(d))
	}
	return Join(append(all, MailFlowItems(time.Minute, look), UserPathItems(nil, look), APIItems(look), StoreItems(targets, look, look), CopyItems(Copies{targets, look, look, look, look, look}),
		VolumeItems(Volumes{targets, look, look, look, look}), ActiveItems(Active{look, look}), TransportItems(Queues{look, look, look, look, look, look}),
		MachineItems(Machine{look, look, look, look}), LinkItems(Links{Peers: targets, Certificates: targets, PathList: targets, Offset: look, Ends: look, State: look, Margin: look,
			Paths: look, Client: look, Names: look}))...)
}

// catalogueFile is everything that is watched, as postern health definitions
// tells it: each set with its group, each probe, each monitor with its rule in
// units and its timeline, and below it what is done in which state.
const catalogueFile = "testdata/catalogue.golden"

// TestDefinitions compares the whole catalogue with catalogueFile. UPDATE=1
// writes it anew; read the difference before you keep it. No step of any chain
// touches the machine itself.
func TestDefinitions(t *testing.T) {
	d := &Desk{items: Join(builtIn(nil), whole(nil, nil)).sorted()}
	rows, err := d.definitions(definitionArgs{})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, r := range rows {
		line := strings.Join(slices.DeleteFunc([]string{r.Type, r.Item, r.Where, r.Every, r.Rule}, func(s string) bool { return s == "" }), " | ")
		switch r.Type {
		case "set":
			line = "\n" + line
		case typeResponder:
			line = "    " + r.Item + ": " + r.Rule + " " + r.Doc
		default:
			line = "  " + line
		}
		b.WriteString(line + "\n")
		if strings.Contains(r.Rule, string(RebootHook)) {
			t.Errorf("a host is rebooted: %+v", r)
		}
	}
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(catalogueFile, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(catalogueFile)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.String(); got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestCatalogue(t *testing.T) {
	for _, x := range []Items{whole(nil, nil), whole(func(context.Context, string) (Reading, error) { return Reading{}, nil }, func() []string { return []string{"A"} })} {
		if err := Join(builtIn(nil), x).Check(); err != nil {
			t.Fatal(err)
		}
		for _, p := range x.Probes {
			if !slices.ContainsFunc(x.Monitors, func(m Monitor) bool { return m.probe() == p.Set+`\`+p.Name }) {
				t.Errorf("nobody reads probe %s\\%s", p.Set, p.Name)
			}
			if p.Doc == "" {
				t.Errorf("probe %s\\%s says nothing of itself", p.Set, p.Name)
			}
		}
		for _, m := range x.Monitors {
			if m.Doc == "" || len(m.Chain.Steps) == 0 {
				t.Errorf("monitor %s\\%s says nothing or does nothing", m.Set, m.Name)
			}
		}
	}
}

// TestCatalogueGreen: a server where all is well is all green after five minutes,
// and nothing is done or written (C-4).
func TestCatalogueGreen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var items Items
		look := func(context.Context, string) (Reading, error) { return Reading{}, nil }
		items = whole(look, func() []string { return []string{"DB01", "DB02"} })
		for i, p := range items.Probes {
			if p.Name == "Ends" || p.Name == "Margin" {
				items.Probes[i].Every = 5 * time.Second
				items.Probes[i].Run = func(context.Context, string) (Reading, error) { return Reading{Value: 80}, nil }
			}
		}
		s := newServer(t, "MBX1", newState(), newMesh("MBX1"), items)
		s.start()
		defer s.stop()
		wait(5 * time.Minute)
		monitors, _ := s.desk.monitors()
		for _, m := range monitors {
			if m.State != org.HealthOK {
				t.Errorf("%s is %s: %s", m.ID(), m.State, m.Why)
			}
		}
		if len(monitors) < 60 || len(s.hands.all()) != 0 || s.rows.commits != 0 {
			t.Errorf("%d monitors, deeds %q, %d commits", len(monitors), s.hands.all(), s.rows.commits)
		}
	})
}
