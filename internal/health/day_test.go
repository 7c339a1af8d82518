package health

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/health/respond"
	"github.com/postern-mail/postern/internal/org"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func jsonUnmarshal(raw []byte, v any) error { return json.Unmarshal(raw, v) }

const imapSelf = `IMAP.Protocol\SelfTest`

// word is the recovery log in short: action, target and what became of it.
func word(rows []org.Recovery) []string {
	var out []string
	for _, r := range rows {
		w := strings.TrimSpace(r.Action + " " + r.Target)
		if !r.Allowed {
			w += " refused"
		}
		out = append(out, w)
	}
	return out
}

// TestDoorIsRestarted walks chain A as far as its first step: the door breaks,
// the service is restarted, all is well again, and the log has it.
func TestDoorIsRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &door{}
		s := newServer(t, "MBX1", newState(), newMesh("MBX1"), imap(d))
		s.hands.do = func(context.Context, Deed) (string, error) { d.set(nil); return "listener is open again", nil }
		s.start()
		defer s.stop()
		wait(time.Minute)
		if got := s.shown(imapSelf); got != org.HealthOK {
			t.Fatalf("%s is %s after a minute", imapSelf, got)
		}
		d.set(errBroken)
		wait(10 * time.Second)
		if got := s.shown(imapSelf); got != org.HealthOK {
			t.Fatalf("%s is %s after two bad results", imapSelf, got)
		}
		wait(time.Minute)
		if got := s.shown(imapSelf); got != org.HealthOK {
			t.Fatalf("%s is %s after the repair", imapSelf, got)
		}
		log := s.log()
		if len(log) != 1 || log[0].Action != "RestartService" || log[0].Target != "imap" || !log[0].Allowed || log[0].Result != "listener is open again" ||
			len(log[0].Evidence) < 3 || log[0].Ended.IsZero() || log[0].Cause == "" || log[0].Monitor != imapSelf || log[0].Responder != "A.Restart" {
			t.Fatalf("log %+v", log)
		}
		raw, _, ok := meshAt{s.mesh, "MBX1"}.Published("MBX1", org.HealthSection)
		var h org.ServerHealth
		if !ok || codec.Unmarshal(raw, &h) != nil || h.Sets["IMAP.Protocol"].State != org.HealthOK || h.Sets["IMAP.Protocol"].Component != org.IMAPComponent || h.Seq < 10 || h.Silent {
			t.Errorf("published %+v", h)
		}
	})
}

// sees makes a server publish what it saw of a component of another one.
func sees(m *mesh, who, whom org.ServerName, c org.Component, ok bool) {
	meshAt{m, who}.Publish(seenSection, codec.MustMarshal(sights{[]sight{{Server: whom, Component: c, OK: ok, Text: "no greeting"}}}))
}

// serving makes a server publish that it is well.
func serving(m *mesh, who org.ServerName, seq uint64) {
	meshAt{m, who}.Publish(org.HealthSection, codec.MustMarshal(org.ServerHealth{Seq: seq, Sets: map[string]org.SetHealth{
		"IMAP.Protocol": {State: org.HealthOK, Component: org.IMAPComponent, Monitors: 1}}}))
}

