package e2e

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestPausedActive stops a server that holds the active copy, with changes on
// their way to it, long enough for another to take over, and lets it go on.
func TestPausedActive(t *testing.T) {
	t.Parallel()
	g := startLab(t, 13800, "--users", "3")
	c := g.load()
	c.goesOn(20 * time.Second)
	was := g.database("DB01")
	owner := g.file().Users[0].Address // lives in DB01
	late := halfSent(t, g.server(was.Active).SMTP, owner, "for the zombie")

	c.target.SetDown(was.Active, true)
	g.order("pause", was.Active)
	// The rest of the message waits in the kernel's buffers until the server
	// wakes up in a world that went on.
	late.finish()
	g.servedWithout(was.Active, 20*time.Second)
	c.goesOn(20 * time.Second)
	let(t, 5*time.Second)
	g.order("resume", was.Active)

	answer := late.answer()
	t.Logf("the woken server says to a late message: %s", answer)
	g.inSync(time.Minute)
	c.target.SetDown(was.Active, false)
	if now := g.database("DB01"); now.Term <= was.Term {
		t.Errorf("term %d after a failover, it was %d", now.Term, was.Term)
	}
	c.goesOn(20 * time.Second)
	c.nothingLost()
	got, err := g.login(g.others(was.Active)[0], 0).subjects("INBOX")
	must(t, err)
	n := 0
	for _, s := range got {
		if s == "for the zombie" {
			n++
		}
	}
	if n > 1 || strings.HasPrefix(answer, "250") && n != 1 {
		t.Errorf("the late message was answered %q and is there %d times", answer, n)
	}
	g.identical()
}

// TestPartitionedActive cuts the server with the active copy off from the
// others; its doors stay open to clients.
func TestPartitionedActive(t *testing.T) {
	t.Parallel()
	needPacketFilter(t)
	g := startLab(t, 14400, "--users", "3")
	c := g.load()
	c.goesOn(20 * time.Second)
	was := g.database("DB01")
	owner := g.file().Users[0].Address

	c.target.SetDown(was.Active, true)
	g.order("partition", was.Active)
	asked := make(chan error, 1)
	door := g.server(was.Active).SMTP
	go func() { asked <- deliver(t.Context(), door, owner, letter("to the cut-off", owner)) }()
	survivor := g.others(was.Active)[0]
	eventually(t, 30*time.Second, "the others take over", func() error {
		// The answer has to come from a survivor: the cut-off server knows the
		// past only.
		var d database
		if err := g.at(survivor, &d, "database", "show", "DB01"); err != nil {
			return err
		}
		if d.Active == was.Active || d.Term <= was.Term {
			return fmt.Errorf("DB01 is active at %s in term %d", d.Active, d.Term)
		}
		return nil
	})
	c.goesOn(20 * time.Second)
	let(t, 5*time.Second)
	var err error
	select {
	case err = <-asked:
		if err == nil {
			t.Error("the server that is cut off confirmed a delivery")
		}
		g.order("heal", was.Active)
	default: // it still makes its client wait, which confirms nothing
		g.order("heal", was.Active)
		err = <-asked
	}
	t.Logf("the client of the server that was cut off heard: %v", err)
	if err != nil && !temporary(err) {
		t.Errorf("want a delivery after all or a temporary error, got %v", err)
	}
	g.inSync(time.Minute)
	c.target.SetDown(was.Active, false)
	c.goesOn(20 * time.Second)
	c.nothingLost()
	g.identical()
}

// needPacketFilter fails a test that could not do what it is for.
func needPacketFilter(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("a partition needs root: run the tests as root")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Fatal("a partition needs nft: apt-get install nftables")
	}
}

// sending is a message whose end is not sent yet.
type sending struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
}

// halfSent begins a delivery and stops before the end of the data.
func halfSent(t *testing.T, addr, to, subject string) sending {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	must(t, c.SetDeadline(time.Now().Add(2*answerWait)))
	s := sending{t, c, bufio.NewReader(c)}
	s.line() // greeting
	for _, cmd := range []string{"EHLO sender.invalid", "MAIL FROM:<tester@sender.invalid>", "RCPT TO:<" + to + ">", "DATA"} {
		s.say(cmd + "\r\n")
		if a := s.line(); a[0] != '2' && a[0] != '3' {
			t.Fatalf("%s: %s", cmd, a)
		}
	}
	s.say(string(letter(subject, to)))
	return s
}

func (s sending) say(text string) {
	s.t.Helper()
	_, err := s.c.Write([]byte(text))
	must(s.t, err)
}

// line is the last line of the next answer.
func (s sending) line() string {
	s.t.Helper()
	for {
		l, err := s.r.ReadString('\n')
		must(s.t, err)
		if len(l) < 4 || l[3] != '-' {
			return strings.TrimSpace(l)
		}
	}
}

func (s sending) finish()        { s.t.Helper(); s.say(".\r\n") }
func (s sending) answer() string { s.t.Helper(); return s.line() }
