package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// component is a row of `component list`.
type component struct {
	Server    string `json:"server"`
	Component string `json:"component"`
	State     string `json:"state"`
	Now       string `json:"now"`
	Left      int    `json:"left"`
	Who       string `json:"who"`
}

// component waits until a server does what is wished of a component, and nothing is
// left under way in it where that is asked for.
func (g *group) component(server, name, now string, empty bool) {
	g.t.Helper()
	eventually(g.t, 30*time.Second, name+" of "+server+" is "+now, func() error {
		var rows []component
		if err := g.command(g.t.Context(), &rows, "component", "list", server); err != nil {
			return err
		}
		i := slices.IndexFunc(rows, func(r component) bool { return r.Component == name })
		if i < 0 || rows[i].Now != now || empty && rows[i].Left > 0 {
			return fmt.Errorf("it has %+v", rows)
		}
		return nil
	})
}

// TestComponents takes parts of a server out under load and back in: doors shut and
// open, the queue is given away and stays so over a restart, nothing is lost.
func TestComponents(t *testing.T) {
	t.Parallel()
	g := startLab(t, 14000, "--users", "3")
	c := g.load()
	c.goesOn(20 * time.Second)
	server := g.others(g.database("DB01").Active)[0]
	s := g.server(server)
	set := func(name, state string, more ...string) {
		t.Helper()
		must(t, g.command(t.Context(), nil, append([]string{"component", "set", server, name, state}, more...)...))
	}

	session := g.login(server, 0)
	c.target.SetDown(server, true)
	for _, name := range []string{"smtp", "submission", "imap"} {
		set(name, "Draining", "--why", "a test")
	}
	set("transport", "Draining", "--requester", "Maintenance")
	for _, name := range []string{"smtp", "submission", "imap"} {
		g.component(server, name, "Draining", name != "imap")
	}
	g.component(server, "transport", "Draining", true)
	for _, at := range []string{s.SMTP, s.Submission, s.IMAP, s.IMAPS} {
		if greets(at, "") == nil {
			t.Errorf("%s still answers", at)
		}
	}
	if _, err := session.subjects("INBOX"); err != nil {
		t.Errorf("a session at a door that drains: %v", err)
	}
	set("imap", "Inactive")
	g.component(server, "imap", "Inactive", true)
	if _, err := session.subjects("INBOX"); err == nil {
		t.Error("a session at a door that is Inactive goes on")
	}

	g.order("kill", server)
	g.order("start", server)
	g.component(server, "transport", "Draining", true)
	g.component(server, "imap", "Inactive", true)
	if greets(s.SMTP, "") == nil {
		t.Error("a restart opened a door that drains")
	}

	for _, name := range []string{"smtp", "submission", "imap"} {
		set(name, "Active")
	}
	set("transport", "Active", "--requester", "Maintenance")
	for _, name := range []string{"smtp", "submission", "imap", "transport"} {
		g.component(server, name, "Active", false)
	}
	for _, at := range []string{s.SMTP, s.Submission} {
		must(t, greets(at, "220 "))
	}
	must(t, greets(s.IMAP, "* OK"))
	c.target.SetDown(server, false)
	c.goesOn(20 * time.Second)
	c.nothingLost()
	g.inSync(time.Minute)
	g.identical()
}
