package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/lab"
	"github.com/postern-mail/postern/test/load"
)

// siteGroup is a lab with two sites and a witness in a third.
type siteGroup struct {
	servers, basePort int
}

// siteGroups are the labs that TestSiteLost plays in. POSTERN_SITES=all (make
// sites) adds one in which two servers of each site vote.
func siteGroups() []siteGroup {
	out := []siteGroup{{servers: 2, basePort: 19000}}
	if os.Getenv("POSTERN_SITES") == "all" {
		out = append(out, siteGroup{servers: 4, basePort: 18000})
	}
	return out
}

// TestSiteLost loses a whole site under load: with the witness alive everything
// goes on by itself; with the witness lost too nothing is mounted until the other
// site is activated by force. The lost servers return with a majority of the old
// votes, first cut off, then heard, and serve nothing; they are taken in again.
func TestSiteLost(t *testing.T) {
	needPacketFilter(t)
	for _, sg := range siteGroups() {
		t.Run(fmt.Sprintf("%d servers", sg.servers), func(t *testing.T) { siteLost(t, sg) })
	}
}

func siteLost(t *testing.T, sg siteGroup) {
	g := startLab(t, sg.basePort, "--servers", fmt.Sprint(sg.servers), "--sites", "2", "--witness", "--databases", "2", "--copies", fmt.Sprint(sg.servers), "--users", "4")
	g.copies = sg.servers
	lost, kept := g.inSite("Site1"), g.inSite("Site2")
	c := g.load()
	c.goesOn(30 * time.Second)

	// The site goes, the witness stays.
	since := c.killAll(lost)
	for _, s := range lost {
		g.servedAt(kept, s, 20*time.Second)
	}
	c.goesOn(20 * time.Second)
	c.unavailable("a site lost, with the witness", since, lost, 4*time.Second)
	for _, s := range lost {
		g.order("start", s, "--wait")
		c.target.SetDown(s, false)
	}
	g.inSync(time.Minute)
	for _, db := range g.databaseNames() { // the site has databases to lose
		g.moveTo(db, lost[0])
	}
	c.goesOn(20 * time.Second)

	// It goes again, with the witness: no majority is left.
	since = c.killAll(append(slices.Clone(lost), "WIT1"))
	at := kept[0]
	eventually(t, 20*time.Second, "the agreed state answers nobody", func() error { return g.quorumIs(at, false) })
	if err := g.at(at, nil, "site", "activate", "Site2", "--force", "--dry-run"); err == nil {
		t.Error("a forced activation right after the loss is not refused")
	}
	eventually(t, 30*time.Second, "a forced activation is possible", func() error {
		return g.at(at, nil, "site", "activate", "Site2", "--force", "--dry-run")
	})
	for _, s := range kept {
		if n := g.mounts(s, since); n > 0 {
			t.Errorf("%s mounted %d databases without a majority", s, n)
		}
	}
	text := "activate Site2 and give up " + strings.Join(append(slices.Clone(lost), "WIT1"), " ")
	if err := g.at(at, nil, "site", "activate", "Site2", "--force", "--confirm", "yes"); err == nil {
		t.Error("a forced activation without its sentence is not refused")
	}
	forced := time.Now()
	must(t, g.at(at, nil, "site", "activate", "Site2", "--force", "--confirm", text, "--why", "test"))
	for _, s := range lost {
		g.servedAt(kept, s, 30*time.Second)
	}
	c.goesOn(30 * time.Second)
	t.Logf("majority lost and forced: clients go on %.1f s after the order", time.Since(forced).Seconds())
	if took := time.Since(forced); took > time.Minute {
		t.Errorf("forced activation took %s", took)
	}
	c.unavailable("the same, from the loss on (the order waits 10 s here)", since, lost, time.Minute)

	// The site and the witness come back, and do not reach the others.
	g.order("cut-site", "Site2")
	returned := time.Now()
	away := append(slices.Clone(lost), "WIT1")
	for _, s := range away {
		g.order("start", s)
	}
	eventually(t, 30*time.Second, "the returned servers agree with each other", func() error { return g.quorumIs(lost[0], true) })
	eventually(t, 20*time.Second, "and hold back", func() error { return g.said(lost[0], "name=dac_holds", returned) })
	before := c.confirmed()
	let(t, 2*time.Second)
	if c.confirmed() == before {
		t.Error("the site that was activated does not go on")
	}
	// Now they hear, and end.
	g.order("heal-site", "Site2")
	for _, s := range away {
		eventually(t, 20*time.Second, s+" ends", func() error {
			if state := g.server(s).State; state != "down" {
				return fmt.Errorf("it is %s", state)
			}
			return nil
		})
		must(t, g.said(s, "name=given_up", returned))
		if n := g.mounts(s, returned); n > 0 {
			t.Errorf("%s, which was given up, mounted %d databases", s, n)
		}
	}
	g.takeIn(at, away)
	must(t, g.at(at, nil, "site", "start", "Site1"))
	g.inSync(time.Minute)
	for _, s := range lost {
		c.target.SetDown(s, false)
	}
	g.moveTo("DB01", lost[0])
	c.goesOn(20 * time.Second)
	c.nothingLost()
	g.identical()
}

