package respond

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// doorSteps is chain A in short.
func doorSteps() Chain {
	return Chain{Name: "A", Steps: []Responder{
		{Name: "Restart", At: org.Degraded, After: 15 * time.Second, Wait: 30 * time.Second, Action: RestartService, Target: "imap"},
		{Name: "Offline", At: org.Unhealthy, Action: Offline, Target: "imap"},
		{Name: "Worker", At: org.Unhealthy1, Wait: time.Minute, Action: RestartWorker, Target: MailWorker},
		{Name: "Evacuate", At: org.Unrecoverable, Action: Evacuate},
		{Name: "Escalate", At: org.Unrecoverable, Action: Escalate},
		{Name: "Online", At: org.HealthOK, After: time.Minute, Action: Online, Target: "imap"},
	}}
}

// stand is a stretch of time in a state.
type stand struct {
	state org.HealthState
	for_  time.Duration
}

// walk plays states against a chain, one look a second; refuse tells which
// actions are refused, fail which do not succeed.
func walk(c Chain, p *Progress, stretch time.Duration, refuse, fail []Action, line []stand) []string {
	var out []string
	now := time.Duration(0)
	for _, s := range line {
		since := now
		for end := now + s.for_; now < end; now += time.Second {
			st := Standing{State: s.state, Since: since, Now: now, Stretch: stretch}
			if r, ok := Next(c, p, st); ok {
				tried := Tried{At: now, Refused: slices.Contains(refuse, r.Action), Failed: slices.Contains(fail, r.Action)}
				p.Did(r, tried, st)
				word := ""
				switch {
				case tried.Refused:
					word = " refused"
				case tried.Failed:
					word = " failed"
				}
				out = append(out, fmt.Sprintf("%v %s%s", now, r.Name, word))
			}
		}
	}
	return out
}

