package mailbox

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/mailbox/store"
	"github.com/postern-mail/postern/internal/org"
)

// keepsPast starts a server whose copy keeps checkpoints.
func keepsPast(t *testing.T, d disks) *keeper {
	t.Helper()
	g := newAgreed()
	g.define(t, "MBX1")
	return keepsPastOf(t, g, d)
}

func keepsPastOf(t *testing.T, g *agreed, d disks) *keeper {
	t.Helper()
	cfg := testConfig()
	cfg.CheckpointEvery, cfg.CheckpointKeep = 10*time.Hour, 20*time.Hour // taken by the test
	mailboxes := func(mail.Address) (org.MailboxRef, bool) { return at, true }
	return startOn(t, g.server("MBX1"), cfg, Deps{FS: d.fs, IndexFS: d.ix, Mailbox: mailboxes})
}

// big is a message with whole blocks of the disk, that can be given back.
func big(i int) []byte { return append(body(i), make([]byte, 16<<10)...) }

// pastPicture is all that a past shows of the mailbox, bodies included.
func pastPicture(ctx context.Context, p *Past) (string, error) {
	var b strings.Builder
	fs, err := p.Folders(ctx, at.ID)
	if err != nil {
		return "", err
	}
	for _, f := range fs {
		fmt.Fprintf(&b, "%s next %d modseq %d messages %d\n", f.Name, f.UIDNext, f.HighestModSeq, f.Messages)
		ms, err := p.Messages(ctx, at.ID, mail.MessagesRequest{Folder: f.ID})
		if err != nil {
			return "", err
		}
		for _, m := range ms.Messages {
			raw, err := p.Body(ctx, m)
			if err != nil {
				return "", err
			}
			head, _, _ := strings.Cut(string(raw), "\r\n\r\n")
			fmt.Fprintf(&b, " %d modseq %d flags %d size %d %q %d\n", m.UID, m.ModSeq, m.Flags, m.Size, head, len(raw))
		}
	}
	return b.String(), nil
}

// settle makes what is applied durable and gives back what may be.
func (c *dbCopy) settleForTest(t *testing.T) {
	t.Helper()
	if err := c.index().Flush(); err != nil {
		t.Fatal(err)
	}
	c.punchFreed()
	c.dropTrimmed()
}

