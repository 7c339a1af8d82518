package mailbox

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// TestDamagedActiveBeginsLessOften damages a record that the index has to be
// made of, where no other copy can mend it. The copy cannot lead; it says so, and
// does not begin a term for each try.
func TestDamagedActiveBeginsLessOften(t *testing.T) {
	g := newAgreed()
	g.define(t, "MBX1")
	d := newDisks()
	k := startKeeper(t, g.server("MBX1"), d)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := k.Client().Setup(ctx, at, mail.MailboxSetup{Organization: "o"}); err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		if _, err := k.Client().Append(ctx, at, mail.Append{Folder: "INBOX", Body: body(i)}); err != nil {
			t.Fatal(err)
		}
	}
	var starts []org.LSN
	for r, err := range k.copy("DB01").jn.Records(0, k.copy("DB01").jn.End().LSN) {
		if err != nil {
			t.Fatal(err)
		}
		starts = append(starts, r.LSN)
	}
	k.stop()
	if err := d.ix.RemoveAll("/vol1/DB01/index"); err != nil {
		t.Fatal(err)
	}
	if err := d.fs.Flip(firstSegment(t, d), journal.BlockSize+int64(starts[4])+20, 0xff); err != nil {
		t.Fatal(err)
	}
	k = startKeeper(t, g.server("MBX1"), d)
	eventually(t, "the copy is reported as failed", func() bool {
		all := k.Statuses()
		return len(all) == 1 && all[0].State == org.CopyFailed
	})
	before := g.mount(t).Term
	if before < 3 {
		t.Errorf("it did not try to lead: term %d", before)
	}
	<-time.After(time.Second)
	if n := g.mount(t).Term - before; n > 4 {
		t.Errorf("%d terms in a second", n)
	}
}

// TestFailedSince: a copy that is tried again and again is Failed since it
// failed first, and anew once it was something else.
func TestFailedSince(t *testing.T) {
	g := newAgreed()
	g.define(t, "MBX1")
	k := startKeeper(t, g.server("MBX1"), newDisks())
	eventually(t, "it is active", func() bool { ready, _ := k.Lead("DB01"); return ready })
	c := k.copy("DB01")
	k.stop()
	c.fail(org.CopyFailed, kind.Errorf(kind.Corrupt, "first"))
	first := c.status().Since
	c.setState(org.CopyInitializing, "opening")
	c.fail(org.CopyFailed, kind.Errorf(kind.Corrupt, "second"))
	if got := c.status(); got.Since != first || got.Reason != "second" {
		t.Errorf("%+v, failed first at %d", got, first)
	}
	c.setState(org.CopyInitializing, "opening")
	c.setState(org.CopyHealthy, "")
	c.fail(org.CopyFailed, kind.Errorf(kind.Corrupt, "third"))
	if got := c.status(); got.Since == first {
		t.Errorf("%+v, failed first at %d", got, first)
	}
}

func firstSegment(t *testing.T, d disks) string {
	t.Helper()
	const dir = "/vol1/DB01/log"
	names, err := d.fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if strings.HasSuffix(n, ".log") {
			return filepath.Join(dir, n)
		}
	}
	t.Fatalf("no segment in %v", names)
	return ""
}

// TestCrashWhileReseeding takes crash images of a copy while it is emptied and
// seeded anew, and starts from each: it is seeded, and never stands there with
// an index that came back and is ahead of its log.
func TestCrashWhileReseeding(t *testing.T) {
	g := newAgreed()
	g.define(t, "MBX1")
	src := startKeeper(t, g.server("MBX1"), newDisks())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var inbox mail.FolderID
	for _, st := range workload(ctx, src, src.Client(), &inbox) {
		if err := st.do(); err != nil {
			t.Fatalf("%s: %v", st.name, err)
		}
	}
	def := org.Database{Name: "DB01", Identity: "db-1", SegmentSize: 64 << 10, Copies: []org.Copy{{Server: "MBX1", Volume: "vol1"}, {Server: "MBX2", Volume: "vol1"}}}
	g.put(t, DatabaseKey("DB01"), def)
	d := newDisks()
	k := startKeeper(t, g.server("MBX2"), d)
	eventually(t, "seeded", func() bool { return g.mount(t).IsInSync("MBX2") })
	cam := &camera{d: d, rnd: rand.New(rand.NewPCG(2, 1)), step: "reseed"}
	d.fs.Hook(cam.shoot)
	def.Copies[1].SeedCount = 1
	g.put(t, DatabaseKey("DB01"), def)
	eventually(t, "seeded anew", func() bool {
		m, err := k.copy("DB01").readMark()
		return err == nil && m.SeedCount == 1 && !m.Seeding && g.mount(t).IsInSync("MBX2")
	})
	d.fs.Hook(nil)
	k.stop()
	eventually(t, "the copy left the set", func() bool { return !g.mount(t).IsInSync("MBX2") || len(cam.images) == 0 })
	t.Logf("%d images", len(cam.images))
	for i, im := range cam.images {
		if i > 20 && i%max(1, len(cam.images)/10) != 0 {
			continue // the first are of the emptying; each starts a whole server
		}
		k := startKeeper(t, g.server("MBX2"), im.disks)
		eventually(t, "seeded after "+im.during, func() bool { return g.mount(t).IsInSync("MBX2") })
		sameCopies(t, src, k)
		k.stop()
		eventually(t, "the copy left the set", func() bool { return !g.mount(t).IsInSync("MBX2") })
	}
}
