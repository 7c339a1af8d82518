package mailbox

import (
	"context"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/health"
)

// look runs a probe once, within a second.
func look(t *testing.T, x health.Items, name, target string) (health.Reading, error) {
	t.Helper()
	for _, p := range x.Probes {
		if p.Name == name {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return p.Run(ctx, target)
		}
	}
	t.Fatalf("there is no probe %s", name)
	panic("unreachable")
}

// TestStoreHealth: the active copy is well; without its lease it cannot be read,
// and of a database that is not here nothing is wrong.
func TestStoreHealth(t *testing.T) {
	if x := storeHealth(nil); x.Check() != nil || x.Probes[0].Targets() != nil {
		t.Errorf("without a Keeper: %v", x.Check())
	}
	a := newAgreed()
	g := a.server("A")
	a.define(t, "A")
	k := startKeeper(t, g, newDisks())
	x := storeHealth(k.Keeper)
	eventually(t, "DB01 is active", func() bool { ready, _ := k.Lead("DB01"); return ready && len(x.Probes[0].Targets()) == 1 })
	for _, name := range []string{"Read", "Commit"} {
		if r, err := look(t, x, name, "DB01"); err != nil || r.Value > 1 {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
		if _, err := look(t, x, name, "DB99"); err != nil {
			t.Errorf("%s of a database that is gone: %v", name, err)
		}
	}
	g.partition(true)
	eventually(t, "the lease is over", func() bool { _, err := look(t, x, "Read", "DB01"); return err != nil })
}