// TestPastIsWhatWasThere compares moments with a record of what was there, while
// messages go, their log is written again and dropped, and the copy is started
// anew.
func TestPastIsWhatWasThere(t *testing.T) {
	g, d := newAgreed(), newDisks()
	g.define(t, "MBX1")
	k := keepsPastOf(t, g, d)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := k.Client()
	if err := s.Setup(ctx, at, mail.MailboxSetup{}); err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	type shot struct {
		at      time.Time
		picture string
	}
	var shots []shot
	for i := range 24 {
		if i == 4 || i == 12 {
			if err := k.copy("DB01").takeCheckpoint(); err != nil {
				t.Fatal(err)
			}
		}
		fs, err := s.Folders(ctx, at)
		if err != nil {
			t.Fatal(err)
		}
		inbox := fs[0]
		switch n := rnd.IntN(4); {
		case n == 0 && inbox.Messages > 3:
			_, err = s.Expunge(ctx, at, mail.Expunge{Folder: inbox.ID, UIDs: []mail.UIDRange{{First: 1, Last: inbox.UIDNext - 3}}})
		case n == 1 && inbox.Messages > 0:
			_, err = s.ChangeFlags(ctx, at, mail.FlagsChange{Folder: inbox.ID, UIDs: []mail.UIDRange{{First: 1, Last: inbox.UIDNext}}, Op: "add", Flags: mail.Flags(1 << rnd.IntN(3))})
		default:
			_, err = s.Append(ctx, at, mail.Append{Folder: "INBOX", Body: big(i)})
		}
		if err != nil {
			t.Fatal(err)
		}
		k.copy("DB01").settleForTest(t)
		p, err := picture(ctx, s)
		if err != nil {
			t.Fatal(err)
		}
		shots = append(shots, shot{time.Now(), p})
	}
	if _, err := s.Expunge(ctx, at, mail.Expunge{Folder: 1}); err != nil {
		t.Fatal(err)
	}
	c := k.copy("DB01")
	c.settleForTest(t)
	for range 6 { // the log of what is shown is written again, and is to go
		if _, err := c.reclaim(ctx, true); err != nil {
			t.Fatal(err)
		}
		c.settleForTest(t)
	}
	compare := func(when string) {
		t.Helper()
		for _, i := range []int{4, 7, 11, 12, 17, 23} {
			p, err := k.OpenPast(ctx, "DB01", shots[i].at, "", nil)
			if err != nil {
				t.Fatalf("%s, step %d: %v", when, i, err)
			}
			got, err := pastPicture(ctx, p)
			if err != nil || got != shots[i].picture {
				t.Errorf("%s, step %d: %v\n%s\nwant\n%s", when, i, err, got, shots[i].picture)
			}
			p.Close()
			eventually(t, "the scratch index is gone", func() bool {
				names, err := d.ix.List(filepath.Join(c.dir, pastName))
				return err == nil && len(names) == 0
			})
		}
	}
	compare("as it ran")
	if _, err := k.OpenPast(ctx, "DB01", shots[1].at, "", nil); !kind.Is(err, kind.NotFound) {
		t.Errorf("a moment before all that is kept: %v", err)
	}
	k.stop()
	k = keepsPastOf(t, g, d)
	eventually(t, "mounted again", func() bool { ready, _ := k.Lead("DB01"); return ready })
	c = k.copy("DB01")
	c.settleForTest(t)
	compare("after a new start")
	// What no checkpoint needs any more is given back.
	c.checkpoints.mu.Lock()
	before := len(c.checkpoints.kept)
	c.checkpoints.mu.Unlock()
	if before < 2 {
		t.Fatalf("%d checkpoints are kept", before)
	}
	used := c.jn.Used()
	if err := c.keepCheckpoints(time.Now().Add(100 * time.Hour)); err != nil {
		t.Fatal(err)
	}
	c.settleForTest(t)
	if now := c.jn.Used(); now >= used || c.checkpoints.oldest() == keepsNothing {
		t.Errorf("%d bytes are used, %d were; the oldest checkpoint is at %d", now, used, c.checkpoints.oldest())
	}
}

// TestPastsHaveALimit: a server shows four moments at once, and what an open one
// needs is kept.
func TestPastsHaveALimit(t *testing.T) {
	p := newPair(t, time.Hour, event.NewLog(discard()))
	defer p.active.close()
	defer p.late.close()
	c := p.late
	p.do(&store.SetupReq{Mailbox: at.ID})
	p.hours(1)
	p.hours(2)
	var open []*past
	for range pastsMost {
		x, err := c.openPast(time.Now(), 0)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, x)
	}
	if _, err := c.openPast(time.Now(), 0); !kind.Is(err, kind.Busy) {
		t.Errorf("a fifth moment: %v", err)
	}
	// The lag is taken off: the copy replays all, and keeps what is looked at.
	p.change(func(c *org.Copy) { c.ReplayLag = 0 })
	eventually(t, "the moments are there", func() bool {
		return !slices.ContainsFunc(open, func(x *past) bool { return x.read(func(*store.Reader) error { return nil }) != nil })
	})
	if err := c.applyTo(t.Context(), c.jn.End().LSN); err != nil {
		t.Fatal(err)
	}
	c.settleForTest(t)
	first := p.history[1].body
	if _, err := c.jn.Body(first, 0, 0); err != nil {
		t.Errorf("what an open moment may need was given back: %v", err)
	}
	for _, x := range open {
		x.end()
	}
	eventually(t, "all are closed", func() bool { return c.k.pasts.keepFrom(c) == keepsNothing })
	c.settleForTest(t)
	if _, err := c.jn.Body(first, 0, 0); !kind.Is(err, kind.NotFound) {
		t.Errorf("it was not given back afterwards: %v", err)
	}
}

