package balance

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-mail/postern/internal/org"
)

func db(name string, active org.ServerName, copies ...org.ServerName) DB {
	d := DB{Name: org.DatabaseName(name), Active: active}
	for i, s := range copies {
		d.Copies = append(d.Copies, Copy{s, i + 1, true})
	}
	return d
}

func servers(names ...org.ServerName) []Server {
	var out []Server
	for _, n := range names {
		site := org.SiteName("A")
		if n[0] == 'B' {
			site = "B"
		}
		out = append(out, Server{Name: n, Site: site})
	}
	return out
}

func TestPlan(t *testing.T) {
	unfit := db("DB01", "M2", "M1", "M2")
	unfit.Copies[0].Fit = false
	full := servers("M1", "M2")
	full[0].Maximum = 1
	for _, c := range []struct {
		name string
		dbs  []DB
		on   []Server
		r    Rules
		want []Move
	}{
		{"back to the preferred copy", []DB{db("DB01", "M2", "M1", "M2")}, servers("M1", "M2"), Rules{Preference, -1},
			[]Move{{"DB01", "M2", "M1", "preference 1"}}},
		{"it is there", []DB{db("DB01", "M1", "M1", "M2")}, servers("M1", "M2"), Rules{Preference, -1}, nil},
		{"its preferred copy is not fit", []DB{unfit}, servers("M1", "M2"), Rules{Preference, -1}, nil},
		{"its preferred server is away", []DB{db("DB01", "M3", "M1", "M2", "M3")}, servers("M2", "M3"), Rules{Preference, -1},
			[]Move{{"DB01", "M3", "M2", "preference 2"}}},
		{"its preferred server is full", []DB{db("DB01", "M2", "M1", "M2"), db("DB02", "M2", "M1", "M2")}, full, Rules{Preference, -1},
			[]Move{{"DB01", "M2", "M1", "preference 1"}}},
		{"all prefer one, no limit", []DB{db("DB01", "M1", "M1", "M2"), db("DB02", "M1", "M1", "M2"), db("DB03", "M1", "M1", "M2")}, servers("M1", "M2"), Rules{Preference, -1}, nil},
		{"all prefer one, within 20 %", []DB{db("DB01", "M1", "M1", "M2"), db("DB02", "M1", "M1", "M2"), db("DB03", "M1", "M1", "M2"), db("DB04", "M1", "M1", "M2")}, servers("M1", "M2"), Rules{Preference, 20},
			[]Move{{"DB01", "M1", "M2", "M1 has 4 active databases, at most 3 by the deviation"}}},
		{"home to its site, then evenly there", []DB{db("DB01", "B1", "A1", "A2", "B1"), db("DB02", "B1", "A1", "A2", "B1"), db("DB03", "A1", "A1", "A2", "B1"), db("DB04", "A1", "A1", "A2", "B1")},
			servers("A1", "A2", "B1"), Rules{Site, 0},
			[]Move{{"DB01", "B1", "A2", "A1 has 4 active databases, at most 2 by the deviation"}, {"DB02", "B1", "A2", "A1 has 3 active databases, at most 2 by the deviation"}}},
	} {
		if got := Plan(c.dbs, c.on, c.r); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := []org.ServerName{"A1", "A2", "A3", "B1", "B2"}
		on := servers(names[:rapid.IntRange(1, 5).Draw(t, "servers")]...)
		maxima := rapid.Bool().Draw(t, "maxima")
		most := map[org.ServerName]int{}
		for i := range on {
			if maxima {
				on[i].Maximum = rapid.IntRange(0, 6).Draw(t, "most")
			}
			most[on[i].Name] = on[i].Maximum
		}
		var dbs []DB
		before := map[org.ServerName]int{}
		for i := range rapid.IntRange(0, 12).Draw(t, "databases") {
			order := rapid.Permutation(names).Draw(t, "copies")[:rapid.IntRange(1, 5).Draw(t, "n")]
			d := db(fmt.Sprintf("DB%02d", i), order[rapid.IntRange(0, len(order)-1).Draw(t, "active")], order...)
			for j := range d.Copies {
				d.Copies[j].Fit = d.Copies[j].Server == d.Active || rapid.Bool().Draw(t, "fit")
			}
			dbs = append(dbs, d)
			before[d.Active]++
		}
		r := Rules{rapid.SampledFrom([]By{Preference, Site}).Draw(t, "by"), rapid.IntRange(-1, 50).Draw(t, "deviation")}
		plan := Plan(dbs, on, r)
		after := map[org.ServerName]int{}
		for s, n := range before {
			after[s] = n
		}
		at := map[org.DatabaseName]org.ServerName{}
		for _, mv := range plan {
			if _, twice := at[mv.Database]; twice || mv.From == mv.To || mv.Why == "" {
				t.Fatalf("%+v", mv)
			}
			at[mv.Database] = mv.To
			after[mv.From]--
			after[mv.To]++
		}
		for s, n := range after {
			if most[s] > 0 && n > most[s] && n > before[s] {
				t.Fatalf("%s has %d, at most %d, and had %d", s, n, most[s], before[s])
			}
		}
		next := make([]DB, len(dbs))
		for i, d := range dbs {
			next[i] = d
			if to, moved := at[d.Name]; moved {
				next[i].Active = to
				fit := false
				for _, c := range d.Copies {
					fit = fit || c.Server == to && c.Fit
				}
				if !fit {
					t.Fatalf("%s goes to %s, which is not fit", d.Name, to)
				}
			}
		}
		if again := Plan(next, on, r); !maxima && len(again) > 0 {
			t.Fatalf("the plan after the plan: %+v", again)
		}
		if other := Plan(rapid.Permutation(dbs).Draw(t, "order"), rapid.Permutation(on).Draw(t, "order of servers"), r); !reflect.DeepEqual(other, plan) {
			t.Fatalf("depends on the order: %+v, %+v", plan, other)
		}
	})
}

