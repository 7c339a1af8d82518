package e2e

import (
	"testing"
	"time"
)

// TestTwoServersAndWitness loses each of two servers in turn, with the witness
// making the majority.
func TestTwoServersAndWitness(t *testing.T) {
	t.Parallel()
	g := startLab(t, 35000, "--servers", "2", "--witness", "--databases", "2", "--users", "4")
	c := g.load()
	c.goesOn(20 * time.Second)
	for _, victim := range []string{"MBX1", "MBX2"} {
		c.target.SetDown(victim, true)
		g.order("kill", victim)
		g.servedWithout(victim, 20*time.Second)
		c.goesOn(20 * time.Second)
		g.back(victim)
		c.target.SetDown(victim, false)
		c.goesOn(20 * time.Second)
	}
	c.nothingLost()
	g.identical()
}

// TestWitnessLost is the loss of the vote that holds no mail.
func TestWitnessLost(t *testing.T) {
	t.Parallel()
	g := startLab(t, 36000, "--servers", "2", "--witness", "--databases", "1", "--users", "2")
	c := g.load()
	g.order("kill", "WIT1")
	c.goesOn(20 * time.Second)
	g.order("start", "WIT1", "--wait")
	c.nothingLost()
	for _, x := range c.history.Troubles() {
		t.Errorf("%s at %s: %s: %s", x.Client, x.Server, x.Kind, x.Text)
	}
	g.identical()
}
