package choose

import (
	"fmt"
	"slices"
	"testing"

	"github.com/postern-mail/postern/internal/org"
)

// sick is a set of health sets.
func sick(pairs ...any) map[string]org.SetHealth {
	out := map[string]org.SetHealth{}
	for i := 0; i < len(pairs); i += 3 {
		out[pairs[i].(string)] = org.SetHealth{State: pairs[i+1].(org.HealthState), Priority: pairs[i+2].(org.HealthPriority)}
	}
	return out
}

// sourceSets are what the source of TestLevels and TestRoundsTimesLevels has.
func sourceSets() map[string]org.SetHealth {
	return sick("Store", org.Unhealthy, org.PriorityCritical, "IMAP", org.Degraded, org.PriorityCritical)
}

// levelSets are health sets that reach each level against sourceSets.
func levelSets() map[Level]map[string]org.SetHealth {
	return map[Level]map[string]org.SetHealth{
		AllHealthy:    sick("Store", org.HealthOK, org.PriorityCritical),
		NormalHealthy: sick("Search", org.Unhealthy, org.PriorityLow),
		BetterThan:    sick("IMAP", org.Degraded, org.PriorityCritical),
		NotWorseThan:  sick("Store", org.Unhealthy, org.PriorityCritical, "IMAP", org.Degraded, org.PriorityCritical),
		NoLevel:       sick("IMAP", org.Unhealthy, org.PriorityCritical),
	}
}

func TestLevels(t *testing.T) {
	all := levelSets()
	for _, c := range []struct {
		name string
		c    Candidate
		q    Question
		want Level
	}{
		{"nothing reported is healthy", Candidate{Sets: sick()}, Question{}, AllHealthy},
		{"disabled and uninitialized count as healthy", Candidate{Sets: sick("A", org.HealthDisabled, org.PriorityCritical, "B", org.UnInitialized, org.PriorityCritical)}, Question{}, AllHealthy},
		{"all", Candidate{Sets: all[AllHealthy]}, Question{SourceSets: sourceSets()}, AllHealthy},
		{"low priority", Candidate{Sets: all[NormalHealthy]}, Question{SourceSets: sourceSets()}, NormalHealthy},
		{"better", Candidate{Sets: all[BetterThan]}, Question{SourceSets: sourceSets()}, BetterThan},
		{"the same", Candidate{Sets: all[NotWorseThan]}, Question{SourceSets: sourceSets()}, NotWorseThan},
		{"one better, one worse", Candidate{Sets: all[NoLevel]}, Question{SourceSets: sourceSets()}, NoLevel},
		{"a set the source does not have", Candidate{Sets: sick("New", org.Degraded, org.PriorityNormal)}, Question{SourceSets: sourceSets()}, NoLevel},
		{"repairing is not healthy", Candidate{Sets: sick("Store", org.Repairing, org.PriorityCritical)}, Question{SourceSets: sourceSets()}, BetterThan},
		{"not heard, the source is", Candidate{Unheard: true}, Question{SourceSets: sourceSets()}, NoLevel},
		{"nobody is heard", Candidate{Unheard: true}, Question{SourceUnheard: true}, NotWorseThan},
		{"degraded is better than silence", Candidate{Sets: sick("IMAP", org.Degraded, org.PriorityCritical)}, Question{SourceUnheard: true}, BetterThan},
		{"unhealthy is worse than silence", Candidate{Sets: sick("IMAP", org.Unhealthy, org.PriorityCritical)}, Question{SourceUnheard: true}, NoLevel},
		{"high CPU is one level worse", Candidate{Sets: all[AllHealthy], CPUHigh: true}, Question{}, NormalHealthy},
		{"unless that is skipped", Candidate{Sets: all[AllHealthy], CPUHigh: true}, Question{Skip: Skip{CPU: true}}, AllHealthy},
		{"never worse than none", Candidate{Unheard: true, CPUHigh: true}, Question{}, NoLevel},
	} {
		if got, why := c.q.level(c.c); got != c.want || got > AllHealthy && why == "" {
			t.Errorf("%s: %s (%s), want %s", c.name, got, why, c.want)
		}
	}
}

