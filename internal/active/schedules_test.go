package active

import (
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/active/drill"
	"github.com/postern-mail/postern/internal/org"
)

// TestScheduleChangedMeanwhile: a schedule is changed after it was found due: what
// stands there then is written on, or nothing.
func TestScheduleChangedMeanwhile(t *testing.T) {
	now := time.Date(2026, 11, 22, 3, 0, 0, 0, time.Local) // a Sunday
	was := drill.Schedule{Name: "weekly", Exercise: drill.Move, Window: "Sun 02:00-04:00", Every: 24 * time.Hour, Turn: 7, Last: now.Add(-48 * time.Hour)}
	key := drill.SchedulePrefix + was.Name
	for _, c := range []struct {
		name   string
		change func(f *fake)
		asked  bool
		want   drill.Schedule
	}{
		{"nothing", func(*fake) {}, true, was},
		{"window", func(f *fake) { s := was; s.Window = "Sun 01:00-05:00"; f.put(key, s) }, true, drill.Schedule{Window: "Sun 01:00-05:00", Turn: 7}},
		{"window over", func(f *fake) { s := was; s.Window = "Sat 01:00-05:00"; f.put(key, s) }, false, drill.Schedule{Window: "Sat 01:00-05:00", Turn: 7}},
		{"begun by another", func(f *fake) { s := was; s.Last, s.Turn = now, 8; f.put(key, s) }, false, drill.Schedule{Window: was.Window, Turn: 8}},
		{"another is the primary", func(f *fake) { f.put(primaryKey, primary{Server: "MBX03"}) }, false, was},
		{"removed", func(f *fake) { f.drop(key) }, false, drill.Schedule{}},
	} {
		f := newFake(t, 3, 1)
		m := f.manager(Config{}, Deps{})
		f.put(primaryKey, primary{Server: f.me})
		f.put(key, was)
		f.onSync = func(n int) {
			if n == 1 {
				c.change(f)
			}
		}
		m.schedules(t.Context(), now)
		var got drill.Schedule
		for _, s := range drill.Schedules(f.View()) {
			got = s
		}
		if got.Window != c.want.Window || got.Turn != c.want.Turn || got.Asked.IsZero() == c.asked {
			t.Errorf("%s: %+v", c.name, got)
		}
		for range f.View().Prefix(org.PlanPrefix) {
			t.Errorf("%s: a drill begins", c.name)
		}
	}
}
