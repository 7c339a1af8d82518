package mailbox

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/mailbox/store"
	"github.com/postern-mail/postern/internal/org"
)

// TestOfferedIsTheSameChange: a client appends through an active copy that is
// cut off and hears nothing, appends again under the same key through the new
// one, and removes the message. What the old one had is offered when it is back,
// and is the change that was made already: the message does not come back, and
// another that nobody repeated is there once.
func TestOfferedIsTheSameChange(t *testing.T) {
	g := newAgreed()
	names := []org.ServerName{"MBX1", "MBX2", "MBX3"}
	ks := map[org.ServerName]*keeper{}
	g.define(t, names...)
	old := newDisks()
	for _, n := range names {
		d := newDisks()
		if n == "MBX1" {
			d = old
		}
		ks[n] = startKeeper(t, g.server(n), d)
	}
	eventually(t, "three copies in sync", func() bool { return len(g.mount(t).InSync) == 3 })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := ks["MBX1"].Client().Setup(ctx, at, mail.MailboxSetup{Organization: "o"}); err != nil {
		t.Fatal(err)
	}
	ks["MBX1"].g.partition(true)
	end := ks["MBX1"].copy("DB01").jn.End().LSN
	repeated := mail.Append{Key: mail.Key{1}, Folder: "INBOX", Body: body(1)}
	lost := mail.Append{Key: mail.Key{2}, Folder: "INBOX", Body: body(2)}
	for _, a := range []mail.Append{repeated, lost} {
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		if _, err := ks["MBX1"].Client().Append(short, at, a); err == nil {
			t.Fatal("a copy that is cut off confirmed a change")
		}
		cancel()
	}
	eventually(t, "both are in its log", func() bool { return ks["MBX1"].copy("DB01").jn.End().LSN > end+2000 })
	m := g.mount(t)
	m.Term, m.Active, m.InSync = 2, "MBX2", []org.ServerName{"MBX2", "MBX3"}
	g.put(t, MountKey("DB01"), m)
	eventually(t, "MBX2 leads", func() bool { ready, _ := ks["MBX2"].Lead("DB01"); return ready })
	cl := ks["MBX2"].Client()
	got, err := cl.Append(ctx, at, repeated)
	if err != nil {
		t.Fatal(err)
	}
	inbox := folderNamed(ctx, t, cl, "INBOX")
	if _, err := cl.Expunge(ctx, at, mail.Expunge{Folder: inbox.ID, UIDs: []mail.UIDRange{{First: got.UID, Last: got.UID}}}); err != nil {
		t.Fatal(err)
	}
	ks["MBX1"].g.partition(false)
	aside := "/vol1/DB01/" + divergedName
	var set []string
	eventually(t, "what nobody else has is set aside", func() bool {
		set, _ = old.fs.List(aside) // not there before
		return len(set) == 1
	})
	added := 0
	for r, err := range journal.OpenAside(old.fs, filepath.Join(aside, set[0])) {
		if err != nil {
			t.Fatal(err)
		}
		arrivals, err := store.Arrivals(r.Ops)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range arrivals {
			// As MBX1 would; servers have no calls here.
			is, err := ks["MBX2"].copy("DB01").offerOne(ctx, r, a)
			if err != nil {
				t.Fatal(err)
			}
			if is {
				added++
			}
		}
	}
	if added != 1 {
		t.Errorf("%d messages are said to be new", added)
	}
	if f := folderNamed(ctx, t, cl, "INBOX"); f.Messages != 1 {
		t.Errorf("%d messages, there should be the one that was not repeated: %+v", f.Messages, f)
	}
	if again, err := cl.Append(ctx, at, lost); err != nil || folderNamed(ctx, t, cl, "INBOX").Messages != 1 {
		t.Errorf("repeated after it was offered: %+v, %v", again, err)
	}
}

func folderNamed(ctx context.Context, t *testing.T, cl *Client, name string) mail.Folder {
	t.Helper()
	all, err := cl.Folders(ctx, at)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.Name == name {
			return f
		}
	}
	t.Fatalf("no folder %s", name)
	return mail.Folder{}
}
