package mailbox

import (
	"io"
	"slices"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

func TestJudge(t *testing.T) {
	now := time.Unix(1000, 0)
	r := rules{grace: time.Second, lostGrace: 300 * time.Millisecond}
	ok := func(s org.ServerName) *member {
		return &member{server: s, inSync: true, connected: true, acked: 100, canStore: true}
	}
	with := func(m *member, f func(*member)) *member { f(m); return m }
	for _, c := range []struct {
		name        string
		ms          []*member
		r           rules
		remove, add []org.ServerName
		await       []org.ServerName
		alone       bool
		held        bool
	}{
		{name: "all well", ms: []*member{ok("B"), ok("C")}},
		{name: "stalls beyond the grace", ms: []*member{ok("B"), with(ok("C"), func(m *member) { m.behindSince = now.Add(-time.Second) })}, remove: []org.ServerName{"C"}},
		{name: "stalls within the grace", ms: []*member{with(ok("B"), func(m *member) { m.behindSince = now.Add(-999 * time.Millisecond) })}},
		{name: "connection lost a moment ago", ms: []*member{with(ok("B"), func(m *member) { m.connected = false; m.lostAt = now.Add(-299 * time.Millisecond) })}},
		{name: "connection lost too long", ms: []*member{with(ok("B"), func(m *member) { m.connected = false; m.lostAt = now.Add(-300 * time.Millisecond) }), ok("C")}, remove: []org.ServerName{"B"}},
		{name: "server dead goes at once", ms: []*member{with(ok("B"), func(m *member) { m.connected, m.gone, m.canStore, m.lostAt = false, true, false, now }), ok("C")}, remove: []org.ServerName{"B"}},
		{name: "judged dead but still talking stays", ms: []*member{with(ok("B"), func(m *member) { m.gone = true })}},
		{name: "lost data goes at once", ms: []*member{with(ok("B"), func(m *member) { m.short = true }), ok("C")}, remove: []org.ServerName{"B"}},
		{name: "caught up enters", ms: []*member{ok("B"), with(ok("C"), func(m *member) { m.inSync = false })}, add: []org.ServerName{"C"}},
		{name: "near, and behind what is confirmed, is waited for", ms: []*member{ok("B"), with(ok("C"), func(m *member) { m.inSync = false; m.acked = 89 })}, await: []org.ServerName{"C"}},
		{name: "waited for, and still behind", ms: []*member{ok("B"), with(ok("C"), func(m *member) { m.inSync, m.joining = false, true; m.acked = 89 })}},
		{name: "waited for in vain", ms: []*member{ok("B"), with(ok("C"), func(m *member) {
			m.inSync, m.joining, m.acked, m.behindSince = false, true, 89, now.Add(-time.Second)
		})}, remove: []org.ServerName{"C"}},
		{name: "has all that is confirmed and not the end", ms: []*member{ok("B"), with(ok("C"), func(m *member) { m.inSync = false; m.acked = 90 })}, add: []org.ServerName{"C"}},
		{name: "stalled at the last record does not enter", ms: []*member{ok("B"), with(ok("C"), func(m *member) { m.inSync, m.behindSince = false, now.Add(-time.Second) })}},
		{name: "silent does not enter", ms: []*member{ok("B"), with(ok("C"), func(m *member) { m.inSync, m.spoke = false, now.Add(-time.Second) })}},
		{name: "not connected does not enter", ms: []*member{ok("B"), with(ok("C"), func(m *member) { m.inSync, m.connected = false, false })}},
		{name: "the only copy there is", alone: true},
		{name: "last other dies: alone", ms: []*member{with(ok("B"), func(m *member) { m.connected, m.gone, m.canStore, m.lostAt = false, true, false, now })}, remove: []org.ServerName{"B"}, alone: true},
		{name: "another could store: held", ms: []*member{with(ok("B"), func(m *member) { m.inSync, m.connected = false, false })}, held: true},
		{name: "alone goes on while another catches up", ms: []*member{with(ok("B"), func(m *member) { m.inSync, m.connected = false, false })}, r: rules{wasAlone: true}, alone: true},
		{name: "alone waits for another that is near", ms: []*member{with(ok("B"), func(m *member) { m.inSync, m.acked = false, 1 })}, r: rules{wasAlone: true}, await: []org.ServerName{"B"}},
		{name: "alone ends when another has caught up", ms: []*member{with(ok("B"), func(m *member) { m.inSync = false })}, r: rules{wasAlone: true}, add: []org.ServerName{"B"}},
		{name: "always-two never goes on alone", ms: []*member{with(ok("B"), func(m *member) { m.inSync, m.connected = false, false })}, r: rules{redundancy: org.AlwaysTwo, wasAlone: true}, held: true},
		{name: "always-two never goes alone", ms: []*member{with(ok("B"), func(m *member) { m.inSync, m.connected, m.canStore = false, false, false })}, r: rules{redundancy: org.AlwaysTwo}, held: true},
		{name: "joining and gone is settled by a new row", ms: []*member{ok("B"), with(ok("C"), func(m *member) {
			m.inSync, m.joining, m.connected, m.lostAt = false, true, false, now.Add(-time.Second)
		})}, remove: []org.ServerName{"C"}},
		{name: "leaves while another stays", ms: []*member{ok("B"), with(ok("C"), func(m *member) { m.leaving = true })}, remove: []org.ServerName{"C"}},
		{name: "two leave: one of them stays", ms: []*member{with(ok("B"), func(m *member) { m.leaving = true }), with(ok("C"), func(m *member) { m.leaving = true })}, remove: []org.ServerName{"B"}},
		{name: "the only other does not leave", ms: []*member{with(ok("B"), func(m *member) { m.leaving = true })}},
		{name: "leaves and does not enter again", ms: []*member{ok("B"), with(ok("C"), func(m *member) { m.leaving, m.inSync = true, false })}},
		{name: "enters although it leaves, where nobody else is", ms: []*member{with(ok("C"), func(m *member) { m.leaving, m.inSync = true, false })}, add: []org.ServerName{"C"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			rr := r
			rr.redundancy, rr.wasAlone = c.r.redundancy, c.r.wasAlone
			v := judge(c.ms, 100, 90, rr, now)
			if !slices.Equal(v.remove, c.remove) || !slices.Equal(v.add, c.add) || !slices.Equal(v.await, c.await) || v.alone != c.alone || (v.held != "") != c.held {
				t.Errorf("%+v, want remove %v add %v await %v alone %v held %v", v, c.remove, c.add, c.await, c.alone, c.held)
			}
			for _, s := range slices.Concat(v.remove, v.add) {
				if v.why[s] == "" {
					t.Errorf("nobody knows why %s leaves or enters", s)
				}
			}
		})
	}
}

// TestWhyEvicted: what the recovery log says of who leaves the in-sync set.
func TestWhyEvicted(t *testing.T) {
	now := time.Unix(1000, 0)
	r := rules{grace: time.Second, lostGrace: 300 * time.Millisecond}
	for _, c := range []struct {
		m    member
		want string
	}{
		{member{connected: true, acked: 100}, ""},
		{member{connected: true, short: true, acked: 40}, "its log ends at position 40, before what is confirmed: it lost data"},
		{member{gone: true, goneWhy: "silent for 2s, 2 of 3 agree"}, "its server is gone: silent for 2s, 2 of 3 agree"},
		{member{connected: true, acked: 40, behindSince: now.Add(-1200 * time.Millisecond)}, "it stalls: for 1.2s it has not stored 60 bytes it was sent (grace 1s)"},
		{member{connected: true, spoke: now.Add(-1500 * time.Millisecond)}, "it is silent for 1.5s (grace 1s)"},
		{member{connected: true, spoke: now, own: now.Add(-2900 * time.Millisecond)}, ""},
		{member{connected: true, spoke: now, own: now.Add(-3100 * time.Millisecond)}, "its stream is silent for 3.1s (grace 3s)"},
		{member{lostAt: now.Add(-400 * time.Millisecond)}, "its connection is gone for 400ms (grace 300ms)"},
	} {
		if got := c.m.fails(100, r, now); got != c.want {
			t.Errorf("%+v: %q, want %q", c.m, got, c.want)
		}
	}
}

func TestWanted(t *testing.T) {
	def := org.Database{Name: "DB01", Copies: []org.Copy{{Server: "A"}, {Server: "B", SeedFrom: "C"}, {Server: "S", Suspended: true}}}
	m := org.Mount{Term: 3, Active: "A"}
	for _, c := range []struct {
		me   org.ServerName
		m    org.Mount
		want string
	}{
		{"A", m, "lead"}, {"B", m, "follow"}, {"S", m, "rest"}, {"X", m, "rest"},
		{"B", org.Mount{Term: 4}, "rest"},
		{"S", org.Mount{Term: 4, Active: "S"}, "lead"}, // the group's row has the last word
	} {
		if got := wanted(c.me, def, c.m); got.do != c.want {
			t.Errorf("%s with active %q: %+v, want %s", c.me, c.m.Active, got, c.want)
		}
	}
}

// TestConnectConfirms: a member's stream breaks after it stored the newest
// records and before its acknowledgement came. Its next stream begins with all
// of them, so nothing more will be acknowledged.
func TestConnectConfirms(t *testing.T) {
	l := &leader{changed: make(chan struct{}), local: 100, lines: map[org.ServerName]int{}, conns: map[org.ServerName]io.Closer{}, members: map[org.ServerName]*member{
		"B": {server: "B", inSync: true, acked: 60}, "C": {server: "C", inSync: true, acked: 100},
	}}
	l.advance()
	if l.commit != 60 {
		t.Fatalf("confirmed up to %d, want 60", l.commit)
	}
	l.doubt("B")
	line := l.connect("B", 100, nil)
	if l.commit != 100 {
		t.Errorf("confirmed up to %d after the new stream began, want 100", l.commit)
	}
	if !l.acked("B", line, ack{Durable: 100}) || l.commit != 100 {
		t.Errorf("confirmed up to %d", l.commit)
	}
}

// TestConnectsBeforeKnown: a new copy reads of itself in the group's state and
// connects before the active copy has made it a member. That stream must not
// go on unheard, because the copy would never enter the set.
func TestConnectsBeforeKnown(t *testing.T) {
	l := &leader{c: &dbCopy{k: &Keeper{me: "A"}}, changed: make(chan struct{}), local: 100, lines: map[org.ServerName]int{}, conns: map[org.ServerName]io.Closer{}, members: map[org.ServerName]*member{}}
	early := l.connect("B", 0, nil)
	l.setCopies(org.Database{Copies: []org.Copy{{Server: "A"}, {Server: "B"}}})
	if l.acked("B", early, ack{Durable: 100}) {
		t.Fatal("a stream that does not count goes on")
	}
	if line := l.connect("B", 100, nil); !l.acked("B", line, ack{Durable: 100}) || !l.members["B"].connected {
		t.Errorf("the next stream: %+v", *l.members["B"])
	}
}
