package active

import (
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/health"
	"github.com/postern-mail/postern/internal/org"
)

// TestHealth: what nobody serves is named by the server with the primary role, and
// a role whose holder is gone is told by everybody.
func TestHealth(t *testing.T) {
	if err := Health(nil).Check(); err != nil {
		t.Error(err)
	}
	f := newFake(t, 3, 3)
	m := f.manager(Config{}, Deps{})
	look := func(name string) (health.Reading, error) {
		for _, p := range Health(m).Probes {
			if p.Name == name {
				return p.Run(t.Context(), "")
			}
		}
		t.Fatalf("there is no probe %s", name)
		panic("unreachable")
	}
	if _, err := look("Role"); err == nil || !strings.Contains(err.Error(), "no server has") {
		t.Error(err)
	}
	f.put(primaryKey, primary{Server: f.me})
	if r, err := look("Role"); err != nil || r.Text != string(f.me)+" has the primary role" {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := look("Serving"); err != nil {
		t.Errorf("%+v, %v", r, err)
	}
	f.set("MBX01", "DB0002", org.CopyMounting, 3)
	if r, err := look("Serving"); err == nil || r.Value != 1 || !strings.Contains(err.Error(), "DB0002") {
		t.Errorf("%+v, %v", r, err)
	}
	f.put(primaryKey, primary{Server: "MBX03"})
	if r, err := look("Serving"); err != nil || r.Text == "" {
		t.Errorf("a standby says %+v, %v", r, err)
	}
	f.lose("MBX03")
	if _, err := look("Role"); err == nil || !strings.Contains(err.Error(), "MBX03") {
		t.Error(err)
	}
}
