package mailbox

import (
	"testing"
	"time"
)

// Nobody looks at a set in which all is well, until silence could become a reason;
// whatever is not well is looked at often.
func TestMembersPause(t *testing.T) {
	now := time.Unix(1000, 0)
	fine := member{server: "B", inSync: true, connected: true, spoke: now}
	with := func(change func(*member)) *member {
		m := fine
		change(&m)
		return &m
	}
	for _, c := range []struct {
		what string
		ms   []*member
		want time.Duration
	}{
		{"one copy only", nil, reviewIdle},
		{"all is well", []*member{&fine, &fine}, reviewIdle},
		{"silent for a while", []*member{&fine, with(func(m *member) { m.spoke = now.Add(-850 * time.Millisecond) })}, 150 * time.Millisecond},
		{"silent for too long", []*member{with(func(m *member) { m.spoke = now.Add(-2 * time.Second) })}, reviewBusy},
		{"it owes something", []*member{&fine, with(func(m *member) { m.behindSince = now })}, reviewBusy},
		{"its stream is gone", []*member{with(func(m *member) { m.connected = false })}, reviewBusy},
		{"it is not in the set", []*member{&fine, with(func(m *member) { m.inSync = false })}, reviewBusy},
		{"it enters", []*member{with(func(m *member) { m.joining = true })}, reviewBusy},
		{"it lost log", []*member{with(func(m *member) { m.short = true })}, reviewBusy},
		{"its server is gone", []*member{with(func(m *member) { m.gone = true })}, reviewBusy},
		{"its server leaves", []*member{with(func(m *member) { m.leaving = true })}, reviewBusy},
	} {
		if got := membersPause(c.ms, time.Second, now); got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
	}
	if got := membersPause([]*member{&fine}, 200*time.Millisecond, now); got > 50*time.Millisecond {
		t.Errorf("with a grace of 200 ms a debt may be seen after %s", got)
	}
}

// A peer that was told everything is beaten for less often, several times within
// the lease, and all beats fall together.
func TestNextBeat(t *testing.T) {
	k := &Keeper{cfg: Config{}.WithDefaults(), began: time.Unix(1000, 0)}
	f := &feed{c: &dbCopy{k: k}}
	at := func(ms int) time.Time { return k.began.Add(time.Duration(ms) * time.Millisecond) }
	for _, c := range []struct {
		last, next int
		told       bool
	}{{230, 300, false}, {230, 400, true}, {399, 400, true}, {400, 600, true}, {400, 500, false}} {
		f.told.Store(7)
		if !c.told {
			f.told.Store(6)
		}
		if got := f.nextBeat(at(c.last), 7); !got.Equal(at(c.next)) {
			t.Errorf("after %d ms, all told %v: %s, want %d ms", c.last, c.told, got.Sub(k.began), c.next)
		}
	}
	if p := k.cfg.idleHeartbeat(); 4*p > k.cfg.Lease {
		t.Errorf("idle beats every %s, lease %s", p, k.cfg.Lease)
	}
	if p := (Config{Heartbeat: time.Second}).WithDefaults().idleHeartbeat(); p != time.Second {
		t.Errorf("a pause that was set is changed to %s", p)
	}
}
