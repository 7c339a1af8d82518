package drill

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/active/plan/plantest"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// TestSchedule is which schedules there may be, when they are due, and whose turn
// it is.
func TestSchedule(t *testing.T) {
	good := Schedule{Name: "weekly", Exercise: KillWorker, Window: "Sun 02:00-04:00", Every: 24 * time.Hour}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		change func(*Schedule)
		want   string
	}{
		{func(s *Schedule) { s.Name = "a/b" }, "neither spaces nor slashes"}, {func(s *Schedule) { s.Name = strings.Repeat("x", 65) }, "1 to 64"},
		{func(s *Schedule) { s.Exercise = "dance" }, `exercise "dance" is not known`}, {func(s *Schedule) { s.Exercise = Failover }, "--allow failover"},
		{func(s *Schedule) { s.Window = "" }, "it needs a window"}, {func(s *Schedule) { s.Window = "soon" }, `window "soon"`},
		{func(s *Schedule) { s.Every = time.Minute }, "every 1m0s: want 1h0m0s"}, {func(s *Schedule) { s.Every = 9000 * time.Hour }, "want 1h0m0s to"},
	} {
		s := good
		c.change(&s)
		if err := s.Validate(); !kind.Is(err, kind.Invalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	sunday := time.Date(2026, 11, 22, 3, 0, 0, 0, time.Local)
	for _, c := range []struct {
		name        string
		now         time.Time
		last, asked time.Time
		want        bool
	}{
		{"never before", sunday, time.Time{}, time.Time{}, true}, {"outside", sunday.Add(2 * time.Hour), time.Time{}, time.Time{}, false},
		{"another day", sunday.Add(24 * time.Hour), time.Time{}, time.Time{}, false}, {"just done", sunday, sunday.Add(-time.Hour), sunday.Add(-time.Hour), false},
		{"a week ago", sunday, sunday.Add(-7 * 24 * time.Hour), time.Time{}, true}, {"just refused", sunday, time.Time{}, sunday.Add(-time.Minute), false},
		{"refused, and again", sunday, time.Time{}, sunday.Add(-20 * time.Minute), true},
	} {
		s := good
		s.Last, s.Asked = c.last, c.asked
		if got := s.Due(c.now); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	servers, databases := []org.ServerName{"MBX1", "MBX2"}, []org.DatabaseName{"DB01", "DB02", "DB03"}
	var turns []string
	for range 3 {
		turns = append(turns, string(good.Order(servers, databases).Server))
		good.Turn++
	}
	if got := strings.Join(turns, " "); got != "MBX1 MBX2 MBX1" {
		t.Errorf("turns %s", got)
	}
	if o := (Schedule{Name: "m", Exercise: Move, Turn: 4}).Order(servers, databases); o.Database != "DB02" || o.Server != "" || o.Schedule != "m" {
		t.Errorf("%+v", o)
	}
}

// TestSchedulesKept: there are not more than a few, and a change of a row that
// somebody else changed is refused.
func TestSchedulesKept(t *testing.T) {
	st := plantest.New()
	for i := range mostSchedules {
		x, err := ScheduleTxn(st.View(), Schedule{Name: fmt.Sprint("s", i)})
		if err == nil {
			_, err = st.Server("A").Commit(t.Context(), x)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ScheduleTxn(st.View(), Schedule{Name: "more"}); !kind.Is(err, kind.Conflict) {
		t.Errorf("one more: %v", err)
	}
	mine, err := ScheduleTxn(st.View(), Schedule{Name: "s1", Turn: 1})
	if err != nil {
		t.Fatal(err)
	}
	st.Put(SchedulePrefix+"s1", Schedule{Name: "s1", Turn: 9})
	if _, err := st.Server("A").Commit(t.Context(), mine); !kind.Is(err, kind.Conflict) {
		t.Errorf("changed meanwhile: %v", err)
	}
	if got := Schedules(st.View()); len(got) != mostSchedules || got[1].Name != "s1" {
		t.Errorf("%+v", got)
	}
}

// TestCalm: a drill that nobody ordered waits when something was repaired.
func TestCalm(t *testing.T) {
	st := plantest.New()
	now := time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)
	put := func(id string, x org.Recovery) {
		b, err := json.Marshal(x)
		if err != nil {
			t.Fatal(err)
		}
		st.Put(org.RecoveryPrefix+id, string(b))
	}
	put("1", org.Recovery{Action: "Failover", Allowed: true, Begun: now.Add(-time.Hour)})
	put("2", org.Recovery{Action: "Failover", Begun: now.Add(-time.Minute)}) // refused
	put("3", org.Recovery{Action: "Failover", Allowed: true, DryRun: true, Begun: now.Add(-time.Minute)})
	if why := Repaired(st.View(), now); why != "" {
		t.Error(why)
	}
	put("4", org.Recovery{Action: "RestartService", Target: "imap", Server: "MBX2", Allowed: true, Begun: now.Add(-2 * time.Minute)})
	if why := Repaired(st.View(), now); why != "RestartService imap on MBX2 was done by itself 2m0s ago" {
		t.Error(why)
	}
}
