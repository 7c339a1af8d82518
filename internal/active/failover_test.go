package active

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/active/choose"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

var update = flag.Bool("update", false, "write what is said into testdata; read the difference")

// TestManyDatabases: the server of 300 databases is lost in a group of 16. They
// are all decided about at once and mounted in few transactions; what was
// decided is on record.
func TestManyDatabases(t *testing.T) {
	f := newFake(t, 16, 300)
	m := f.manager(Config{}, Deps{})
	f.lose("MBX01")
	began := time.Now()
	m.decide(t.Context())
	took := time.Since(began)
	count := map[org.ServerName]int{}
	for _, mt := range f.View().Mounts() {
		count[mt.Active]++
		if mt.Term != 4 || mt.Active == "MBX01" || mt.IsInSync("MBX01") || len(mt.InSync) != 2 || mt.Handed {
			t.Fatalf("%+v", mt)
		}
	}
	if count["MBX01"] != 0 || len(count) != 15 {
		t.Errorf("%v", count)
	}
	if len(f.commits) != 10 || f.commits[0] != swapTogether {
		t.Errorf("transactions of %v databases", f.commits)
	}
	t.Logf("16 servers, 300 databases of a lost one: decided and written in %s, %d transactions, spread %v", took.Round(time.Millisecond), len(f.commits), count)
	for i := range 20 {
		m.decide(t.Context())
		if i > 0 && len(f.commits) == 20 {
			break
		}
	}
	if len(f.commits) != 20 {
		t.Errorf("%d transactions after the ends were noted, want 20", len(f.commits))
	}
	for i := range 300 {
		h, _ := historyOf(f.View(), f.db(i))
		all := m.Decisions(f.db(i))
		if len(h.Moves) != 1 || h.Moves[0].Result != mounted || len(all) != 1 || all[0].Result != mounted || all[0].Number != 1 || h.Moves[0].Decision != 1 {
			t.Fatalf("%+v %+v", h, all)
		}
	}
	m.decide(t.Context())
	if len(f.commits) != 20 {
		t.Error("a calm turn writes")
	}
}

// TestSomebodyElse: one of many rows changes at the wrong moment; the others are
// mounted all the same.
func TestSomebodyElse(t *testing.T) {
	f := newFake(t, 4, 40)
	m := f.manager(Config{}, Deps{})
	f.lose("MBX01")
	sc := m.look(f.View())
	var all []verdict
	for i := range 40 {
		def, _ := sc.v.Database(f.db(i))
		mt, _ := sc.v.Mount(f.db(i))
		q := sc.question(def, mt, choose.Failover)
		all = append(all, verdict{def: def, mt: mt, q: q, d: choose.Choose(q), why: "it died", began: time.Now()})
	}
	other := f.mount(f.db(7))
	other.Active, other.Term = "MBX03", 9
	f.mu.Lock()
	f.put(mailbox.MountKey(f.db(7)), other)
	f.mu.Unlock()
	m.failover(t.Context(), sc, all)
	for i := range 40 {
		mt := f.mount(f.db(i))
		if want := org.Term(4); i == 7 && mt.Term != 9 || i != 7 && (mt.Term != want || mt.Active == "MBX01") {
			t.Errorf("%+v", mt)
		}
	}
}

// TestTargetFails: a target that cannot mount is left for the next one, avoided
// for a while, and the reason is on record.
func TestTargetFails(t *testing.T) {
	f := newFake(t, 3, 1)
	m := f.manager(Config{}, Deps{})
	f.stuck["MBX02"] = org.CopyFailed
	f.lose("MBX01")
	m.decide(t.Context())
	if mt := f.mount("DB0001"); mt.Active != "MBX02" || mt.Term != 4 {
		t.Fatalf("%+v", mt)
	}
	m.decide(t.Context())
	if mt := f.mount("DB0001"); mt.Active != "MBX03" || mt.Term != 5 {
		t.Fatalf("%+v", mt)
	}
	m.decide(t.Context())
	h, _ := historyOf(f.View(), "DB0001")
	if len(h.Moves) != 2 || !h.Moves[0].failed() || h.Moves[1].Result != mounted {
		t.Fatalf("%+v", h)
	}
	left, times := h.backOff("MBX02", time.Now())
	if left <= 0 || left > time.Minute || times != 1 {
		t.Errorf("avoided for %s after %d failures", left, times)
	}
	// The one that serves dies too. Whoever failed is better than nobody.
	delete(f.stuck, "MBX02")
	f.set("MBX02", "DB0001", org.CopyHealthy, 5)
	mt := f.mount("DB0001")
	mt.InSync = []org.ServerName{"MBX02", "MBX03"}
	f.mu.Lock()
	f.put(mailbox.MountKey("DB0001"), mt)
	f.mu.Unlock()
	f.lose("MBX03")
	m.decide(t.Context())
	if mt := f.mount("DB0001"); mt.Active != "MBX02" || mt.Term != 6 {
		t.Errorf("%+v", mt)
	}
}