// keepSaying publishes each second until the context ends, as a living server does.
func keepSaying(ctx context.Context, m *mesh, who org.ServerName, say func(seq uint64)) func() {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for seq := uint64(1); ; seq++ {
			say(seq)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}

// TestWholeLadder: nothing helps, a second server agrees, and there is another
// one that serves: every step is done once, in its order, and given back at the end.
func TestWholeLadder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &door{}
		s := newServer(t, "MBX1", newState(), newMesh("MBX1", "MBX2", "MBX3"), imap(d))
		s.spares.databases = []DatabaseSpare{{Database: "DB01", InSync: []org.ServerName{"MBX2"}, Minimum: 1}}
		for _, other := range []org.ServerName{"MBX2", "MBX3"} {
			defer keepSaying(t.Context(), s.mesh, other, func(seq uint64) {
				serving(s.mesh, other, seq)
				sees(s.mesh, other, "MBX1", org.IMAPComponent, false)
			})()
		}
		s.start()
		defer s.stop()
		wait(time.Minute)
		s.hands.began = time.Now()
		d.set(errBroken)
		wait(20 * time.Minute)
		d.set(nil)
		wait(3 * time.Minute)
		var deeds []string
		for _, x := range s.hands.all() {
			_, what, _ := strings.Cut(x, " ")
			deeds = append(deeds, what)
		}
		want := []string{"RestartService imap", "Offline imap", "RestartWorker mail", "Evacuate ", "Online imap"}
		if !slices.Equal(deeds, want) {
			t.Errorf("deeds %q, want %q", deeds, want)
		}
		if got := word(s.log()); !slices.Contains(got, "Escalate") {
			t.Errorf("log %q", got)
		}
		for _, r := range s.log() {
			if r.Action == "Offline" && !strings.Contains(r.Second, "saw imap fail") {
				t.Errorf("second opinion %q", r.Second)
			}
		}
		told := 0
		for _, e := range s.events.Recent(1000) {
			if e.Code == evTell.Code || e.Code == evWell.Code {
				told++
			}
		}
		if told != 2 {
			t.Errorf("%d events for people, want the alarm and its end", told)
		}
	})
}

// TestProbeThatLies: the probe says broken, another server saw the door work.
// Only the small deed is done.
func TestProbeThatLies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &door{}
		s := newServer(t, "MBX1", newState(), newMesh("MBX1", "MBX2"), imap(d))
		defer keepSaying(t.Context(), s.mesh, "MBX2", func(seq uint64) {
			serving(s.mesh, "MBX2", seq)
			sees(s.mesh, "MBX2", "MBX1", org.IMAPComponent, true)
		})()
		s.start()
		defer s.stop()
		wait(time.Minute)
		d.set(errBroken)
		wait(time.Hour)
		for _, x := range s.hands.all() {
			if !strings.Contains(x, "RestartService imap") {
				t.Errorf("deed %s", x)
			}
		}
		refused := 0
		for _, r := range s.log() {
			if !r.Allowed {
				refused++
				if !strings.Contains(r.Refused, "MBX2 saw imap work") {
					t.Errorf("%s refused: %s", r.Action, r.Refused)
				}
			}
		}
		if refused < 3 || refused > 20 {
			t.Errorf("%d refusals in an hour", refused)
		}
	})
}

// TestFlappingHours: a door that is bad for 30 s in every 2 minutes, for hours.
// The deeds stay within their throttle, and people are told.
func TestFlappingHours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &door{}
		s := newServer(t, "MBX1", newState(), newMesh("MBX1"), imap(d))
		s.start()
		defer s.stop()
		for range 3 * 30 {
			d.set(errBroken)
			wait(30 * time.Second)
			d.set(nil)
			wait(90 * time.Second)
		}
		restarts, told := 0, 0
		for _, x := range s.hands.all() {
			if strings.Contains(x, "RestartService") {
				restarts++
			} else {
				t.Errorf("deed %s without a second opinion", x)
			}
		}
		for _, r := range s.log() {
			if r.Action == "Escalate" {
				told++
			}
		}
		if restarts < 1 || restarts > 6 || told < 1 {
			t.Errorf("%d restarts and %d alarms in three hours", restarts, told)
		}
		if n := len(s.log()); n > 500 {
			t.Errorf("%d rows in the log", n)
		}
	})
}

// TestHungProbe is Unavailable and not red, and nothing is done for it; after
// five minutes monitoring itself says so.
func TestHungProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &door{}
		s := newServer(t, "MBX1", newState(), newMesh("MBX1"), imap(d))
		s.start()
		wait(time.Minute)
		free := make(chan struct{})
		d.mu.Lock()
		d.hang = free
		d.mu.Unlock()
		wait(10 * time.Minute)
		if got := s.shown(imapSelf); got != org.Unavailable || len(s.hands.all()) != 0 {
			t.Errorf("%s, deeds %v", got, s.hands.all())
		}
		if got := s.shown(`Monitoring\Stalled`); !got.Red() {
			t.Errorf("Monitoring\\Stalled is %s", got)
		}
		if names := s.desk.hung(); !slices.Equal(names, []string{imapSelf}) {
			t.Errorf("hung %v", names)
		}
		d.mu.Lock()
		d.hang = nil
		d.mu.Unlock()
		close(free)
		wait(2 * time.Minute)
		if got := s.shown(imapSelf); got != org.HealthOK {
			t.Errorf("after it came back: %s", got)
		}
		s.stop()
	})
}