// inRound is a copy that meets a round and none before it.
func inRound(c Candidate, round int) Candidate {
	c.State = org.CopyHealthy
	if round == openingRound {
		c.State = org.CopyInitializing
		return c
	}
	r := round
	if r >= firstLongReplay {
		c.ReplayQueue = replayQueueLimit
		r -= firstLongReplay - 1
	}
	if r == 3 || r == 4 {
		c.Missing = copyQueueLimit
	}
	switch r {
	case 2, 4:
		c.ContentIndex = org.IndexCrawling
	case 5:
		c.ContentIndex = org.IndexFailed
	}
	return c
}

// TestRounds shows which round a copy meets, by content index, copy queue and
// replay queue (Exchange's table).
func TestRounds(t *testing.T) {
	for _, c := range []struct {
		index        org.IndexState
		copy, replay uint64
		want         int
	}{
		{org.IndexHealthy, 9, 49, 1}, {"", 0, 0, 1}, {org.IndexCrawling, 9, 49, 2}, {org.IndexHealthy, 10, 49, 3}, {org.IndexCrawling, 10, 49, 4},
		{org.IndexFailed, 0, 0, 5}, {org.IndexDisabled, 99, 49, 5},
		{org.IndexHealthy, 9, 50, 6}, {org.IndexCrawling, 9, 50, 7}, {org.IndexHealthy, 10, 50, 8}, {org.IndexCrawling, 10, 50, 9}, {org.IndexFailed, 0, 50, 10},
	} {
		cand := Candidate{State: org.CopyHealthy, ContentIndex: c.index, Missing: c.copy, ReplayQueue: c.replay}
		if got := (Question{}).round(cand); got != c.want {
			t.Errorf("index %s, copy queue %d, replay queue %d: round %d, want %d", c.index, c.copy, c.replay, got, c.want)
		}
		cand.InSync = true
		if got := (Question{}).round(cand); got > c.want || c.copy < copyQueueLimit && got != c.want {
			t.Errorf("in sync, index %s, replay queue %d: round %d", c.index, c.replay, got)
		}
	}
	if got := (Question{}).round(Candidate{State: org.CopyHealthy, Lagged: true}); got != firstLongReplay {
		t.Errorf("a lagged copy is in round %d", got)
	}
	skipped := Question{Skip: Skip{Lag: true, ClientExperience: true}}
	if got := skipped.round(Candidate{State: org.CopyHealthy, ReplayQueue: 99, Missing: 99, ContentIndex: org.IndexFailed}); got != 1 {
		t.Errorf("with those checks skipped: round %d", got)
	}
	for r := 1; r <= openingRound; r++ {
		if got := (Question{}).round(inRound(Candidate{}, r)); got != r {
			t.Errorf("inRound(%d) is in round %d", r, got)
		}
	}
}

// TestRoundsTimesLevels lets every pair of level and round compete: no loss is
// first, then the level decides, then the round.
func TestRoundsTimesLevels(t *testing.T) {
	type place struct {
		loss  int
		level Level
		round int
	}
	sets := levelSets()
	var all []place
	for loss := range 2 {
		for l := AllHealthy; l <= NoLevel; l++ {
			for r := 1; r <= openingRound; r++ {
				if loss == 0 && (r == 3 || r == 4 || r == 8 || r == 9) {
					continue // a copy in sync lacks nothing
				}
				all = append(all, place{loss, l, r})
			}
		}
	}
	make := func(p place, name org.ServerName, pref int) Candidate {
		c := inRound(Candidate{Server: name, Preference: pref, Reachable: true, Sets: sets[p.level], InSync: p.loss == 0}, p.round)
		return c
	}
	pairs := 0
	for i, a := range all {
		for _, b := range all[i+1:] {
			pairs++
			// b has the better preference and name: that must not matter.
			q := Question{Database: "DB01", Purpose: Failover, Source: "M9", SourceFenced: true, Dial: org.DialBestEffort, SourceSets: sourceSets(),
				Candidates: []Candidate{make(b, "M1", 1), make(a, "M2", 2)}}
			d := Choose(q)
			if d.Target != "M2" || d.Level != a.level || d.Round != a.round || d.Lossy != (a.loss == 1) {
				t.Fatalf("%+v against %+v: %s", a, b, d)
			}
			if len(d.Passed) != 1 || d.Passed[0].Why == "" || d.Passed[0].Level != b.level || d.Passed[0].Round != b.round {
				t.Fatalf("%+v against %+v: passed %+v", a, b, d.Passed)
			}
		}
	}
	if want := len(all) * (len(all) - 1) / 2; pairs != want || want < 4000 {
		t.Errorf("%d pairs", pairs)
	}
}