// TestSlowMount: a target that makes no progress for 15 s is left for one that
// is ready; one that replays is waited for, and so is one that is alone.
func TestSlowMount(t *testing.T) {
	for _, c := range []struct {
		name     string
		progress bool
		mute     bool
		servers  int
		want     org.ServerName
	}{
		{"stuck", false, false, 3, "MBX03"},
		{"replays", true, false, 3, "MBX02"},
		{"nobody else", false, false, 2, "MBX02"},
		{"not heard of", false, true, 3, "MBX02"},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(t, c.servers, 1)
			m := f.manager(Config{}, Deps{})
			f.stuck["MBX02"], f.mute["MBX02"] = org.CopyMounting, c.mute
			f.lose("MBX01")
			for range 80 { // 20 s
				m.decide(t.Context())
				time.Sleep(turnPause)
				if c.progress {
					st := f.states["MBX02"]["DB0001"]
					st.Replayed++
					f.states["MBX02"]["DB0001"] = st
				}
			}
			if mt := f.mount("DB0001"); mt.Active != c.want {
				t.Errorf("%s: %+v", c.name, mt)
			}
		})
	}
}

// TestNoTarget: that nothing can be activated is on record once, not each turn.
func TestNoTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, 2, 1)
		m := f.manager(Config{}, Deps{})
		def, _ := f.View().Database("DB0001")
		def.Copies[1].ActivationSuspended, def.Copies[1].SuspendComment = true, "patch day"
		f.put(mailbox.DatabaseKey("DB0001"), def)
		f.lose("MBX01")
		for range 2000 {
			m.decide(t.Context())
			time.Sleep(turnPause)
		}
		all := m.Decisions("DB0001")
		if len(all) != 1 || all[0].Decision.Target != "" {
			t.Fatalf("%d decisions", len(all))
		}
		if s := strings.Join(all[0].Sentences(), "\n"); !strings.Contains(s, "no copy was activated") || !strings.Contains(s, "not MBX02: activation of this copy is suspended: patch day") {
			t.Error(s)
		}
	})
}

// TestGather: before a lossy mount the target takes what a copy holds that may
// not be activated.
func TestGather(t *testing.T) {
	f := newFake(t, 3, 1)
	m := f.manager(Config{}, Deps{})
	mt := f.mount("DB0001")
	mt.InSync = []org.ServerName{"MBX01"}
	f.put(mailbox.MountKey("DB0001"), mt)
	def, _ := f.View().Database("DB0001")
	def.Copies[2].ActivationSuspended = true
	f.put(mailbox.DatabaseKey("DB0001"), def)
	f.put("servers/MBX02", org.Server{Name: "MBX02", AutoDatabaseMountDial: org.DialGoodAvailability})
	end := org.LSN(5 * org.GenerationSize)
	for s, copied := range map[org.ServerName]org.LSN{"MBX01": end, "MBX02": org.GenerationSize, "MBX03": end} {
		st := f.states[s]["DB0001"]
		st.Copied, st.Generated = copied, end
		f.states[s]["DB0001"] = st
	}
	f.lose("MBX01")
	m.decide(t.Context())
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for f.mount("DB0001").Active != "MBX02" {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%+v", f.mount("DB0001"))
		}
	}
	mt = f.mount("DB0001")
	if mt.Lossy == nil || mt.Lossy.From != end || len(mt.InSync) != 1 {
		t.Errorf("%+v %+v", mt, mt.Lossy)
	}
	if all := m.Decisions("DB0001"); len(all) != 1 || !all[0].Decision.Lossy || all[0].Decision.Missing != 0 {
		t.Errorf("%+v", all)
	}
}

