package monitor

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the transcripts")

// TestTranscripts plays testdata/*.txt: commands above the line, every change of
// the monitor below.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			raw, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			script, want, ok := strings.Cut(string(raw), "----\n")
			if !ok {
				t.Fatal("no line ----")
			}
			got := play(t, script)
			if *rewrite {
				if err := os.WriteFile(name, []byte(script+"----\n"+got), 0o600); err != nil {
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

// player runs a script on one machine, one turn a second.
type player struct {
	t                   *testing.T
	d                   Definition
	m                   *Machine
	now, next           Moment
	answer              func(now Moment) (Outcome, float64, bool)
	shown               org.HealthState
	disabled, repairing bool
	out                 strings.Builder
}

func play(t *testing.T, script string) string {
	p := &player{t: t, d: Definition{Rule: ConsecutiveFailures(3), Interval: 5 * time.Second, Calm: 10 * time.Minute}, shown: org.UnInitialized}
	p.m = New(0)
	p.answer = func(Moment) (Outcome, float64, bool) { return Passed, 0, true }
	lines := bufio.NewScanner(strings.NewReader(script))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		p.do(f)
	}
	return p.out.String()
}

func (p *player) do(f []string) {
	switch f[0] {
	case "rule":
		p.d.Rule = p.rule(f[1:])
	case "interval":
		p.d.Interval = p.time(f[1])
	case "pass":
		p.answer = func(Moment) (Outcome, float64, bool) { return Passed, 0, true }
	case "fail":
		p.answer = func(Moment) (Outcome, float64, bool) { return Failed, 0, true }
	case "value":
		v, err := strconv.ParseFloat(f[1], 64)
		if err != nil {
			p.t.Fatal(err)
		}
		p.answer = func(Moment) (Outcome, float64, bool) { return Passed, v, true }
	case "hang":
		p.answer = func(Moment) (Outcome, float64, bool) { return 0, 0, false }
	case "flap": // red for, green for
		red, green := p.time(f[1]), p.time(f[2])
		from := p.now
		p.answer = func(now Moment) (Outcome, float64, bool) {
			if (now-from)%(red+green) < red {
				return Failed, 0, true
			}
			return Passed, 0, true
		}
	case "disable", "enable":
		if p.disabled = f[0] == "disable"; !p.disabled {
			p.m.Anew(p.now)
		}
	case "repairing", "repaired":
		if p.repairing = f[0] == "repairing"; !p.repairing {
			p.m.Anew(p.now)
		}
	case "timeline":
		p.d.Timeline = nil
		for i := 1; i+1 < len(f); i += 2 {
			p.d.Timeline = append(p.d.Timeline, Step{p.time(f[i]), org.HealthState(f[i+1])})
		}
	case "restart": // away
		p.m = Restore(p.m.Save(p.now), p.time(f[1]), p.now+p.time(f[1]))
		p.now += p.time(f[1])
		p.next = p.now
	case "for":
		for end := p.now + p.time(f[1]); p.now < end; p.now += time.Second {
			p.second()
		}
	default:
		p.t.Fatalf("no command %s", f[0])
	}
}

func (p *player) second() {
	if p.d.Interval > 0 && p.now >= p.next {
		if o, v, ok := p.answer(p.now); ok {
			p.m.Take(p.d, Sample{At: p.now, Outcome: o, Value: v, Text: "probe says " + o.String()})
		}
		p.next = p.now + p.d.Interval
	}
	p.m.Turn(p.d, p.now)
	if s := p.m.Shown(p.d, p.now, p.disabled, p.repairing); s != p.shown {
		fmt.Fprintf(&p.out, "%v %s, was %s; red for %v, relapses %d", p.now, s, p.shown, p.m.RedTime(p.now), p.m.Relapses())
		if p.m.Why() != "" {
			fmt.Fprintf(&p.out, ": %s", p.m.Why())
		}
		p.out.WriteByte('\n')
		p.shown = s
	}
}

func (p *player) time(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		p.t.Fatal(err)
	}
	return d
}

func (p *player) rule(f []string) Rule {
	n, err := strconv.ParseFloat(f[1], 64)
	if err != nil {
		p.t.Fatal(err)
	}
	switch f[0] {
	case "consecutive":
		return ConsecutiveFailures(int(n))
	case "failures":
		return Failures(int(n), p.time(f[2]))
	case "percent":
		return PercentSuccess(n, p.time(f[2]), 5)
	case "above":
		return Above(n, "units", 3)
	case "above-for":
		return AboveFor(n, "units", p.time(f[2]))
	case "below":
		return Below(n, "units", 2)
	}
	p.t.Fatalf("no rule %s", f[0])
	return Rule{}
}

