package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
)

// chaos is what happens to the servers of a world while messages come in.
type chaos struct {
	*posted
	rnd  *rand.Rand
	down map[int]bool
	cut  map[int]bool
	held bool
}

// pause lets the world go on for a while.
func (c *chaos) pause(least, most time.Duration) {
	<-time.After(least + time.Duration(c.rnd.Int64N(int64(most-least)+1)))
}

func (c *chaos) log(format string, args ...any) {
	c.t.Logf("%s "+format, append([]any{time.Now().Format("05.000")}, args...)...)
}

func (c *chaos) kill(n int) {
	if !c.down[n] {
		c.log("kill MBX%d", n)
		c.down[n], c.cut[n] = true, false
		c.Server(n).Kill()
	}
}

func (c *chaos) back(n int) {
	if c.down[n] {
		c.log("start MBX%d", n)
		delete(c.down, n)
		c.start(n)
	}
}

// step does one thing, and undoes it for the most part.
func (c *chaos) step() {
	n := 1 + c.rnd.IntN(3)
	other := 1 + (n+c.rnd.IntN(2))%3
	switch c.rnd.IntN(8) {
	case 0, 1:
		c.kill(n)
		c.pause(100*time.Millisecond, 4*time.Second)
		c.back(n)
	case 2: // both in turn, and back in any order
		c.kill(n)
		c.pause(0, 3*time.Second)
		c.kill(other)
		c.pause(0, time.Second)
		if c.rnd.IntN(2) == 0 {
			n, other = other, n
		}
		c.back(n)
		c.pause(0, 2*time.Second)
		c.back(other)
	case 3, 4:
		c.log("cut MBX%d", n)
		c.Server(n).Cut()
		c.pause(100*time.Millisecond, 4*time.Second)
		if c.rnd.IntN(4) == 0 {
			c.kill(n)
			c.back(n)
		}
		c.log("heal MBX%d", n)
		c.Server(n).Heal()
	case 5:
		c.log("fill MBX%d", n)
		c.Server(n).Fill(1 << 20)
		c.pause(time.Second, 2*time.Second)
		c.Server(n).Room(1 << 40)
	case 6:
		ctx, cancel := context.WithTimeout(c.t.Context(), 3*time.Second)
		defer cancel()
		_, err := c.Server(n).Command(ctx, "database move", fmt.Sprintf(`{"database":"DB01","to":"MBX%d"}`, other))
		c.log("move to MBX%d: %v", other, err)
	case 7: // everything waits, so that all of it is on its way when the next thing happens
		ctx, cancel := context.WithTimeout(c.t.Context(), 3*time.Second)
		defer cancel()
		c.held = !c.held
		verb := map[bool]string{true: "suspend", false: "resume"}[c.held]
		_, err := c.Server(n).Command(ctx, "queue "+verb, `{"destination":"db:DB01"}`)
		c.log("%s DB01: %v", verb, err)
	}
	c.pause(0, time.Second)
}

// client sends messages to any server until stop, each as often as it takes. It
// returns how many there were.
func (p *posted) client(rnd *rand.Rand, stop <-chan struct{}) (confirmed, refused int) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		p.mu.Lock()
		n := p.next
		p.next++
		p.mu.Unlock()
		to := []string{"ann@example.test", "bob@example.test"}[rnd.IntN(2)]
		for {
			select {
			case <-tick.C:
			case <-stop:
				return confirmed, refused
			}
			m, id := submission(n, to)
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			_, err := p.Server(1+rnd.IntN(3)).Accept(ctx, m)
			cancel()
			if err == nil {
				p.confirmed(id, to)
				confirmed++
				break
			}
			if !kind.Is(err, kind.Busy) && !kind.Is(err, kind.Full) {
				p.t.Errorf("refused: %v", err)
			}
			refused++
		}
	}
}

// chaosTime is how long things happen: 20 s, 6 s with -short, SIM_TIME.
func chaosTime(t *testing.T) time.Duration {
	d, err := time.ParseDuration(os.Getenv("SIM_TIME"))
	switch {
	case err == nil:
		return d
	case os.Getenv("SIM_TIME") != "":
		t.Fatal(err)
	case testing.Short():
		return 6 * time.Second
	}
	return 20 * time.Second
}

// TestChaos has random servers die, be cut off and be without room while
// messages come in. Every message that was confirmed is in its mailbox once at
// the end, and the ledgers agree with that. SIM_SEED repeats a run, as far as
// goroutines do.
func TestChaos(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("SIM_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SIM_SEED=%d", seed)
	c := &chaos{posted: newPosted(t, Options{}), rnd: rand.New(rand.NewPCG(seed, 0)), down: map[int]bool{}, cut: map[int]bool{}}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	confirmed, refused := 0, 0
	for i := range 4 {
		wg.Go(func() {
			a, b := c.client(rand.New(rand.NewPCG(seed, uint64(i)+1)), stop)
			mu.Lock()
			defer mu.Unlock()
			confirmed, refused = confirmed+a, refused+b
		})
	}
	steps := 0
	for end := time.Now().Add(chaosTime(t)); time.Now().Before(end) && !t.Failed(); steps++ {
		c.step()
	}
	close(stop)
	wg.Wait()
	t.Logf("%d things happened; %d messages confirmed, %d attempts refused", steps, confirmed, refused)
	c.whole()
	c.release(1)
	c.arrived(1)
	c.settled(2)
	c.arrived(3)
}