// TestEngineRestartsInEachState: the health worker is restarted in every state of
// the ladder, and the deeds are the same as without.
func TestEngineRestartsInEachState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &door{}
		s := newServer(t, "MBX1", newState(), newMesh("MBX1", "MBX2"), imap(d))
		s.spares.databases = []DatabaseSpare{{Database: "DB01", InSync: []org.ServerName{"MBX2"}, Minimum: 1}}
		defer keepSaying(t.Context(), s.mesh, "MBX2", func(seq uint64) {
			serving(s.mesh, "MBX2", seq)
			sees(s.mesh, "MBX2", "MBX1", org.IMAPComponent, false)
		})()
		s.start()
		restart := func() {
			s.stopEngine()
			wait(3 * time.Second)
			s.startEngine()
		}
		wait(time.Minute)
		restart()
		d.set(errBroken)
		for _, x := range []struct {
			after time.Duration
			state org.HealthState
			deeds int
		}{{45 * time.Second, org.Degraded, 1}, {time.Minute, org.Unhealthy, 2}, {5 * time.Minute, org.Unhealthy1, 3}, {12 * time.Minute, org.Unrecoverable, 4}} {
			wait(x.after)
			if got := s.shown(imapSelf); got != x.state || len(s.hands.all()) != x.deeds {
				t.Errorf("after %v: %s, want %s; deeds %q", x.after, got, x.state, s.hands.all())
			}
			restart()
			wait(20 * time.Second)
			if got := s.shown(imapSelf); got.Badness() < x.state.Badness() {
				t.Errorf("after a restart in %s: %s", x.state, got)
			}
		}
		d.set(nil)
		wait(15 * time.Second)
		restart()
		wait(2 * time.Minute)
		if all := s.hands.all(); len(all) != 5 || !strings.Contains(all[4], "Online imap") {
			t.Errorf("deeds %q", all)
		}
		s.stop()
	})
}

// TestMailWorkerSilent: it does not answer, and the host restarts it; what was
// done is in the log once it answers again.
func TestMailWorkerSilent(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		t.Run(fmt.Sprintf("deaf=%v", deaf), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t, "MBX1", newState(), newMesh("MBX1"), imap(&door{}))
				s.host.do = func(context.Context, Deed) (string, error) {
					s.wire.set(false, false)
					return "the host restarts it", nil
				}
				s.start()
				defer s.stop()
				wait(time.Minute)
				s.host.began = time.Now()
				s.wire.set(!deaf, deaf)
				wait(2 * time.Minute)
				if all := s.host.all(); len(all) != 1 || !strings.HasSuffix(all[0], "RestartWorker mail") {
					t.Errorf("orders to the host: %q", all)
				}
				if log := s.log(); len(log) != 1 || log[0].Action != "RestartWorker" || log[0].Result != "the host restarts it" {
					t.Errorf("log %+v", log)
				}
				if got := s.shown(`MailWorker\Silent`); got != org.HealthOK {
					t.Errorf("afterwards %s", got)
				}
			})
		})
	}
}

// TestMailWorkerStaysSilent: the host is asked within its limits, and people are
// told in the log of the health worker.
func TestMailWorkerStaysSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, "MBX1", newState(), newMesh("MBX1"), imap(&door{}))
		s.host.do = func(context.Context, Deed) (string, error) { return "", errors.New("the host refuses") }
		s.start()
		wait(time.Minute)
		s.wire.set(true, false)
		wait(2 * time.Hour)
		if n := len(s.host.all()); n < 1 || n > 3 {
			t.Errorf("%d orders in two hours", n)
		}
		told := slices.ContainsFunc(s.events.Recent(1000), func(e eventOf) bool { return e.Code == evTell.Code })
		if !told {
			t.Error("nobody was told")
		}
		s.stop()
	})
}

