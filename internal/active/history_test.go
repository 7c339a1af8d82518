package active

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/active/choose"
	"github.com/postern-mail/postern/internal/org"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func TestBackOffGrows(t *testing.T) {
	var h history
	at := noon
	for n, want := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 16 * time.Minute, 32 * time.Minute, time.Hour, time.Hour} {
		h = h.add(Moved{At: at, From: "MBX1", To: "MBX2", Purpose: choose.Failover}, "")
		h = h.add(Moved{At: at, From: "MBX2", To: "MBX1", Purpose: choose.Failover}, "it did not mount")
		if got, times := h.backOff("MBX2", at); got != want || times != n+1 {
			t.Errorf("after %d failures: %s, %d", n+1, got, times)
		}
		if got, _ := h.backOff("MBX2", at.Add(want)); got != 0 {
			t.Errorf("%s later still %s", want, got)
		}
		h.Moves[len(h.Moves)-1].Result = mounted
	}
	if got, _ := h.backOff("MBX1", at); got != 0 {
		t.Errorf("MBX1 mounted: %s", got)
	}
	if got, _ := h.backOff("MBX2", at.Add(-24*time.Hour)); got != time.Hour {
		t.Errorf("a clock that was ahead: %s", got)
	}
	h = h.add(Moved{At: at, From: "MBX1", To: "MBX2", Result: mounted}, "")
	if got, times := h.backOff("MBX2", at); got != 0 || times != 0 {
		t.Errorf("it mounted at last: %s, %d", got, times)
	}
	if len(h.Moves) > movesKept {
		t.Errorf("%d moves are kept", len(h.Moves))
	}
}

func TestSuppressed(t *testing.T) {
	move := func(p choose.Purpose, before time.Duration) Moved {
		return Moved{At: noon.Add(-before), To: "MBX2", Purpose: p, Result: mounted}
	}
	for _, c := range []struct {
		name string
		past []Moved
		p    choose.Purpose
		want string
	}{
		{"nothing happened", nil, choose.HealthMove, ""},
		{"failovers do not count", []Moved{move(choose.Failover, time.Second)}, choose.HealthMove, ""},
		{"a person does not count", []Moved{move(choose.Switchover, time.Second)}, choose.Rebalance, ""},
		{"a moment ago", []Moved{move(choose.HealthMove, time.Minute)}, choose.Rebalance, "next in 4m0s"},
		{"long enough ago", []Moved{move(choose.Rebalance, 5*time.Minute)}, choose.HealthMove, ""},
		{"four a day", []Moved{move(choose.HealthMove, 23*time.Hour), move(choose.HealthMove, 12*time.Hour), move(choose.HealthMove, 6*time.Hour), move(choose.HealthMove, time.Hour)}, choose.HealthMove, "as often as it may"},
		{"yesterday is over", []Moved{move(choose.HealthMove, 25*time.Hour), move(choose.HealthMove, 12*time.Hour), move(choose.HealthMove, 6*time.Hour), move(choose.HealthMove, time.Hour)}, choose.HealthMove, ""},
		{"the clock was ahead", []Moved{move(choose.HealthMove, -48*time.Hour)}, choose.HealthMove, "next in 5m0s"},
	} {
		got := history{c.past}.suppressed(c.p, 5*time.Minute, noon)
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestStorm(t *testing.T) {
	dead := func(n int, sites ...org.SiteName) map[org.ServerName]lostServer {
		out := map[org.ServerName]lostServer{}
		for i := range n {
			out[org.ServerName(fmt.Sprintf("M%d", i))] = lostServer{noon, sites[i%len(sites)]}
		}
		return out
	}
	for _, c := range []struct {
		name string
		dead map[org.ServerName]lostServer
		want bool
	}{
		{"three", dead(3, "A", "B"), false},
		{"four of one site", dead(4, "A"), false},
		{"four of two", dead(4, "A", "B"), true},
	} {
		s := storm{lost: map[org.ServerName]lostServer{}}
		if got := s.note(c.dead, noon); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	s := storm{lost: map[org.ServerName]lostServer{}}
	s.note(dead(2, "A", "B"), noon)
	late := dead(4, "A", "B")
	for n, l := range late {
		l.at = noon.Add(2 * time.Minute)
		late[n] = l
	}
	if s.note(late, noon.Add(2*time.Minute)) {
		t.Error("two now and two before are no storm")
	}
	s = storm{lost: map[org.ServerName]lostServer{}}
	if !s.note(dead(5, "A", "B"), noon) || s.note(dead(5, "A", "B"), noon.Add(time.Second)) {
		t.Error("a storm begins once")
	}
	if until := s.until.Sub(noon); until < stormCalm {
		t.Errorf("calm for %s", until)
	}
	if s.note(nil, noon.Add(time.Hour)); len(s.lost) != 0 {
		t.Errorf("%d are remembered for ever", len(s.lost))
	}
}
