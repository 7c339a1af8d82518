package sim

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/transport"
)

// folder finds a folder of a mailbox.
func (p *posted) folder(a, name string) mail.Folder {
	p.t.Helper()
	fs, err := p.Server(1).Store().Folders(p.t.Context(), p.boxes[a])
	if err != nil {
		p.t.Fatal(err)
	}
	for _, f := range fs {
		if f.Name == name {
			return f
		}
	}
	p.t.Fatalf("%s has no folder %s", a, name)
	return mail.Folder{}
}

// picture is what a mailbox shows: folders, messages, flags and numbers.
func (p *posted) picture(a string) string {
	p.t.Helper()
	var b strings.Builder
	s := p.Server(1).Store()
	fs, err := s.Folders(p.t.Context(), p.boxes[a])
	if err != nil {
		p.t.Fatal(err)
	}
	for _, f := range fs {
		fmt.Fprintf(&b, "%+v\n", f)
		ms, err := s.Messages(p.t.Context(), p.boxes[a], mail.MessagesRequest{Folder: f.ID})
		if err != nil {
			p.t.Fatal(err)
		}
		for _, m := range ms.Messages {
			fmt.Fprintf(&b, " %d %d %d %d\n", m.UID, m.ModSeq, m.Flags, m.Email)
		}
	}
	return b.String()
}

// TestActivateAtMoment: somebody destroys all mail of a database. It is brought
// back to the moment before from a lagged copy: what was there is there again, once;
// what was delivered since and destroyed too comes from Safety Net, once; the
// copies stay in sync and are the same. A dry run changes nothing.
func TestActivateAtMoment(t *testing.T) {
	t.Parallel()
	p := newPosted(t, Options{})
	ctx, s := t.Context(), p.Server(1).Store()
	ann, bob := "ann@example.test", "bob@example.test"
	begun := time.Now()
	late := another(p.number(p.mount(1, "DB01").Active))
	p.mustRun(t, 1, "copy set", fmt.Sprintf(`{"database":"DB01","server":"MBX%d","replay_lag":"1h"}`, late))
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 8 { // the mail of before
		p.mustSend(1+i%3, []string{ann, bob}[i%2])
	}
	p.arrived(1)
	in := p.folder(ann, "INBOX")
	must(s.ChangeFlags(ctx, p.boxes[ann], mail.FlagsChange{Folder: in.ID, UIDs: []mail.UIDRange{{First: 1, Last: 2}}, Op: "add", Flags: mail.Seen | mail.Flagged, Keywords: []string{"work"}}))
	then := time.Now().UTC()
	<-time.After(2 * time.Millisecond)
	at := fmt.Sprintf(`{"database":"DB01","at":%q`, then.Format(time.RFC3339Nano))
	for i := range 6 { // and of after
		p.mustSend(1+i%3, []string{ann, bob}[i%2])
	}
	p.arrived(1)
	p.settled(1)
	p.told(1)
	for _, a := range []string{ann, bob} {
		in := p.folder(a, "INBOX")
		must(s.Copy(ctx, p.boxes[a], mail.CopyRequest{Folder: in.ID, UIDs: []mail.UIDRange{{First: 1, Last: 1}, {First: 7, Last: 7}}, Target: "Trash", Move: true}))
		must(s.ChangeFlags(ctx, p.boxes[a], mail.FlagsChange{Folder: in.ID, UIDs: []mail.UIDRange{{First: 2, Last: 2}}, Op: "set", Flags: mail.Answered}))
		must(s.Expunge(ctx, p.boxes[a], mail.Expunge{Folder: in.ID, UIDs: []mail.UIDRange{{First: 3, Last: 100}}}))
	}
	before := p.picture(ann) + p.picture(bob)

	rows := p.mustRun(t, 1, "database activate", at+`,"dry_run":true}`).([]mailbox.Rewound)
	sum := rows[len(rows)-1]
	if sum.Then != 8 || sum.Back != 4 || sum.Moved != 4 || sum.Again != 4 || sum.Lost+sum.Refused != 0 || len(rows) != 3 {
		t.Errorf("dry run: %+v", rows)
	}
	if now := p.picture(ann) + p.picture(bob); now != before {
		t.Errorf("a dry run changed\n%s\nto\n%s", before, now)
	}
	if n := len(p.mustRun(t, 1, "safetynet list", "").([]transport.RequestRow)); n != 0 {
		t.Errorf("a dry run made %d requests", n)
	}
	for _, bad := range []string{begun.Add(-time.Hour).UTC().Format(time.RFC3339), time.Now().Add(time.Hour).UTC().Format(time.RFC3339), "soon"} {
		_, err := p.Server(1).Command(ctx, "database activate", fmt.Sprintf(`{"database":"DB01","at":%q}`, bad))
		if k := kind.Of(err); k != kind.NotFound && k != kind.Invalid {
			t.Errorf("%s: %v", bad, err)
		}
		t.Log(err)
	}

	rows = p.mustRun(t, 1, "database activate", at+`}`).([]mailbox.Rewound)
	t.Logf("%+v", rows)
	if done := rows[len(rows)-1]; done.Back != sum.Back || done.Moved != sum.Moved || done.Again != sum.Again || done.Flags != sum.Flags {
		t.Errorf("done: %+v\nwhat the dry run said: %+v", done, sum)
	}
	p.arrived(1) // all of it, once
	row := p.completed(1)
	if row.Delivered != 4 || row.Failed != 0 {
		t.Errorf("Safety Net: %+v", row)
	}
	p.arrived(1)
	flags := map[mail.Flags]int{}
	ms, err := s.Messages(ctx, p.boxes[ann], mail.MessagesRequest{Folder: p.folder(ann, "INBOX").ID})
	must(nil, err)
	for _, m := range ms.Messages {
		flags[m.Flags]++
	}
	if want := (map[mail.Flags]int{mail.Seen | mail.Flagged: 2, 0: 5}); !maps.Equal(flags, want) {
		t.Errorf("flags of ann's INBOX: %v, want %v", flags, want)
	}
	p.mustRun(t, 1, "copy verify", `{"bodies":true}`)
	if m := p.mount(1, "DB01"); len(m.InSync) != 3 {
		t.Errorf("%+v", m)
	}
	// Once more changes nothing.
	before = p.picture(ann) + p.picture(bob)
	rows = p.mustRun(t, 1, "database activate", at+`}`).([]mailbox.Rewound)
	if len(rows) != 1 || rows[0].Back+rows[0].Moved+rows[0].Flags+rows[0].Again != 0 {
		t.Errorf("once more: %+v", rows)
	}
	if now := p.picture(ann) + p.picture(bob); now != before {
		t.Errorf("a second run changed\n%s\nto\n%s", before, now)
	}
}