// TestHealthWorkerSilent: the Desk says so in the group and has it restarted.
func TestHealthWorkerSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, "MBX1", newState(), newMesh("MBX1"), imap(&door{}))
		s.start()
		wait(time.Minute)
		s.stopEngine()
		wait(45 * time.Second)
		if h, _ := s.desk.healthOf("MBX1"); !h.Silent || h.Sets["IMAP.Protocol"].State != org.Unavailable || h.Sets[setMonitoring].State != org.Unhealthy {
			t.Errorf("published %+v", h)
		}
		if all := s.hands.all(); len(all) != 1 || !strings.HasSuffix(all[0], "RestartWorker health") {
			t.Errorf("deeds %q", all)
		}
		s.startEngine()
		wait(30 * time.Second)
		if h, _ := s.desk.healthOf("MBX1"); h.Silent || h.Sets["IMAP.Protocol"].State != org.HealthOK {
			t.Errorf("published afterwards %+v", h)
		}
		codes := []int{}
		for _, e := range s.events.Recent(100) {
			codes = append(codes, e.Code)
		}
		if !slices.Contains(codes, evSilent.Code) || !slices.Contains(codes, evBack.Code) {
			t.Errorf("events %v", codes)
		}
		s.stop()
	})
}

// TestMailWorkerRestarts: the Desk is another one, and the Engine goes on.
func TestMailWorkerRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &door{}
		s := newServer(t, "MBX1", newState(), newMesh("MBX1"), imap(d))
		s.start()
		wait(time.Minute)
		d.set(errBroken)
		wait(time.Minute)
		before := s.shown(imapSelf)
		s.wire.set(true, false)
		s.stopDesk()
		wait(4 * time.Second)
		s.startDesk()
		s.wire.set(false, false)
		wait(6 * time.Second)
		if got := s.shown(imapSelf); got.Badness() < before.Badness() || len(s.host.all()) != 0 {
			t.Errorf("%s, before %s; orders %q", got, before, s.host.all())
		}
		s.stop()
	})
}

// TestMailWorkerTakesItsTime: a door that was broken before the mail worker began
// anew, and is not open while that worker gets ready, is no cause for a deed;
// once it is ready, and the door still broken, it is.
func TestMailWorkerTakesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &door{}
		s := newServer(t, "MBX1", newState(), newMesh("MBX1"), imap(d))
		var ready atomic.Bool
		ready.Store(true)
		s.ready = ready.Load
		s.start()
		defer s.stop()
		wait(time.Minute)
		ready.Store(false)
		s.stopDesk()
		d.set(errBroken)
		wait(20 * time.Second)
		s.startDesk()
		wait(40 * time.Second)
		if got := s.hands.all(); len(got) != 0 {
			t.Errorf("before it was ready: %q", got)
		}
		ready.Store(true)
		wait(30 * time.Second)
		if got := s.hands.all(); len(got) != 1 {
			t.Errorf("once it was: %q", got)
		}
	})
}

// badClock is a clock that a test sets.
type badClock struct{ off func() time.Duration }

func (c badClock) Now() time.Time { return time.Now().Add(c.off()) }
func (c badClock) Trusted() (bool, string) {
	return c.off() == 0, "the clock jumped"
}

// TestClockJumps: the ladder goes on by the monotonic clock, deeds are held back
// while the clock is not believed.
func TestClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &door{}
		s := newServer(t, "MBX1", newState(), newMesh("MBX1"), imap(d))
		s.start()
		defer s.stop()
		s.stopDesk()
		off := make(chan time.Duration, 1)
		off <- 0
		get := func() time.Duration { v := <-off; off <- v; return v }
		s.clock = badClock{get}
		s.startDesk()
		wait(time.Minute)
		<-off
		off <- -72 * time.Hour
		d.set(errBroken)
		wait(90 * time.Second)
		if got := s.shown(imapSelf); got != org.Unhealthy || len(s.hands.all()) != 0 {
			t.Errorf("%s, deeds %q", got, s.hands.all())
		}
		log := s.log()
		if len(log) == 0 || !strings.Contains(log[0].Refused, "not trusted") {
			t.Errorf("log %+v", log)
		}
	})
}

