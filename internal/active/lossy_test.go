package active

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

// group is an agreed state seen by MBX2; MBX1 is dead.
type group struct {
	rows map[string]cluster.Item
	rev  int64
}

func (g *group) put(t *testing.T, key string, v any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	g.rev++
	g.rows[key] = cluster.Item{Value: b, Revision: g.rev}
}

func (g *group) Commit(_ context.Context, t cluster.Txn) (int64, error) {
	for _, c := range t.If {
		if g.rows[c.Key].Revision != c.Revision {
			return 0, kind.Errorf(kind.Conflict, "%s changed", c.Key)
		}
	}
	g.rev++
	for _, o := range t.Then {
		g.rows[o.Key] = cluster.Item{Value: o.Value, Revision: g.rev}
	}
	return g.rev, nil
}

func (g *group) Name() org.ServerName                 { return "MBX2" }
func (g *group) View() *cluster.View                  { return cluster.NewView(g.rev, g.rows) }
func (g *group) Changed() <-chan struct{}             { return nil }
func (g *group) PeersChanged() <-chan struct{}        { return nil }
func (g *group) Sync(context.Context) error           { return nil }
func (g *group) Quorum() bool                         { return true }
func (g *group) Dead(s org.ServerName) (string, bool) { return "it died", s == "MBX1" }
func (g *group) Alive(s org.ServerName) bool          { return s != "MBX1" }
func (g *group) Publish(string, []byte)               {}
func (g *group) Published(org.ServerName, string) ([]byte, time.Time, bool) {
	return nil, time.Time{}, false
}

// copies are states of copies as servers would report them.
type copies map[org.ServerName]org.CopyStatus

func (c copies) PeerStatuses(s org.ServerName) []org.CopyStatus {
	if st, ok := c[s]; ok {
		return []org.CopyStatus{st}
	}
	return nil
}

func (c copies) Handover(context.Context, org.DatabaseName, org.ServerName, org.ServerName) (org.LSN, error) {
	return 0, kind.Errorf(kind.Busy, "nobody is there")
}
func (c copies) CatchUp(context.Context, org.DatabaseName, org.ServerName) error { return nil }

func (c copies) Gather(context.Context, org.DatabaseName, org.ServerName, org.ServerName) (org.LSN, error) {
	return 0, kind.Errorf(kind.Busy, "nobody is there")
}
func (c copies) Thaw(context.Context, org.DatabaseName, org.ServerName) error { return nil }

// TestLossyAsksSafetyNet shows what a lossy mount asks for and when the mark of
// it goes.
func TestLossyAsksSafetyNet(t *testing.T) {
	newest := time.Unix(1_700_000_000, 0)
	early := newest.Add(-time.Hour).UTC()
	for _, c := range []struct {
		name  string
		last  int64
		old   *org.LossyMark
		deaf  bool
		since time.Time
	}{
		{"known", newest.UnixNano(), nil, false, newest.Add(-lossyMargin).UTC()},
		{"not known", 0, nil, false, time.Time{}},
		{"once more", newest.UnixNano(), &org.LossyMark{Since: early}, false, early},
		{"nobody to ask", newest.UnixNano(), nil, true, newest.Add(-lossyMargin).UTC()},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := &group{rows: map[string]cluster.Item{}}
			for _, s := range []org.ServerName{"MBX1", "MBX2"} {
				g.put(t, "servers/"+string(s), org.Server{Name: s, AutoDatabaseMountDial: org.DialGoodAvailability})
			}
			g.put(t, mailbox.DatabaseKey("DB01"), org.Database{Name: "DB01", Copies: []org.Copy{{Server: "MBX1", Preference: 1}, {Server: "MBX2", Preference: 2}}})
			g.put(t, mailbox.MountKey("DB01"), org.Mount{Database: "DB01", Term: 3, Active: "MBX1", InSync: []org.ServerName{"MBX1"}, Lossy: c.old})
			cs := copies{"MBX2": {Database: "DB01", State: org.CopyDisconnectedAndHealthy, Copied: 10, Replayed: 10, Generated: 20, LastTime: c.last}}
			completed := ""
			d := Deps{Group: g, Copies: cs, Log: slog.New(slog.DiscardHandler), Events: event.NewLog(slog.New(slog.DiscardHandler))}
			if !c.deaf {
				d.SafetyNet = func(db org.DatabaseName, since time.Time, why string) (string, cluster.Op) {
					if db != "DB01" || !since.Equal(c.since) || why == "" {
						t.Errorf("asked for %s since %v: %s", db, since, why)
					}
					return "r1", cluster.Op{Key: "safetynet/r1", Value: []byte("{}")}
				}
				d.Completed = func(id string) bool { return id == completed }
			}
			m := New(Config{PreferenceMoveFrequency: -1}, d)
			m.decide(t.Context())
			mt, _ := g.View().Mount("DB01")
			if mt.Active != "MBX2" || mt.Lossy == nil || mt.Lossy.Former != "MBX1" || mt.Lossy.From != 10 || !mt.Lossy.Since.Equal(c.since) {
				t.Fatalf("%+v %+v", mt, mt.Lossy)
			}
			if all := entries(t, g.View()); len(all) != 1 || all[0].Evidence[len(all[0].Evidence)-1].Result != "lossy" {
				t.Errorf("the recovery log does not tell that mail may lack: %+v", all)
			}
			row, asked := g.View().Get("safetynet/r1")
			if asked == c.deaf || asked && (mt.Lossy.Request != "r1" || row.Revision != mt.Revision) {
				t.Fatalf("asked %v: %+v", asked, mt.Lossy)
			}
			cs["MBX2"] = org.CopyStatus{Database: "DB01", State: org.CopyMounted, Term: 4}
			m.decide(t.Context())
			if mt, _ := g.View().Mount("DB01"); mt.Lossy == nil {
				t.Fatal("the mark went too early")
			}
			completed = "r1"
			m.decide(t.Context())
			if mt, _ := g.View().Mount("DB01"); (mt.Lossy == nil) == c.deaf {
				t.Fatalf("completed: %+v", mt.Lossy)
			}
		})
	}
}
