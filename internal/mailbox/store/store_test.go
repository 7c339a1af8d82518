package store

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// bench is a database of one copy without a disk log: what is planned becomes
// records of a log in memory, which are applied when a test says so.
type bench struct {
	t    testing.TB
	fs   *vfs.MemFS
	ix   *Index
	plan *Planner
	log  []journal.Record // all records
	end  journal.Position
	done int // records applied
	now  time.Time
}

func newBench(t testing.TB) *bench {
	b := &bench{t: t, fs: vfs.NewCrashableMem(), now: time.Unix(1_700_000_000, 0)}
	b.open(b.fs)
	t.Cleanup(func() { b.ix.Close() })
	b.write(journal.Record{Kind: journal.KindTermStart}) // as every log begins
	b.apply()
	return b
}

func (b *bench) open(fs *vfs.MemFS) {
	b.t.Helper()
	ix, err := Open("index", Options{FS: fs, Identity: "db", MemTableSize: 1 << 20})
	if err != nil {
		b.t.Fatal(err)
	}
	b.fs, b.ix, b.plan = fs, ix, NewPlanner(ix, 48*time.Hour)
}

func (b *bench) write(r journal.Record) {
	r.LSN, r.Prev, r.Term, r.Chain = b.end.LSN, b.end.Chain, 1, uint32(len(b.log))+7
	r.BodyLen = len(r.Body)
	b.log = append(b.log, r)
	b.end = r.Next()
}

// req plans a request and, unless it is answered without, logs a record.
func (b *bench) req(req any) (any, error) {
	b.t.Helper()
	p, err := b.plan.Plan(req, b.end.LSN, b.now)
	if err != nil {
		return nil, err
	}
	if !p.NoOp {
		if len(p.Ops) == 0 {
			b.t.Fatalf("%T planned nothing", req)
		}
		b.write(journal.Record{Kind: journal.KindChange, Ops: p.Ops, Body: p.Body})
	}
	return p.Result, nil
}

func (b *bench) must(req any) any {
	b.t.Helper()
	res, err := b.req(req)
	if err != nil {
		b.t.Fatalf("%T: %v", req, err)
	}
	return res
}

// apply brings all records into the index.
func (b *bench) apply() {
	b.t.Helper()
	b.applySome(len(b.log) - b.done)
}

func (b *bench) applySome(n int) []Freed {
	b.t.Helper()
	freed, err := b.ix.Apply(b.log[b.done : b.done+n])
	if err != nil {
		b.t.Fatal(err)
	}
	b.done += n
	b.plan.Settled(b.ix.Applied().LSN)
	return freed
}

func (b *bench) read(fn func(r *Reader)) {
	b.t.Helper()
	r := b.ix.Reader()
	defer r.Close()
	fn(r)
}

func (b *bench) digest() string {
	b.t.Helper()
	return digestOf(b.t, b.ix)
}

// fataler is what tests of this package and of rapid have in common.
type fataler interface {
	Helper()
	Fatal(args ...any)
}

func digestOf(t fataler, ix *Index) string {
	t.Helper()
	r := ix.Reader()
	defer r.Close()
	sum, keys, err := ix.Digest(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x/%d", sum, keys)
}

// rebuilt is the digest of an index made from records alone.
func rebuilt(t fataler, log []journal.Record) string {
	t.Helper()
	ix, err := Open("rebuilt", Options{FS: vfs.NewMem(), Identity: "db", MemTableSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer ix.Close()
	if _, err := ix.Apply(log); err != nil {
		t.Fatal(err)
	}
	return digestOf(t, ix)
}

func box1() org.MailboxID { return org.MailboxID{1} }

func (b *bench) setup(id org.MailboxID) {
	b.t.Helper()
	b.must(&SetupReq{Mailbox: id, MailboxSetup: mail.MailboxSetup{Organization: "o"}})
}

func message(subject string) []byte {
	return []byte("From: a@example.test\r\nTo: b@example.test\r\nMessage-ID: <" + subject +
		"@example.test>\r\nSubject: " + subject + "\r\n\r\nhello " + subject + "\r\n")
}

func delivery(subject string, to ...org.MailboxID) *DeliverReq {
	d := &DeliverReq{Delivery: mail.Delivery{Body: message(subject), Identity: [32]byte([]byte(fmt.Sprintf("%-32.32s", subject)))}}
	for _, id := range to {
		d.Recipients = append(d.Recipients, mail.Recipient{Mailbox: org.MailboxRef{ID: id}})
	}
	return d
}

func (b *bench) folder(id org.MailboxID, name string) mail.Folder {
	b.t.Helper()
	b.apply()
	var out mail.Folder
	b.read(func(r *Reader) {
		all, err := r.Folders(id)
		if err != nil {
			b.t.Fatal(err)
		}
		for _, f := range all {
			if f.Name == name {
				out = f
			}
		}
	})
	return out
}

func wantKind(t testing.TB, err error, k kind.Kind) {
	t.Helper()
	if !kind.Is(err, k) {
		t.Fatalf("error %v, want kind %v", err, k)
	}
}

func TestLifeOfMessage(t *testing.T) {
	b := newBench(t)
	b.setup(box1())
	got := b.must(delivery("one", box1())).([]mail.Delivered)
	if got[0].UID != 1 || got[0].Email != 1 || got[0].Duplicate {
		t.Fatalf("delivered %+v", got)
	}
	again := b.must(delivery("one", box1())).([]mail.Delivered)
	if !again[0].Duplicate || again[0].UID != 1 {
		t.Fatalf("delivered again %+v", again)
	}
	in := b.folder(box1(), "INBOX")
	if in.Messages != 1 || in.Unseen != 1 || in.UIDNext != 2 {
		t.Fatalf("inbox %+v", in)
	}
	moved := b.must(&CopyReq{Mailbox: box1(), CopyRequest: mail.CopyRequest{Folder: in.ID, Target: "Archive", Move: true}}).(mail.Copied)
	if len(moved.Source) != 1 || moved.Target[0] != 1 {
		t.Fatalf("moved %+v", moved)
	}
	ar := b.folder(box1(), "Archive")
	b.read(func(r *Reader) {
		page, err := r.Messages(box1(), mail.MessagesRequest{Folder: ar.ID, Summaries: true})
		if err != nil || len(page.Messages) != 1 || page.Messages[0].Summary.Envelope.Subject != "one" {
			t.Fatalf("page %+v: %v", page, err)
		}
		lsn, size, ok := r.Blob(page.Messages[0].Blob)
		if !ok || size != int64(len(message("one"))) || b.ix.BodyDead(lsn) {
			t.Fatalf("blob at %d, %d bytes, %v", lsn, size, ok)
		}
		ch, err := r.Changes(box1(), mail.ChangesRequest{Folder: in.ID, Since: 1})
		if err != nil || len(ch.Vanished) != 1 || len(ch.Messages) != 0 {
			t.Fatalf("changes %+v: %v", ch, err)
		}
	})
	b.must(&ExpungeReq{Mailbox: box1(), Expunge: mail.Expunge{Folder: ar.ID}})
	freed := b.applySome(1)
	if len(freed) != 1 || !b.ix.BodyDead(org.LSN(freed[0])) {
		t.Fatalf("freed %v", freed)
	}
	if d := rebuilt(t, b.log); d != b.digest() {
		t.Fatal("rebuilt index differs")
	}
}
