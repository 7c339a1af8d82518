package e2e

import (
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
)

// TestQuorumLost kills two of three servers at once. The survivor goes on
// reading what is active at it, refuses changes for a while, and all comes
// back by itself.
func TestQuorumLost(t *testing.T) {
	t.Parallel()
	g := startLab(t, 41000, "--users", "3")
	const survivor = "MBX3"
	n := -1
	for i, u := range g.file().Users {
		if g.database(u.Database).Active == survivor {
			n = i
		}
	}
	if n < 0 {
		t.Fatalf("no database with users is active at %s", survivor)
	}
	u := g.file().Users[n].Address
	must(t, deliver(t.Context(), g.server("MBX1").SMTP, u, letter("before", u)))
	old := g.login(survivor, n)
	must(t, errOf(old.subjects("INBOX")))

	g.order("kill", "MBX1")
	g.order("kill", "MBX2")
	let(t, 3*time.Second) // leases of the past are over
	r := g.login(survivor, n)
	for _, session := range []reader{old, r} {
		got, err := session.subjects("INBOX")
		if err == nil {
			err = sameSubjects(got, []string{"before"})
		}
		if err != nil {
			t.Errorf("reading without a majority: %v", err)
		}
	}
	refused := make(chan error, 1)
	door := g.server(survivor).SMTP
	go func() { refused <- deliver(t.Context(), door, u, letter("meanwhile", u)) }()
	begun := time.Now()
	if _, err := r.store("INBOX", letter("append meanwhile", u)); !saidNo(err) {
		t.Errorf("an append without a majority got %v, want NO", err)
	} else {
		t.Logf("IMAP says after %s: %v", time.Since(begun).Round(time.Second), err)
	}
	if err := <-refused; !temporary(err) {
		t.Errorf("a delivery without a majority got %v, want a temporary error", err)
	} else {
		t.Logf("SMTP says: %v", err)
	}
	got, err := r.subjects("INBOX")
	if err != nil {
		t.Errorf("the session does not read any more: %v", err)
	}
	t.Logf("seen by the session: %q", got)

	g.order("start", "MBX1")
	g.order("start", "MBX2")
	g.inSync(time.Minute)
	eventually(t, 30*time.Second, "changes are confirmed again", func() error {
		return deliver(t.Context(), door, u, letter("after", u))
	})
	_, err = r.Select("INBOX", nil).Wait()
	must(t, err)
	must(t, r.Store(imap.SeqSetNum(1), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagSeen}}, nil).Close())
	g.identical()
}

func errOf[T any](_ T, err error) error { return err }
