package mailbox

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

var at = org.MailboxRef{ID: org.MailboxID{7}, Database: "DB01"}

// picture is all a client can see of the mailbox, bodies included.
func picture(ctx context.Context, s mail.Store) (string, error) {
	var b strings.Builder
	fs, err := s.Folders(ctx, at)
	if err != nil {
		return "", err
	}
	for _, f := range fs {
		fmt.Fprintf(&b, "%s next %d modseq %d messages %d\n", f.Name, f.UIDNext, f.HighestModSeq, f.Messages)
		ms, err := s.Messages(ctx, at, mail.MessagesRequest{Folder: f.ID})
		if err != nil {
			return "", err
		}
		for _, m := range ms.Messages {
			raw, err := s.Body(ctx, at, mail.BodyRequest{Blob: m.Blob})
			if err != nil {
				return "", err
			}
			head, _, _ := bytes.Cut(raw, []byte("\r\n\r\n"))
			fmt.Fprintf(&b, " %d modseq %d flags %d size %d %q %d\n", m.UID, m.ModSeq, m.Flags, m.Size, head, len(raw))
		}
	}
	return b.String(), nil
}

// image is the disk as a crash might have left it, with how many steps were
// confirmed by then.
type image struct {
	disks
	confirmed int
	during    string
}

// camera takes crash images at operations of a disk.
type camera struct {
	d         disks
	confirmed atomic.Int64
	mu        sync.Mutex // guards the rest
	rnd       *rand.Rand
	step      string
	images    []image
}

func (c *camera) shoot(op fsx.Op) {
	n := int(c.confirmed.Load()) // before the image: what is confirmed later may be missing
	c.mu.Lock()
	defer c.mu.Unlock()
	seed := c.rnd.Uint64()
	ix := c.d.ix.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: c.rnd.IntN(101), RNG: rand.New(rand.NewPCG(seed, 2))})
	c.images = append(c.images, image{disks{c.d.fs.CrashImage(seed), ix}, n, fmt.Sprintf("%s, %v", c.step, op)})
}

// TestCrashAtEveryWrite runs deliveries, flag changes, expunges, moves and a
// reclaim, takes a crash image at every operation on the disk, and starts from
// each: what is there is exactly what was confirmed, or that and the whole of
// the change that was under way (faults P1, P2; G1).
func TestCrashAtEveryWrite(t *testing.T) {
	g := newAgreed()
	g.define(t, "MBX1")
	d := newDisks()
	k := startKeeper(t, g.server("MBX1"), d)
	s := k.Client()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	cam := &camera{d: d, rnd: rand.New(rand.NewPCG(uint64(seed), 1))}
	var inbox mail.FolderID
	steps := workload(ctx, k, s, &inbox)
	pictures := []string{}
	take := func() {
		p, err := picture(ctx, s)
		if err != nil {
			p = "" // before the mailbox is there
		}
		pictures = append(pictures, p)
	}
	take()
	d.fs.Hook(cam.shoot)
	for _, st := range steps {
		cam.mu.Lock()
		cam.step = st.name
		cam.mu.Unlock()
		if err := st.do(); err != nil {
			t.Fatalf("%s: %v", st.name, err)
		}
		take()
		cam.confirmed.Add(1)
	}
	d.fs.Hook(nil)
	k.stop()
	t.Logf("%d steps, %d images", len(steps), len(cam.images))
	if len(cam.images) < 2*len(steps) {
		t.Fatalf("only %d images of %d steps: the camera does not see the disk", len(cam.images), len(steps))
	}
	for _, im := range cam.images {
		recovers(t, im, pictures)
	}
}

// recovers starts from an image and compares.
func recovers(t *testing.T, im image, pictures []string) {
	t.Helper()
	g := newAgreed()
	g.define(t, "MBX1")
	k := startKeeper(t, g.server("MBX1"), im.disks)
	defer k.stop()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got, err := picture(ctx, k.Client())
	if err != nil && pictures[im.confirmed] != "" {
		t.Fatalf("crash during %s after %d steps: %v, %+v", im.during, im.confirmed, err, k.Statuses())
	}
	allowed := pictures[im.confirmed:min(im.confirmed+2, len(pictures))]
	if !slices.Contains(allowed, got) {
		t.Fatalf("crash during %s after %d steps: there is\n%s\nwant\n%s", im.during, im.confirmed, got, strings.Join(allowed, "\nor\n"))
	}
}

type step struct {
	name string
	do   func() error
}

