package e2e

import (
	"fmt"
	"maps"
	"slices"
	"syscall"
	"testing"
	"time"
)

// TestSiteSwitchover leaves a site under load, stops its servers as for a day of
// work on the power there, starts them again and gives the site its databases
// back. No client command fails, no mail is refused.
func TestSiteSwitchover(t *testing.T) {
	g := startLab(t, 28000, "--servers", "4", "--sites", "2", "--witness", "--databases", "2", "--copies", "4", "--users", "4")
	g.copies = 4
	left, kept := g.inSite("Site1"), g.inSite("Site2")
	home := g.activeAt()
	for _, db := range g.databaseNames() {
		g.moveTo(db, left[0])
	}
	c := g.load()
	c.target.Follow = true
	c.goesOn(time.Minute)
	activeIn := func(servers []string) {
		t.Helper()
		for db, at := range g.activeAt() {
			if !slices.Contains(servers, at) {
				t.Errorf("%s is active at %s, not at one of %v", db, at, servers)
			}
		}
	}

	begun := time.Now()
	must(t, g.command(t.Context(), nil, "site", "switchover", "Site1", "--to", "Site2", "--stop", "--dry-run"))
	activeIn(left)
	g.planDone(g.begin("site", "switchover", "Site1", "--to", "Site2", "--stop", "--why", "a test"), time.Minute)
	activeIn(kept)
	c.waits("a site left as planned", begun)
	for _, db := range g.databaseNames() { // nothing goes back while the site is stopped
		if err := g.command(t.Context(), nil, "database", "move", db, "--to", left[0]); err == nil {
			t.Errorf("%s was moved to a site that is stopped", db)
		}
	}

	for _, s := range left {
		must(t, syscall.Kill(g.server(s).PID, syscall.SIGTERM))
	}
	for _, s := range left {
		eventually(t, 20*time.Second, s+" ends", func() error {
			if state := g.server(s).State; state != "down" {
				return fmt.Errorf("it is %s", state)
			}
			return nil
		})
	}
	c.goesOn(20 * time.Second)
	for _, s := range left {
		g.order("start", s, "--wait")
	}
	c.goesOn(20 * time.Second)
	g.inSync(time.Minute)

	begun = time.Now()
	g.planDone(g.begin("site", "failback", "Site1", "--calm", "5s", "--why", "a test"), 2*time.Minute)
	if now := g.activeAt(); !maps.Equal(now, home) {
		t.Errorf("given back: %v, want %v, as preferred", now, home)
	}
	c.waits("and given its databases back", begun)
	c.goesOn(20 * time.Second)
	c.nothingLost()
	c.nobodyNoticed()
	g.identical()
}