// inSite names the mail servers of a site.
func (g *group) inSite(site string) (out []string) {
	for _, s := range g.file().Servers {
		if s.Site == site && !s.Witness {
			out = append(out, s.Name)
		}
	}
	return out
}

func (g *group) databaseNames() (out []string) {
	g.t.Helper()
	list, err := g.databases()
	must(g.t, err)
	for _, d := range list {
		out = append(out, d.Name)
	}
	return out
}

// moveTo makes a database active on a server.
func (g *group) moveTo(db, server string) {
	g.t.Helper()
	if g.database(db).Active != server {
		must(g.t, g.command(g.t.Context(), nil, "database", "move", db, "--to", server))
	}
}

// killAll ends servers at the same moment, as far as a test can.
func (c *crowd) killAll(servers []string) time.Time {
	c.t.Helper()
	for _, s := range servers {
		c.target.SetDown(s, true)
	}
	at := time.Now()
	done := make(chan error, len(servers))
	for _, s := range servers {
		go func() {
			_, err := lab.Do(c.t.Context(), c.dir, lab.Order{Verb: "kill", Server: s})
			done <- err
		}()
	}
	for range servers {
		must(c.t, <-done)
	}
	return at
}

// unavailable prints how long clients of the other servers waited, and bounds it.
func (c *crowd) unavailable(what string, since time.Time, lost []string, most time.Duration) {
	c.t.Helper()
	all := c.history.Pauses(load.Fault{At: since, Until: time.Now()}, "")
	if len(all) == 0 {
		c.t.Errorf("%s: no client tells of it", what)
		return
	}
	c.t.Logf("%s (%v): longest wait of a client %.2f s, of %d", what, lost, all[0].Length.Seconds(), len(all))
	if all[0].Length > most {
		c.t.Errorf("%s: %s waited %s, want at most %s", what, all[0].Client, all[0].Length, most)
	}
}

// servedAt waits until all databases are active without a server, as those that
// are kept say.
func (g *group) servedAt(kept []string, away string, patience time.Duration) {
	g.t.Helper()
	eventually(g.t, patience, "all databases are active without "+away, func() error {
		var list []database
		err := g.at(kept[0], &list, "database", "list")
		for _, d := range list {
			if !slices.Contains(kept, d.Active) {
				return fmt.Errorf("%s is active at %q", d.Name, d.Active)
			}
		}
		return err
	})
}

// quorumIs asks one server whether the agreed state answers it.
func (g *group) quorumIs(server string, want bool) error {
	var st struct {
		Quorum bool `json:"quorum"`
	}
	err := g.at(server, &st, "cluster", "status")
	if err == nil && st.Quorum != want {
		err = fmt.Errorf("quorum is %v at %s", st.Quorum, server)
	}
	return err
}

// linesSince are the lines of a server's log from a time on.
func (g *group) linesSince(server string, since time.Time) (out []string) {
	g.t.Helper()
	b, err := os.ReadFile(filepath.Join(g.dir, server, "serve.log"))
	must(g.t, err)
	for line := range bytes.Lines(b) {
		stamp, _, _ := strings.Cut(strings.TrimPrefix(string(line), "time="), " ")
		if at, err := time.Parse(time.RFC3339, stamp); err == nil && !at.Before(since.Truncate(time.Millisecond)) {
			out = append(out, string(line))
		}
	}
	return out
}

// mounts counts how often a server mounted a database since a time.
func (g *group) mounts(server string, since time.Time) (n int) {
	for _, l := range g.linesSince(server, since) {
		if strings.Contains(l, "to=Mounted") {
			n++
		}
	}
	return n
}

// said tells whether a word is in a server's log since a time.
func (g *group) said(server, word string, since time.Time) error {
	for _, l := range g.linesSince(server, since) {
		if strings.Contains(l, word) {
			return nil
		}
	}
	return fmt.Errorf("%s did not say %s", server, word)
}

// takeIn joins servers that were given up, in their own folders, with a token of
// another.
func (g *group) takeIn(at string, servers []string) {
	g.t.Helper()
	for _, s := range servers {
		var token struct {
			Token string `json:"token"`
		}
		must(g.t, g.at(at, &token, "cluster", "token", "--for", s))
		verb := "join"
		if s == "WIT1" {
			verb = "witness"
		}
		_, err := postern.run(g.t.Context(), verb, "--replace", "--dir", filepath.Join(g.dir, s), token.Token)
		must(g.t, err)
		g.order("start", s, "--wait")
	}
}
