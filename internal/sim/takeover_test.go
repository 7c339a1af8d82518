package sim

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport"
)

func (p *posted) number(name org.ServerName) int {
	p.t.Helper()
	for n := 1; n <= 3; n++ {
		if p.Server(n).Name == name {
			return n
		}
	}
	p.t.Fatalf("there is no server %q", name)
	return 0
}

// another is a server that is none of those.
func another(not ...int) int {
	for n := 1; ; n++ {
		found := false
		for _, x := range not {
			found = found || x == n
		}
		if !found {
			return n
		}
	}
}

// start starts a server and waits until it has copies elsewhere again.
func (p *posted) start(n int) {
	p.t.Helper()
	if err := p.Server(n).Start(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
}

// whole waits until every server is as at the beginning.
func (p *posted) whole() {
	p.t.Helper()
	p.inSync(p.t, 1, "DB01", 3)
	for n := range 3 {
		p.accepts(n + 1)
	}
}

// killAfterAnswer kills a server a millisecond after it confirmed a message, and
// returns who holds the copy and when it was.
func (p *posted) killAfterAnswer(n int) (holder int, at time.Time) {
	p.t.Helper()
	r := p.mustSend(n, "ann@example.test")
	if r.Shadow == "" {
		p.t.Fatal("no second copy")
	}
	<-time.After(time.Millisecond)
	at = time.Now()
	p.Server(n).Kill()
	return p.number(r.Shadow), at
}

// stalls watches for how long this process does not run; the result ends that
// and tells the longest time.
func stalls() func() time.Duration {
	stop, longest := make(chan struct{}), make(chan time.Duration)
	go func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		worst, last := time.Duration(0), time.Now()
		for {
			select {
			case <-tick.C:
				worst, last = max(worst, time.Since(last)), time.Now()
			case <-stop:
				longest <- worst
				return
			}
		}
	}()
	return func() time.Duration {
		close(stop)
		return <-longest
	}
}

// TestTakeoverInTime kills the server that confirmed a message and had not
// delivered it, and the active copy with it, at the times of the product. The
// message is in the mailbox within ten seconds.
func TestTakeoverInTime(t *testing.T) {
	t.Parallel()
	p := newPosted(t, Options{Slow: true})
	n := p.number(p.mount(1, "DB01").Active)
	p.hold(n)
	holder, at := p.killAfterAnswer(n)
	p.arrived(holder)
	took := time.Since(at)
	t.Logf("delivered %v after the server was killed", took.Round(10*time.Millisecond))
	if took > 10*time.Second {
		t.Errorf("delivered after %v, want 10 s at most", took)
	}
	p.release(holder)
	p.start(n)
	p.whole()
	p.settled(n)
	p.arrived(n)
}

// TestTakeover has servers die and come back in all orders while messages wait.
func TestTakeover(t *testing.T) {
	t.Parallel()
	p := newPosted(t, Options{})
	// The times of a world without Slow are at most half of the product's.
	const budget = 5 * time.Second
	for n := 1; n <= 2; n++ {
		p.hold(n)
		stalled := stalls()
		holder, at := p.killAfterAnswer(n)
		p.arrived(holder)
		took, stall := time.Since(at), stalled()
		t.Logf("MBX%d: delivered after %v, with stalls of up to %v", n, took.Round(10*time.Millisecond), stall.Round(time.Millisecond))
		// With such short times a machine that has no time for this process makes
		// servers look dead; what it is to be then is in TestTakeoverInTime.
		if took > budget && stall < 100*time.Millisecond {
			t.Errorf("MBX%d: delivered after %v, want %v at most", n, took, budget)
		}
		p.release(holder)
		p.start(n)
		p.whole()
		p.settled(n)
		p.arrived(n)
	}
}

