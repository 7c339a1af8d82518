package reseed

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

var update = flag.Bool("update", false, "write the transcripts")

// TestTranscripts plays timelines with a disk that fails in all the ways the
// design names, and compares what is decided, and said, with what is written.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d transcripts: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			input, want, _ := strings.Cut(string(b), "----\n")
			got := play(t, input)
			if *update {
				if err := os.WriteFile(file, []byte(input+"----\n"+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// disk is a volume of the world of a transcript.
type disk struct {
	Volume
	size     int64
	spare    bool
	problem  string        // as a spare
	breaksAt time.Duration // after its first seed began, it fails; 0 for never
	began    time.Time
}

// world is one server with volumes and copies, as Next sees it and as its
// deeds change it.
type world struct {
	now    time.Time
	begun  time.Time
	disks  map[org.VolumeName]*disk
	copies map[org.DatabaseName]*placed
	row    org.Reseed
	held   string
	off    string
	out    strings.Builder
	deeds  int
	resume bool // what is tried again works
	stuck  bool // seeds bring nothing
}

type placed struct {
	Copy
	on     org.VolumeName
	since  time.Time
	seeded time.Time // when its seed ends
}

// seedTakes is how long a seed takes in this world.
const seedTakes = 20 * time.Minute

func play(t *testing.T, input string) string {
	t.Helper()
	w := &world{now: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), disks: map[org.VolumeName]*disk{}, copies: map[org.DatabaseName]*placed{}}
	w.begun = w.now
	lines := bufio.NewScanner(strings.NewReader(input))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) == 0 || f[0] == "#" {
			continue
		}
		if err := w.do(f); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
	}
	if hours := int(w.now.Sub(w.begun).Hours()) + 1; w.deeds > 10+2*hours {
		t.Errorf("%d deeds in %d hours", w.deeds, hours)
	}
	w.say("end: %s, %s", cmpOr(string(w.row.Stage), "nothing to do"), w.picture())
	return w.out.String()
}

func cmpOr(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

func (w *world) say(format string, args ...any) {
	at := w.now.Sub(w.begun).Round(time.Second)
	fmt.Fprintf(&w.out, "%s: %s\n", at, fmt.Sprintf(format, args...))
}

func (w *world) picture() string {
	var parts []string
	for _, db := range w.names() {
		c := w.copies[db]
		parts = append(parts, fmt.Sprintf("%s %s on %s", db, c.State, c.on))
	}
	return strings.Join(parts, ", ")
}

func (w *world) names() []org.DatabaseName {
	var all []org.DatabaseName
	for db := range w.copies {
		all = append(all, db)
	}
	slices.Sort(all)
	return all
}

// do runs one line of a transcript.
func (w *world) do(f []string) error {
	switch f[0] {
	case "volume": // NAME SIZE [spare] [problem=...] [breaks=DURATION]
		d := &disk{Volume: Volume{Name: org.VolumeName(f[1]), Calm: true}}
		size, err := strconv.ParseInt(f[2], 10, 64)
		if err != nil {
			return err
		}
		d.size = size
		for _, o := range f[3:] {
			k, v, _ := strings.Cut(o, "=")
			switch k {
			case "spare":
				d.spare = true
			case "problem":
				d.problem = strings.ReplaceAll(v, "_", " ")
			case "breaks":
				if d.breaksAt, err = time.ParseDuration(v); err != nil {
					return err
				}
			}
		}
		w.disks[d.Name] = d
	case "copy": // DATABASE VOLUME [sources=N] [no-auto] [active]
		c := &placed{Copy: Copy{Database: org.DatabaseName(f[1]), State: org.CopyHealthy, InSync: true, Sources: 2}, on: org.VolumeName(f[2]), since: w.now}
		w.copies[c.Database] = c
		return w.options(c, f[3:])
	case "set": // DATABASE OPTIONS
		return w.options(w.copies[org.DatabaseName(f[1])], f[2:])
	case "break": // VOLUME CAUSE
		w.fail(w.disks[org.VolumeName(f[1])], f[2])
	case "mend": // VOLUME
		d := w.disks[org.VolumeName(f[1])]
		d.Cause, d.Why, d.Calm = "", "", true
		for _, c := range w.copies {
			if c.on == d.Name && c.State == org.CopyFailed {
				w.to(c, org.CopyHealthy, "")
			}
		}
	case "held":
		w.held = strings.Join(f[1:], " ")
	case "off":
		w.off = strings.Join(f[1:], " ")
	case "resumes-work":
		w.resume = true
	case "seeds-stuck":
		w.stuck = f[1] == "on"
	case "retry":
		w.row.Retry, w.row.Cancelled = true, ""
	case "cancel":
		w.row.Cancelled = "by hand"
	case "wait":
		d, err := time.ParseDuration(f[1])
		if err != nil {
			return err
		}
		w.wait(d)
	default:
		return fmt.Errorf("unknown word %s", f[0])
	}
	return nil
}

func (w *world) options(c *placed, opts []string) error {
	for _, o := range opts {
		k, v, _ := strings.Cut(o, "=")
		switch k {
		case "sources":
			n, err := strconv.Atoi(v)
			if err != nil {
				return err
			}
			c.Sources = n
		case "no-auto":
			c.NoAuto = true
		case "active":
			c.Active = v != "no"
		case "state":
			w.to(c, org.CopyState(v), "it says so")
		case "cause":
			c.Cause = v
		default:
			return fmt.Errorf("unknown option %s", o)
		}
	}
	return nil
}

// fail breaks a disk and the copies on it.
func (w *world) fail(d *disk, cause string) {
	d.Cause, d.Why, d.Calm = cause, "the disk is "+cause, false
	for _, c := range w.copies {
		if c.on == d.Name {
			w.to(c, org.CopyFailed, d.Why)
			c.Cause, c.InSync = cause, false
		}
	}
}

func (w *world) to(c *placed, s org.CopyState, why string) {
	if s != c.State {
		c.since = w.now
	}
	c.State, c.Reason = s, why
	if s == org.CopyHealthy {
		c.InSync, c.Cause = true, ""
	}
	if s == org.CopyFailed || s == org.CopyFailedAndSuspended {
		c.InSync = false
	}
}

// wait lets time pass in the steps of the loop.
func (w *world) wait(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); {
		w.now = w.now.Add(10 * time.Second)
		w.live()
		f := w.facts()
		was := w.row
		next, step := Next(f, w.row, Default(), w.now)
		w.row = next
		w.carryOut(step)
		switch {
		case step.Do != Nothing:
			w.say("%s -> %s: %s: %s", cmpOr(string(was.Stage), "-"), next.Stage, step.Do, step.Say)
		case was.Stage != next.Stage:
			w.say("%s -> %s: %s", cmpOr(string(was.Stage), "-"), next.Stage, step.Say)
		}
		if step.Do != Nothing && step.Do != Completed {
			w.deeds++
		}
	}
}

