package layout

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// Level tells how bad a problem is.
type Level string

// Levels.
const (
	Error   Level = "error"   // AutoReseed and new copies keep off the volume
	Warning Level = "warning" // it works, and costs something when a disk fails
)

// Problem is what is wrong with a volume, and what to do.
type Problem struct {
	Server  org.ServerName `json:"server" col:"SERVER" cbor:"1,keyasint"`
	Volume  org.VolumeName `json:"volume" col:"VOLUME" cbor:"2,keyasint"`
	Level   Level          `json:"level" col:"LEVEL" cbor:"3,keyasint"`
	Problem string         `json:"problem" col:"PROBLEM" cbor:"4,keyasint"`
	Remedy  string         `json:"remedy,omitempty" col:"REMEDY" cbor:"5,keyasint,omitempty"`
}

// Entry is a name at the top of a volume.
type Entry struct {
	Name string
	Dir  bool
	// Database is the identity of the database whose copy the folder holds,
	// empty where it holds none.
	Database string
}

// Copy is a copy that the group's rows place on the volume.
type Copy struct {
	Database    org.DatabaseName
	Identity    string
	Preferences []int            // of all copies of the database
	Servers     []org.ServerName // that have a copy of it
}

// Found is what was found on a volume, and what the group says of it.
type Found struct {
	Server  org.ServerName
	Volume  org.VolumeName
	Path    string
	State   org.VolumeState
	Missing bool             // the configuration of the server does not name it
	Cause   string           // class of its failure, empty while it works
	Why     string           // the same in words
	Failed  int              // times it failed in the last 7 days
	Entries []Entry          // at its top, without Postern's own files
	Copies  []Copy           // placed on it
	Limited bool             // Postern may use only a part: it need not be a disk of its own
	Root    bool             // it is on the file system of /
	Shares  []org.VolumeName // other volumes on the same file system
	Size    int64
	Free    int64
	Reserve int64
	Most    int // copies that should share it
}

// list gathers the problems of one volume.
type list struct {
	f   Found
	all []Problem
}

func (l *list) add(level Level, remedy, format string, args ...any) {
	l.all = append(l.all, Problem{l.f.Server, l.f.Volume, level, fmt.Sprintf(format, args...), remedy})
}

// Check names everything that is wrong with a volume that holds copies, or
// may get some.
func Check(f Found) []Problem {
	l := &list{f: f}
	l.disk()
	if f.Missing {
		return l.all
	}
	switch f.State {
	case org.VolumeSpare:
		l.empty()
		if len(f.Copies) > 0 {
			l.add(Error, fmt.Sprintf("postern volume set %s %s --data", f.Server, f.Volume), "it is a spare and holds copies: %s", databases(f.Copies))
		}
	case org.VolumeFailed, org.VolumeRetired, org.VolumeSuspect:
		l.add(Warning, fmt.Sprintf("replace or check the disk, then: postern volume reset %s %s", f.Server, f.Volume), "it is %s and not used", f.State)
	default:
		l.folders()
		l.copies()
	}
	return l.all
}

// Spare names what keeps a volume from taking the place of one that failed,
// for copies of need bytes.
func Spare(f Found, need int64) []Problem {
	l := &list{f: f}
	if f.State != org.VolumeSpare {
		l.add(Error, fmt.Sprintf("postern volume set %s %s --spare", f.Server, f.Volume), "it is %s, not spare", f.State)
	}
	l.disk()
	l.empty()
	if f.Failed > 0 {
		l.add(Error, "replace the disk", "it failed %d times in the last 7 days", f.Failed)
	}
	if len(f.Copies) > 0 {
		l.add(Error, "", "it holds copies: %s", databases(f.Copies))
	}
	if want := need + need/10 + f.Reserve; f.Cause == "" && f.Free < want {
		l.add(Error, "give it a bigger disk", "%d MiB are free, %d MiB are needed", f.Free>>20, want>>20)
	}
	return l.all
}

