package choose

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-mail/postern/internal/org"
)

var anySets = rapid.Custom(func(t *rapid.T) map[string]org.SetHealth {
	out := map[string]org.SetHealth{}
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"Store", "IMAP", "Volume", "Search", "DNS"}), 0, 4, rapid.ID[string]).Draw(t, "sets") {
		out[name] = org.SetHealth{
			State:    rapid.SampledFrom([]org.HealthState{org.HealthOK, org.Degraded, org.Unhealthy, org.Unrecoverable, org.Repairing, org.HealthDisabled}).Draw(t, "state"),
			Priority: rapid.SampledFrom([]org.HealthPriority{org.PriorityCritical, org.PriorityNormal, org.PriorityLow}).Draw(t, "priority"),
		}
	}
	return out
})

func anyCandidate(s org.ServerName) *rapid.Generator[Candidate] {
	return rapid.Custom(func(t *rapid.T) Candidate {
		c := Candidate{
			Server: s, Site: rapid.SampledFrom([]org.SiteName{"A", "B"}).Draw(t, "site"),
			Preference: rapid.IntRange(1, 4).Draw(t, "preference"),
			State: rapid.SampledFrom([]org.CopyState{org.CopyHealthy, org.CopyHealthy, org.CopyDisconnectedAndHealthy, org.CopyDisconnectedAndResynchronizing, org.CopySinglePageRestore, org.CopyInitializing,
				org.CopyResynchronizing, org.CopySeeding, org.CopyFailed, org.CopySuspended}).Draw(t, "state"),
			InSync: rapid.Bool().Draw(t, "in sync"), Missing: uint64(rapid.IntRange(0, 20).Draw(t, "missing")),
			ReplayQueue: uint64(rapid.IntRange(0, 99).Draw(t, "replay")), Lagged: rapid.Bool().Draw(t, "lagged"),
			ContentIndex: rapid.SampledFrom([]org.IndexState{"", org.IndexHealthy, org.IndexCrawling, org.IndexFailed}).Draw(t, "index"),
			Reachable:    rapid.SampledFrom([]bool{true, true, true, false}).Draw(t, "reachable"),
			Policy:       rapid.SampledFrom([]org.ActivationPolicy{"", "", org.ActivationIntrasite, org.ActivationBlocked}).Draw(t, "policy"),
			ActiveNow:    rapid.IntRange(0, 5).Draw(t, "active"), MaximumActive: rapid.IntRange(0, 5).Draw(t, "most"), MaximumPreferred: rapid.IntRange(0, 5).Draw(t, "preferred"),
			Dial: rapid.SampledFrom([]org.MountDial{"", org.DialGoodAvailability, org.DialBestAvailability}).Draw(t, "dial"),
			Sets: anySets.Draw(t, "sets"), Unheard: rapid.SampledFrom([]bool{false, false, true}).Draw(t, "unheard"), CPUHigh: rapid.Bool().Draw(t, "cpu"),
		}
		if rapid.Bool().Draw(t, "failed") {
			c.BackOff, c.Failures = 60e9, 1
		}
		return c
	})
}

func anyQuestion(servers int) *rapid.Generator[Question] {
	return rapid.Custom(func(t *rapid.T) Question {
		q := Question{
			Database: "DB01", Source: "M1", Site: "A", Failing: "Volume",
			Purpose:      rapid.SampledFrom([]Purpose{Failover, Failover, Switchover, Rebalance, HealthMove}).Draw(t, "purpose"),
			SourceServes: rapid.Bool().Draw(t, "serves"), SourceFenced: rapid.Bool().Draw(t, "fenced"), SourceSets: anySets.Draw(t, "source"),
			SourceUnheard: rapid.Bool().Draw(t, "source unheard"), FailingState: rapid.SampledFrom([]org.HealthState{"", org.Degraded, org.Unhealthy}).Draw(t, "failing state"), PreferSite: rapid.Bool().Draw(t, "prefer site"),
			Dial: rapid.SampledFrom([]org.MountDial{"", "", org.DialBestEffort}).Draw(t, "dial"),
		}
		n := rapid.IntRange(1, servers).Draw(t, "copies")
		for i := range n {
			q.Candidates = append(q.Candidates, anyCandidate(org.ServerName(fmt.Sprintf("M%d", i+1))).Draw(t, "candidate"))
		}
		if rapid.Bool().Draw(t, "named") {
			q.To = q.Candidates[rapid.IntRange(0, n-1).Draw(t, "to")].Server
		}
		if rapid.Bool().Draw(t, "skip") {
			q.Skip = SkipAll()
		}
		return q
	})
}