// workload is one of each change, some of them several times.
func workload(ctx context.Context, k *keeper, s mail.Store, inbox *mail.FolderID) []step {
	all := []mail.UIDRange{{First: 1, Last: 1 << 31}}
	one := func(u mail.UID) []mail.UIDRange { return []mail.UIDRange{{First: u, Last: u}} }
	var steps []step
	add := func(name string, do func() error) { steps = append(steps, step{name, do}) }
	add("setup", func() error {
		if err := s.Setup(ctx, at, mail.MailboxSetup{Organization: "o"}); err != nil {
			return err
		}
		fs, err := s.Folders(ctx, at)
		for _, f := range fs {
			if f.Name == "INBOX" {
				*inbox = f.ID
			}
		}
		return err
	})
	for i := range 12 {
		add(fmt.Sprintf("delivery %d", i), func() error {
			_, err := s.Deliver(ctx, mail.Delivery{Recipients: []mail.Recipient{{Mailbox: at}}, Body: body(i), Date: int64(i), Identity: [32]byte{byte(i + 1)}})
			return err
		})
	}
	add("flags", func() error {
		_, err := s.ChangeFlags(ctx, at, mail.FlagsChange{Folder: *inbox, UIDs: all, Op: "add", Flags: mail.Seen})
		return err
	})
	add("flags to expunge", func() error {
		_, err := s.ChangeFlags(ctx, at, mail.FlagsChange{Folder: *inbox, UIDs: []mail.UIDRange{{First: 2, Last: 9}}, Op: "add", Flags: mail.Deleted})
		return err
	})
	add("expunge", func() error {
		_, err := s.Expunge(ctx, at, mail.Expunge{Folder: *inbox, OnlyDeleted: true})
		return err
	})
	add("move", func() error {
		_, err := s.Copy(ctx, at, mail.CopyRequest{Folder: *inbox, UIDs: one(10), Target: "Archive", Move: true})
		return err
	})
	for i := 20; i < 40; i++ {
		add(fmt.Sprintf("append %d", i), func() error {
			_, err := s.Append(ctx, at, mail.Append{Folder: "Sent", Body: body(i), InternalDate: 1})
			return err
		})
	}
	add("flush, punch and reclaim", func() error {
		c := k.copy("DB01")
		if err := c.index().Flush(); err != nil {
			return err
		}
		c.punchFreed()
		res, err := c.reclaim(ctx, true)
		if err == nil && !res.Dropped {
			err = fmt.Errorf("nothing was reclaimed: %s", res.Why)
		}
		if err != nil {
			return err
		}
		if err := c.index().Flush(); err != nil {
			return err
		}
		c.dropTrimmed()
		if c.jn.Start() == 0 {
			err = fmt.Errorf("nothing was dropped")
		}
		return err
	})
	for i := 40; i < 44; i++ {
		add(fmt.Sprintf("append %d", i), func() error {
			_, err := s.Append(ctx, at, mail.Append{Folder: "Sent", Body: body(i), InternalDate: 1})
			return err
		})
	}
	return steps
}

// TestIndexFromLogAlone makes the index of a log that lost its oldest part
// anew, and gets the same mailbox.
func TestIndexFromLogAlone(t *testing.T) {
	g := newAgreed()
	g.define(t, "MBX1")
	d := newDisks()
	k := startKeeper(t, g.server("MBX1"), d)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var inbox mail.FolderID
	for _, st := range workload(ctx, k, k.Client(), &inbox) {
		if err := st.do(); err != nil {
			t.Fatalf("%s: %v", st.name, err)
		}
	}
	want, err := picture(ctx, k.Client())
	if err != nil {
		t.Fatal(err)
	}
	k.stop()
	if err := d.ix.RemoveAll("/vol1/DB01/index"); err != nil {
		t.Fatal(err)
	}
	k = startKeeper(t, g.server("MBX1"), d)
	got, err := picture(ctx, k.Client())
	if err != nil || got != want {
		t.Fatalf("%v\n%s\nwant\n%s", err, got, want)
	}
}

// TestCrashWhileSeeding takes crash images of a copy while it is seeded, and
// finishes the seed from each: the copies are identical.
func TestCrashWhileSeeding(t *testing.T) {
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
	cam := &camera{d: d, rnd: rand.New(rand.NewPCG(1, 1)), step: "seed"}
	d.fs.Hook(cam.shoot)
	k := startKeeper(t, g.server("MBX2"), d)
	eventually(t, "seeded", func() bool { return g.mount(t).IsInSync("MBX2") })
	d.fs.Hook(nil)
	k.stop()
	eventually(t, "the copy left the set", func() bool { return !g.mount(t).IsInSync("MBX2") || len(cam.images) == 0 })
	t.Logf("%d images", len(cam.images))
	for i, im := range cam.images {
		if i%max(1, len(cam.images)/25) != 0 {
			continue // each starts a whole server; 25 spread over the seed
		}
		// What the group knows of the disk is younger than the image.
		g.put(t, org.VolumeKey("MBX2", "vol1"), org.VolumeRow{})
		k := startKeeper(t, g.server("MBX2"), im.disks)
		eventually(t, "seeded after "+im.during, func() bool { return g.mount(t).IsInSync("MBX2") })
		sameCopies(t, src, k)
		k.stop()
		eventually(t, "the copy left the set", func() bool { return !g.mount(t).IsInSync("MBX2") })
	}
}