// disk judges the disk itself.
func (l *list) disk() {
	f := l.f
	switch f.Cause {
	case "":
	case org.CauseGone:
		l.add(Error, fmt.Sprintf("mount the disk at %s; a new and empty one: postern volume reset %s %s", f.Path, f.Server, f.Volume), "%s", f.Why)
	case org.CauseForeign:
		l.add(Error, fmt.Sprintf("mount the right disk at %s; if this one is to be used, empty it first, then: postern volume reset %s %s", f.Path, f.Server, f.Volume), "%s", f.Why)
	default:
		l.add(Error, "look at the kernel's log and replace the disk", "%s: %s", f.Cause, f.Why)
	}
	if f.Missing {
		l.add(Error, "add it to the configuration of the server, or move its copies: postern copy remove, postern copy add", "the server's configuration has no such volume")
		return
	}
	if f.Limited {
		return
	}
	if f.Root {
		l.add(Warning, fmt.Sprintf("mount a disk of its own at %s, or set max_size", f.Path), "it is on the file system of /: a full or failing disk takes the server with it")
	}
	if len(f.Shares) > 0 {
		l.add(Warning, "give each volume a disk of its own, or set max_size", "it is on the same file system as %s", join(f.Shares))
	}
}

// empty judges a spare's content.
func (l *list) empty() {
	for _, e := range l.f.Entries {
		what, remedy := "a foreign file", "move it away"
		switch {
		case e.Database != "":
			what, remedy = "the copy of a database", "move the folder away once its database is healthy elsewhere"
		case strings.HasPrefix(e.Name, "."):
			what, remedy = "what was set aside", "wait until it is removed, or move it away"
		case e.Dir:
			what = "a foreign folder"
		}
		l.add(Error, remedy, "%s is not empty: %s is %s", l.f.Path, e.Name, what)
	}
}

// folders compares what is there with what should be.
func (l *list) folders() {
	f := l.f
	if f.Cause != "" {
		return // what is listed may be of the disk below
	}
	for _, e := range f.Entries {
		i := slices.IndexFunc(f.Copies, func(c Copy) bool { return string(c.Database) == e.Name })
		switch {
		case strings.HasPrefix(e.Name, ".removed-") || strings.HasPrefix(e.Name, ".moved-"):
		case i < 0 && e.Database != "":
			l.add(Warning, "it is removed by itself once the database is healthy elsewhere", "folder %s holds a copy that the group has not here", e.Name)
		case i < 0:
			l.add(Warning, "move it away: it takes space of the databases", "%s is not of a database", e.Name)
		case !e.Dir:
			l.add(Error, "move it away", "%s is a file where the folder of the database has to be", e.Name)
		case e.Database != "" && e.Database != f.Copies[i].Identity:
			l.add(Error, "move the folder away", "folder %s holds another database of this name", e.Name)
		}
	}
	for _, c := range f.Copies {
		if !slices.ContainsFunc(f.Entries, func(e Entry) bool { return e.Name == string(c.Database) }) {
			l.add(Warning, fmt.Sprintf("postern copy status %s", c.Database), "the folder of %s is not there", c.Database)
		}
	}
	if f.Free < f.Reserve {
		l.add(Error, "free space or give it a bigger disk", "%d MiB are free, less than the reserve of %d MiB", f.Free>>20, f.Reserve>>20)
	}
}

// copies judges how the copies are spread.
func (l *list) copies() {
	f := l.f
	if len(f.Copies) > f.Most {
		l.add(Warning, "spread the copies over more volumes", "it holds %d copies, at most %d should share a volume", len(f.Copies), f.Most)
	}
	for _, c := range f.Copies {
		sorted := slices.Sorted(slices.Values(c.Preferences))
		for i, p := range sorted {
			if p != i+1 {
				l.add(Warning, "give each copy another preference from 1 on", "preferences of %s are %v, each from 1 to %d should be there once", c.Database, sorted, len(sorted))
				break
			}
		}
	}
	for _, c := range f.Copies[min(1, len(f.Copies)):] {
		if !same(c.Servers, f.Copies[0].Servers) {
			l.add(Warning, "give the databases of one volume copies on the same servers: they are then seeded from all of these at a time",
				"%s has copies on %s, %s on %s", f.Copies[0].Database, join(f.Copies[0].Servers), c.Database, join(c.Servers))
			return
		}
	}
}

func same(a, b []org.ServerName) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

func join[T ~string](all []T) string {
	words := make([]string, len(all))
	for i, w := range all {
		words[i] = string(w)
	}
	return strings.Join(words, ", ")
}

func databases(all []Copy) string {
	names := make([]org.DatabaseName, len(all))
	for i, c := range all {
		names[i] = c.Database
	}
	return join(names)
}

// Week is how long a failure of a volume counts.
const Week = 7 * 24 * time.Hour