// TestTargetGone: what is no longer here is forgotten, with its alarm.
func TestTargetGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		targets := make(chan []string, 1)
		targets <- []string{"DB01", "DB02"}
		items := Items{Sets: []Set{{Name: "Store", Group: Services, Priority: org.PriorityCritical, HA: true}},
			Probes: []Probe{{Set: "Store", Name: "Read", Kind: Recurrent, Where: Inside, Every: 10 * time.Second, Timeout: 5 * time.Second,
				Targets: func() []string { v := <-targets; targets <- v; return v },
				Run: func(_ context.Context, target string) (Reading, error) {
					if target == "DB01" {
						return Reading{}, errBroken
					}
					return Reading{}, nil
				}}},
			Monitors: []Monitor{{Set: "Store", Name: "Read", Probe: "Read", Rule: ConsecutiveFailures(3), Chain: StoreChain()}}}
		s := newServer(t, "MBX1", newState(), newMesh("MBX1"), items)
		s.start()
		defer s.stop()
		wait(3 * time.Minute)
		if a, b := s.shown(`Store\Read\DB01`), s.shown(`Store\Read\DB02`); a != org.Unhealthy || b != org.HealthOK {
			t.Errorf("DB01 %s, DB02 %s", a, b)
		}
		if all := s.hands.all(); len(all) != 1 || !strings.HasSuffix(all[0], "MoveDatabase DB01") {
			t.Errorf("deeds %q", all)
		}
		repair := monitorSetArgs{Monitor: `Store\Read\db01`, Repairing: true, For: time.Hour}
		if _, err := call[command.None](t, s, "health monitor set", repair); !kind.Is(err, kind.NotFound) || !strings.Contains(err.Error(), "DB01, DB02") {
			t.Errorf("repair of a target that is not there: %v", err)
		}
		repair.Monitor = `Store\Read\DB02`
		if _, err := call[command.None](t, s, "health monitor set", repair); err != nil {
			t.Error(err)
		}
		repair.Repairing = false
		if _, err := call[command.None](t, s, "health monitor set", repair); err != nil {
			t.Error(err)
		}
		<-targets
		targets <- []string{"DB02"}
		wait(time.Minute)
		if a, h := s.shown(`Store\Read\DB01`), s.desk.last.Sets["Store"].State; a != "none" || h != org.HealthOK {
			t.Errorf("DB01 %s, set %s", a, h)
		}
	})
}

// TestWithoutQuorumDay: the door is restarted on local counts and the rows are
// written when there is quorum again.
func TestWithoutQuorumDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &door{}
		s := newServer(t, "MBX1", newState(), newMesh("MBX1"), imap(d))
		s.hands.do = func(context.Context, Deed) (string, error) { d.set(nil); return "done", nil }
		s.start()
		defer s.stop()
		wait(time.Minute)
		s.rows.cut(true)
		d.set(errBroken)
		wait(2 * time.Minute)
		if len(s.hands.all()) != 1 || len(s.log()) != 0 {
			t.Errorf("deeds %q, %d rows", s.hands.all(), len(s.log()))
		}
		s.rows.cut(false)
		wait(time.Minute)
		if log := s.log(); len(log) != 1 || !log[0].Allowed || log[0].Ended.IsZero() {
			t.Errorf("log %+v", log)
		}
	})
}