// sameCopies waits until two copies hold the same log and index.
func sameCopies(t *testing.T, a, b *keeper) {
	t.Helper()
	ca, cb := a.copy("DB01"), b.copy("DB01")
	var defers []func()
	for _, c := range []*dbCopy{ca, cb} {
		eventually(t, "the copy is open", func() bool {
			_, leave, ok := c.gate.enter(t.Context())
			if ok {
				defers = append(defers, leave)
			}
			return ok
		})
	}
	defer func() {
		for _, leave := range defers {
			leave()
		}
	}()
	eventually(t, "the copies are at one position", func() bool {
		return ca.jn.End() == cb.jn.End() && ca.index().Applied() == cb.index().Applied()
	})
	ra, rb := ca.index().Reader(), cb.index().Reader()
	defer ra.Close()
	defer rb.Close()
	sa, _, err := ca.index().Digest(t.Context(), ra)
	if err != nil {
		t.Fatal(err)
	}
	sb, _, err := cb.index().Digest(t.Context(), rb)
	if err != nil {
		t.Fatal(err)
	}
	if sa != sb {
		t.Error("the indexes differ")
	}
}

// TestZombieConfirmsNothing cuts the active copy off, makes another active,
// and lets clients of the old one go on: it confirms no change and, after its
// lease, answers no read; when it is back all copies are identical (G3).
func TestZombieConfirmsNothing(t *testing.T) {
	g := newAgreed()
	names := []org.ServerName{"MBX1", "MBX2", "MBX3"}
	ks := map[org.ServerName]*keeper{}
	g.define(t, names...)
	for _, n := range names {
		ks[n] = startKeeper(t, g.server(n), newDisks())
	}
	eventually(t, "three copies in sync", func() bool { return len(g.mount(t).InSync) == 3 })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := ks["MBX1"].Client().Setup(ctx, at, mail.MailboxSetup{Organization: "o"}); err != nil {
		t.Fatal(err)
	}
	ks["MBX1"].g.partition(true)
	var wg sync.WaitGroup
	var zombie atomic.Int64
	for i := range 20 {
		wg.Go(func() {
			short, cancel := context.WithTimeout(ctx, 1500*time.Millisecond)
			defer cancel()
			if _, err := ks["MBX1"].Client().Append(short, at, mail.Append{Folder: "INBOX", Body: body(i)}); err == nil {
				zombie.Add(1)
			}
		})
	}
	m := g.mount(t)
	m.Term, m.Active, m.InSync = 2, "MBX2", []org.ServerName{"MBX2", "MBX3"}
	g.put(t, MountKey("DB01"), m)
	for i := 100; i < 120; i++ {
		if i == 100 {
			// MBX2 is the client here: it has the active copy, once its promise to MBX1 is over.
			eventually(t, "MBX2 leads", func() bool { ready, _ := ks["MBX2"].Lead("DB01"); return ready })
		}
		if _, err := ks["MBX2"].Client().Append(ctx, at, mail.Append{Folder: "INBOX", Body: body(i)}); err != nil {
			t.Fatal(err)
		}
	}
	short, cancelShort := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancelShort()
	if fs, err := ks["MBX1"].Client().Folders(short, at); err == nil {
		t.Errorf("the zombie answered a read: %v", fs)
	}
	wg.Wait()
	if n := zombie.Load(); n != 0 {
		t.Errorf("the zombie confirmed %d changes", n)
	}
	ks["MBX1"].g.partition(false)
	eventually(t, "three copies in sync again", func() bool { return len(g.mount(t).InSync) == 3 })
	sameCopies(t, ks["MBX2"], ks["MBX1"])
	sameCopies(t, ks["MBX2"], ks["MBX3"])
	fs, err := ks["MBX2"].Client().Folders(ctx, at)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]uint32{}
	for _, f := range fs {
		counts[f.Name] = f.Messages
	}
	// What the zombie had sequenced was never confirmed; it is set aside and
	// offered, as nobody can know who still counts on it.
	if n := counts["INBOX"]; n < 20 || n > 40 {
		t.Errorf("%d messages in %v", n, slices.Sorted(maps.Keys(counts)))
	}
}
