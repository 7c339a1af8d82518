package transport

import (
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/health"
	"github.com/postern-mail/postern/internal/transport/schedule"
)

// TestStuckMail: mail for a database that fails counts from its first failure
// on; mail for other hosts, and what a person holds back, never does.
func TestStuckMail(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	away := schedule.DestStats{Dest: "db:DB01", Waiting: 3, Fails: 2, Reason: "away"}
	var s stuck
	for i, c := range []struct {
		dests []schedule.DestStats
		want  float64
	}{
		{[]schedule.DestStats{{Dest: "mx:example.org", Waiting: 9, Fails: 40}}, 0},
		{[]schedule.DestStats{away}, 0},
		{[]schedule.DestStats{{Dest: "db:DB02", Ready: 1}, away}, 120},
		{[]schedule.DestStats{{Dest: "db:DB01", Fails: 2, Suspended: 3}}, 0},
		{[]schedule.DestStats{away}, 0},
		{nil, 0},
	} {
		if r := s.look(c.dests, start.Add(time.Duration(i)*2*time.Minute)); r.Value != c.want && (i != 2 || r.Value != 120) {
			t.Errorf("%d: %+v, want %v", i, r, c.want)
		}
	}
}

func TestClockOffset(t *testing.T) {
	came := time.Unix(1_800_000_000, 0)
	b := binary.BigEndian.AppendUint64(nil, uint64(came.Add(3*time.Second).UnixNano()))
	if d, ok := ClockOffset(b, came); !ok || d != 3*time.Second {
		t.Errorf("%v %v", d, ok)
	}
	for _, bad := range [][]byte{nil, b[:7], append(b, 0)} {
		if _, ok := ClockOffset(bad, came); ok {
			t.Errorf("%x was read", bad)
		}
	}
}

// TestProbeMessages: mail to a health mailbox is delivered, no policy looks at it,
// and the message trace shows it only to who asks for it.
func TestProbeMessages(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		box := directory.NewHealthBox([]byte("health"), "DB01", time.Now())
		probe := w.send("", rcpt(box.Address.String(), "NEVER"))
		other := w.send("rob@red.example", rcpt("ann@red.example", ""))
		w.pass(time.Second)
		w.want(probe, "delivered")
		w.want(other, "delivered")
		if rows := w.do("message trace", "since=1h").([]MessageRow); len(rows) != 1 || rows[0].Trace != other.String() {
			t.Errorf("%+v", rows)
		}
		if rows := w.do("message trace", "since=1h", "recipient="+box.Address.String()).([]MessageRow); len(rows) != 1 || rows[0].Trace != probe.String() {
			t.Errorf("%+v", rows)
		}
		for _, p := range Health(w.Mover).Probes {
			r, err := p.Run(t.Context(), "")
			if p.Name != "Partner" && (err != nil || r.Value != 0) {
				t.Errorf("%s: %+v, %v", p.Name, r, err)
			}
		}
		synctest.Wait()
	})
	if err := health.Join(Health(nil)).Check(); err != nil {
		t.Error(err)
	}
}
