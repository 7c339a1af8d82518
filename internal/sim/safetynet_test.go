package sim

import (
	"fmt"
	"testing"

	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport"
)

// loseTheRest has the active copy go on alone, lets send deliver messages to
// it, and loses the server for good. Then a copy that lacks them is mounted.
func (p *posted) loseTheRest(send func(active, lagging, third int)) (active, lagging int) {
	p.t.Helper()
	active = p.number(p.mount(1, "DB01").Active)
	lagging = another(active)
	third := another(active, lagging)
	for range 6 { // what all copies have
		p.mustSend(lagging, "ann@example.test")
	}
	p.arrived(active)
	for _, n := range []int{lagging, third} {
		p.mustRun(p.t, active, "copy suspend", fmt.Sprintf(`{"database":"DB01","server":"MBX%d"}`, n))
	}
	p.inSync(p.t, lagging, "DB01", 1)
	send(active, lagging, third)
	p.arrived(third)
	p.settled(active)
	p.told(third)
	lost := p.Server(active).Name
	p.Server(active).Kill()
	for _, n := range []int{lagging, third} {
		p.mustRun(p.t, lagging, "copy resume", fmt.Sprintf(`{"database":"DB01","server":"MBX%d"}`, n))
	}
	eventually(p.t, "the former active copy is fenced", func() bool { return !p.Server(lagging).Cluster.Alive(lost) })
	if _, err := p.Server(lagging).Command(p.t.Context(), "database move", fmt.Sprintf(`{"database":"DB01","to":"MBX%d"}`, lagging)); err == nil {
		p.t.Fatal("a copy that lacks changes was activated without a dial")
	}
	eventually(p.t, "a lossy mount by hand", func() bool {
		_, err := p.Server(lagging).Command(p.t.Context(), "database move", fmt.Sprintf(`{"database":"DB01","to":"MBX%d","mount_dial":"BestEffort"}`, lagging))
		return err == nil
	})
	return active, lagging
}

// told waits until the holders of copies know that everything is delivered.
func (p *posted) told(asked int) {
	p.t.Helper()
	eventually(p.t, "the holders of copies know", func() bool {
		for _, r := range p.mustRun(p.t, asked, "message trace", `{"copies":true,"since":3600000000000,"limit":1000}`).([]transport.MessageRow) {
			if r.State != "delivered" {
				return false
			}
		}
		return true
	})
}

// completed waits until the request that the lossy mount made is answered, and
// the mount is one without loss again.
func (p *posted) completed(asked int) transport.RequestRow {
	p.t.Helper()
	var rows []transport.RequestRow
	eventually(p.t, "Safety Net has answered", func() bool {
		rows = p.mustRun(p.t, asked, "safetynet list", "").([]transport.RequestRow)
		return len(rows) == 1 && rows[0].State == "Completed"
	})
	eventually(p.t, "the loss is settled", func() bool { return p.mount(asked, "DB01").Lossy == nil })
	return rows[0]
}

// TestLossyMountSafetyNet: the only copy that had some messages is lost. Active
// Manager mounts another one with loss and asks Safety Net; the mailbox has
// every message again, once.
func TestLossyMountSafetyNet(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		send func(p *posted, active, lagging, third int) // before the loss
	}{
		{"the primaries of Safety Net live", func(p *posted, _, lagging, third int) {
			for i := range 20 {
				p.mustSend([]int{lagging, third}[i%2], "ann@example.test")
			}
		}},
		// The shadows of Safety Net answer for the server that is lost.
		{"the primary of Safety Net is lost", func(p *posted, active, _, _ int) {
			for range 20 {
				p.mustSend(active, "ann@example.test")
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPosted(t, Options{})
			lost, now := p.loseTheRest(func(active, lagging, third int) { c.send(p, active, lagging, third) })
			if n := len(p.Server(now).holds(t, p.boxes["ann@example.test"])); n > 6 {
				t.Logf("%d messages at once", n) // Safety Net may be quick
			}
			p.arrived(now)
			row := p.completed(now)
			t.Logf("%+v", row)
			if row.Delivered < 20 || row.Failed != 0 {
				t.Errorf("Safety Net delivered %d messages, want the 20 that were lost at least, and %d failed", row.Delivered, row.Failed)
			}
			// What the lost server had comes back with it, and is not doubled.
			p.start(lost)
			p.whole()
			p.settled(lost)
			p.arrived(lost)
			p.mustRun(t, now, "copy verify", `{"bodies":true}`)
			if m := p.mount(now, "DB01"); len(m.InSync) != 3 || m.Active == org.ServerName("") {
				t.Errorf("%+v", m)
			}
		})
	}
}