// check are the promises of every single decision.
func check(t *rapid.T, q Question, d Decision) {
	reasons := map[org.ServerName]bool{}
	for _, p := range d.Passed {
		if p.Why == "" || reasons[p.Server] || p.Server == d.Target {
			t.Fatalf("%s: reasons %+v", d, d.Passed)
		}
		reasons[p.Server] = true
	}
	for _, c := range q.Candidates {
		if c.Server != d.Target {
			if !reasons[c.Server] {
				t.Fatalf("%s has no reason: %s", c.Server, d)
			}
			continue
		}
		switch {
		case c.Server == q.Source, !c.Reachable, !settled(c.State) && !opening(c.State):
			t.Fatalf("not to be taken: %s", d)
		case c.MaximumActive > 0 && c.ActiveNow >= c.MaximumActive:
			t.Fatalf("over the hard maximum: %s", d)
		case q.To != "" && q.To != c.Server:
			t.Fatalf("another was named: %s", d)
		case q.To == "" && c.Policy == org.ActivationBlocked:
			t.Fatalf("blocked: %s", d)
		case c.InSync == d.Lossy:
			t.Fatalf("in sync %v, lossy %v", c.InSync, d.Lossy)
		case d.Lossy && (!q.SourceFenced || c.Missing > q.dial(c).MissingAllowed()):
			t.Fatalf("loses what it may not: %s", d)
		case q.Purpose == HealthMove && !q.SourceUnheard && !q.better(c):
			t.Fatalf("what fails is no better there: %s", d)
		}
	}
	if !d.Lossy || d.Target == "" {
		return
	}
	for _, c := range q.Candidates { // never a copy out of sync while one in sync is fit
		one := q
		one.Candidates = []Candidate{c}
		if c.InSync && Choose(one).Target != "" {
			t.Fatalf("%s, although %s is in sync and fit", d, c.Server)
		}
	}
}

func TestChooseProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := anyQuestion(5).Draw(t, "question")
		d := Choose(q)
		check(t, q, d)
		other := q
		other.Candidates = rapid.Permutation(q.Candidates).Draw(t, "order")
		if d2 := Choose(other); !reflect.DeepEqual(d, d2) {
			t.Fatalf("depends on the order: %s, %s", d, d2)
		}
	})
}

func TestChooseAllProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		active := map[org.ServerName]int{}
		most := map[org.ServerName]int{}
		for i := range 5 {
			s := org.ServerName(fmt.Sprintf("M%d", i+1))
			active[s], most[s] = rapid.IntRange(0, 3).Draw(t, "active"), rapid.IntRange(0, 6).Draw(t, "most")
		}
		var qs []Question
		for i := range rapid.IntRange(1, 8).Draw(t, "databases") {
			q := anyQuestion(5).Draw(t, "question")
			q.Database = org.DatabaseName(fmt.Sprintf("DB%d", i))
			for j := range q.Candidates {
				q.Candidates[j].MaximumActive = most[q.Candidates[j].Server]
			}
			qs = append(qs, q)
		}
		ds := ChooseAll(qs, active)
		count := map[org.ServerName]int{}
		for i, d := range ds {
			count[d.Target]++
			for _, c := range qs[i].Candidates {
				if c.InSync && d.Lossy {
					one := qs[i]
					one.Candidates = slices.Clone(one.Candidates)
					for j := range one.Candidates {
						one.Candidates[j].ActiveNow = 0
						one.Candidates[j].MaximumPreferred = 0
					}
					if best := Choose(one); best.Target == c.Server && most[c.Server] == 0 {
						t.Fatalf("%s lossy although %s is in sync", qs[i].Database, c.Server)
					}
				}
			}
		}
		for s, n := range count {
			// What left M1 may have made room there.
			if s != "" && s != "M1" && most[s] > 0 && n > 0 && active[s]+n > most[s] {
				t.Fatalf("%s has %d and gets %d, at most %d", s, active[s], n, most[s])
			}
		}
		order := rapid.Permutation(qs).Draw(t, "order")
		ds2 := ChooseAll(order, active)
		for i, q := range order {
			j := slices.IndexFunc(qs, func(o Question) bool { return o.Database == q.Database })
			if !reflect.DeepEqual(ds2[i], ds[j]) {
				t.Fatalf("%s depends on the order: %s, %s", q.Database, ds[j], ds2[i])
			}
		}
	})
}
