package layout

import (
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/org"
)

// TestCheck names every problem of a volume that holds copies.
func TestCheck(t *testing.T) {
	copyOf := func(db org.DatabaseName, servers ...org.ServerName) Copy {
		c := Copy{Database: db, Identity: "id-" + string(db), Servers: servers}
		for i := range servers {
			c.Preferences = append(c.Preferences, i+1)
		}
		return c
	}
	good := func() Found {
		return Found{Server: "MBX1", Volume: "Vol1", Path: "/v1", State: org.VolumeData, Size: 100 << 30, Free: 50 << 30, Reserve: 1 << 30, Most: 2,
			Entries: []Entry{{"DB01", true, "id-DB01"}, {"DB02", true, "id-DB02"}},
			Copies:  []Copy{copyOf("DB01", "MBX1", "MBX2"), copyOf("DB02", "MBX2", "MBX1")}}
	}
	for _, c := range []struct {
		name string
		do   func(*Found)
		want []string // "level: part of the problem"
	}{
		{"nothing", func(*Found) {}, nil},
		{"gone", func(f *Found) { f.Cause, f.Why, f.Entries = org.CauseGone, "/v1 is empty", nil }, []string{"error: /v1 is empty"}},
		{"foreign", func(f *Found) { f.Cause, f.Why = org.CauseForeign, "belongs to server MBX9" }, []string{"error: belongs to server MBX9"}},
		{"io", func(f *Found) { f.Cause, f.Why = org.CauseIO, "sync: input/output error" }, []string{"error: io: sync"}},
		{"on the root disk", func(f *Found) { f.Root = true }, []string{"warning: file system of /"}},
		{"on the root disk and limited", func(f *Found) { f.Root, f.Limited = true, true }, nil},
		{"shared", func(f *Found) { f.Shares = []org.VolumeName{"Vol2", "Vol3"} }, []string{"warning: same file system as Vol2, Vol3"}},
		{"foreign file", func(f *Found) { f.Entries = append(f.Entries, Entry{Name: "holiday.mov"}) }, []string{"warning: holiday.mov is not of a database"}},
		{"set aside", func(f *Found) { f.Entries = append(f.Entries, Entry{Name: ".removed-DB07-1", Dir: true}) }, nil},
		{"left over copy", func(f *Found) { f.Entries = append(f.Entries, Entry{"DB07", true, "id-DB07"}) }, []string{"warning: folder DB07 holds a copy"}},
		{"another database of the name", func(f *Found) { f.Entries[0].Database = "other" }, []string{"error: folder DB01 holds another database"}},
		{"a file in the way", func(f *Found) { f.Entries[0] = Entry{Name: "DB01"} }, []string{"error: DB01 is a file"}},
		{"no folder", func(f *Found) { f.Entries = f.Entries[1:] }, []string{"warning: the folder of DB01"}},
		{"too full", func(f *Found) { f.Free = 1 << 20 }, []string{"error: less than the reserve"}},
		{"too many copies", func(f *Found) { f.Most = 1 }, []string{"warning: holds 2 copies, at most 1"}},
		{"preferences", func(f *Found) { f.Copies[0].Preferences = []int{1, 1} }, []string{"warning: preferences of DB01"}},
		{"neighbours", func(f *Found) { f.Copies[1].Servers = []org.ServerName{"MBX1", "MBX3"} }, []string{"warning: DB01 has copies on MBX1, MBX2, DB02 on MBX1, MBX3"}},
		{"not configured", func(f *Found) { f.Missing = true }, []string{"error: no such volume"}},
		{"failed", func(f *Found) { f.State = org.VolumeFailed }, []string{"warning: it is failed"}},
		{"several", func(f *Found) { f.Root, f.Most, f.Free = true, 1, 0 }, []string{"warning: file system of /", "error: less than the reserve", "warning: holds 2 copies"}},
	} {
		f := good()
		c.do(&f)
		compare(t, c.name, Check(f), c.want)
	}
}

// TestSpare names everything that keeps a volume from being a spare in use.
func TestSpare(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*Found)
		want []string
	}{
		{"usable", func(*Found) {}, nil},
		{"too small", func(f *Found) { f.Free = 11<<30 - 1 }, []string{"error: MiB are needed"}},
		{"not empty", func(f *Found) { f.Entries = []Entry{{Name: "x"}, {"DB09", true, "id"}, {"photos", true, ""}} },
			[]string{"error: x is a foreign file", "error: DB09 is the copy of a database", "error: photos is a foreign folder"}},
		{"foreign", func(f *Found) { f.Cause, f.Why = org.CauseForeign, "belongs to server MBX9" }, []string{"error: belongs to server MBX9"}},
		{"read-only", func(f *Found) { f.Cause, f.Why = org.CauseReadOnly, "write: read-only file system" }, []string{"error: read-only"}},
		{"failed lately", func(f *Found) { f.Failed = 1 }, []string{"error: it failed 1 times"}},
		{"data", func(f *Found) { f.State = org.VolumeData }, []string{"error: it is data, not spare"}},
		{"holds copies", func(f *Found) { f.Copies = []Copy{{Database: "DB01"}} }, []string{"error: it holds copies: DB01"}},
	} {
		f := Found{Server: "MBX1", Volume: "Vol3", Path: "/v3", State: org.VolumeSpare, Size: 20 << 30, Free: 12 << 30, Reserve: 0}
		c.do(&f)
		compare(t, c.name, Spare(f, 10<<30), c.want)
	}
}

func compare(t *testing.T, name string, got []Problem, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %+v, want %q", name, got, want)
		return
	}
	for i, p := range got {
		level, part, _ := strings.Cut(want[i], ": ")
		if string(p.Level) != level || !strings.Contains(p.Problem, part) {
			t.Errorf("%s: %s: %s, want %s", name, p.Level, p.Problem, want[i])
		}
		if p.Remedy == "" && !strings.Contains(p.Problem, "holds copies") {
			t.Errorf("%s: %s has no remedy", name, p.Problem)
		}
	}
}
