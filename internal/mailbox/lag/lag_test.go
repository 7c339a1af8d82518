package lag

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/transcript"
)

// TestTimelines plays the transcripts: each line of the input changes a fact or
// lets time pass, and what Decide says each minute is written down when it
// changes.
func TestTimelines(t *testing.T) { transcript.Check(t, "testdata/*.txt", timeline) }

func timeline(input string) string {
	f := Facts{Lag: 7 * 24 * time.Hour, Free: 500 << 30, Size: 1000 << 30, Reserve: 1 << 30, Available: 3, Designed: 3, Latency: 5 * time.Millisecond}
	r := Default()
	var s State
	var out []string
	said := ""
	turn := func() {
		var d Decision
		s, d = Decide(s, f, r)
		did := "lag"
		if d.PlayDown {
			did = "play down (" + string(d.Cause) + ")"
		} else if d.Deferred {
			did = "deferred (" + string(d.Cause) + ")"
		}
		if did == said {
			return
		}
		said = did
		out = append(out, fmt.Sprintf("%s: %s: %s", f.Now, did, d.Why))
	}
	turn()
	for _, line := range strings.Split(input, "\n") {
		for _, word := range strings.Fields(line) {
			if err := change(&f, &r, word, turn); err != nil {
				return fmt.Sprintf("%q: %v", word, err)
			}
		}
		turn()
	}
	_, d := Decide(s, f, r)
	return strings.Join(append(out, fmt.Sprintf("%s: end: %s", f.Now, d.Why)), "\n")
}

// change changes one fact.
func change(f *Facts, r *Rules, word string, turn func()) error {
	name, val, _ := strings.Cut(word, "=")
	if name == "wait" || name == "latency" || name == "lag" || name == "max-delay" {
		d, err := time.ParseDuration(val)
		if err != nil {
			return err
		}
		switch name {
		case "latency":
			f.Latency = d
		case "lag":
			f.Lag = d
		case "max-delay":
			r.MaxDelay = d
		default:
			for end := f.Now + d; f.Now < end; turn() {
				f.Now += time.Minute
			}
		}
		return nil
	}
	n, err := strconv.Atoi(val)
	if err != nil {
		return err
	}
	switch name {
	case "free":
		f.Free = int64(n) << 30
	case "size":
		f.Size = int64(n) << 30
	case "reserve":
		f.Reserve = int64(n) << 30
	case "available":
		f.Available = n
	case "designed":
		f.Designed = n
	default:
		return fmt.Errorf("no such fact")
	}
	return nil
}

// TestDecide is the table of single decisions.
func TestDecide(t *testing.T) {
	day := 24 * time.Hour
	ago := func(d time.Duration) *time.Duration { d = 100*time.Hour - d; return &d }
	base := Facts{Now: 100 * time.Hour, Lag: 7 * day, Free: 100 << 30, Size: 1000 << 30, Available: 3, Designed: 3}
	with := func(change func(*Facts)) Facts { f := base; change(&f); return f }
	for _, c := range []struct {
		name  string
		s     State
		f     Facts
		down  bool
		cause Cause
		waits bool
	}{
		{"all is well", State{}, base, false, None, false},
		{"no lag is set", State{Playing: Space}, with(func(f *Facts) { f.Lag, f.Free = 0, 1 }), false, None, false},
		{"less than ten gigabytes", State{}, with(func(f *Facts) { f.Free = 10<<30 - 1 }), true, Space, false},
		{"exactly ten gigabytes", State{}, with(func(f *Facts) { f.Free = 10 << 30 }), false, None, false},
		{"between once and twice, lagging", State{}, with(func(f *Facts) { f.Free = 15 << 30 }), false, None, false},
		{"between once and twice, playing down", State{Playing: Space}, with(func(f *Facts) { f.Free = 15 << 30 }), true, Space, false},
		{"twice is free again", State{Playing: Space}, with(func(f *Facts) { f.Free = 20 << 30 }), false, None, false},
		{"a small disk: a tenth of it", State{}, with(func(f *Facts) { f.Size, f.Free = 20<<30, 3<<30 }), false, None, false},
		{"a small disk below a tenth", State{}, with(func(f *Facts) { f.Size, f.Free = 20<<30, 1<<30 }), true, Space, false},
		{"twice the reserve counts", State{}, with(func(f *Facts) { f.Reserve, f.Free = 8<<30, 15<<30 }), true, Space, false},
		{"too few copies, just now", State{}, with(func(f *Facts) { f.Available = 2 }), false, None, false},
		{"too few copies for a day", State{few: ago(day)}, with(func(f *Facts) { f.Available = 2 }), true, Copies, false},
		{"too few copies for nearly a day", State{few: ago(day - time.Minute)}, with(func(f *Facts) { f.Available = 2 }), false, None, false},
		{"never more than two were meant", State{few: ago(2 * day)}, with(func(f *Facts) { f.Available, f.Designed = 2, 2 }), false, None, false},
		{"one of two", State{few: ago(2 * day)}, with(func(f *Facts) { f.Available, f.Designed = 1, 2 }), true, Copies, false},
		{"four of five are more than three", State{few: ago(2 * day)}, with(func(f *Facts) { f.Available, f.Designed = 4, 5 }), false, None, false},
		{"too few, slow disk", State{few: ago(2 * day)}, with(func(f *Facts) { f.Available, f.Latency = 2, 36*time.Millisecond }), false, Copies, true},
		{"too few, disk was slow and is not fast yet", State{few: ago(2 * day), slow: true}, with(func(f *Facts) { f.Available, f.Latency = 2, 30*time.Millisecond }), false, Copies, true},
		{"too few, disk was not slow", State{few: ago(2 * day)}, with(func(f *Facts) { f.Available, f.Latency = 2, 30*time.Millisecond }), true, Copies, false},
		{"too few, slow for longer than the most", State{few: ago(3 * day), deferred: ago(day)}, with(func(f *Facts) { f.Available, f.Latency = 2, time.Second }), true, Copies, false},
		{"want of space does not wait for the disk", State{}, with(func(f *Facts) { f.Free, f.Latency = 1<<30, time.Second }), true, Space, false},
		{"space before copies", State{few: ago(2 * day)}, with(func(f *Facts) { f.Free, f.Available = 1<<30, 0 }), true, Space, false},
	} {
		s, d := Decide(c.s, c.f, Default())
		if d.PlayDown != c.down || d.Cause != c.cause || d.Deferred != c.waits {
			t.Errorf("%s: %+v", c.name, d)
		}
		if d.Why == "" || d.PlayDown != (s.Playing != None) {
			t.Errorf("%s: state %+v, decision %+v", c.name, s, d)
		}
	}
}
