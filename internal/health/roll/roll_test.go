package roll

import (
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

func TestSets(t *testing.T) {
	sets := []Set{{Name: "IMAP", Priority: org.PriorityCritical, Component: org.IMAPComponent, HA: true}, {Name: "Search", Priority: org.PriorityLow}}
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	m := func(set, name string, s org.HealthState) Monitor {
		return Monitor{Set: set, Name: name, State: s, Since: at, Why: strings.Repeat("x", 500)}
	}
	for _, c := range []struct {
		name     string
		monitors []Monitor
		want     org.HealthState // of IMAP
		server   org.HealthState
		worst    string
	}{
		{"nothing", nil, org.UnInitialized, org.UnInitialized, ""},
		{"all well", []Monitor{m("IMAP", "A", org.HealthOK), m("Search", "S", org.HealthOK)}, org.HealthOK, org.HealthOK, ""},
		{"the worst decides", []Monitor{m("IMAP", "A", org.HealthOK), m("IMAP", "B", org.Unhealthy), m("IMAP", "C", org.Degraded)}, org.Unhealthy, org.Unhealthy, `IMAP\B`},
		{"disabled counts least", []Monitor{m("IMAP", "A", org.HealthOK), m("IMAP", "B", org.HealthDisabled)}, org.HealthOK, org.HealthOK, ""},
		{"all disabled", []Monitor{m("IMAP", "A", org.HealthDisabled)}, org.HealthDisabled, org.UnInitialized, `IMAP\A`},
		{"repair is worse than Degraded and better than Unhealthy", []Monitor{m("IMAP", "A", org.Degraded2), m("IMAP", "B", org.Repairing)}, org.Repairing, org.Repairing, `IMAP\B`},
		{"a set that nobody knows", []Monitor{m("DNS", "A", org.Unhealthy)}, org.UnInitialized, org.UnInitialized, ""},
	} {
		got := Sets(sets, c.monitors)
		if s := got["IMAP"]; s.State != c.want || !strings.HasPrefix(s.Worst, c.worst) || len(s.Worst) > maxWorst || c.worst == "" && s.Worst != "" {
			t.Errorf("%s: %+v", c.name, s)
		}
		if s, _ := Server(got, false); s != c.server {
			t.Errorf("%s: server is %s, want %s", c.name, s, c.server)
		}
	}
	ha := Sets(sets, []Monitor{m("IMAP", "A", org.HealthOK), m("Search", "S", org.Unrecoverable)})
	if s, _ := Server(ha, true); s != org.HealthOK {
		t.Errorf("a low set counts for activation: %s", s)
	}
	if s, name := Server(ha, false); s != org.Unrecoverable || name != "Search" {
		t.Errorf("%s by %s", s, name)
	}
}

func TestGroups(t *testing.T) {
	members := func(bad, of int) (out []Member) {
		for i := range of {
			s := org.HealthOK
			if i < bad {
				s = org.Unrecoverable
			}
			out = append(out, Member{org.ServerName(rune('A' + i)), s})
		}
		return out
	}
	for _, c := range []struct {
		bad, of, size int
		minimum       float64
		want          string
	}{
		{0, 3, 12, 70, "Healthy: 3 of 3 servers work"},
		{1, 3, 12, 70, "Unrecoverable: 2 of 3 servers work"},
		{1, 3, 12, 66, "Degraded: 2 of 3 servers work"},
		{3, 10, 12, 70, "Degraded: 7 of 10 servers work"},
		{4, 10, 12, 70, "Unrecoverable: 6 of 10 servers work"},
		{2, 4, 2, 70, "Unrecoverable: 0 of 2 servers work; Healthy: 2 of 2 servers work"},
		{0, 0, 12, 70, ""},
	} {
		var all []string
		for _, r := range Groups(members(c.bad, c.of), c.size, c.minimum) {
			all = append(all, r.String())
		}
		if got := strings.Join(all, "; "); got != c.want {
			t.Errorf("%d of %d bad, groups of %d: %s, want %s", c.bad, c.of, c.size, got, c.want)
		}
	}
}