func TestChain(t *testing.T) {
	const s, m = time.Second, time.Minute
	whole := []stand{{org.Degraded, m}, {org.Unhealthy, 4 * m}, {org.Unhealthy1, 10 * m}, {org.Unrecoverable, 5 * m}, {org.HealthOK, 3 * m}}
	for _, c := range []struct {
		name    string
		stretch time.Duration
		refuse  []Action
		line    []stand
		want    string
	}{
		{"the whole ladder", 1, nil, whole, "15s Restart; 1m0s Offline; 5m0s Worker; 15m0s Evacuate; 15m1s Escalate; 21m0s Online"},
		{"green again before the first step", 1, nil, []stand{{org.Degraded, 10 * s}, {org.HealthOK, 5 * m}}, ""},
		{"the restart helps", 1, nil, []stand{{org.Degraded, 20 * s}, {org.HealthOK, 5 * m}}, "15s Restart"},
		{"two red periods", 1, nil, []stand{{org.Degraded, 20 * s}, {org.HealthOK, 5 * m}, {org.Degraded, 20 * s}}, "15s Restart; 5m35s Restart"},
		{"a relapse further up does not make up for milder steps", 1, nil, []stand{{org.Degraded, 20 * s}, {org.HealthOK, 5 * m}, {org.Unhealthy, m}}, "15s Restart; 5m20s Offline"},
		{"a refused step is asked for again in its state", 1, []Action{Evacuate}, []stand{{org.Unrecoverable, 25 * m}},
			"0s Evacuate refused; 1s Escalate; 10m0s Evacuate refused; 20m0s Evacuate refused"},
		{"and not in a later one", 1, []Action{RestartService}, []stand{{org.Degraded, m}, {org.Unhealthy, 30 * m}}, "15s Restart refused; 1m0s Offline"},
		{"refused in one period, not asked for again at once in the next", 1, []Action{RestartService},
			[]stand{{org.Degraded, 20 * s}, {org.HealthOK, m}, {org.Degraded, 30 * s}, {org.HealthOK, 10 * m}, {org.Degraded, 30 * s}}, "15s Restart refused; 12m5s Restart refused"},
		{"out and back before it was given back", 1, nil, []stand{{org.Unhealthy, m}, {org.HealthOK, 30 * s}, {org.Unhealthy, m}, {org.HealthOK, 2 * m}},
			"0s Offline; 1m30s Offline; 3m30s Online"},
		{"a refused return is tried again", 1, []Action{Online}, []stand{{org.Unhealthy, m}, {org.HealthOK, 150 * s}}, "0s Offline; 2m0s Online refused; 3m0s Online refused"},
		{"shortened", 10, nil, []stand{{org.Degraded, 6 * s}, {org.HealthOK, 5 * m}}, "2s Restart"},
	} {
		got := strings.Join(walk(doorSteps(), &Progress{}, c.stretch, c.refuse, nil, c.line), "; ")
		if got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

// TestFailedStep: only a step that says so is tried again after it failed, in
// later states too, and not when all is well.
func TestFailedStep(t *testing.T) {
	const m = time.Minute
	c := Chain{Name: "T", Steps: []Responder{
		{Name: "Once", At: org.Degraded, Action: RestartService, Target: "imap"},
		{Name: "Move", At: org.Degraded, Action: MoveDatabases, Again: m},
	}}
	got := strings.Join(walk(c, &Progress{}, 1, nil, []Action{RestartService, MoveDatabases}, []stand{{org.Degraded, 90 * time.Second}, {org.Unhealthy, m}, {org.HealthOK, 5 * m}}), "; ")
	if want := "0s Once failed; 1s Move failed; 1m1s Move failed; 2m1s Move failed"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// What fails for ever keeps nothing else from its turn.
	c.Steps = append(c.Steps, Responder{Name: "Worker", At: org.Unhealthy, Wait: m, Action: RestartWorker}, Responder{Name: "Tell", At: org.Unhealthy1, Action: Escalate})
	got = strings.Join(walk(c, &Progress{}, 1, nil, []Action{RestartService, MoveDatabases}, []stand{{org.Degraded, 30 * time.Second}, {org.Unhealthy, m}, {org.Unhealthy1, 90 * time.Second}}), "; ")
	if want := "0s Once failed; 1s Move failed; 30s Worker; 1m30s Tell; 1m31s Move failed; 2m31s Move failed"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestChainSurvivesRestart saves and shifts the progress at every second of a
// ladder: no step is done twice, none is left out.
func TestChainSurvivesRestart(t *testing.T) {
	line := []stand{{org.Degraded, time.Minute}, {org.Unhealthy, 4 * time.Minute}, {org.Unhealthy1, 10 * time.Minute}, {org.Unrecoverable, time.Minute}, {org.HealthOK, 2 * time.Minute}}
	want := walk(doorSteps(), &Progress{}, 1, nil, nil, line)
	for cut := time.Duration(0); cut < 18*time.Minute; cut += 7 * time.Second {
		p, now := &Progress{}, time.Duration(0)
		var got []string
		for _, s := range line {
			since := now
			for end := now + s.for_; now < end; now += time.Second {
				if now == cut { // the process is another one, whose moments begin at 0
					p.Shift(-now)
					p.Shift(now)
				}
				st := Standing{State: s.state, Since: since, Now: now}
				if r, ok := Next(doorSteps(), p, st); ok {
					p.Did(r, Tried{At: now}, st)
					got = append(got, fmt.Sprintf("%v %s", now, r.Name))
				}
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("restart at %v: %v, want %v", cut, got, want)
		}
	}
}

func TestCleared(t *testing.T) {
	p := &Progress{}
	walk(doorSteps(), p, 1, nil, nil, []stand{{org.Unrecoverable, time.Minute}})
	if p.Cleared(org.Unrecoverable) {
		t.Error("all-clear while red")
	}
	if !p.Cleared(org.HealthOK) || p.Cleared(org.HealthOK) {
		t.Error("want the all-clear once")
	}
}

func TestCheckChain(t *testing.T) {
	if bad := CheckChain(doorSteps()); bad != "" {
		t.Error(bad)
	}
	for _, r := range []Responder{{}, {Name: "x"}, {Name: "x", Action: "Format"}, {Name: "x", Action: Escalate, At: org.Repairing}, {Name: "x", Action: Offline, At: org.Degraded},
		{Name: "x", Action: Escalate, At: org.Degraded, After: 2 * time.Hour}} {
		if CheckChain(Chain{Steps: []Responder{r}}) == "" {
			t.Errorf("%+v is taken", r)
		}
	}
	if CheckChain(Chain{Steps: slices.Repeat(doorSteps().Steps, 2)}) == "" || CheckChain(Chain{Steps: slices.Repeat(doorSteps().Steps, 3)}) == "" {
		t.Error("double names or too many steps are taken")
	}
}
