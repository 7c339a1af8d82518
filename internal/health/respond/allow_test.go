package respond

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-mail/postern/internal/org"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func TestAllow(t *testing.T) {
	ago := func(d time.Duration, s org.ServerName, a Action, target string) Grant {
		return Grant{ID: d.String(), At: noon.Add(-d), Ended: noon.Add(-d + time.Second), Server: s, Action: a, Target: target}
	}
	open := func(g Grant) Grant { g.Ended = time.Time{}; return g }
	failed := func(g Grant) Grant { g.Failed = true; return g }
	restart := Request{Server: "A", Action: RestartService, Target: "imap", Mode: Act, Quorum: true, Servers: 3, Databases: 30}
	with := func(f func(*Request)) Request { q := restart; f(&q); return q }
	offline := with(func(q *Request) { q.Action = Offline })
	worker := with(func(q *Request) { q.Action, q.Target = RestartWorker, MailWorker })
	spare := Spare{Serving: map[org.Component][]org.ServerName{"imap": {"B"}}, Databases: []DatabaseSpare{{"DB01", []org.ServerName{"B"}, 1}}}
	for _, c := range []struct {
		name  string
		b     []Grant
		q     Request
		s     Spare
		wants string // part of the reason, empty: allowed
	}{
		{"nothing before", nil, restart, spare, ""},
		{"off", nil, with(func(q *Request) { q.Mode = Off }), spare, "recovery is off"},
		{"telling is never held back", nil, with(func(q *Request) { q.Mode, q.Action, q.Held = Off, Escalate, "x" }), spare, ""},
		{"held back", nil, with(func(q *Request) { q.Held = "Maintenance" }), spare, "held back: Maintenance"},
		{"giving back is not held back", nil, with(func(q *Request) { q.Held, q.Action = "Maintenance", Online }), spare, ""},
		{"clock", nil, with(func(q *Request) { q.Clock = "it jumped" }), spare, "not trusted: it jumped"},
		{"no quorum, a group deed", nil, with(func(q *Request) { q.Quorum, q.Action = false, Offline }), spare, "no quorum"},
		{"no quorum, a deed of its own", nil, with(func(q *Request) { q.Quorum = false }), spare, ""},
		{"gap here", []Grant{ago(5*time.Minute, "A", RestartService, "imap")}, restart, spare, "the gap is 10m"},
		{"gap is over", []Grant{ago(10*time.Minute, "A", RestartService, "imap")}, restart, spare, ""},
		{"another service here", []Grant{ago(5*time.Minute, "A", RestartService, "smtp")}, restart, spare, ""},
		{"gap in the group", []Grant{ago(time.Minute, "B", RestartService, "imap")}, restart, spare, "the gap in the group is 2m"},
		{"three in an hour", []Grant{ago(50*time.Minute, "A", RestartService, "imap"), ago(40*time.Minute, "A", RestartService, "imap"),
			ago(30*time.Minute, "A", RestartService, "imap")}, restart, spare, "3 times in an hour"},
		{"a third of three servers", []Grant{open(ago(3*time.Minute, "B", RestartService, "imap"))}, restart, spare, "under way 1 times"},
		{"an end that nobody wrote", []Grant{open(ago(6*time.Minute, "B", RestartService, "imap"))}, restart, spare, ""},
		{"a day ago is forgotten", []Grant{ago(24*time.Hour, "A", RestartService, "imap")}, restart, spare, ""},
		{"a clock far ahead counts as now", []Grant{ago(-time.Hour, "A", RestartService, "imap")}, restart, spare, "was done here 0s ago"},
		{"the last server", nil, offline, Spare{}, "no other server serves imap"},
		{"another one serves", nil, offline, spare, ""},
		{"the other one was just taken out", []Grant{ago(20*time.Minute, "B", Offline, "imap")}, with(func(q *Request) { q.Action, q.Servers = Offline, 9 }), spare, "no other server"},
		{"and given back", []Grant{ago(20*time.Minute, "B", Offline, "imap"), ago(18*time.Minute, "B", Online, "imap")}, offline, spare, ""},
		{"a plan holds the spare", nil, offline, Spare{Held: "plan 7", Serving: spare.Serving}, "held by plan 7"},
		{"a plan does not hold a small deed", nil, restart, Spare{Held: "plan 7"}, ""},
		{"copies elsewhere", nil, worker, spare, ""},
		{"no copies elsewhere", nil, worker, Spare{Databases: []DatabaseSpare{{"DB01", nil, 1}}}, "DB01 has 0 copies in sync elsewhere"},
		{"no other copy is wanted", nil, worker, Spare{Databases: []DatabaseSpare{{"DB01", nil, 0}}}, ""},
		{"the health worker costs nothing", nil, with(func(q *Request) { q.Action, q.Target = RestartWorker, HealthWorker }), Spare{Held: "x", Databases: []DatabaseSpare{{"DB01", nil, 1}}}, ""},
		{"a move that failed took nothing", []Grant{failed(ago(time.Minute, "A", MoveDatabases, "vol1"))}, with(func(q *Request) { q.Action, q.Target = MoveDatabases, "vol1" }), spare, ""},
		{"one that was done did", []Grant{ago(time.Minute, "A", MoveDatabases, "vol1")}, with(func(q *Request) { q.Action, q.Target = MoveDatabases, "vol1" }), spare, "the gap is"},
		{"what fails has a limit of its own", slices.Repeat([]Grant{failed(ago(5*time.Minute, "A", MoveDatabases, "vol1"))}, 9), with(func(q *Request) { q.Action, q.Target = MoveDatabases, "vol1" }), spare, ""},
		{"by the hour", slices.Repeat([]Grant{failed(ago(5*time.Minute, "A", MoveDatabases, "vol1"))}, 10), with(func(q *Request) { q.Action, q.Target = MoveDatabases, "vol1" }), spare, "failed here 10 times"},
		{"a restart that failed counts", []Grant{failed(ago(time.Minute, "A", RestartService, "imap"))}, with(func(q *Request) { q.Action, q.Target = RestartService, "imap" }), spare, "the gap is"},
		{"two workers at once", []Grant{open(ago(6*time.Minute, "B", RestartWorker, MailWorker))}, worker, spare, "under way 1 times"},
	} {
		got := Allow(Budget{c.b}, c.q, c.s, noon)
		if (got == "") != (c.wants == "") || !strings.Contains(got, c.wants) {
			t.Errorf("%s: %q, want %q", c.name, got, c.wants)
		}
	}
}

