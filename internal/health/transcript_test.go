package health

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/base/transcript"
	"github.com/postern-mail/postern/internal/health/monitor"
	"github.com/postern-mail/postern/internal/health/respond"
	"github.com/postern-mail/postern/internal/org"
)

// TestResponderTranscripts plays testdata/*.txt: what a probe says and what holds
// in the group above the line; below it every state, every deed that was begun,
// refused or rehearsed with its reason, and what became of it.
func TestResponderTranscripts(t *testing.T) {
	transcript.Check(t, "testdata/*.txt", func(in string) (out string) {
		synctest.Test(t, func(t *testing.T) { out = newStage(t).play(in) })
		return out
	})
}

// stage is a monitor with its chain, the gate and a group, one look a second.
type stage struct {
	t        *testing.T
	rows     *state
	gate     *respond.Gate
	machine  *monitor.Machine
	def      monitor.Definition
	chain    Chain
	progress respond.Progress
	target   string
	began    time.Time

	fails   string // what the probe says, empty: it passes
	silent  bool
	mode    respond.Mode
	held    string
	seen    string // what another server says of the component, empty: it sees the failure
	breaks  map[string]string
	cures   map[string]bool
	spare   respond.Spare
	shown   org.HealthState
	refused map[string]string
	out     strings.Builder
}

func newStage(t *testing.T) *stage {
	t.Helper()
	j, err := respond.OpenJournal(filepath.Join(t.TempDir(), "recovery.json"))
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{t: t, rows: newState(), mode: respond.Act, breaks: map[string]string{}, cures: map[string]bool{}, began: time.Now(), shown: org.UnInitialized,
		machine: monitor.New(0), def: monitor.Definition{Rule: ConsecutiveFailures(3), Interval: 5 * time.Second, Calm: calm},
		chain: DoorChain("imap", org.IMAPComponent), refused: map[string]string{},
		spare: respond.Spare{Serving: map[org.Component][]org.ServerName{org.IMAPComponent: {"MBX2", "MBX3"}},
			Databases: []respond.DatabaseSpare{{Database: "DB01", InSync: []org.ServerName{"MBX2", "MBX3"}, Minimum: 1}}}}
	s.gate = respond.NewGate(respond.GateDeps{Server: "MBX1", Rows: s.rows, Actor: s, Clock: systemClock{}, Local: j,
		Mode: func(string) respond.Mode { return s.mode }, Held: func() string { return s.held }, Spare: func() respond.Spare { return s.spare },
		Size: func() (int, int) { return 3, 1 }, Second: func(org.Component) (string, bool) {
			if s.seen != "" {
				return s.seen, false
			}
			return "MBX2 saw it fail", true
		}, Said: s.said})
	return s
}

// Act implements Actor.
func (s *stage) Act(_ context.Context, d Deed) (string, error) {
	if why := s.breaks[string(d.Action)]; why != "" {
		return "", errors.New(why)
	}
	if s.cures[string(d.Action)] {
		s.fails = ""
	}
	return "done", nil
}

func (s *stage) now() time.Duration { return time.Since(s.began) }

func (s *stage) say(format string, args ...any) {
	fmt.Fprintf(&s.out, "%v "+format+"\n", append([]any{s.now()}, args...)...)
}

// said is told of each row of the recovery log.
func (s *stage) said(r org.Recovery) {
	what := strings.TrimSpace(r.Action + " " + r.Target)
	dry := ""
	if r.DryRun {
		dry = "would: "
	}
	switch {
	case !r.Allowed:
		s.say("  %s%s refused: %s", dry, what, r.Refused)
	case r.DryRun:
		s.say("  %s%s (%s), %d results as evidence", dry, what, r.Cause, len(r.Evidence))
	case r.Action == string(Escalate):
		s.say("  people are told: %s", r.Cause)
	case r.Ended.IsZero():
		s.say("  %s (%s), %d results as evidence", what, r.Cause, len(r.Evidence))
	default:
		s.say("  %s: %s", what, r.Result)
	}
}

func (s *stage) play(in string) string {
	for line := range strings.Lines(in) {
		verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		s.do(verb, rest)
	}
	changed := []string{}
	for k := range s.rows.keys(org.RecoveryPrefix) {
		changed = append(changed, k)
	}
	fmt.Fprintf(&s.out, "rows beside the log: %d", len(changed))
	return s.out.String()
}

func (s *stage) do(verb, rest string) {
	switch verb {
	case "chain":
		s.chain, s.target = map[string]Chain{"door": DoorChain("imap", org.IMAPComponent), "store": StoreChain(), "volume": VolumeChain(), "copy": CopyChain(),
			"memory": MemoryChain(), "network": NetworkChain(org.IMAPComponent)}[rest], map[string]string{"store": "DB01", "volume": "Vol1", "copy": "DB01"}[rest]
		s.def.Timeline = map[string][]Step{"copy": CopyTimeline(), "network": NetworkTimeline()}[rest]
	case "fail":
		s.fails, s.silent = rest, false
	case "pass":
		s.fails, s.silent = "", false
	case "hang":
		s.silent = true
	case "mode":
		s.mode = respond.Mode(rest)
	case "held":
		s.held = rest
	case "plan":
		s.spare.Held = rest
	case "seen":
		s.seen = rest
	case "alone":
		s.spare.Serving = nil
		s.spare.Databases[0].InSync = nil
	case "breaks":
		action, why, _ := strings.Cut(rest, " ")
		s.breaks[action] = why
	case "cures":
		s.cures[rest] = true
	case "quorum":
		s.rows.cut(rest == "lost")
	case "for":
		d, err := time.ParseDuration(rest)
		if err != nil {
			s.t.Fatal(err)
		}
		for end := s.now() + d; s.now() < end; time.Sleep(time.Second) {
			s.second()
		}
	default:
		s.t.Fatalf("no command %q", verb)
	}
}

// second is one look.
func (s *stage) second() {
	now := s.now()
	if now%s.def.Interval == 0 && !s.silent {
		x := monitor.Sample{At: now, Outcome: Passed}
		if s.fails != "" {
			x.Outcome, x.Text = Failed, s.fails
		}
		s.machine.Take(s.def, x)
	}
	s.machine.Turn(s.def, now)
	state, since := s.machine.State()
	shown := s.machine.Shown(s.def, now, false, false)
	if shown != s.shown {
		s.say("%s", shown)
		s.shown = shown
	}
	if shown != state {
		return
	}
	if s.progress.Cleared(state) {
		s.say("  people are told that all is well")
	}
	st := respond.Standing{State: state, Since: since, Now: now}
	r, ok := respond.Next(s.chain, &s.progress, st)
	if !ok {
		return
	}
	o := order{Action: r.Action, Target: r.Target, Set: "IMAP.Protocol", Monitor: imapSelf, Responder: s.chain.Name + "." + r.Name, Component: org.IMAPComponent,
		State: state, Cause: s.machine.Why(), WantSecond: r.Second, Lossless: r.Lossless}
	if r.Action == Online {
		o.Cause = "healthy again"
	}
	if o.Target == "" {
		o.Target = s.target
	}
	for _, x := range s.machine.Recent() {
		o.Evidence = append(o.Evidence, org.RecoveryEvidence{Item: imapSelf, Result: x.Outcome.String(), Text: x.Text})
	}
	row, err := s.gate.Do(s.t.Context(), o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.progress.Did(r, respond.Tried{At: s.now(), Refused: !row.Allowed, Failed: row.Failed}, st)
}
