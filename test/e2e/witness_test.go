package e2e

import (
	"testing"
	"time"
)

// TestWitnessLost is the loss of the vote that holds no mail.
func TestWitnessLost(t *testing.T) {
	t.Parallel()
	g := startLab(t, 13200, "--servers", "2", "--witness", "--databases", "1", "--users", "2")
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
