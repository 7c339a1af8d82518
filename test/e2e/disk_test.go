package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/test/rig"
)

// TestFullDisk fills the disk of one server, then those of all, and gives the
// space back. What is active at a full server answers changes with temporary
// errors and its mail waits, what is active elsewhere goes on. The volumes are small so that filling them is quick.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	g := startLab(t, 15000, "--users", "3", "--databases", "3", "--volumes", "1", "--volume-size", fmt.Sprint(512<<20))
	c := g.load()
	c.goesOn(20 * time.Second)
	full := g.database("DB01").Active

	g.order("fill-disk", full)
	g.told(full, "Vol1 has less than its reserve")
	for _, user := range g.file().Users {
		err := deliver(t.Context(), g.server("MBX2").SMTP, user.Address, letter("while one disk is full", user.Address))
		if here := g.database(user.Database).Active == full; err != nil && (!here || !temporary(err)) {
			t.Errorf("%s, with the active copy at the full server: %t: %v", user.Address, here, err)
		}
	}
	g.order("free-disk", full)
	g.told(full, "Vol1 has space again")
	g.inSync(time.Minute)
	c.goesOn(20 * time.Second)

	for _, s := range g.file().Servers {
		g.order("fill-disk", s.Name)
	}
	u := g.file().Users[0].Address
	r := g.login("MBX3", 0)
	eventually(t, 30*time.Second, "an append is refused", func() error {
		_, err := r.store("INBOX", letter("append to a full disk", u))
		if err == nil {
			return errors.New("was accepted")
		}
		if !saidNo(err) {
			t.Fatalf("a full disk is told as %v", err)
		}
		t.Logf("IMAP says: %v", err)
		return nil
	})
	// Mail waits in the queues, which have a disk of their own.
	must(t, deliver(t.Context(), g.server("MBX2").SMTP, u, letter("to a full disk", u)))
	if has(r, "to a full disk") == nil {
		t.Error("a full disk took a message")
	}
	if _, err := r.subjects("INBOX"); err != nil {
		t.Errorf("reading with full disks: %v", err)
	}
	for _, s := range g.file().Servers {
		g.order("free-disk", s.Name)
	}
	c.goesOn(30 * time.Second)
	g.inSync(time.Minute)
	soon(t, func() error { return has(r, "to a full disk") })
	c.nothingLost()
	g.identical()
}

// TestCorrupt flips bytes in a passive copy and in the active one below the
// running servers.
func TestCorrupt(t *testing.T) {
	t.Parallel()
	g := startLab(t, 15600, "--users", "1", "--databases", "1", "--volumes", "1")
	u := g.file().Users[0].Address
	var want []string
	for i := range 20 {
		s := fmt.Sprintf("precious %02d", i)
		raw := append(letter(s, u), bytes.Repeat([]byte("precious words\r\n"), 1000)...)
		must(t, deliver(t.Context(), g.server("MBX1").SMTP, u, raw))
		want = append(want, s)
	}
	active := g.database("DB01").Active
	for _, server := range []string{g.others(active)[0], active} {
		g.order("corrupt", server, "--database", "DB01")
		var found struct {
			Damaged  int `json:"damaged"`
			Repaired int `json:"repaired"`
		}
		must(t, g.command(t.Context(), &found, "copy", "scrub", "DB01", server))
		if found.Damaged == 0 || found.Damaged != found.Repaired {
			t.Errorf("scrub of %s: %+v", server, found)
		}
		g.told(server, "was repaired from")
		g.inSync(30 * time.Second)
		g.identical()
	}
	r := g.login("MBX2", 0)
	got, err := r.subjects("INBOX")
	must(t, err)
	if err := sameSubjects(got, want); err != nil {
		t.Error(err)
	}
	for _, s := range want {
		raw, err := r.body("INBOX", s)
		must(t, err)
		if !bytes.HasSuffix(raw, append(letter(s, u), bytes.Repeat([]byte("precious words\r\n"), 1000)...)) {
			t.Errorf("%s came back damaged", s)
		}
	}
}

// told waits for an operator's event at a server.
func (g *group) told(server, words string) {
	g.t.Helper()
	eventually(g.t, 20*time.Second, server+" tells: "+words, func() error {
		out, err := postern.run(g.t.Context(), "--socket", g.server(server).Socket, "event", "list")
		if err == nil && !strings.Contains(string(out), words) {
			err = fmt.Errorf("no such event:\n%s", out)
		}
		return err
	})
}

// at runs a command at one server of the lab.
func (g *group) at(server string, out any, args ...string) error {
	b, err := postern.run(g.t.Context(), append([]string{"--socket", g.server(server).Socket, "--json", "--yes"}, args...)...)
	return rig.Decode(b, err, out, args)
}