func TestBudgetIsBounded(t *testing.T) {
	var b Budget
	for i := range 3 * maxGrants {
		b = b.With(Grant{ID: fmt.Sprint(i), At: noon, Server: "A", Action: Online}, noon)
	}
	if len(b.Grants) != maxGrants {
		t.Fatalf("%d grants", len(b.Grants))
	}
	if why := Allow(b, Request{Server: "B", Action: RestartService, Target: "x", Quorum: true, Servers: 3}, Spare{}, noon); !strings.Contains(why, "enough") {
		t.Errorf("a full budget allows: %q", why)
	}
}

// group is a group as it really is, whatever the rows show: it knows what was
// taken out and counts what was done.
type group struct {
	servers []org.ServerName
	b       Budget
	now     time.Time
	out     map[string]time.Time // server/component taken out, until
	view    map[string]time.Time // the same as servers see it, some time behind
	done    []Grant
}

// TestNoSequenceExceedsALimit plays random requests of 16 servers whose views lag
// behind, and checks after each grant that limits hold and that something is left.
func TestNoSequenceExceedsALimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := &group{now: noon, out: map[string]time.Time{}, view: map[string]time.Time{}}
		n := rapid.IntRange(1, 16).Draw(t, "servers")
		for i := range n {
			g.servers = append(g.servers, org.ServerName(fmt.Sprintf("S%02d", i)))
		}
		kinds := []Action{RestartService, Offline, Offline, Online, RestartWorker, MoveDatabase, Evacuate, SuspendCopy, RefuseWork}
		for step := range rapid.IntRange(1, 150).Draw(t, "steps") {
			g.now = g.now.Add(time.Duration(rapid.IntRange(0, 1200).Draw(t, "seconds")) * time.Second)
			if rapid.Bool().Draw(t, "seen") {
				g.see()
			}
			q := Request{Server: rapid.SampledFrom(g.servers).Draw(t, "server"), Action: rapid.SampledFrom(kinds).Draw(t, "action"),
				Target: rapid.SampledFrom([]string{"imap", "smtp"}).Draw(t, "target"), Mode: Act, Quorum: true, Servers: n, Databases: 30}
			g.ask(t, q, fmt.Sprint(step), rapid.Bool().Draw(t, "ends"))
		}
	})
}