// TestDecisionsKept: eight are kept, the newest.
func TestDecisionsKept(t *testing.T) {
	f := newFake(t, 3, 1)
	m := f.manager(Config{}, Deps{})
	for i := range 12 {
		to := f.server(1 + i%2)
		if _, err := m.Move(t.Context(), Order{Database: "DB0001", To: to, Why: fmt.Sprintf("for the %d. time", i+1)}); err != nil {
			t.Fatal(err)
		}
	}
	all := m.Decisions("DB0001")
	if len(all) != decisionsKept || all[0].Number != 5 || all[7].Number != 12 || all[7].Why != "for the 12. time" {
		t.Errorf("%d decisions, the last %+v", len(all), all[len(all)-1])
	}
	log := strings.Join(sentences(m), "\n")
	if !strings.Contains(log, "for the 12. time") {
		t.Errorf("postern active log:\n%s", log)
	}
	if ws, err := m.why("DB0001", 2); err != nil || len(ws) < 6 || ws[0].Decision.Number != 12 {
		t.Errorf("%+v, %v", ws, err)
	}
	if _, err := m.why("DB9", 1); !kind.Is(err, kind.NotFound) {
		t.Error(err)
	}
	def, _ := f.View().Database("DB0001")
	f.mu.Lock()
	delete(f.rows, mailbox.DatabaseKey(def.Name))
	delete(f.rows, mailbox.MountKey(def.Name))
	f.view = nil
	f.mu.Unlock()
	m.decide(t.Context())
	for key := range f.rows {
		if strings.HasPrefix(key, decisionsPrefix) || strings.HasPrefix(key, movesPrefix) {
			t.Errorf("%s is left of a database that is gone", key)
		}
	}
}

// TestWhyGolden is what postern database why prints.
func TestWhyGolden(t *testing.T) {
	cand := func(s org.ServerName, pref int) choose.Candidate {
		return choose.Candidate{Server: s, Preference: pref, State: org.CopyDisconnectedAndHealthy, InSync: true, Reachable: true}
	}
	slow := cand("MBX2", 2)
	slow.ReplayQueue = 180
	sick := cand("MBX4", 4)
	sick.Sets = map[string]org.SetHealth{"IMAP.Protocol": {State: org.Unhealthy, Priority: org.PriorityCritical}}
	lost := choose.Question{Database: "DB01", Purpose: choose.Failover, Source: "MBX1", SourceUnheard: true, SourceFenced: true,
		Candidates: []choose.Candidate{cand("MBX1", 1), slow, cand("MBX3", 3), sick}}
	named := choose.Question{Database: "DB01", Purpose: choose.Switchover, Source: "MBX3", SourceServes: true, To: "MBX4", Candidates: []choose.Candidate{cand("MBX3", 3), sick}}
	health := choose.Question{Database: "DB01", Purpose: choose.HealthMove, Source: "MBX4", SourceServes: true, Failing: "IMAP.Protocol", SourceSets: sick.Sets,
		Candidates: []choose.Candidate{sick, cand("MBX3", 3)}}
	nobody := lost
	nobody.Candidates = lost.Candidates[:1]
	var b strings.Builder
	for i, e := range []Explained{
		{Why: "MBX1 does not answer", Question: lost, Result: mounted, Took: 341 * time.Millisecond},
		{Why: "patch day", Question: named},
		{Why: "IMAP.Protocol is Unhealthy", Question: health, Result: "failed: it did not mount"},
		{Why: "MBX1 does not answer", Question: nobody},
	} {
		e.Number, e.By, e.Term, e.Decision = i+1, "MBX2", org.Term(8+i), choose.Choose(e.Question)
		for j, s := range e.Sentences() {
			if j > 0 {
				s = "  " + s
			}
			b.WriteString(s + "\n")
		}
	}
	const file = "testdata/why.txt"
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || string(want) != b.String() {
		t.Errorf("%v\n%s", err, b.String())
	}
}

// BenchmarkFailover shows what a lost server of 16 costs from the look at the
// group to the last row, without the network, as databases grow.
func BenchmarkFailover(b *testing.B) {
	for _, n := range []int{30, 100, 300, 1000} {
		b.Run(fmt.Sprintf("16x%d", n), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				f := newFake(b, 16, n)
				m := f.manager(Config{}, Deps{})
				f.lose("MBX01")
				f.View()
				b.StartTimer()
				m.decide(b.Context())
				b.StopTimer()
				if mt := f.mount(f.db(n - 1)); mt.Active == "MBX01" {
					b.Fatalf("%+v", mt)
				}
				b.StartTimer()
			}
		})
	}
}

// sentences are what postern active log shows.
func sentences(m *Manager) (out []string) {
	for _, s := range m.collect() {
		out = append(out, s.Text)
	}
	return out
}
