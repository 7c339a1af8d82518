package shadow

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// chaos is a random world: servers die, return and are cut off while messages
// are accepted and sent to another host.
type chaos struct {
	*world
	rnd       *rand.Rand
	names     []org.ServerName
	confirmed []mail.TraceID
	sent      map[mail.TraceID]int
}

// away counts servers that are not with the group.
func (c *chaos) away() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range c.nodes {
		if !o.up || o.cut {
			n++
		}
	}
	return n
}

func (c *chaos) is(name org.ServerName) (up, cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[name].up, c.nodes[name].cut
}

func (c *chaos) step() string {
	name := c.names[c.rnd.IntN(len(c.names))]
	up, cut := c.is(name)
	switch k := c.rnd.IntN(30); {
	case !up && k < 15:
		c.start(name)
		return fmt.Sprint("start ", name)
	case !up:
		return ""
	case k == 0 && c.away() < 2:
		c.kill(name)
		return fmt.Sprint("kill ", name)
	case k == 1 && !cut && c.away() < 2:
		c.setCut(name, true)
		return fmt.Sprint("cut ", name)
	case k < 8 && cut:
		c.setCut(name, false)
		return fmt.Sprint("join ", name)
	case k == 8:
		c.fence(name)
		return fmt.Sprint("fence ", name)
	case k < 20:
		a, body := c.message(len(c.confirmed))
		holder, err := c.nodes[name].Accept(c.t.Context(), a, body, "")
		if err == nil {
			c.confirmed = append(c.confirmed, a.ID)
			return fmt.Sprint("accept ", name, " ", holder, " ", a.ID)
		}
		return fmt.Sprint("refuse ", name, " ", a.ID)
	case len(c.confirmed) > 0:
		return c.send(name, c.confirmed[c.rnd.IntN(len(c.confirmed))])
	}
	return ""
}

// send sends a message to another host, if the server may.
func (c *chaos) send(name org.ServerName, id mail.TraceID) string {
	n := c.nodes[name]
	m, rows, err := n.q.Message(id)
	if err != nil || !m.Finished.IsZero() || n.Mine(m) != nil || rows[0].Next.After(c.clock()) {
		return ""
	}
	set := func(s queue.State) error {
		return n.q.Apply(c.t.Context(), []queue.Change{{ID: id, At: c.clock().UnixNano(), Rows: []queue.RowChange{{N: 0, State: s, Dest: "mx:x.test"}}}}, queue.Wait)
	}
	if set(queue.StateAttempt) != nil {
		return ""
	}
	repeat, err := n.Begun(c.t.Context(), id, m.Shadow)
	if err != nil || n.Mine(m) != nil {
		set(queue.StateDeferred)
		return fmt.Sprint("stop ", name, " ", id)
	}
	if !repeat && m.Shadow != "" { // else it may be sent again
		c.sent[id]++
	}
	set(queue.StateRelayed)
	return fmt.Sprint("send ", name, " ", m.Shadow, " ", repeat, " ", id)
}

// TestChaos: what was confirmed is owned by exactly one server in the end, or
// was sent; and nothing was sent twice.
func TestChaos(t *testing.T) {
	for seed := range uint64(chaosSeeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { runChaos(t, seed) })
	}
}

const (
	chaosSeeds = 2
	chaosSteps = 120
)

func runChaos(t *testing.T, seed uint64) {
	c := &chaos{rnd: rand.New(rand.NewPCG(seed, 1)), names: []org.ServerName{"A", "B", "C", "D"}, sent: map[mail.TraceID]int{}}
	c.world = newWorld(t, c.names...)
	var did []string
	t.Cleanup(func() {
		if t.Failed() {
			for _, d := range did {
				t.Log(d)
			}
		}
		for _, n := range c.names {
			c.nodes[n].stop()
		}
	})
	for range chaosSteps {
		if d := c.step(); d != "" {
			did = append(did, d)
		}
		if c.rnd.IntN(3) == 0 {
			tick := time.NewTimer(time.Duration(c.rnd.IntN(100)) * time.Millisecond)
			<-tick.C
		}
	}
	for _, n := range c.names {
		c.setCut(n, false)
		if up, _ := c.is(n); !up {
			c.start(n)
		}
	}
	for _, id := range c.confirmed {
		c.settled(id)
		if c.sent[id] > 1 {
			t.Errorf("%s was sent %d times", id, c.sent[id])
		}
	}
}

// settled waits until one server has a message to deliver, or it is delivered.
func (c *chaos) settled(id mail.TraceID) {
	c.t.Helper()
	var said []string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		var owned, finished, other int
		said = said[:0]
		for _, name := range c.names {
			s := c.nodes[name].state(id)
			said = append(said, fmt.Sprint(name, " ", s))
			switch s {
			case claimOwned:
				owned++
			case claimFinished:
				finished++
			case claimReconciling, claimFenced:
				other++
			}
		}
		if other == 0 && (owned == 1 || owned == 0 && finished > 0) {
			return
		}
		tick := time.NewTimer(5 * time.Millisecond)
		<-tick.C
	}
	slices.Sort(said)
	c.t.Errorf("%s (sent %d) is not settled: %v", id, c.sent[id], said)
}
