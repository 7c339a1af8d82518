package choose

import (
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/org"
)

func healthy(s org.ServerName, pref int, inSync bool) Candidate {
	return Candidate{Server: s, Preference: pref, State: org.CopyHealthy, InSync: inSync, Reachable: true, Site: "A"}
}

func with(c Candidate, f func(*Candidate)) Candidate {
	f(&c)
	return c
}

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		name  string
		q     Question
		want  org.ServerName
		lossy bool
		says  string
	}{
		{"in sync beats preference",
			Question{Purpose: Failover, Source: "M1", Candidates: []Candidate{healthy("M1", 1, true), healthy("M2", 2, false), healthy("M3", 3, true)}},
			"M3", false, "not M2: ranked behind M3"},
		{"lowest preference among in sync",
			Question{Purpose: Failover, Source: "M1", Candidates: []Candidate{healthy("M3", 3, true), healthy("M2", 2, true)}}, "M2", false, "in sync"},
		{"long replay queue ranks behind",
			Question{Purpose: Failover, Source: "M1", Candidates: []Candidate{with(healthy("M2", 2, true), func(c *Candidate) { c.ReplayQueue = 180 }), healthy("M3", 3, true)}}, "M3", false, ""},
		{"nothing but lossy and dial lossless",
			Question{Purpose: Failover, Source: "M1", SourceFenced: true, Candidates: []Candidate{healthy("M2", 2, false)}}, "", false, "dial Lossless"},
		{"dial of the server allows it",
			Question{Purpose: Failover, Source: "M1", SourceFenced: true, Candidates: []Candidate{with(healthy("M2", 2, false), func(c *Candidate) { c.Dial = org.DialGoodAvailability; c.Missing = 6 })}}, "M2", true, "6 log generations missing"},
		{"dial exceeded",
			Question{Purpose: Failover, Source: "M1", SourceFenced: true, Candidates: []Candidate{with(healthy("M2", 2, false), func(c *Candidate) { c.Dial = org.DialGoodAvailability; c.Missing = 7 })}}, "", false, "allows 6"},
		{"lossy waits for the fence",
			Question{Purpose: Failover, Source: "M1", Candidates: []Candidate{with(healthy("M2", 2, false), func(c *Candidate) { c.Dial = org.DialBestAvailability })}}, "", false, "may still confirm"},
		{"best effort only by hand",
			Question{Purpose: Failover, Source: "M1", SourceFenced: true, Candidates: []Candidate{with(healthy("M2", 2, false), func(c *Candidate) { c.Dial = org.DialBestEffort })}}, "", false, "only for a move by hand"},
		{"best effort by hand",
			Question{Purpose: Failover, Source: "M1", SourceFenced: true, Dial: org.DialBestEffort, Candidates: []Candidate{with(healthy("M2", 2, false), func(c *Candidate) { c.Missing = 1000 })}}, "M2", true, "BestEffort"},
		{"least missing among lossy",
			Question{Purpose: Failover, Source: "M1", SourceFenced: true, Dial: org.DialBestEffort, Candidates: []Candidate{with(healthy("M2", 2, false), func(c *Candidate) { c.Missing = 3 }), with(healthy("M3", 3, false), func(c *Candidate) { c.Missing = 2 })}}, "M3", true, ""},
		{"unreachable, blocked, failed are passed over",
			Question{Purpose: Failover, Source: "M1", Candidates: []Candidate{
				with(healthy("M2", 2, true), func(c *Candidate) { c.Reachable = false }),
				with(healthy("M3", 3, true), func(c *Candidate) { c.Blocked = "activation of this copy is suspended" }),
				with(healthy("M4", 4, true), func(c *Candidate) { c.State = org.CopyFailed }),
				with(healthy("M5", 5, true), func(c *Candidate) { c.Policy = org.ActivationBlocked }),
			}}, "", false, "not M4: it is Failed"},
		{"unreachable", Question{Purpose: Failover, Source: "M1", Candidates: []Candidate{with(healthy("M2", 2, true), func(c *Candidate) { c.Reachable = false })}}, "", false, "not M2: its server is not reachable"},
		{"suspended", Question{Purpose: Failover, Source: "M1", Candidates: []Candidate{with(healthy("M2", 2, true), func(c *Candidate) { c.Blocked = "activation of this copy is suspended" })}},
			"", false, "not M2: activation of this copy is suspended"},
		{"policy Blocked", Question{Purpose: Failover, Source: "M1", Candidates: []Candidate{with(healthy("M2", 2, true), func(c *Candidate) { c.Policy = org.ActivationBlocked })}}, "", false, "not M2: activation policy of its server is Blocked"},
		{"other site under IntrasiteOnly",
			Question{Purpose: Failover, Source: "M1", Site: "A", Candidates: []Candidate{with(healthy("M2", 2, true), func(c *Candidate) { c.Site = "B"; c.Policy = org.ActivationIntrasite })}}, "", false, "IntrasiteOnly"},
		{"hard maximum holds in a failover",
			Question{Purpose: Failover, Source: "M1", Candidates: []Candidate{with(healthy("M2", 2, true), func(c *Candidate) { c.MaximumActive, c.ActiveNow = 2, 2 }), healthy("M3", 3, true)}}, "M3", false, "most active databases"},
		{"preferred maximum only ranks in a failover",
			Question{Purpose: Failover, Source: "M1", Candidates: []Candidate{with(healthy("M2", 2, true), func(c *Candidate) { c.MaximumPreferred, c.ActiveNow = 1, 1 })}}, "M2", false, ""},
		{"preferred maximum excludes in a switchover",
			Question{Purpose: Switchover, Source: "M1", SourceServes: true, Candidates: []Candidate{with(healthy("M2", 2, true), func(c *Candidate) { c.MaximumPreferred, c.ActiveNow = 1, 1 })}}, "", false, "preferred"},
		{"preferred maximum costs no mail where nobody is served",
			Question{Purpose: Switchover, Source: "M1", SourceFenced: true, Dial: org.DialBestEffort, Candidates: []Candidate{
				with(healthy("M2", 2, true), func(c *Candidate) { c.MaximumPreferred, c.ActiveNow = 1, 1 }), healthy("M3", 1, false)}}, "M2", false, "not M3"},
		{"switchover takes no copy out of sync",
			Question{Purpose: Switchover, Source: "M1", Candidates: []Candidate{healthy("M2", 2, false)}}, "", false, "not in sync"},
		{"named target",
			Question{Purpose: Switchover, Source: "M1", To: "M3", Candidates: []Candidate{healthy("M2", 2, true), healthy("M3", 3, true)}}, "M3", false, "not M2: another target was named"},
		{"in sync counts even while it opens",
			Question{Purpose: Failover, Source: "M1", Candidates: []Candidate{with(healthy("M2", 2, true), func(c *Candidate) { c.State = org.CopyInitializing })}}, "M2", false, ""},
		{"server health before preference",
			Question{Purpose: Failover, Source: "M1", Candidates: []Candidate{with(healthy("M2", 2, true), func(c *Candidate) { c.Health = 2 }), healthy("M3", 3, true)}}, "M3", false, ""},
		{"nobody", Question{Purpose: Failover, Source: "M1"}, "", false, "no copy can be activated"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := Choose(c.q)
			if d.Target != c.want || d.Lossy != c.lossy || !strings.Contains(d.String(), c.says) {
				t.Errorf("%s (lossy %v), want target %q lossy %v saying %q", d, d.Lossy, c.want, c.lossy, c.says)
			}
			if len(d.Passed)+1 < len(c.q.Candidates) {
				t.Errorf("%d of %d candidates have a reason", len(d.Passed), len(c.q.Candidates))
			}
		})
	}
}
