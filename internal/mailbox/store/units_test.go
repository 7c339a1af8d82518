package store

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
)

func TestCanonical(t *testing.T) {
	long := strings.Repeat("x", 1024)
	for in, want := range map[string]string{
		"inbox": "INBOX", "Inbox/A": "INBOX/A", "inboxes": "inboxes", "A/inbox": "A/inbox",
		"e\u0301": "é", long: long, strings.Repeat("a/", 99) + "a": strings.Repeat("a/", 99) + "a",
	} {
		if got, err := canonical(in); err != nil || got != want {
			t.Errorf("%.40q: %.40q, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "/", "a/", "/a", "a//b", "a\x00", "a\nb", "a\u0085", "\xff", long + "x", strings.Repeat("a/", 100) + "a", "a\u2028"} {
		if got, err := canonical(in); !kind.Is(err, kind.Invalid) {
			t.Errorf("%.40q: %.40q, %v", in, got, err)
		}
	}
}

func TestKeywords(t *testing.T) {
	b := newBench(t)
	b.setup(box1())
	b.must(delivery("one", box1()))
	in := b.folder(box1(), inbox)
	change := func(op string, words ...string) mail.FlagsChanged {
		return b.must(&FlagsReq{Mailbox: box1(), FlagsChange: mail.FlagsChange{Folder: in.ID, Op: op, Keywords: words}}).(mail.FlagsChanged)
	}
	for _, c := range []struct {
		op    string
		words []string
		want  string
	}{
		{"add", []string{"Work", "$Junk"}, "$Junk Work"},
		{"add", []string{"WORK"}, "$Junk Work"},
		{"set", []string{"work", "b"}, "b Work"},
		{"remove", []string{"wOrk"}, "b"},
		{"set", nil, ""},
	} {
		if got := strings.Join(change(c.op, c.words...).Messages[0].Keywords, " "); got != c.want {
			t.Errorf("%s %v: %q, want %q", c.op, c.words, got, c.want)
		}
	}
	for _, bad := range []string{"", "a b", `\Seen`, "a(", "ü", strings.Repeat("x", 201)} {
		_, err := b.req(&FlagsReq{Mailbox: box1(), FlagsChange: mail.FlagsChange{Folder: in.ID, Op: "add", Keywords: []string{bad}}})
		wantKind(t, err, kind.Invalid)
	}
	many := make([]string, maxKeywords)
	for i := range many {
		many[i] = fmt.Sprint("k", i)
	}
	change("add", many...)
	_, err := b.req(&FlagsReq{Mailbox: box1(), FlagsChange: mail.FlagsChange{Folder: in.ID, Op: "add", Keywords: []string{"one-more"}}})
	wantKind(t, err, kind.Invalid)
}

func TestFlagsRepeated(t *testing.T) {
	b := newBench(t)
	b.setup(box1())
	b.must(delivery("one", box1()))
	in := b.folder(box1(), inbox)
	req := &FlagsReq{Mailbox: box1(), FlagsChange: mail.FlagsChange{Key: mail.Key{1}, Folder: in.ID, Op: "add", Flags: mail.Seen}}
	first := b.must(req).(mail.FlagsChanged)
	p, err := b.plan.Plan(req, b.end.LSN, b.now)
	if again := p.Result.(mail.FlagsChanged); err != nil || !p.NoOp || again.ModSeq != first.ModSeq || len(again.Messages) != 1 || p.DependsOn == 0 {
		t.Fatalf("again %+v: %v", p, err)
	}
	other := *req
	other.Mailbox = [16]byte{9}
	_, err = b.req(&other)
	wantKind(t, err, kind.Invalid)
}

// TestWindows: keys are forgotten after their hour and identities after 48 h,
// rows and time rows alike.
func TestWindows(t *testing.T) {
	b := newBench(t)
	b.setup(box1())
	for i := range 20 {
		req := delivery(fmt.Sprint(i), box1())
		req.Key = mail.Key{byte(i + 1)}
		b.must(req)
	}
	b.apply()
	rows := func(k byte) (n int) {
		b.apply()
		b.read(func(r *Reader) { each(r, []byte{k}, []byte{k + 1}, func(_, _ []byte) error { n++; return nil }) })
		return n
	}
	b.now = b.now.Add(47 * time.Hour)
	if d := b.must(delivery("3", box1())).([]mail.Delivered); !d[0].Duplicate {
		t.Fatal("identity forgotten within 48 h")
	}
	for i := range 10 {
		b.must(delivery(fmt.Sprint("later", i), box1()))
	}
	if n, at := rows(kDone), rows(kDoneAt); n != 0 || at != 0 {
		t.Errorf("%d keys and %d of their times are left", n, at)
	}
	b.now = b.now.Add(2 * time.Hour)
	renewed := b.now
	if d := b.must(delivery("3", box1())).([]mail.Delivered); d[0].Duplicate {
		t.Fatal("identity remembered after 48 h")
	}
	for i := range 10 {
		b.must(delivery(fmt.Sprint("last", i), box1()))
	}
	if n, at := rows(kSeen), rows(kSeenAt); n != 21 || at != 21 {
		t.Errorf("%d identities and %d of their times, want 21", n, at)
	}
	b.read(func(r *Reader) {
		e, at, known, err := r.DeliveryKnown(box1(), delivery("3").Identity)
		if !known || err != nil || e == 0 || at != renewed.UnixNano() {
			t.Errorf("renewed identity is not known: email %d at %d, %v", e, at, err)
		}
	})
}

func TestVanishedAreBounded(t *testing.T) {
	b := newBench(t)
	b.setup(box1())
	for i := range 60 {
		b.must(delivery(fmt.Sprint(i), box1()))
	}
	in := b.folder(box1(), inbox)
	// Small steps towards the limit, without making 10,000 messages: pretend
	// that a row holds many ranges.
	p := b.plan
	t1 := &txn{p: p, at: b.end.LSN, now: b.now.UnixNano(), local: map[string][]byte{}}
	bx, err := t1.mustBox(box1())
	if err != nil {
		t.Fatal(err)
	}
	var ranges []mail.UIDRange
	for i := range 5000 {
		ranges = append(ranges, mail.UIDRange{First: mail.UID(1_000_000 + 2*i), Last: mail.UID(1_000_000 + 2*i)})
	}
	for range 3 {
		if _, err := t1.touch(bx, in.ID); err != nil {
			t.Fatal(err)
		}
		if err := t1.vanish(bx, in.ID, ranges); err != nil {
			t.Fatal(err)
		}
		if err := t1.finish(); err != nil {
			t.Fatal(err)
		}
		t1.publish()
		b.write(journal.Record{Kind: journal.KindChange, Ops: t1.ops})
		b.apply()
		t1 = &txn{p: p, at: b.end.LSN, now: b.now.UnixNano(), local: map[string][]byte{}}
		bx, err = t1.mustBox(box1())
		if err != nil {
			t.Fatal(err)
		}
	}
	if bx.row.Vanished != 10_000 || bx.row.Floor == 0 {
		t.Fatalf("mailbox %+v", bx.row)
	}
	b.read(func(r *Reader) {
		old, err := r.Changes(box1(), mail.ChangesRequest{Folder: in.ID, Since: bx.row.Floor - 1})
		if err != nil || !old.Reset {
			t.Errorf("changes since before the floor: reset %v, %v", old.Reset, err)
		}
		f, err := r.folder(box1(), in.ID)
		if err != nil {
			t.Fatal(err)
		}
		now, err := r.Changes(box1(), mail.ChangesRequest{Folder: in.ID, Since: f.HighestModSeq})
		if err != nil || now.Reset {
			t.Errorf("changes since now: %+v, %v", now, err)
		}
	})
}

func TestSpecialUse(t *testing.T) {
	b := newBench(t)
	b.setup(box1())
	create := func(name, use string) error {
		_, err := b.req(&FolderReq{Mailbox: box1(), FolderChange: mail.FolderChange{Op: "create", Name: name, SpecialUse: use}})
		return err
	}
	wantKind(t, create("x", `\Sent`), kind.Exists)
	wantKind(t, create("x", `\Bogus`), kind.Invalid)
	wantKind(t, create("inbox", ""), kind.Exists)
	if err := create("x", `\All`); err != nil {
		t.Fatal(err)
	}
	if f := b.folder(box1(), "x"); f.SpecialUse != `\All` || f.UIDValidity <= 1_700_000_000 {
		t.Errorf("folder %+v", f)
	}
}

// TestIdentitiesAreNotReused is promise 1 over the end of folders and mailboxes.
func TestIdentitiesAreNotReused(t *testing.T) {
	b := newBench(t)
	b.setup(box1())
	b.must(delivery("one", box1()))
	first := b.folder(box1(), inbox)
	b.must(&FolderReq{Mailbox: box1(), FolderChange: mail.FolderChange{Op: "delete", Name: "Sent"}})
	b.must(&FolderReq{Mailbox: box1(), FolderChange: mail.FolderChange{Op: "create", Name: "Sent"}})
	sent := b.folder(box1(), "Sent")
	b.must(&SetupReq{Mailbox: box1(), MailboxSetup: mail.MailboxSetup{Remove: true}})
	b.setup(box1())
	got := b.must(delivery("one", box1())).([]mail.Delivered)
	again := b.folder(box1(), inbox)
	if again.ID <= sent.ID || again.UIDValidity <= sent.UIDValidity || sent.UIDValidity <= first.UIDValidity ||
		again.HighestModSeq <= sent.HighestModSeq || got[0].Email <= 1 {
		t.Errorf("first %+v, sent %+v, again %+v, delivered %+v", first, sent, again, got)
	}
	if rebuilt(t, b.log) != b.digest() {
		t.Error("rebuilt index differs")
	}
}

func TestThreads(t *testing.T) {
	b := newBench(t)
	b.setup(box1())
	send := func(id, refs string) mail.EmailID {
		body := "Message-ID: <" + id + ">\r\n"
		if refs != "" {
			body += "References: " + refs + "\r\n"
		}
		d := &DeliverReq{Delivery: mail.Delivery{Body: []byte(body + "\r\nx"), Recipients: []mail.Recipient{{}}}}
		d.Recipients[0].Mailbox.ID = box1()
		return b.must(d).([]mail.Delivered)[0].Email
	}
	send("a", "")
	send("c", "<a> <b>") // its parent b comes later
	send("b", "<a>")
	send("z", "")
	in := b.folder(box1(), inbox)
	var threads []mail.ThreadID
	b.read(func(r *Reader) {
		page, err := r.Messages(box1(), mail.MessagesRequest{Folder: in.ID})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range page.Messages {
			threads = append(threads, m.Thread)
		}
	})
	if !slices.Equal(threads, []mail.ThreadID{1, 1, 1, 4}) {
		t.Errorf("threads %v", threads)
	}
	b.must(&ExpungeReq{Mailbox: box1(), Expunge: mail.Expunge{Folder: in.ID}})
	b.apply()
	b.read(func(r *Reader) {
		for _, k := range []byte{kThread, kEmail, kSummary, kMessage, kChange, kBlob, kBody} {
			each(r, []byte{k}, []byte{k + 1}, func(key, _ []byte) error {
				t.Errorf("key %x is left of an empty mailbox", key)
				return nil
			})
		}
	})
}

func TestArrivals(t *testing.T) {
	b := newBench(t)
	b.setup(box1())
	b.setup([16]byte{2})
	b.must(delivery("one", box1(), [16]byte{2}))
	got, err := Arrivals(b.log[len(b.log)-1].Ops)
	if err != nil || len(got) != 2 || got[1].Mailbox != [16]byte{2} || got[0].Message.UID != 1 {
		t.Fatalf("arrivals %+v: %v", got, err)
	}
	b.must(&AppendReq{Mailbox: box1(), Append: mail.Append{Key: mail.Key{7}, Folder: inbox, Body: []byte("Subject: two\r\n\r\n")}})
	if got, err := Arrivals(b.log[len(b.log)-1].Ops); err != nil || len(got) != 1 || got[0].Key != (mail.Key{7}) {
		t.Fatalf("arrivals %+v: %v", got, err)
	}
	in := b.folder(box1(), inbox)
	b.must(&CopyReq{Mailbox: box1(), CopyRequest: mail.CopyRequest{Folder: in.ID, Target: "Sent"}})
	b.must(&CompactReq{Records: b.log[3:4]})
	for _, r := range b.log[5:] {
		if got, err := Arrivals(r.Ops); err != nil || len(got) != 0 {
			t.Errorf("arrivals %+v: %v", got, err)
		}
	}
}

func TestCheckpoint(t *testing.T) {
	b := history(t)
	if err := b.ix.Checkpoint("marks/1"); err != nil {
		t.Fatal(err)
	}
	want, at := b.digest(), b.ix.Applied()
	b.must(delivery("more", box1()))
	b.apply()
	ck, err := Open("marks/1", Options{FS: b.fs.CrashClone(vfs.CrashCloneCfg{}), Identity: "db"})
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	if ck.Applied() != at || digestOf(t, ck) != want {
		t.Errorf("checkpoint is at %v, want %v", ck.Applied(), at)
	}
	if m := b.ix.Metrics(); m.Disk == 0 || m.Memory == 0 {
		t.Errorf("metrics %+v", m)
	}
}

func TestApplyRefusesGaps(t *testing.T) {
	b := history(t)
	last := b.log[len(b.log)-1]
	for name, change := range map[string]func(*journal.Record){
		"again":         func(*journal.Record) {},
		"gap":           func(r *journal.Record) { r.LSN = b.end.LSN + 8 },
		"other history": func(r *journal.Record) { r.LSN, r.Prev = b.end.LSN, b.end.Chain+1 },
	} {
		r := last
		change(&r)
		_, err := b.ix.Apply([]journal.Record{r})
		if !kind.Is(err, kind.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	bad := journal.Record{Kind: journal.KindChange, LSN: b.end.LSN, Prev: b.end.Chain, Ops: []byte{9}}
	_, err := b.ix.Apply([]journal.Record{bad})
	wantKind(t, err, kind.Corrupt)
	bad.Kind = journal.KindMarker // its payload is not ours
	if _, err := b.ix.Apply([]journal.Record{bad}); err != nil {
		t.Error(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	b := history(t)
	if err := b.ix.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := Open("index", Options{FS: b.fs, Identity: "other"})
	wantKind(t, err, kind.Invalid)

	// A format of the future, and rows without a format.
	for name, row := range map[string][]byte{"future": {0xa1, 1, 2}, "junk": {0xff}, "none": nil} {
		fs := vfs.NewMem()
		db, err := pebble.Open("index", &pebble.Options{FS: fs, FormatMajorVersion: fileFormat, Logger: logger{}})
		if err != nil {
			t.Fatal(err)
		}
		db.Set([]byte("x"), nil, nil)
		if row != nil {
			db.Set(metaKey, row, nil)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := Open("index", Options{FS: fs}); !kind.Is(err, kind.Corrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDamageIsFound flips a byte in every table and manifest: the index does
// not open, or reads fail, or it is what the log made of it up to the position
// it tells (the end of a damaged manifest is taken for one that was torn).
func TestDamageIsFound(t *testing.T) {
	b := history(t)
	want := b.digest()
	if err := b.ix.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := b.fs.List("index")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, name := range names {
		if !strings.HasSuffix(name, ".sst") && !strings.HasPrefix(name, "MANIFEST") {
			continue
		}
		for _, part := range []int{1, 2, 3, 4, 5} {
			want := want
			fs := b.fs.CrashClone(vfs.CrashCloneCfg{})
			flip(t, fs, fs.PathJoin("index", name), part)
			ix, err := Open("index", Options{FS: fs, Identity: "db"})
			if err != nil {
				wantKind(t, err, kind.Corrupt)
				found++
				continue
			}
			r := ix.Reader()
			sum, keys, err := ix.Digest(t.Context(), r)
			at := slices.IndexFunc(b.log, func(r journal.Record) bool { return r.LSN == ix.Applied().LSN })
			if at >= 0 {
				want = rebuilt(t, b.log[:at])
			}
			if err == nil && fmt.Sprintf("%x/%d", sum, keys) != want {
				t.Errorf("%s: reads wrong", name)
			} else if err != nil {
				wantKind(t, err, kind.Corrupt)
				found++
			}
			r.Close()
			ix.Close()
		}
	}
	if found == 0 {
		t.Error("no damage was found: the test does not damage")
	}
}

func flip(t *testing.T, fs vfs.FS, path string, part int) {
	t.Helper()
	f, err := fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	one := make([]byte, 1)
	at := st.Size() * int64(part) / 6
	if _, err := f.ReadAt(one, at); err != nil {
		t.Fatal(err)
	}
	one[0] ^= 0x10
	if _, err := f.WriteAt(one, at); err != nil {
		t.Fatal(err)
	}
}

// TestManifestFails: a disk that is full in the worst moment takes the index
// out of use, and nothing else.
func TestManifestFails(t *testing.T) {
	mem := vfs.NewCrashableMem()
	var full atomic.Bool
	fsys := errorfs.Wrap(mem, errorfs.InjectorFunc(func(o errorfs.Op) error {
		if full.Load() && o.Kind.ReadOrWrite() == errorfs.OpIsWrite && strings.Contains(o.Path, "MANIFEST") {
			return &fs.PathError{Op: "write", Path: o.Path, Err: syscall.ENOSPC}
		}
		return nil
	}))
	ix, err := Open("index", Options{FS: fsys, Identity: "db"})
	if err != nil {
		t.Fatal(err)
	}
	p := NewPlanner(ix, 48*time.Hour)
	out, err := p.Plan(&SetupReq{Mailbox: box1()}, 0, time.Unix(1_700_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	rec := journal.Record{Kind: journal.KindChange, Ops: out.Ops, Chain: 1}
	if _, err := ix.Apply([]journal.Record{rec}); err != nil {
		t.Fatal(err)
	}
	full.Store(true)
	wantKind(t, ix.Flush(), kind.Full)
	rec2 := journal.Record{Kind: journal.KindChange, Ops: out.Ops, LSN: rec.Next().LSN, Prev: 1, Chain: 2}
	_, err = ix.Apply([]journal.Record{rec2})
	wantKind(t, err, kind.Full)
	r := ix.Reader()
	_, err = r.Usage(box1())
	wantKind(t, err, kind.Full)
	r.Close()
	ix.Close() // reports, does not panic
	again, err := Open("index", Options{FS: mem.CrashClone(vfs.CrashCloneCfg{}), Identity: "db"})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := again.Apply([]journal.Record{rec}); err != nil && again.Applied().LSN == 0 {
		t.Fatal(err)
	}
}

func TestTooLarge(t *testing.T) {
	tx := &txn{local: map[string][]byte{}}
	tx.set([]byte("key"), make([]byte, MaxOps))
	wantKind(t, tx.err, kind.Invalid)
	if len(tx.ops) != 0 {
		t.Error("ops grew")
	}
}

func TestClosedReader(t *testing.T) {
	b := history(t)
	b.ix.Close()
	r := b.ix.Reader()
	_, err := r.Mailboxes()
	wantKind(t, err, kind.Busy)
	if err := errors.Join(r.Close(), b.ix.Close()); err != nil {
		t.Error(err)
	}
}