func TestWindow(t *testing.T) {
	at := func(day, hour, minute int) time.Time { return time.Date(2026, 6, day, hour, minute, 30, 0, time.UTC) } // 6 June 2026 is a Saturday
	for _, c := range []struct {
		window string
		at     time.Time
		want   bool
	}{
		{"", at(6, 23, 0), false},
		{"22:00-04:00", at(3, 22, 0), true}, {"22:00-04:00", at(3, 21, 59), false}, {"22:00-04:00", at(3, 3, 59), true}, {"22:00-04:00", at(3, 4, 0), false},
		{"Sat 22:00-04:00", at(6, 23, 0), true}, {"Sat 22:00-04:00", at(7, 3, 0), true}, {"Sat 22:00-04:00", at(6, 3, 0), false}, {"Sat 22:00-04:00", at(7, 23, 0), false},
		{"sat,SUN 09:00-17:00", at(7, 9, 0), true}, {"sat,SUN 09:00-17:00", at(8, 9, 0), false},
	} {
		w, err := ParseWindow(c.window)
		if err != nil || w.Open(c.at) != c.want {
			t.Errorf("%q at %s: %v, %v", c.window, c.at, w.Open(c.at), err)
		}
	}
	for in, want := range map[string]string{
		"always":               "want a time of day as 22:00-04:00",
		"22:00-25:00":          `"25:00" is no time of day`,
		"22:00-22:00":          "it begins when it ends",
		"Sam 22:00-04:00":      `"Sam" is no day`,
		"Sat 22:00-04:00 now":  "want days and a time of day",
		"Sat, Sun 22:00-04:00": "want days and a time of day",
	} {
		if _, err := ParseWindow(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
	}
}

// FuzzParseWindow: no text makes it panic, and what it takes can be asked.
func FuzzParseWindow(f *testing.F) {
	f.Add("Sat,Sun 22:00-04:00")
	f.Add("22:00-04:00")
	f.Add("Mon, 0:0-")
	f.Fuzz(func(t *testing.T, s string) {
		if w, err := ParseWindow(s); err == nil {
			w.Open(time.Unix(0, 0))
		}
	})
}