// TestHealthMove: what fails has to be better on the target than on the source,
// whatever else speaks for it.
func TestHealthMove(t *testing.T) {
	volume := func(s org.HealthState) map[string]org.SetHealth {
		return map[string]org.SetHealth{"Volume": {State: s, Priority: org.PriorityCritical}, "IMAP": {State: org.HealthOK, Priority: org.PriorityCritical, Component: org.IMAPComponent}}
	}
	door := func(s org.HealthState) map[string]org.SetHealth {
		return map[string]org.SetHealth{"IMAP.Protocol": {State: s, Priority: org.PriorityCritical, Component: org.IMAPComponent}}
	}
	copyOn := func(s org.ServerName, sets map[string]org.SetHealth) Candidate {
		return Candidate{Server: s, Preference: int(s[1] - '0'), State: org.CopyHealthy, InSync: true, Reachable: true, Sets: sets}
	}
	for _, c := range []struct {
		name    string
		failing string
		source  map[string]org.SetHealth
		cands   []Candidate
		want    org.ServerName
		says    string
	}{
		{"better", "Volume", volume(org.Unhealthy), []Candidate{copyOn("M2", volume(org.HealthOK))}, "M2", ""},
		{"a little better is better", "Volume/vol1", volume(org.Unrecoverable), []Candidate{copyOn("M2", volume(org.Unhealthy))}, "M2", ""},
		{"the same is not", "Volume", volume(org.Unhealthy), []Candidate{copyOn("M2", volume(org.Unhealthy))}, "", "no better there"},
		{"worse is not", "Volume", volume(org.Degraded), []Candidate{copyOn("M2", volume(org.Unhealthy))}, "", "no better there"},
		{"by component", "imap", door(org.Unhealthy), []Candidate{copyOn("M2", door(org.Unhealthy)), copyOn("M3", door(org.HealthOK))}, "M3", ""},
		{"by the name of the set's group", "IMAP", door(org.Unhealthy), []Candidate{copyOn("M2", door(org.Unhealthy)), copyOn("M3", door(org.HealthOK))}, "M3", ""},
		{"healthy at the source: nothing is better", "Volume", volume(org.HealthOK), []Candidate{copyOn("M2", volume(org.HealthOK))}, "", "no better there"},
		{"nothing is known", "Volume", volume(org.Unhealthy), []Candidate{{Server: "M2", State: org.CopyHealthy, InSync: true, Reachable: true, Unheard: true}}, "", "not known"},
		{"better there, and worse elsewhere", "Volume", volume(org.Unhealthy), []Candidate{copyOn("M2", sick("Volume", org.HealthOK, org.PriorityCritical, "IMAP", org.Unhealthy, org.PriorityCritical))}, "", "less healthy than the source"},
		{"the monitor is ahead of what its server published", "Volume", volume(org.HealthOK), []Candidate{copyOn("M2", volume(org.HealthOK))}, "M2", ""},
		{"and of a target that is as bad", "Volume", volume(org.HealthOK), []Candidate{copyOn("M2", volume(org.Degraded))}, "", "no better there"},
		{"a named target has to be better too", "Volume", volume(org.Unhealthy), []Candidate{copyOn("M2", volume(org.Unhealthy))}, "", "no better there"},
	} {
		q := Question{Database: "DB01", Purpose: HealthMove, Source: "M1", SourceServes: true, SourceSets: c.source, Failing: c.failing, Candidates: c.cands}
		switch c.name {
		case "a named target has to be better too":
			q.To = "M2"
		case "the monitor is ahead of what its server published", "and of a target that is as bad":
			q.FailingState = org.Degraded
		}
		if d := Choose(q); d.Target != c.want || !contains(d.String(), c.says) {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}

// TestServingSource: nobody is moved to a worse server as long as the source
// serves; somebody has to serve where it does not.
func TestServingSource(t *testing.T) {
	worse := Candidate{Server: "M2", State: org.CopyHealthy, InSync: true, Reachable: true, Sets: sick("IMAP", org.Unrecoverable, org.PriorityCritical)}
	for _, c := range []struct {
		q    Question
		want org.ServerName
	}{
		{Question{Purpose: Failover}, "M2"},
		{Question{Purpose: Switchover}, "M2"}, // dismounted, or a failed copy
		{Question{Purpose: Switchover, SourceServes: true}, ""},
		{Question{Purpose: Switchover, SourceServes: true, Skip: Skip{Health: true}}, "M2"},
		{Question{Purpose: Switchover, SourceServes: true, To: "M2"}, "M2"},
		{Question{Purpose: Rebalance, SourceServes: true, To: "M2"}, ""},
		{Question{Purpose: HealthMove, Failing: "Volume", SourceSets: sick("Volume", org.Unhealthy, org.PriorityCritical)}, ""},
	} {
		c.q.Source, c.q.Candidates = "M1", []Candidate{worse}
		d := Choose(c.q)
		if d.Target != c.want {
			t.Errorf("%s, serves %v, to %q: %s", c.q.Purpose, c.q.SourceServes, c.q.To, d)
		}
		if warned := len(d.Warnings) > 0; warned != (c.q.To != "" && c.want != "" && c.q.SourceServes) {
			t.Errorf("%s to %q: warnings %q", c.q.Purpose, c.q.To, d.Warnings)
		}
	}
}

// TestSkips: each switch drops its check and no other.
func TestSkips(t *testing.T) {
	base := func() Question {
		return Question{Purpose: Switchover, Source: "M1", SourceServes: true, Candidates: []Candidate{{Server: "M2", State: org.CopyHealthy, InSync: true, Reachable: true}}}
	}
	for _, c := range []struct {
		name string
		set  func(*Question)
		skip Skip
	}{
		{"health", func(q *Question) { q.Candidates[0].Sets = sick("A", org.Unhealthy, org.PriorityNormal) }, Skip{Health: true}},
		{"active", func(q *Question) { q.Seeds = []org.ServerName{"M3"} }, Skip{Active: true}},
		{"lag", func(q *Question) { q.To = "M2"; q.Candidates[0].ReplayQueue = 50 }, Skip{Lag: true}},
		{"maximum", func(q *Question) { q.Candidates[0].MaximumPreferred, q.Candidates[0].ActiveNow = 2, 2 }, Skip{Maximum: true}},
		{"cpu", func(q *Question) {
			q.Candidates[0].CPUHigh, q.Candidates[0].Health = true, int(NotWorseThan-AllHealthy)
		}, Skip{CPU: true}},
		{"suppression", func(q *Question) { q.Candidates[0].BackOff = 1 }, Skip{Suppression: true}},
	} {
		q := base()
		c.set(&q)
		if d := Choose(q); d.Target != "" {
			t.Errorf("%s: not checked: %s", c.name, d)
		}
		others := SkipAll()
		switch c.name {
		case "health":
			others.Health = false
		case "active":
			others.Active = false
		case "lag":
			others.Lag = false
		case "maximum":
			others.Maximum = false
		case "suppression":
			others.Suppression = false
		case "cpu":
			others.CPU, others.Health = false, false // CPU counts as health
		}
		if q.Skip = others; Choose(q).Target != "" {
			t.Errorf("%s: another switch dropped it", c.name)
		}
		if q.Skip = c.skip; Choose(q).Target != "M2" {
			t.Errorf("%s: not dropped: %s", c.name, Choose(q))
		}
	}
	q := base()
	q.Skip, q.To = SkipAll(), "M2"
	q.Candidates[0].MaximumActive, q.Candidates[0].ActiveNow = 1, 1
	if d := Choose(q); d.Target != "" {
		t.Errorf("the hard maximum was dropped: %s", d)
	}
}

// TestBackOff: a server that failed as target comes after all others, and is
// taken where there is nobody else.
func TestBackOff(t *testing.T) {
	failed := Candidate{Server: "M2", Preference: 1, State: org.CopyHealthy, InSync: true, Reachable: true, BackOff: 60e9, Failures: 1}
	other := Candidate{Server: "M3", Preference: 2, State: org.CopyHealthy, InSync: true, Reachable: true, Sets: sick("A", org.Unrecoverable, org.PriorityCritical), ReplayQueue: 99}
	q := Question{Purpose: Failover, Source: "M1", Candidates: []Candidate{failed, other}}
	if d := Choose(q); d.Target != "M3" || !contains(d.String(), "it failed as target 1 times, next try in 1m0s") {
		t.Error(d)
	}
	q.Candidates = q.Candidates[:1]
	if d := Choose(q); d.Target != "M2" {
		t.Error(d)
	}
	lossy := other
	lossy.InSync = false
	q.Candidates, q.SourceFenced, q.Dial = []Candidate{failed, lossy}, true, org.DialBestEffort
	if d := Choose(q); d.Target != "M2" {
		t.Errorf("lost something rather than try again: %s", d)
	}
}

// TestSites: within a level and round servers of the source's site come first.
func TestSites(t *testing.T) {
	here := Candidate{Server: "M2", Site: "A", Preference: 3, State: org.CopyHealthy, InSync: true, Reachable: true}
	there := Candidate{Server: "M3", Site: "B", Preference: 2, State: org.CopyHealthy, InSync: true, Reachable: true}
	q := Question{Purpose: Failover, Source: "M1", Site: "A", PreferSite: true, Candidates: []Candidate{there, here}}
	if d := Choose(q); d.Target != "M2" || !contains(d.String(), "it is in site B") {
		t.Error(d)
	}
	q.PreferSite = false
	if d := Choose(q); d.Target != "M3" {
		t.Error(d)
	}
	here.ReplayQueue = 50
	q.PreferSite, q.Candidates = true, []Candidate{there, here}
	if d := Choose(q); d.Target != "M3" {
		t.Errorf("site before round: %s", d)
	}
}

func contains(s, sub string) bool {
	for i := 0; i+len(sub) <= len(s); i++ {
		if s[i:i+len(sub)] == sub {
			return true
		}
	}
	return false
}

// TestChooseAll: the counts grow while it decides, and those with few choices
// choose first.
func TestChooseAll(t *testing.T) {
	cand := func(s org.ServerName, pref, most int) Candidate {
		return Candidate{Server: s, Preference: pref, State: org.CopyHealthy, InSync: true, Reachable: true, MaximumActive: most}
	}
	var qs []Question
	for i := range 6 {
		qs = append(qs, Question{Database: org.DatabaseName(fmt.Sprintf("DB%02d", i+1)), Purpose: Failover, Source: "M1",
			Candidates: []Candidate{cand("M2", 2, 4), cand("M3", 3, 9)}})
	}
	// The last two have one choice only, which the others would fill up.
	for i := 4; i < 6; i++ {
		qs[i].Candidates = qs[i].Candidates[:1]
	}
	ds := ChooseAll(qs, map[org.ServerName]int{"M1": 6, "M2": 1})
	count := map[org.ServerName]int{}
	for i, d := range ds {
		count[d.Target]++
		if i >= 4 && d.Target != "M2" {
			t.Errorf("%s: %s", qs[i].Database, d)
		}
	}
	if count["M2"] != 3 || count["M3"] != 3 {
		t.Errorf("%v", count)
	}
	if qs[0].Candidates[0].ActiveNow != 0 {
		t.Error("the question was written to")
	}
	// Of the same preference, the server with fewer databases comes first.
	for i := range qs {
		qs[i].Candidates = []Candidate{cand("M2", 2, 0), cand("M3", 2, 0)}
	}
	count = map[org.ServerName]int{}
	for _, d := range ChooseAll(qs, nil) {
		count[d.Target]++
	}
	if count["M2"] != 3 || count["M3"] != 3 {
		t.Errorf("not spread: %v", count)
	}
}

// TestStates: every state a copy may report has its place; a copy in one that
// is forgotten here would never be activated.
func TestStates(t *testing.T) {
	never := []org.CopyState{org.CopySeeding, org.CopySuspended, org.CopyFailed, org.CopyFailedAndSuspended, org.CopyDismounting, org.CopyServiceDown}
	for _, s := range org.CopyStates() {
		q := Question{Purpose: Failover, Source: "M1", Candidates: []Candidate{{Server: "M2", State: s, InSync: true, Reachable: true}}}
		d := Choose(q)
		if want := !slices.Contains(never, s); (d.Target != "") != want || want && d.Round == 0 {
			t.Errorf("%s: %s, round %d", s, d, d.Round)
		}
	}
}
