package e2e

import (
	"fmt"
	"testing"
	"time"
)

// TestTwoServersAndWitness loses either of two servers, one after the other,
// under load: the witness gives the other the majority.
func TestTwoServersAndWitness(t *testing.T) {
	t.Parallel()
	g := startLab(t, 16800, "--servers", "2", "--witness", "--databases", "2", "--copies", "2", "--users", "4")
	c := g.load()
	c.goesOn(30 * time.Second)
	for _, victim := range []string{"MBX1", "MBX2"} {
		g.order("kill", victim)
		g.servedWithout(victim, 20*time.Second)
		for _, s := range g.others(victim) {
			u := g.file().Users[0].Address
			must(t, deliver(t.Context(), g.server(s).SMTP, u, letter("without "+victim, u)))
		}
		c.goesOn(30 * time.Second)
		g.back(victim)
	}
	before := c.confirmed()
	let(t, time.Second)
	if c.confirmed() == before {
		t.Error("nothing is confirmed after both are back")
	}
	c.nothingLost()
	g.identical()
}

// TestQuorumLost kills two of three servers: what is active on the third can
// be read on, changes and mail get a temporary error, and all recovers by itself.
func TestQuorumLost(t *testing.T) {
	t.Parallel()
	g := startLab(t, 17400, "--databases", "1", "--users", "1")
	u := g.file().Users[0].Address
	must(t, deliver(t.Context(), g.server("MBX1").SMTP, u, letter("before", u)))
	db := g.database(g.file().Users[0].Database)
	r := g.login(db.Active, 0)
	soon(t, func() error { return has(r, "before") })
	for _, s := range g.others(db.Active) {
		g.order("kill", s)
	}
	if _, err := r.store("INBOX", letter("nobody confirms", u)); !saidNo(err) {
		t.Errorf("append without quorum: %v, want NO", err)
	}
	if err := deliver(t.Context(), g.server(db.Active).SMTP, u, letter("nobody confirms this", u)); !temporary(err) {
		t.Errorf("mail that no second server can store, without quorum: %v, want a temporary error", err)
	}
	must(t, has(r, "before"))
	for _, s := range g.others(db.Active) {
		g.order("start", s)
	}
	g.inSync(time.Minute)
	must(t, deliver(t.Context(), g.server(db.Active).SMTP, u, letter("after", u)))
	soon(t, func() error { return has(r, "after") })
	g.identical()
}

// has tells whether INBOX has a message of that subject.
func has(r reader, subject string) error {
	got, err := r.subjects("INBOX")
	if err != nil {
		return err
	}
	for _, s := range got {
		if s == subject {
			return nil
		}
	}
	return fmt.Errorf("%q is not in %q", subject, got)
}