// TestObservers: a server that is up but does not say how it is makes
// RemoteMonitoring red at its two watchers, and not at the others; in maintenance
// it is excused.
func TestObservers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rows, m := newState(), newMesh("MBX1", "MBX2", "MBX3", "MBX4")
		var all []*server
		for _, n := range []org.ServerName{"MBX1", "MBX2", "MBX3"} {
			s := newServer(t, n, rows, m, Items{})
			s.start()
			all = append(all, s)
		}
		stop := keepSaying(t.Context(), m, "MBX4", func(seq uint64) { serving(m, "MBX4", seq) })
		wait(time.Minute)
		stop() // MBX4 is up, and silent
		wait(time.Minute)
		const id = `RemoteMonitoring\Silent\MBX4`
		if a, b, c := all[0].shown(id), all[1].shown(id), all[2].shown(id); !a.Red() || !b.Red() || c != "none" {
			t.Errorf("MBX1 %s, MBX2 %s, MBX3 %s", a, b, c)
		}
		for _, s := range all {
			for _, d := range s.hands.all() {
				t.Errorf("%s did %s", s.name, d)
			}
		}
		entry, _ := json.Marshal(org.ComponentEntry{State: org.Inactive})
		if err := rows.Commit(t.Context(), []Op{{Key: org.ComponentKey("MBX4", org.ServerOffline, org.Maintenance), Value: entry}}); err != nil {
			t.Fatal(err)
		}
		wait(3 * time.Minute)
		if a := all[0].shown(id); a.Red() {
			t.Errorf("in maintenance: %s", a)
		}
		for _, s := range all {
			s.stop()
		}
	})
}

func TestWatchers(t *testing.T) {
	up := func(s org.ServerName) bool { return s != "C" }
	members := []org.ServerName{"D", "A", "C", "B"}
	for s, want := range map[org.ServerName]string{"A": "[B D]", "B": "[D A]", "D": "[A B]", "C": "[D A]", "X": "[]"} {
		if got := fmt.Sprint(watchersOf(s, members, up)); got != want {
			t.Errorf("%s is watched by %s, want %s", s, got, want)
		}
	}
}

// TestBadRequests: what cannot be read is refused and changes nothing.
func TestBadRequests(t *testing.T) {
	s := newServer(t, "MBX1", newState(), newMesh("MBX1"), imap(&door{}))
	d, err := NewDesk(Config{}, DeskDeps{Server: "MBX1", Dir: s.dir, Items: s.items, Rows: s.rows, Mesh: meshAt{s.mesh, "MBX1"}, Actor: s.hands, Spares: s.spares})
	if err != nil {
		t.Fatal(err)
	}
	h := d.Handlers()
	for _, c := range []struct {
		path string
		url  string
		body []byte
		want int
	}{
		{"GET " + pathResults, pathResults, nil, http.StatusBadRequest},
		{"GET " + pathResults, pathResults + "?after=-1", nil, http.StatusBadRequest},
		{"POST " + pathState, pathState, []byte("not cbor"), http.StatusBadRequest},
		{"POST " + pathState, pathState, make([]byte, maxBody+1), http.StatusBadRequest},
		{"POST " + pathState, pathState, codec.MustMarshal(report{Monitors: make([]wireMonitor, maxMonitors+1)}), http.StatusRequestEntityTooLarge},
		{"POST " + pathAct, pathAct, []byte{0xff}, http.StatusBadRequest},
		{"POST " + pathLog, pathLog, codec.MustMarshal(org.Recovery{ID: "1", Server: "MBX9"}), http.StatusBadRequest},
	} {
		method, _, _ := strings.Cut(c.path, " ")
		rec := httptest.NewRecorder()
		h[c.path].ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), method, c.url, bytes.NewReader(c.body)))
		if rec.Code != c.want {
			t.Errorf("%s with %d bytes: %d, want %d", c.url, len(c.body), rec.Code, c.want)
		}
	}
	if len(s.rows.keys("")) != 0 || len(s.hands.all()) != 0 {
		t.Errorf("rows %v, deeds %v", s.rows.keys(""), s.hands.all())
	}
}