func TestRules(t *testing.T) {
	s := func(at int, o Outcome, v float64) Sample {
		return Sample{At: time.Duration(at) * time.Second, Outcome: o, Value: v}
	}
	for _, c := range []struct {
		name    string
		rule    Rule
		samples []Sample
		now     int
		notify  bool
		want    verdict
	}{
		{"nothing is no verdict", ConsecutiveFailures(1), nil, 0, false, unknown},
		{"one bad of three wanted", ConsecutiveFailures(3), []Sample{s(0, Failed, 0)}, 1, false, unknown},
		{"a good one is enough", ConsecutiveFailures(3), []Sample{s(0, Passed, 0)}, 1, false, green},
		{"timed out is bad", ConsecutiveFailures(2), []Sample{s(0, TimedOut, 0), s(5, Failed, 0)}, 6, false, red},
		{"a good one between", ConsecutiveFailures(2), []Sample{s(0, Failed, 0), s(5, Passed, 0), s(9, Failed, 0)}, 9, false, green},
		{"two of three in a minute", Failures(2, time.Minute), []Sample{s(0, Failed, 0), s(5, Passed, 0), s(9, Failed, 0)}, 9, false, red},
		{"one is out of the window", Failures(2, time.Minute), []Sample{s(0, Failed, 0), s(65, Failed, 0)}, 66, false, green},
		{"window empty, timer", Failures(1, time.Minute), []Sample{s(0, Failed, 0)}, 61, false, unknown},
		{"window empty, notified", Failures(1, time.Minute), []Sample{s(0, Failed, 0)}, 61, true, green},
		{"half is less than 80 %", PercentSuccess(80, time.Minute, 2), []Sample{s(0, Failed, 0), s(5, Passed, 0)}, 9, false, red},
		{"too few to judge", PercentSuccess(80, time.Minute, 3), []Sample{s(0, Failed, 0), s(5, Failed, 0)}, 9, false, unknown},
		{"above twice of three", Above(10, "", 3), []Sample{s(0, Passed, 9), s(5, Passed, 11), s(9, Passed, 12)}, 9, false, green},
		{"above three times", Above(10, "", 3), []Sample{s(0, Passed, 11), s(5, Passed, 11), s(9, Passed, 12)}, 9, false, red},
		{"at the limit is not above", Above(10, "", 1), []Sample{s(0, Passed, 10)}, 9, false, green},
		{"a broken check has no value", Above(10, "", 1), []Sample{s(0, Failed, 99)}, 9, false, unknown},
		{"above, with a failure between", Above(10, "", 2), []Sample{s(0, Passed, 11), s(5, Failed, 0), s(9, Passed, 12)}, 9, false, red},
		{"above for less than the time", AboveFor(10, "", time.Minute), []Sample{s(0, Passed, 11), s(30, Passed, 12)}, 40, false, green},
		{"above for the time", AboveFor(10, "", time.Minute), []Sample{s(0, Passed, 11), s(30, Passed, 12), s(60, Passed, 12)}, 60, false, red},
		{"one value says nothing of a time", AboveFor(10, "", time.Minute), []Sample{s(0, Passed, 11)}, 90, false, green},
		{"below", Below(10, "", 1), []Sample{s(0, Passed, 9)}, 1, false, red},
		{"notified red", Notified(time.Minute), []Sample{s(0, Failed, 0)}, 59, true, red},
		{"notified red expires", Notified(time.Minute), []Sample{s(0, Failed, 0)}, 60, true, green},
		{"notified red without end", Notified(0), []Sample{s(0, Failed, 0)}, 86400, true, red},
		{"notified green", Notified(0), []Sample{s(0, Passed, 0)}, 86400, true, green},
	} {
		if got, _, _ := c.rule.judge(c.samples, time.Duration(c.now)*time.Second, c.notify); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, r := range []Rule{{}, {Type: "?"}, ConsecutiveFailures(0), ConsecutiveFailures(1000), {Type: TypeConsecutive, Threshold: 1.5}, Failures(1, 0),
		PercentSuccess(101, time.Minute, 1), PercentSuccess(50, 0, 1), {Type: TypeAbove}, AboveFor(1, "", 25*time.Hour), Above(1, "", 1000), Notified(-1)} {
		if r.Check() == "" {
			t.Errorf("%+v is taken", r)
		}
	}
	for _, r := range []Rule{ConsecutiveFailures(1), Failures(3, time.Hour), PercentSuccess(100, time.Minute, 0), Above(0, "", 1), BelowFor(1, "", time.Minute), Notified(0)} {
		if bad := r.Check(); bad != "" {
			t.Errorf("%+v: %s", r, bad)
		}
	}
	for _, steps := range [][]Step{{{time.Second, org.Degraded}}, {{0, org.HealthOK}}, {{0, org.Degraded}, {0, org.Unhealthy}},
		{{0, org.Unhealthy}, {time.Second, org.Degraded}}, {{0, org.Degraded}, {25 * time.Hour, org.Unhealthy}}, make([]Step, 11)} {
		if CheckTimeline(steps) == "" {
			t.Errorf("%v is taken", steps)
		}
	}
	if bad := CheckTimeline(DefaultTimeline()); bad != "" {
		t.Error(bad)
	}
}

// TestBounded shows that a machine keeps no more than it needs.
func TestBounded(t *testing.T) {
	for _, r := range []Rule{ConsecutiveFailures(3), Failures(3, time.Hour), AboveFor(1, "", time.Hour), Above(1, "", 5), Notified(0)} {
		m := New(0)
		d := Definition{Rule: r, Interval: time.Second}
		for i := range 5000 {
			m.Take(d, Sample{At: time.Duration(i) * time.Second, Outcome: Failed, Value: 2, Text: strings.Repeat("x", 10_000)})
		}
		if len(m.samples) > maxSamples || len(m.Recent()) != maxRecent || len(m.samples[0].Text) > 120 {
			t.Errorf("%s keeps %d samples, %d recent ones", r.Type, len(m.samples), len(m.Recent()))
		}
	}
}

// TestRestoreNonsense: a damaged bookmark makes a machine that works.
func TestRestoreNonsense(t *testing.T) {
	for _, b := range []Bookmark{{}, {State: "?"}, {State: org.Unhealthy, RedTotal: -5, Relapses: -1}, {State: org.HealthOK, Since: -time.Hour, RedEnd: 1 << 62}} {
		m := Restore(b, time.Second, time.Minute)
		d := Definition{Rule: ConsecutiveFailures(1), Interval: time.Second, Calm: time.Minute}
		m.Take(d, Sample{At: time.Minute, Outcome: Failed})
		m.Turn(d, time.Minute)
		if s, _ := m.State(); !s.Red() {
			t.Errorf("%+v: %s after a bad result", b, s)
		}
	}
}
