package health

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/health/respond"
)

// TestModeOfConfiguration: a server's own mode counts while the group says none.
func TestModeOfConfiguration(t *testing.T) {
	for _, c := range []struct {
		own   respond.Mode
		group []mode
		want  respond.Mode
	}{
		{"", nil, respond.Act},
		{respond.Act, nil, respond.Act},
		{respond.DryRun, nil, respond.DryRun},
		{respond.DryRun, []mode{{Mode: respond.Act}}, respond.Act},
		{respond.Off, []mode{{Set: "IMAP.Protocol", Mode: respond.Act}}, respond.Off},
		{respond.Off, []mode{{Set: "Store", Mode: respond.Act}}, respond.Act},
	} {
		r := rules{Modes: append(c.group, Config{Recovery: c.own}.rules().Modes...)}
		if got := r.modeFor("Store"); got != c.want {
			t.Errorf("own %q, group %v: %s, want %s", c.own, c.group, got, c.want)
		}
		rows := newState()
		for _, m := range c.group {
			raw, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if err := rows.Commit(t.Context(), []Op{{Key: m.key(), Value: raw}}); err != nil {
				t.Fatal(err)
			}
		}
		if got := RecoveryMode(Config{Recovery: c.own}, rows, "MBX1", "Store", time.Now()); got != c.want {
			t.Errorf("own %q, group %v, asked by another room: %s, want %s", c.own, c.group, got, c.want)
		}
	}
}
