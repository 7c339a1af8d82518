package cluster

import (
	"encoding/json"
	"testing"

	"github.com/postern-mail/postern/internal/org"
)

// TestYieldsLead: a server that is held back gives the lead of the agreed state
// away, and goes on leading where everybody is held back.
func TestYieldsLead(t *testing.T) {
	all := three(t)
	g := all[:]
	eventually(t, "all are heard", func() bool {
		for _, n := range g {
			if len(n.Peers()) != 2 || n.Peers()[0].State != PeerUp || n.Peers()[1].State != PeerUp {
				return false
			}
		}
		return leads(g) != nil
	})
	hold := func(s org.ServerName) {
		t.Helper()
		b, err := json.Marshal(org.ComponentEntry{State: org.Draining})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := all[0].Commit(t.Context(), put(org.ComponentKey(s, org.HighAvailability, org.Maintenance), string(b))); err != nil {
			t.Fatal(err)
		}
	}
	was := leads(g)
	hold(was.Name())
	eventually(t, "another leads", func() bool { n := leads(g); return n != nil && n != was })
	next := leads(g)
	eventually(t, "all name it", func() bool {
		for _, n := range g {
			if n.Leader(t.Context()) != next.Name() {
				return false
			}
		}
		return true
	})
	for _, n := range g {
		hold(n.Name())
	}
	if _, err := was.Commit(t.Context(), put("domains/after", "1")); err != nil {
		t.Errorf("with everybody held back nothing can be agreed on: %v", err)
	}
	if boot, _ := all[1].Boot(was.Name()); boot == "" || boot != was.mesh.Boot() {
		t.Errorf("boot of %s is %q there, %q here", was.Name(), boot, was.mesh.Boot())
	}
	if boot, version := all[1].Boot("MBX9"); boot != "" || version != "" {
		t.Error("a stranger has a boot")
	}
}
