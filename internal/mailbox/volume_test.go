package mailbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// TestVolumeMark finds out whose disk is in a volume's place, and marks only
// an empty one.
func TestVolumeMark(t *testing.T) {
	const mine = `{"format":1,"volume":"vol1","identity":"id-1","server":"MBX1"}`
	for _, c := range []struct {
		name  string
		mark  string // empty: none
		files []string
		none  bool // the folder is not there
		want  string
		class string // of the error
		id    string // empty: any
	}{
		{name: "ours", mark: mine, want: "id-1", id: "id-1"},
		{name: "ours, first seen", mark: mine, id: "id-1"},
		{name: "new and empty"},
		{name: "new, with lost+found", files: []string{lostFound + "/x"}},
		{name: "not there, first seen", none: true},
		{name: "old mark is taken over", mark: "volume vol1\n", files: []string{"DB01/x"}},
		{name: "old mark where an identity is known", mark: "volume vol1\n", want: "id-1", class: org.CauseForeign},
		{name: "old mark of another volume", mark: "volume vol9\n", class: org.CauseForeign},
		{name: "of another server", mark: strings.Replace(mine, "MBX1", "MBX9", 1), class: org.CauseForeign},
		{name: "of another volume", mark: strings.Replace(mine, "vol1", "vol9", 1), class: org.CauseForeign},
		{name: "another identity", mark: mine, want: "id-2", class: org.CauseForeign},
		{name: "newer format", mark: strings.Replace(mine, `"format":1`, `"format":7`, 1), class: org.CauseForeign},
		{name: "nonsense", mark: "\x00\x01", class: org.CauseForeign},
		{name: "far too long", mark: strings.Repeat("x", 10000), class: org.CauseForeign},
		{name: "files and no mark", files: []string{"DB01/x"}, class: org.CauseForeign},
		{name: "files and no mark, known", files: []string{"x"}, want: "id-1", class: org.CauseForeign},
		{name: "empty where a disk is known", want: "id-1", class: org.CauseGone},
		{name: "not there where a disk is known", none: true, want: "id-1", class: org.CauseGone},
	} {
		disk := fsx.NewMem()
		if !c.none {
			must(t, disk.MkdirAll("/vol1"))
		}
		for _, f := range c.files {
			path := filepath.Join("/vol1", f)
			must(t, disk.MkdirAll(filepath.Dir(path)))
			must(t, fsx.WriteFile(disk, path, []byte("x")))
		}
		if c.mark != "" {
			must(t, fsx.WriteFile(disk, "/vol1/"+markName, []byte(c.mark)))
		}
		v := newVolume(Volume{Name: "vol1", Path: "/vol1"}, disk, 1)
		m, err := v.readMark("MBX1", c.want)
		if classOf(err) != c.class || err != nil && c.class == "" {
			t.Errorf("%s: %v, want class %q", c.name, err, c.class)
			continue
		}
		if err == nil {
			again, err := v.readMark("MBX1", m.Identity)
			if err != nil || again != m || m.Identity == "" || c.id != "" && m.Identity != c.id {
				t.Errorf("%s: identity %q, then %q: %v", c.name, m.Identity, again.Identity, err)
			}
		}
		if got, _ := fsx.ReadFile(disk, "/vol1/"+markName, 1<<20); c.class != "" && string(got) != c.mark {
			t.Errorf("%s: the mark was changed to %q", c.name, got)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// faulty fails the operations below a folder.
type faulty struct {
	mu  sync.Mutex
	err func(fsx.Op) error
}

func (f *faulty) set(err func(fsx.Op) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// on puts the faults on a disk.
func (f *faulty) on(d *fsx.Mem, folder string) {
	d.Inject(func(op fsx.Op) error {
		if op.Path != folder && !strings.HasPrefix(op.Path, folder+"/") {
			return nil
		}
		f.mu.Lock()
		err := f.err
		f.mu.Unlock()
		if err == nil {
			return nil
		}
		return err(op)
	})
}

// writes fails what changes the disk.
func writes(err error) func(fsx.Op) error {
	return func(op fsx.Op) error {
		if op.Kind == fsx.OpRead {
			return nil
		}
		return err
	}
}

func twoVolumes() Config {
	cfg := testConfig()
	cfg.Volumes = append(cfg.Volumes, Volume{Name: "vol2", Path: "/vol2"})
	return cfg
}

// TestVolumeFails breaks one of two volumes of a server in each way there is.
// Its copy stops and says why, the one on the other volume goes on, and what
// can come back does when the disk does.
func TestVolumeFails(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	for _, c := range []struct {
		cause  string
		fault  func(fsx.Op) error
		change bool // one is tried meanwhile: its write fails, so the copy has to be seeded
		back   bool // the copy comes back with the disk
	}{
		{org.CauseGone, func(fsx.Op) error { return fs.ErrNotExist }, false, true},
		{org.CauseGone, func(fsx.Op) error { return fs.ErrNotExist }, true, false},
		{org.CauseIO, writes(syscall.EIO), true, false},
		{org.CauseReadOnly, writes(syscall.EROFS), true, false},
		{org.CauseHung, func(fsx.Op) error { <-hang; return nil }, false, false},
	} {
		t.Run(fmt.Sprintf("%s,change=%t", c.cause, c.change), func(t *testing.T) {
			g := newAgreed()
			for i, db := range []org.DatabaseName{"DB01", "DB02"} {
				vol := org.VolumeName(fmt.Sprintf("vol%d", i+1))
				g.put(t, DatabaseKey(db), org.Database{Name: db, Identity: string(db), SegmentSize: 64 << 10, Copies: []org.Copy{{Server: "MBX1", Volume: vol, Preference: 1}}})
				g.put(t, MountKey(db), org.Mount{Database: db, Term: 1, Active: "MBX1", InSync: []org.ServerName{"MBX1"}})
			}
			d := newDisks()
			var f faulty
			f.on(d.fs, "/vol1")
			var notes sentences
			k := startOn(t, g.server("MBX1"), twoVolumes(), Deps{FS: d.fs, IndexFS: d.ix, Fast: true, Noted: func(n org.Note) {
				notes.add(fmt.Sprintf("%s %s (%s): %d seen", n.Action, n.Target, n.Evidence[0].Result, len(n.Evidence)))
			}})
			eventually(t, "both are active", func() bool {
				return k.copy("DB01") != nil && stateOf(k, "DB01") == org.CopyMounted && stateOf(k, "DB02") == org.CopyMounted
			})
			eventually(t, "the group knows the disks", func() bool { return k.expectedIdentity("vol1") != "" && k.expectedIdentity("vol2") != "" })

			f.set(c.fault)
			if c.change {
				here := org.MailboxRef{ID: org.NewMailboxID(), Database: "DB01"}
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				err := k.Client().Setup(ctx, here, mail.MailboxSetup{})
				cancel()
				if err != nil && !kind.Is(err, kind.Busy) {
					t.Errorf("a change while the disk fails: %v (%v); only Busy is tried again", err, kind.Of(err))
				}
			}
			eventually(t, "the copy tells that it failed", func() bool {
				st := statusOf(k, "DB01")
				return (st.State == org.CopyFailed || st.State == org.CopyFailedAndSuspended) && st.Cause == c.cause
			})
			eventually(t, "the volume tells it too", func() bool { return k.Volumes()[0].Cause == c.cause && !k.Volumes()[0].Calm })
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			box := org.MailboxRef{ID: org.NewMailboxID(), Database: "DB02"}
			if err := k.Client().Setup(ctx, box, mail.MailboxSetup{}); err != nil {
				t.Errorf("the database on the other volume: %v", err)
			}
			if st := k.Volumes()[1]; st.Cause != "" {
				t.Errorf("the other volume: %+v", st)
			}
			if c.cause == org.CauseHung {
				return // it never answers again
			}
			f.set(nil)
			eventually(t, "the volume works again", func() bool { return k.Volumes()[0].Cause == "" })
			eventually(t, "both are for the recovery log", func() bool {
				got := notes.all()
				return slices.Contains(got, "CloseVolume vol1 ("+c.cause+"): 1 seen") && slices.Contains(got, "OpenVolume vol1 (passed): 1 seen")
			})
			if c.back {
				eventually(t, "the copy is back", func() bool { return stateOf(k, "DB01") == org.CopyMounted })
			}
		})
	}
}

func statusOf(k *keeper, db org.DatabaseName) org.CopyStatus {
	for _, st := range k.Statuses() {
		if st.Database == db {
			return st
		}
	}
	return org.CopyStatus{}
}

func stateOf(k *keeper, db org.DatabaseName) org.CopyState { return statusOf(k, db).State }

// TestCopyFollowsItsVolume gives a copy another volume, as AutoReseed does: it
// is seeded there, also where the old disk hangs.
func TestCopyFollowsItsVolume(t *testing.T) {
	for _, hung := range []bool{false, true} {
		t.Run(fmt.Sprintf("hung=%t", hung), func(t *testing.T) {
			hang := make(chan struct{})
			defer close(hang)
			g := newAgreed()
			g.define(t, "MBX1", "MBX2")
			src := startKeeper(t, g.server("MBX1"), newDisks())
			d := newDisks()
			var f faulty
			f.on(d.fs, "/vol1")
			k := startOn(t, g.server("MBX2"), twoVolumes(), Deps{FS: d.fs, IndexFS: d.ix, Fast: true})
			eventually(t, "in sync", func() bool { return g.mount(t).IsInSync("MBX2") })
			if hung {
				f.set(func(fsx.Op) error { <-hang; return nil })
				eventually(t, "it hangs", func() bool { return k.Volumes()[0].Cause == org.CauseHung })
			}
			must(t, src.edit(t.Context(), "DB01", func(d *org.Database) error {
				d.Copies[1].Volume = "vol2"
				d.Copies[1].SeedCount++
				return nil
			}))
			eventually(t, "the copy is on the other volume, and in sync", func() bool {
				st := statusOf(k, "DB01")
				return st.Volume == "vol2" && st.State == org.CopyHealthy && g.mount(t).IsInSync("MBX2")
			})
			sameCopies(t, src, k)
		})
	}
}

// TestSeedSlots holds the limits of seeds under way.
func TestSeedSlots(t *testing.T) {
	s := seedSlots{most: 3, perSource: 2, taken: map[org.DatabaseName]org.ServerName{}}
	var gives []func()
	take := func(db org.DatabaseName, from org.ServerName, ok bool) {
		t.Helper()
		give, err := s.take(db, from)
		if (err == nil) != ok {
			t.Errorf("%s from %s: %v", db, from, err)
		}
		if err == nil {
			gives = append(gives, give)
		}
	}
	take("DB01", "A", true)
	take("DB01", "A", true) // again, after its connection broke
	take("DB02", "A", true)
	take("DB03", "A", false)
	take("DB03", "B", true)
	take("DB04", "C", false)
	gives[0]()
	take("DB04", "C", true)
}

func TestSeedRate(t *testing.T) {
	var p seedProgress
	at := time.Unix(1000, 0)
	for i := range 40 {
		p.note(int64(i)*1000, at.Add(time.Duration(i)*time.Second))
	}
	if got := p.rate(at.Add(39 * time.Second)); got < 950 || got > 1050 {
		t.Errorf("rate %d, want about 1000", got)
	}
	if len(p.samples) > 20 {
		t.Errorf("%d samples are kept", len(p.samples))
	}
	if got := p.rate(at.Add(200 * time.Second)); got > 100 {
		t.Errorf("a seed that stands still has rate %d", got)
	}
	s := seedOf(org.CopyStatus{State: org.CopySeeding, SeedTotal: 3000, SeedDone: 1000, RateIn: 100})
	if s.Percent != 33 || s.Left != 20*time.Second {
		t.Errorf("%+v", s)
	}
}

func TestClassOf(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, ""}, {errors.New("x"), ""}, {fmt.Errorf("a: %w", syscall.EIO), org.CauseIO}, {syscall.EROFS, org.CauseReadOnly},
		{syscall.ENODEV, org.CauseGone}, {syscall.ENOSPC, ""}, {&volumeError{"v", org.CauseHung, "x"}, org.CauseHung},
	} {
		if got := classOf(c.err); got != c.want {
			t.Errorf("%v: %q, want %q", c.err, got, c.want)
		}
	}
}

// FuzzVolumeMark reads marks as they may be found on any disk.
func FuzzVolumeMark(f *testing.F) {
	f.Add([]byte("volume vol1\n"))
	f.Add([]byte(`{"format":1,"volume":"vol1","identity":"id","server":"MBX1"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, old, err := parseMark(b)
		if err == nil && !old && (m.Identity == "" || m.Format != volumeMarkFormat) {
			t.Errorf("%q is a mark: %+v", b, m)
		}
	})
}

// TestLeftovers finds what Postern set aside on a volume, and nothing else, and
// removes what may go with an entry in the recovery log.
func TestLeftovers(t *testing.T) {
	g := newAgreed()
	g.define(t, "MBX1", "MBX2")
	src := startKeeper(t, g.server("MBX1"), newDisks())
	d := newDisks()
	k := startOn(t, g.server("MBX2"), twoVolumes(), Deps{FS: d.fs, IndexFS: d.ix, Fast: true})
	eventually(t, "in sync", func() bool { return g.mount(t).IsInSync("MBX2") })
	now := time.Now()
	put := func(path, content string) {
		t.Helper()
		must(t, d.fs.MkdirAll(filepath.Dir(path)))
		must(t, fsx.WriteFile(d.fs, path, []byte(content)))
	}
	mark := `{"format":1,"identity":"db-1","seed_count":0}`
	moved := fmt.Sprintf("/vol2/%sDB01-%d", movedPrefix, now.Add(-2*24*time.Hour).Unix())
	young := fmt.Sprintf("/vol2/%sDB01-%d", movedPrefix, now.Add(-time.Hour).Unix())
	removed := fmt.Sprintf("/vol2/%sDB09-%d", removedPrefix, now.Add(-13*24*time.Hour).Unix())
	done := "/vol1/DB01/" + divergedName + "/1-2.log" + offered("")
	put(moved+"/log/x", "x")
	put(young+"/log/x", "x")
	put(removed+"/log/x", "x")
	put("/vol2/DB01/copy.json", mark)
	put("/vol2/DB01/log/x", "x")
	put(done, "x")
	removeAll := func() {
		v1, v2 := k.volumes["vol1"], k.volumes["vol2"]
		for _, v := range []*volume{v1, v2} {
			k.removeLeftovers(t.Context(), v, map[string]time.Time{}, now)
		}
	}
	there := func(path string) bool {
		_, err := d.fs.Stat(path)
		return err == nil
	}
	eventually(t, "the source is known to be healthy", func() bool { st, ok := k.peerStatus("MBX1", "DB01"); return ok && st.State == org.CopyMounted })
	removeAll()
	for path, want := range map[string]bool{moved: false, young: true, removed: true, "/vol2/DB01/log/x": false, done: false, "/vol1/DB01/log": true} {
		if there(path) != want {
			t.Errorf("%s is there: %t, want %t", path, !want, want)
		}
	}
	n := 0
	for range k.group.View().Prefix(org.RecoveryPrefix) {
		n++
	}
	if n != 3 {
		t.Errorf("%d entries in the recovery log, want 3", n)
	}
	// Strangers beside: what is set aside waits two weeks.
	put("/vol2/holiday/1.mov", "x")
	put(moved+"/log/x", "x")
	removeAll()
	if !there(moved) || !there("/vol2/holiday/1.mov") {
		t.Error("something was removed beside a stranger's files")
	}
	sameCopies(t, src, k)
}

// TestCheckSpareWritesNothing: AutoReseed asks the disk one thing before it acts, in
// dry-run mode too: whether a spare will do. Looking changes nothing there.
func TestCheckSpareWritesNothing(t *testing.T) {
	d := newDisks()
	must(t, d.fs.MkdirAll("/vol2/strange"))
	must(t, fsx.WriteFile(d.fs, "/vol2/strange/file", []byte("x")))
	k, err := New(twoVolumes(), Deps{Group: newAgreed().server("MBX1"), FS: d.fs, IndexFS: d.ix, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	d.fs.Inject(func(op fsx.Op) error {
		switch op.Kind {
		case fsx.OpRead:
		default:
			t.Errorf("looking at a spare does %v %s", op.Kind, op.Path)
		}
		return nil
	})
	problems, err := k.CheckSpare(t.Context(), "vol2", 1<<20)
	if err != nil || len(problems) == 0 {
		t.Errorf("a spare that is not empty will do: %q, %v", problems, err)
	}
	if raw, err := fsx.ReadFile(d.fs, "/vol2/strange/file", 10); err != nil || string(raw) != "x" {
		t.Errorf("what was there is %q: %v", raw, err)
	}
}
