package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
)

// rewoundRow is a row of `database activate --at`.
type rewoundRow struct {
	Mailbox string `json:"mailbox"`
	Then    int    `json:"then"`
	Back    int    `json:"back"`
	Again   int    `json:"again"`
	Result  string `json:"result"`
}

// TestActivateAt ruins all mailboxes of a database and brings it back to the
// moment before, while the server on which it is active is killed: the command
// goes on, or does so when it is given again. What was there and
// what came since is there once, read by IMAP at another server; what came since
// and was destroyed comes from Safety Net.
func TestActivateAt(t *testing.T) {
	t.Parallel()
	g := startLab(t, 24000, "--users", "3", "--databases", "1")
	g.inSync(time.Minute)
	users := g.file().Users
	db := g.database(users[0].Database)
	late := g.others(db.Active)[1]
	reads := g.others(db.Active)[0]
	must(t, g.command(t.Context(), nil, "copy", "set", db.Name, late, "--replay-lag", "7d", "--beyond-hold-time"))
	send := func(first, last int) {
		t.Helper()
		for _, u := range users {
			for i := first; i < last; i++ {
				must(t, deliver(t.Context(), g.server(db.Active).SMTP, u.Address, letter(fmt.Sprintf("letter %02d", i), u.Address)))
			}
		}
	}
	has := func(server string, n int) {
		t.Helper()
		var want []string
		for i := range n {
			want = append(want, fmt.Sprintf("letter %02d", i))
		}
		for i := range users {
			soon(t, func() error {
				r, err := login(t.Context(), g.server(server).IMAPS, g.tls, users[i].Address, users[i].Password)
				if err != nil {
					return err
				}
				defer r.Close()
				got, err := r.subjects("INBOX")
				if err == nil {
					err = sameSubjects(got, want)
				}
				return err
			})
		}
	}
	const before, all = 30, 40
	send(0, before)
	has(reads, before)
	then := time.Now().UTC().Format(time.RFC3339Nano)
	let(t, 10*time.Millisecond)
	send(before, all)
	has(reads, all)
	for i := range users { // what came before, and half of what came since
		r := g.login(reads, i)
		_, err := r.Select("INBOX", nil).Wait()
		must(t, err)
		must(t, r.Store(imap.SeqSet{{Start: 1, Stop: before + 5}}, &imap.StoreFlags{Op: imap.StoreFlagsAdd, Silent: true, Flags: []imap.Flag{imap.FlagDeleted}}, nil).Close())
		must(t, r.Expunge().Close())
	}
	g.inSync(time.Minute)

	activate := func(server string, args ...string) (sum rewoundRow, err error) {
		var rows []rewoundRow
		began := time.Now()
		err = g.at(server, &rows, append([]string{"database", "activate", db.Name, "--at", then}, args...)...)
		if err == nil {
			sum = rows[len(rows)-1]
		}
		t.Logf("%s, %v: %+v, %v after %s", server, args, sum, err, time.Since(began).Round(time.Millisecond))
		return sum, err
	}
	dry, err := activate(reads, "--dry-run")
	must(t, err)
	if dry.Then != len(users)*before || dry.Back != len(users)*before || dry.Again != len(users)*5 {
		t.Errorf("dry run: %+v", dry)
	}
	r := g.login(reads, 0)
	got, err := r.subjects("INBOX")
	must(t, err)
	if len(got) != 5 {
		t.Errorf("after a dry run there is %q", got)
	}

	ended := make(chan error, 1)
	go func() { _, err := activate(reads); ended <- err }()
	eventually(t, 20*time.Second, "some messages are back", func() error {
		got, err := r.subjects("INBOX")
		if err == nil && len(got) < 7 {
			err = fmt.Errorf("there are %d", len(got))
		}
		return err
	})
	g.order("kill", db.Active)
	if err := <-ended; err != nil {
		g.servedWithout(db.Active, 20*time.Second)
		eventually(t, 30*time.Second, "it goes on", func() error { _, err := activate(reads); return err })
	}
	has(reads, all)
	g.back(db.Active)
	g.inSync(time.Minute)
	if sum, err := activate(db.Active); err != nil || sum.Back != 0 || sum.Again != 0 {
		t.Errorf("once more: %+v, %v", sum, err)
	}
	has(db.Active, all)
	g.identical()
}
