package store

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
)

// history is a small log with every kind of row in it.
func history(t testing.TB) *bench {
	b := newBench(t)
	b.setup(box1())
	req := delivery("one", box1())
	req.Key, req.Date = mail.Key{1}, 1_600_000_000_000_000_000
	b.must(req)
	in := b.folder(box1(), inbox)
	b.must(&FlagsReq{Mailbox: box1(), FlagsChange: mail.FlagsChange{Folder: in.ID, Op: "add", Flags: mail.Seen, Keywords: []string{"$Label"}}})
	b.must(&CopyReq{Mailbox: box1(), CopyRequest: mail.CopyRequest{Folder: in.ID, Target: "Archive"}})
	b.must(&CopyReq{Mailbox: box1(), CopyRequest: mail.CopyRequest{Folder: in.ID, Target: "Trash", Move: true}})
	b.must(&FolderReq{Mailbox: box1(), FolderChange: mail.FolderChange{Op: "create", Name: "Projekte/Größe"}})
	b.must(&FolderReq{Mailbox: box1(), FolderChange: mail.FolderChange{Op: "subscribe", Name: "Later"}})
	b.setup([16]byte{2})
	b.must(&SetupReq{Mailbox: [16]byte{2}, MailboxSetup: mail.MailboxSetup{Remove: true}})
	b.apply()
	return b
}

var update = flag.Bool("update", false, "write the golden files anew: only for a new format version")

// TestFormat1 pins ops, keys and rows of format version 1: a log written by
// the first version has to mean the same for ever.
func TestFormat1(t *testing.T) {
	b := history(t)
	var out strings.Builder
	for _, r := range b.log {
		fmt.Fprintf(&out, "record %d ops %x\n", r.LSN, r.Ops)
	}
	b.read(func(r *Reader) {
		err := each(r, []byte{0}, []byte{0xff}, func(k, v []byte) error {
			if string(k) != string(appliedKey) {
				fmt.Fprintf(&out, "%x %x\n", k, v)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	path := filepath.Join("testdata", "format-1.txt")
	if *update {
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(want) {
		t.Errorf("format 1 changed:\n%s\nwant\n%s", out.String(), want)
	}
}

// TestFormat1Opens reads what the first version wrote: its ops, in an index of
// today, give its messages.
func TestFormat1Opens(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "format-1.txt"))
	if err != nil {
		t.Fatal(err)
	}
	ix, err := Open("index", Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer ix.Close()
	var at journal.Position
	for i, line := range strings.Split(string(data), "\n") {
		_, ops, ok := strings.Cut(line, " ops ")
		if !ok {
			break
		}
		raw, err := hex.DecodeString(ops)
		if err != nil {
			t.Fatal(err)
		}
		r := journal.Record{Kind: journal.KindChange, LSN: at.LSN, Prev: at.Chain, Chain: uint32(i + 1), Ops: raw}
		if _, err := ix.Apply([]journal.Record{r}); err != nil {
			t.Fatal(err)
		}
		at = r.Next()
	}
	r := ix.Reader()
	defer r.Close()
	folders, err := r.Folders(box1())
	if err != nil || len(folders) != 7 {
		t.Fatalf("folders %+v: %v", folders, err)
	}
	got := 0
	for _, f := range folders {
		page, err := r.Messages(box1(), mail.MessagesRequest{Folder: f.ID, Summaries: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range page.Messages {
			got++
			if m.Summary.Envelope.Subject != "one" || m.Flags != mail.Seen || m.Keywords[0] != "$Label" {
				t.Errorf("message %+v in %q", m, f.Name)
			}
		}
	}
	if got != 2 {
		t.Errorf("%d messages, want 2", got)
	}
}

// FuzzOps: whatever the ops, decoding them ends with an error or with changes
// that stay away from local keys.
func FuzzOps(f *testing.F) {
	for _, r := range history(f).log {
		f.Add(r.Ops)
	}
	f.Add([]byte{2})
	f.Add([]byte{1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, ops []byte) {
		n := 0
		err := eachOp(ops, func(o op) error {
			n += len(o.key) + len(o.val)
			if len(o.key) == 0 || o.key[0] == kLocal || len(o.key) > MaxKey {
				t.Fatalf("op %+v", o)
			}
			return nil
		})
		if err != nil && !kind.Is(err, kind.Corrupt) || n > len(ops) {
			t.Fatalf("%d bytes from %d: %v", n, len(ops), err)
		}
		if _, err := Arrivals(ops); err != nil && !kind.Is(err, kind.Corrupt) {
			t.Fatal(err)
		}
	})
}

// FuzzIndex: ops of a strange peer may make any rows; readers and planner
// answer or fail, and do not panic.
func FuzzIndex(f *testing.F) {
	b := history(f)
	b.read(func(r *Reader) {
		each(r, []byte{kLocal + 1}, []byte{0xff}, func(k, v []byte) error {
			f.Add(append([]byte(nil), k...), append([]byte(nil), v...))
			return nil
		})
	})
	log := b.log
	f.Fuzz(func(t *testing.T, key, val []byte) {
		ops := appendSet(nil, key, val)
		b := newBench(t)
		if eachOp(ops, func(op) error { return nil }) != nil {
			return
		}
		b.log, b.end = log, log[len(log)-1].Next()
		b.done = 1
		b.write(journal.Record{Kind: journal.KindChange, Ops: ops})
		b.apply()
		b.read(func(r *Reader) { readAll(r) })
		for _, req := range everyRequest() {
			b.req(req)
		}
		b.plan.Reset()
	})
}

func readAll(r *Reader) {
	boxes, _ := r.Mailboxes()
	for _, m := range append(boxes, MailboxInfo{ID: box1()}) {
		describeIndex(r, m.ID)
		r.Subscriptions(m.ID)
		folders, _ := r.Folders(m.ID)
		for _, f := range folders {
			r.Changes(m.ID, mail.ChangesRequest{Folder: f.ID, Since: 1})
			r.UIDs(m.ID, f.ID)
		}
	}
	r.Blob(0)
	r.At()
}

func everyRequest() []any {
	var out []any
	req := delivery("one", box1())
	req.Key = mail.Key{1}
	out = append(out, req, delivery("two", box1()))
	for f := range 8 {
		id := mail.FolderID(f)
		out = append(out,
			&FlagsReq{Mailbox: box1(), FlagsChange: mail.FlagsChange{Key: mail.Key{9}, Folder: id, Op: "set", Flags: mail.Flagged}},
			&CopyReq{Mailbox: box1(), CopyRequest: mail.CopyRequest{Folder: id, Target: "Junk"}},
			&ExpungeReq{Mailbox: box1(), Expunge: mail.Expunge{Folder: id}})
	}
	return append(out,
		&FolderReq{Mailbox: box1(), FolderChange: mail.FolderChange{Op: "rename", Name: "Archive", NewName: "Old/Archive"}},
		&FolderReq{Mailbox: box1(), FolderChange: mail.FolderChange{Op: "delete", Name: "Sent"}},
		&SetupReq{Mailbox: box1(), MailboxSetup: mail.MailboxSetup{Remove: true}})
}