// TestRecover puts back what a user removed, in both ways, and doubles nothing.
func TestRecover(t *testing.T) {
	k := keepsPast(t, newDisks())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := k.Client()
	if err := s.Setup(ctx, at, mail.MailboxSetup{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Work", "Other"} {
		if _, err := s.ChangeFolder(ctx, at, mail.FolderChange{Op: "create", Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	date := time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC).UnixNano()
	for i := range 6 {
		folder := "INBOX"
		if i >= 4 {
			folder = "Work"
		}
		if _, err := s.Append(ctx, at, mail.Append{Folder: folder, Body: big(i), InternalDate: date + int64(i), Flags: mail.Flagged, Keywords: []string{"k"}}); err != nil {
			t.Fatal(err)
		}
		if i == 2 {
			if err := k.copy("DB01").takeCheckpoint(); err != nil {
				t.Fatal(err)
			}
		}
	}
	then := time.Now().UTC()
	<-time.After(2 * time.Millisecond)
	folder := func(name string) mail.Folder {
		fs, err := s.Folders(ctx, at)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(fs, func(f mail.Folder) bool { return f.Name == name })
		if i < 0 {
			return mail.Folder{}
		}
		return fs[i]
	}
	inbox, other := folder("INBOX"), folder("Other")
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.Copy(ctx, at, mail.CopyRequest{Folder: inbox.ID, Target: "Other", UIDs: []mail.UIDRange{{First: 4, Last: 4}}, Move: true}))
	must(s.Expunge(ctx, at, mail.Expunge{Folder: inbox.ID, UIDs: []mail.UIDRange{{First: 1, Last: 2}}}))
	must(s.ChangeFolder(ctx, at, mail.FolderChange{Op: "delete", Name: "Work"}))
	k.copy("DB01").settleForTest(t)
	order := recoverMailbox{At: then.Format(time.RFC3339Nano)}
	results := func(in recoverMailbox) string {
		t.Helper()
		rows, err := k.recoverMailbox(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, r := range rows {
			out = append(out, fmt.Sprintf("%s/%s %s", r.Folder, r.Subject, r.Result))
		}
		return strings.Join(out, ", ")
	}
	list := order
	list.List = true
	if got, want := results(list), "INBOX/0 missing, INBOX/1 missing, INBOX/2 is there, INBOX/3 is there, Work/4 missing, Work/5 missing"; got != want {
		t.Errorf("list: %s\nwant %s", got, want)
	}
	dry := order
	dry.DryRun, dry.Folder, dry.Message = true, "inbox", "<1@example.test>"
	if got := results(dry); got != "INBOX/1 missing" {
		t.Errorf("dry run: %s", got)
	}
	one := order
	one.InPlace, one.Message = true, "1@example.test"
	if got := results(one); got != "INBOX/1 restored" {
		t.Errorf("one: %s", got)
	}
	if got := results(order); got != "INBOX/0 restored, Work/4 restored, Work/5 restored" {
		t.Errorf("the rest: %s", got)
	}
	if got := results(order); got != "" {
		t.Errorf("once more: %s", got)
	}
	place := order
	place.InPlace = true
	if got := results(place); got != "" {
		t.Errorf("in place, with all of it there: %s", got)
	}
	if n := folder("INBOX").Messages; n != 2 {
		t.Errorf("%d messages in INBOX", n)
	}
	if n := folder("Other").Messages; n != 1 || other.Messages != 0 {
		t.Errorf("%d messages in Other", n)
	}
	back := folder("Restored " + then.Format("2006-01-02 15.04.05") + "/INBOX")
	ms, err := s.Messages(ctx, at, mail.MessagesRequest{Folder: back.ID})
	if err != nil || len(ms.Messages) != 1 {
		t.Fatalf("%+v, %v", ms, err)
	}
	m := ms.Messages[0]
	if m.InternalDate != date || m.Flags != mail.Flagged || len(m.Keywords) != 1 {
		t.Errorf("restored as %+v", m)
	}
	raw, err := k.wholeBody(ctx, at, m.Blob, m.Size)
	if err != nil || string(raw) != string(big(0)) {
		t.Errorf("%d bytes, %v", len(raw), err)
	}
	// What was put back in place and removed again comes back in place again.
	must(s.ChangeFolder(ctx, at, mail.FolderChange{Op: "delete", Name: "Restored " + then.Format("2006-01-02 15.04.05") + "/Work"}))
	if got := results(place); got != "Work/4 restored, Work/5 restored" {
		t.Errorf("in place: %s", got)
	}
	for _, bad := range []recoverMailbox{{At: "tomorrow"}, {At: "20d"}, {At: time.Now().Add(time.Hour).Format(time.RFC3339)}, {At: "0"}, {At: order.At, Folder: "None"}} {
		if _, err := k.recoverMailbox(ctx, bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	if _, err := k.recoverMailbox(ctx, recoverMailbox{At: "13d"}); !kind.Is(err, kind.NotFound) {
		t.Errorf("too long ago: %v", err)
	}
}

// TestCheckpointsGoWithTheirHistory: a checkpoint behind the position where the
// log is cut goes, one before it stays.
func TestCheckpointsGoWithTheirHistory(t *testing.T) {
	p := newPair(t, 0, event.NewLog(discard()))
	defer p.active.close()
	defer p.late.close()
	c := p.active
	p.do(&store.SetupReq{Mailbox: at.ID})
	p.hours(1)
	if err := c.takeCheckpoint(); err != nil {
		t.Fatal(err)
	}
	between := c.jn.End().LSN
	p.hours(2)
	if err := c.takeCheckpoint(); err != nil {
		t.Fatal(err)
	}
	left := func(want int) {
		t.Helper()
		names, err := c.k.deps.IndexFS.List(filepath.Join(c.dir, checkpointsName))
		if err != nil || len(names) != want || len(c.checkpoints.kept) != want {
			t.Errorf("%q, %d kept, %v; want %d", names, len(c.checkpoints.kept), err, want)
		}
	}
	left(2)
	if err := c.dropCheckpoints(between); err != nil {
		t.Fatal(err)
	}
	left(1)
	if err := c.dropCheckpoints(between - 8); err != nil {
		t.Fatal(err)
	}
	left(0)
}

// TestPastNeedsTheLog: a copy whose log ended before the moment does not show it.
func TestPastNeedsTheLog(t *testing.T) {
	p := newPair(t, time.Hour, event.NewLog(discard()))
	defer p.active.close()
	defer p.late.close()
	c := p.late
	p.do(&store.SetupReq{Mailbox: at.ID})
	p.hours(1)
	here := c.jn.End().LSN
	made := time.Unix(0, c.late.copied.Load())
	for _, x := range []struct {
		t     time.Time
		end   org.LSN
		shows bool
	}{
		{time.Now(), here, true},                         // it has all
		{time.Now(), here + 1, false},                    // the active copy went on
		{made.Add(-time.Nanosecond), keepsNothing, true}, // a record was made since
		{made.Add(time.Nanosecond), keepsNothing, false}, // none was
	} {
		if got := c.shows(x.t, x.end); got != x.shows {
			t.Errorf("%v up to %d: %v", x.t, x.end, got)
		}
	}
	short, err := c.openPast(time.Now(), here+1)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "all is replayed", func() bool {
		short.mu.Lock()
		defer short.mu.Unlock()
		return short.ix != nil && short.ix.Applied().LSN == here
	})
	if err := short.read(func(*store.Reader) error { return nil }); !kind.Is(err, kind.Busy) {
		t.Errorf("a log that ends before the moment: %v", err)
	}
	short.end()
	eventually(t, "it is closed", func() bool { return c.k.pasts.keepFrom(c) == keepsNothing })
}