// TestBookmarksDamaged: a file that cannot be read is no reason not to start.
func TestBookmarksDamaged(t *testing.T) {
	for _, raw := range [][]byte{nil, []byte("x"), codec.MustMarshal(bookmarks{Format: 99}),
		codec.MustMarshal(bookmarks{Format: bookmarkFormat, Saved: time.Now().Add(1000 * time.Hour), Marks: []bookmark{{Set: "IMAP.Protocol", Name: "SelfTest"}, {Set: "gone", Name: "x"}}})} {
		s := newServer(t, "MBX1", newState(), newMesh("MBX1"), imap(&door{}))
		if err := respond.ReplaceFile(s.dir+"/health/state.cbor", raw, false); err != nil {
			t.Fatal(err)
		}
		e, err := NewEngine(Config{}, EngineDeps{Server: "MBX1", Dir: s.dir, Items: s.items, Desk: &http.Client{}, Host: s.host, Log: discard()})
		if err != nil {
			t.Fatal(err)
		}
		e.turn(t.Context())
	}
}

// FuzzReport: whatever stands in a report, the Desk takes it or refuses it.
func FuzzReport(f *testing.F) {
	f.Add(codec.MustMarshal(report{Monitors: []wireMonitor{{Set: "IMAP.Protocol", Name: "SelfTest", State: org.Unhealthy}}}))
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		s := newServer(t, "MBX1", newState(), newMesh("MBX1"), imap(&door{}))
		d, err := NewDesk(Config{}, DeskDeps{Server: "MBX1", Dir: s.dir, Items: s.items, Rows: s.rows, Mesh: meshAt{s.mesh, "MBX1"}, Actor: s.hands,
			Spares: s.spares, Log: discard(), Events: s.events})
		if err != nil {
			t.Fatal(err)
		}
		rec := httptest.NewRecorder()
		d.serveState(rec, httptest.NewRequestWithContext(t.Context(), http.MethodPost, pathState, bytes.NewReader(raw)))
		d.publish(true)
		if n := len(s.mesh.said["MBX1/"+org.HealthSection]); n == 0 || n > 64<<10 {
			t.Errorf("publishes %d bytes", n)
		}
	})
}

// TestOpenDeedIsClosed: a deed that ended its own process has an end in the log
// after the restart.
func TestOpenDeedIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rows := newState()
		open, _ := json.Marshal(org.Recovery{ID: "20000101T000000.000-MBX1-1", Server: "MBX1", Action: "RestartWorker", Target: "mail", Allowed: true, Begun: time.Now()})
		other, _ := json.Marshal(org.Recovery{ID: "20000101T000000.000-MBX2-1", Server: "MBX2", Action: "RestartWorker", Target: "mail", Allowed: true, Begun: time.Now()})
		if err := rows.Commit(t.Context(), []Op{{Key: org.RecoveryPrefix + "20000101T000000.000-MBX1-1", Value: open}, {Key: org.RecoveryPrefix + "20000101T000000.000-MBX2-1", Value: other}}); err != nil {
			t.Fatal(err)
		}
		wait(time.Minute)
		s := newServer(t, "MBX1", rows, newMesh("MBX1"), Items{})
		s.start()
		wait(30 * time.Second)
		log := s.log()
		if len(log) != 2 || log[0].Ended.IsZero() || log[0].Result == "" || !log[1].Ended.IsZero() {
			t.Errorf("log %+v", log)
		}
		s.stop()
	})
}

// FuzzBookmarks: whatever stands in the file, the Engine starts and judges.
func FuzzBookmarks(f *testing.F) {
	f.Add(codec.MustMarshal(bookmarks{Format: bookmarkFormat, Marks: []bookmark{{Set: "IMAP.Protocol", Name: "SelfTest", Progress: respond.Progress{Red: true, Least: org.Degraded}}}}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		dir := t.TempDir()
		if err := respond.ReplaceFile(dir+"/health/state.cbor", raw, false); err != nil {
			t.Fatal(err)
		}
		e, err := NewEngine(Config{}, EngineDeps{Server: "MBX1", Dir: dir, Items: imap(&door{err: errBroken}), Desk: &http.Client{Transport: &wire{}}, Host: &hands{}, Log: discard(), Events: event.NewLog(discard())})
		if err != nil {
			t.Fatal(err)
		}
		e.result(Result{Set: "IMAP.Protocol", Probe: "SelfTest", Outcome: Failed, At: time.Now()}, time.Now())
		e.turn(t.Context())
		e.bookmark(true)
		if e.deed != nil {
			<-e.deed.done
		}
	})
}