// TestBothDie kills the server that confirmed a message and then the one that
// holds its copy, before either could deliver; they come back in both orders.
func TestBothDie(t *testing.T) {
	t.Parallel()
	p := newPosted(t, Options{})
	for round := range 2 {
		p.hold(1, 2, 3)
		n := 1 + round
		holder, _ := p.killAfterAnswer(n)
		third := another(n, holder)
		if round == 1 {
			// It dies after it took over, and has a copy elsewhere then.
			eventually(t, "the messages are taken over", func() bool {
				rows, err := p.queue(third, fmt.Sprintf("MBX%d", holder))
				return err == nil && len(rows) == 1 && rows[0].Unfinished > 0 && p.taken(third, n)
			})
		}
		p.Server(holder).Kill()
		first, second := n, holder
		if round == 1 {
			first, second = holder, n
		}
		p.start(first)
		p.start(second)
		p.whole()
		p.release(third)
		p.settled(third)
		p.arrived(third)
	}
}

// taken tells whether the messages of a server belong to others.
func (p *posted) taken(asked, n int) bool {
	it, ok := p.Server(asked).Cluster.View().Get(org.QueueKey(p.Server(n).Name))
	var row org.QueueRow
	return ok && json.Unmarshal(it.Value, &row) == nil && row.Fenced()
}

// TestCutOff cuts the server that confirmed messages off from the others: they
// go on with them, and it does not when it is back.
func TestCutOff(t *testing.T) {
	t.Parallel()
	p := newPosted(t, Options{})
	active := p.number(p.mount(1, "DB01").Active)
	for _, n := range []int{active, another(active)} {
		p.hold(n)
		for range 5 {
			p.mustSend(n, "ann@example.test")
		}
		other := another(n)
		p.Server(n).Cut()
		p.arrived(other)
		p.Server(n).Heal()
		p.whole()
		p.release(other)
		p.settled(n)
		p.arrived(n)
	}
}

// TestHolderDies kills the server that holds the copy. Another one gets a copy,
// and goes on when the first server dies as well.
func TestHolderDies(t *testing.T) {
	t.Parallel()
	p := newPosted(t, Options{})
	p.hold(1)
	r := p.mustSend(1, "ann@example.test")
	holder := p.number(r.Shadow)
	third := another(1, holder)
	p.Server(holder).Kill()
	eventually(t, "another server has a copy", func() bool {
		rows := p.mustRun(t, 1, "message show", `{"trace":"`+r.Trace.String()+`"}`).([]transport.MessageRow)
		return len(rows) == 1 && rows[0].Shadow == p.Server(third).Name
	})
	// Two of three have to live: the group cannot go on without.
	p.start(holder)
	p.accepts(holder)
	p.Server(1).Kill()
	p.arrived(third)
	p.release(third)
	p.start(1)
	p.whole()
	p.settled(1)
	p.arrived(1)
}

// TestQueueDiskFull fills the disks of queues. A server without room refuses,
// and one that cannot hold a copy is passed over.
func TestQueueDiskFull(t *testing.T) {
	t.Parallel()
	p := newPosted(t, Options{})
	const whole = 1 << 40
	// At first nobody told the others yet: who is asked says that there is no room.
	for _, free := range []int64{0, 1 << 20} {
		p.Server(2).Fill(free)
		for range 10 {
			if r := p.mustSend(1, "ann@example.test"); r.Shadow == "" {
				t.Error("no second copy")
			}
		}
		eventually(t, "a full server refuses", func() bool {
			_, err := p.send(t.Context(), 2, "ann@example.test")
			return kind.Is(err, kind.Full)
		})
		for range 5 {
			if r := p.mustSend(1, "ann@example.test"); r.Shadow != "MBX3" {
				t.Errorf("copy on %q, want MBX3", r.Shadow)
			}
		}
		p.arrived(1)
		p.Server(2).Room(whole)
		eventually(t, "it accepts again", func() bool {
			_, err := p.send(t.Context(), 2, "bob@example.test")
			return err == nil
		})
		p.whole()
	}
	// With both others full there is nobody to ask: auto accepts alone.
	p.Server(2).Fill(1 << 20)
	p.Server(3).Fill(1 << 20)
	eventually(t, "the first server is alone", func() bool {
		r, err := p.send(t.Context(), 1, "bob@example.test")
		return err == nil && r.Shadow == ""
	})
	p.Server(2).Room(whole)
	p.Server(3).Room(whole)
	p.whole()
	p.settled(2)
	p.arrived(3)
}