// see lets the views catch up.
func (g *group) see() {
	g.view = map[string]time.Time{}
	for k, v := range g.out {
		g.view[k] = v
	}
}

func (g *group) isOut(m map[string]time.Time, s org.ServerName, c string) bool {
	return g.now.Before(m[string(s)+"/"+c]) || g.now.Before(m[string(s)+"/"])
}

func (g *group) ask(t *rapid.T, q Request, id string, ends bool) {
	s := Spare{Serving: map[org.Component][]org.ServerName{}}
	var inSync []org.ServerName
	for _, x := range g.servers {
		if !g.isOut(g.view, x, q.Target) {
			s.Serving[org.Component(q.Target)] = append(s.Serving[org.Component(q.Target)], x)
		}
		if x != q.Server && !g.isOut(g.view, x, "") {
			inSync = append(inSync, x)
		}
	}
	s.Databases = []DatabaseSpare{{"DB01", inSync, min(1, len(g.servers)-1)}}
	if Allow(g.b, q, s, g.now) != "" {
		return
	}
	gr := Grant{ID: id, At: g.now, Server: q.Server, Action: q.Action, Target: q.Target}
	g.b = g.b.With(gr, g.now)
	g.done = append(g.done, gr)
	if ends {
		g.b = g.b.Ended(org.Recovery{ID: id}, g.now)
	}
	key := string(q.Server) + "/" + q.Target
	switch q.Action {
	case Offline, RefuseWork:
		g.out[key] = g.now.Add(4 * time.Hour)
	case Online:
		delete(g.out, key)
	case RestartWorker:
		if !ends {
			g.out[string(q.Server)+"/"] = g.now.Add(time.Minute)
		}
	}
	g.check(t, q)
}

func (g *group) check(t *rapid.T, q Request) {
	// Something is left for every component that was taken out by a deed.
	if q.Action == Offline || q.Action == RefuseWork {
		left := slices.ContainsFunc(g.servers, func(s org.ServerName) bool { return !g.isOut(g.out, s, q.Target) })
		if !left {
			t.Fatalf("%s %s by %s took the last server", q.Action, q.Target, q.Server)
		}
	}
	limit := ThrottleOf(q.Action, false)
	hour, day, all := 0, 0, 0
	for _, d := range g.done[:len(g.done)-1] {
		age := g.now.Sub(d.At)
		if d.Action != q.Action || age >= 24*time.Hour {
			continue
		}
		all++
		if d.Server != q.Server {
			if age < limit.GroupGap {
				t.Fatalf("%s: %s %v after %s", q.Action, q.Server, age, d.Server)
			}
			continue
		}
		if d.Target != q.Target {
			continue
		}
		day++
		if age < time.Hour {
			hour++
		}
		if age < limit.LocalGap {
			t.Fatalf("%s %s at %s again after %v", q.Action, q.Target, q.Server, age)
		}
	}
	group := limit.GroupDay + limit.DayPerServer*q.Servers + limit.DayPerDatabase*q.Databases
	if limit.LocalHour > 0 && hour >= limit.LocalHour || limit.LocalDay > 0 && day >= limit.LocalDay || group > 0 && all >= group {
		t.Fatalf("%s %s at %s: %d in an hour, %d in a day, %d in the group before", q.Action, q.Target, q.Server, hour, day, all)
	}
	if q.Action == Offline {
		out := map[org.ServerName]bool{}
		for k, until := range g.out {
			if s, c, _ := strings.Cut(k, "/"); c != "" && g.now.Before(until) && c == q.Target {
				out[org.ServerName(s)] = true
			}
		}
		if most := (len(g.servers) + 2) / 3; len(out) > max(most, 1)+g.refused(q.Target) {
			t.Fatalf("%d of %d servers are out for %s", len(out), len(g.servers), q.Target)
		}
	}
}

// refused counts servers that refuse work: another action with a limit of its own.
func (g *group) refused(target string) int {
	n := map[org.ServerName]bool{}
	for _, d := range g.done {
		if d.Action == RefuseWork && d.Target == target && g.now.Sub(d.At) < 4*time.Hour {
			n[d.Server] = true
		}
	}
	return len(n)
}
