package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
)

// recoveredRow is a row of `mailbox recover`.
type recoveredRow struct {
	Folder  string `json:"folder"`
	Subject string `json:"subject"`
	Result  string `json:"result"`
	Server  string `json:"server"`
}

// TestRecover: a user removes mail for good; it comes back from a copy that
// replays late, into the folder it was in and below a new one, and is read by
// IMAP. Nothing is doubled.
func TestRecover(t *testing.T) {
	t.Parallel()
	g := startLab(t, 29000, "--users", "1", "--databases", "1")
	g.inSync(time.Minute)
	u := g.file().Users[0]
	db := g.database(u.Database)
	late := g.others(db.Active)[1]
	must(t, g.command(t.Context(), nil, "copy", "set", db.Name, late, "--replay-lag", "7d", "--beyond-hold-time"))
	for i := range 4 {
		must(t, deliver(t.Context(), g.server(db.Active).SMTP, u.Address, letter(fmt.Sprintf("letter %d", i), u.Address)))
	}
	all := []string{"letter 0", "letter 1", "letter 2", "letter 3"}
	r := g.login(db.Active, 0)
	soon(t, func() error {
		got, err := r.subjects("INBOX")
		if err == nil {
			err = sameSubjects(got, all)
		}
		return err
	})
	want, err := r.body("INBOX", "letter 1")
	must(t, err)
	then := time.Now().UTC().Format(time.RFC3339Nano)
	let(t, 10*time.Millisecond)
	_, err = r.Select("INBOX", nil).Wait()
	must(t, err)
	must(t, r.Store(imap.SeqSetNum(1, 2, 3), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Silent: true, Flags: []imap.Flag{imap.FlagDeleted}}, nil).Close())
	must(t, r.Expunge().Close())
	got, err := r.subjects("INBOX")
	must(t, err)
	must(t, sameSubjects(got, all[3:]))

	var copies []struct {
		Server string        `json:"server"`
		InSync bool          `json:"in_sync"`
		Lag    time.Duration `json:"replay_lag"`
	}
	eventually(t, 20*time.Second, "the lagged copy is in sync", func() error {
		err := g.command(t.Context(), &copies, "copy", "status", db.Name)
		for _, c := range copies {
			if c.Server == late && (!c.InSync || c.Lag != 7*24*time.Hour) {
				return fmt.Errorf("it is %+v", c)
			}
		}
		return err
	})
	recovered := func(args ...string) (rows []recoveredRow) {
		t.Helper()
		began := time.Now()
		must(t, g.command(t.Context(), &rows, append([]string{"mailbox", "recover", u.Address, "--at", then}, args...)...))
		t.Logf("%s: %d rows after %s", strings.Join(args, " "), len(rows), time.Since(began).Round(time.Millisecond))
		for _, row := range rows {
			if row.Server != late {
				t.Errorf("%+v does not come from %s", row, late)
			}
		}
		return rows
	}
	if rows := recovered("--list"); len(rows) != 4 || rows[0].Result != "missing" || rows[3].Result != "is there" {
		t.Errorf("listed: %+v", rows)
	}
	if rows := recovered("--message", "letter-1@e2e.invalid", "--in-place"); len(rows) != 1 || rows[0].Result != "restored" || rows[0].Subject != "letter 1" {
		t.Errorf("one message: %+v", rows)
	}
	if rows := recovered(); len(rows) != 2 {
		t.Errorf("the rest: %+v", rows)
	}
	if rows := recovered("--in-place"); len(rows) != 0 {
		t.Errorf("once more: %+v", rows)
	}
	got, err = r.subjects("INBOX")
	must(t, err)
	must(t, sameSubjects(got, []string{"letter 1", "letter 3"}))
	back, err := r.body("INBOX", "letter 1")
	must(t, err)
	if string(back) != string(want) {
		t.Errorf("it came back as %q, was %q", back, want)
	}
	folders, err := r.List("", "Restored*", nil).Collect()
	must(t, err)
	i := slices.IndexFunc(folders, func(f *imap.ListData) bool { return strings.HasSuffix(f.Mailbox, "/INBOX") })
	if i < 0 {
		t.Fatalf("no folder of what came back among %d", len(folders))
	}
	got, err = r.subjects(folders[i].Mailbox)
	must(t, err)
	must(t, sameSubjects(got, []string{"letter 0", "letter 2"}))
	g.identical()
}
