package node

import (
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/health"
)

// TestJudgeOrder: workers cannot restart each other for ever.
func TestJudgeOrder(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ago := func(worker string, all ...time.Duration) (out []HostOrder) {
		for _, d := range all {
			out = append(out, HostOrder{At: now.Add(-d), Worker: worker})
		}
		return out
	}
	const m, h = time.Minute, time.Hour
	for _, c := range []struct {
		before []HostOrder
		want   string
	}{
		{nil, ""},
		{ago(WorkerMail, 9*m), "the last one was 9m0s ago"},
		{ago(WorkerMail, 11*m), ""},
		{ago(WorkerHealth, m, 2*m, 3*m), ""},
		{ago(WorkerMail, 50*m, 30*m, 11*m), "3 within an hour"},
		{ago(WorkerMail, 70*m, 50*m, 30*m), ""},
		{ago(WorkerMail, 20*h, 15*h, 10*h, 5*h, 3*h, 2*h), "6 within a day"},
		{ago(WorkerMail, -h), "the last one was 0s ago"}, // the clock was set back
	} {
		got := judgeOrder(c.before, HostOrder{At: now, Worker: WorkerMail}, 10*m)
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%v: %q, want %q", c.before, got, c.want)
		}
	}
}

// TestSpinner: only a worker that computes all the time is found, and a look that
// comes late does not make one.
func TestSpinner(t *testing.T) {
	s := spinner{patience: 20 * time.Second}
	now, used, waited := time.Now(), time.Duration(0), time.Duration(0)
	starving := func(passed, worked, starved time.Duration) bool {
		now, used, waited = now.Add(passed), used+worked, waited+starved
		return s.look(now, used, waited)
	}
	look := func(passed, worked time.Duration) bool { return starving(passed, worked, 0) }
	look(0, time.Hour) // what it used before counts for nothing
	for range 10 {
		if look(5*time.Second, time.Second) {
			t.Fatal("a calm worker spins")
		}
	}
	for i := range 3 {
		if look(5*time.Second, 5*time.Second) {
			t.Fatal("too early, after", i)
		}
	}
	look(5*time.Second, 0) // a pause begins the count anew
	n := 0
	for !look(5*time.Second, 4500*time.Millisecond) {
		if n++; n > 10 {
			t.Fatal("never found")
		}
	}
	if n != 3 {
		t.Errorf("found after %d looks", n+1)
	}
	for range 10 {
		if starving(5*time.Second, 300*time.Millisecond, 4700*time.Millisecond) {
			t.Fatal("a worker that is starved spins")
		}
	}
	for n = 0; !starving(5*time.Second, time.Second, 3500*time.Millisecond); n++ {
		if n > 10 {
			t.Fatal("never found on a machine that is busy")
		}
	}
}

// TestHostObeys: a worker that asks for the other's restart gets it once, and is
// refused within the gap.
func TestHostObeys(t *testing.T) {
	dir, log := t.TempDir(), &buffer{}
	h := newTestHost(dir, "good", log, HostTimers{})
	startHost(t, h)
	until(t, "ready", func() bool { s := state(dir); return s.Ready && len(s.Workers) == 2 })
	first := state(dir).Workers[WorkerMail]
	h.order(WorkerHealth, WorkerMail)
	until(t, "it is started anew", func() bool { s := state(dir); return s.Workers[WorkerMail] != 0 && s.Workers[WorkerMail] != first })
	h.order(WorkerHealth, WorkerMail)
	s := state(dir)
	if len(s.Orders) != 1 || !strings.Contains(log.String(), "refused: the last one was") {
		t.Errorf("%+v\n%s", s.Orders, log)
	}
	if len(s.Ends) != 1 || !strings.Contains(s.Ends[0].How, "a worker asked for it") {
		t.Errorf("%+v", s.Ends)
	}
	if r := recoveryOf("MBX1", s.Ends[0]); r.Action != "RestartWorker" || r.Target != WorkerMail || len(r.Evidence) != 1 {
		t.Errorf("%+v", r)
	}
}

// TestItems: both workers build the same items, and they make sense.
func TestItems(t *testing.T) {
	cfg := DefaultConfig()
	mail, outside := items(probed{}, cfg, nil), items(probed{}, cfg, &atlas{})
	names := func(x health.Items) (out []string) {
		for _, p := range x.Probes {
			out = append(out, p.Set+`\`+p.Name)
		}
		for _, m := range x.Monitors {
			out = append(out, m.Set+`\`+m.Name+" reads "+m.Probe)
		}
		return out
	}
	if a, b := strings.Join(names(mail), "\n"), strings.Join(names(outside), "\n"); a != b || len(mail.Probes) < 15 {
		t.Errorf("the mail worker has\n%s\nthe health worker\n%s", a, b)
	}
	if err := mail.Check(); err != nil {
		t.Error(err)
	}
	for _, p := range mail.Probes {
		if p.Run == nil {
			t.Errorf("nobody looks for %s\\%s", p.Set, p.Name)
		}
	}
}

// TestFaultsNeedFastTimers: a server in production cannot be broken on purpose.
func TestFaultsNeedFastTimers(t *testing.T) {
	if err := (FaultsConfig{Enabled: true}).validate("default"); err == nil || !strings.Contains(err.Error(), "fast") {
		t.Error(err)
	}
	if err := (FaultsConfig{Enabled: true}).validate("fast"); err != nil {
		t.Error(err)
	}
}