// live moves what goes on by itself.
func (w *world) live() {
	for _, db := range w.names() {
		c := w.copies[db]
		d := w.disks[c.on]
		if d.breaksAt > 0 && !d.began.IsZero() && w.now.Sub(d.began) >= d.breaksAt && d.Cause == "" {
			w.fail(d, org.CauseIO)
		}
		if c.State == org.CopySeeding && !w.stuck && !w.now.Before(c.seeded) {
			w.to(c, org.CopyHealthy, "")
		}
	}
}

func (w *world) facts() Facts {
	f := Facts{Held: w.held, Off: w.off}
	f.Volume = w.disks["Vol1"].Volume
	f.Current = f.Volume
	if w.row.Spare != "" && w.row.Stage != org.ReseedDone {
		f.Current = w.disks[w.row.Spare].Volume
	}
	for _, db := range w.names() {
		c := w.copies[db]
		got := c.Copy
		got.For, got.Here = w.now.Sub(c.since), c.on == f.Current.Name
		if c.State == org.CopySeeding && w.stuck {
			got.Idle = w.now.Sub(c.since)
		}
		if c.State == org.CopyFailedAndSuspended {
			f.Failed++
		}
		if got.Here || slices.Contains(w.row.Databases, db) {
			f.Copies = append(f.Copies, got)
		}
	}
	var spares []org.VolumeName
	for n, d := range w.disks {
		if d.spare {
			spares = append(spares, n)
		}
	}
	slices.Sort(spares)
	for _, n := range spares {
		d := w.disks[n]
		f.Spares = append(f.Spares, Spare{Name: n, Size: d.size, Problem: cmpOr(d.problem, d.Why)})
	}
	return f
}

// carryOut does to the world what active.reseeder does to the rows.
func (w *world) carryOut(s Step) {
	if s.Do == Condemn {
		w.disks[s.Spare].spare = false
		return
	}
	for _, db := range s.Databases {
		c := w.copies[db]
		switch s.Do {
		case Suspend:
			w.to(c, org.CopyFailedAndSuspended, c.Reason)
			c.BySystem = true
		case Resume:
			c.BySystem = false
			if w.resume {
				w.to(c, org.CopyHealthy, "")
			} else {
				w.to(c, org.CopyFailed, "still broken")
			}
		case Assign, InPlace:
			if c.Active || c.Sources == 0 {
				w.say("WRONG: %s is emptied", db)
			}
			if s.Do == Assign {
				c.on = s.Spare
				w.disks[s.Spare].spare = false
				w.disks[s.Spare].began = w.now
			}
			c.BySystem, c.InSync = false, false
			w.to(c, org.CopySeeding, "")
			c.since, c.seeded = w.now, w.now.Add(seedTakes)
		}
	}
}
