package mailbox

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// give runs a command of a keeper on the copy of DB01 on MBX2, with more
// parameters, and returns what is kept of that copy.
func give(t *testing.T, k *Keeper, name, more string) (org.Copy, error) {
	t.Helper()
	in := `{"database":"DB01","server":"MBX2"` + more + `}`
	var err error
	switch name {
	case "copy suspend":
		_, err = run(t, in, k.suspendCopy, suspendCopy{})
	case "copy resume":
		_, err = run(t, in, k.resumeCopy, resumeCopy{})
	case "copy set":
		_, err = run(t, in, k.setCopy, setCopy{})
	default:
		t.Fatalf("no command %q", name)
	}
	def, _ := k.group.View().Database("DB01")
	c, _ := def.Copy("MBX2")
	return c, err
}

func run[In any](t *testing.T, in string, f func(context.Context, In) ([]CopyRow, error), with In) ([]CopyRow, error) {
	t.Helper()
	if err := json.Unmarshal([]byte(in), &with); err != nil {
		t.Fatal(err)
	}
	return f(t.Context(), with)
}

// TestSuspendAndResume: a copy is suspended whole or only for activation, and
// resumed whole or only for replication.
func TestSuspendAndResume(t *testing.T) {
	g := newAgreed()
	g.define(t, "MBX1", "MBX2")
	k := &Keeper{group: g.server("MBX1")}
	for _, c := range []struct {
		command, more   string
		copying, barred bool
		comment         string
	}{
		{"copy suspend", `,"comment":"disk"`, false, true, "disk"},
		{"copy resume", `,"replication_only":true`, true, true, "disk"},
		{"copy resume", `,"replication_only":true`, true, true, "disk"},
		{"copy suspend", "", false, true, ""},
		{"copy resume", "", true, false, ""},
		{"copy suspend", `,"activation_only":true,"comment":"slow"`, true, true, "slow"},
		{"copy suspend", `,"comment":"slower"`, false, true, "slower"},
		{"copy resume", `,"replication_only":true`, true, true, "slower"},
		{"copy resume", "", true, false, ""},
		{"copy resume", `,"replication_only":true`, true, false, ""}, // it bars nothing itself
	} {
		got, err := give(t, k, c.command, c.more)
		if err != nil || got.Suspended == c.copying || got.ActivationSuspended != c.barred || got.SuspendComment != c.comment {
			t.Errorf("%s%s: %+v, %v", c.command, c.more, got, err)
		}
	}
}

// TestLagNeedsHoldTime: a lag that Safety Net does not cover is refused unless
// it is wanted, and then it is nothing to be covered.
func TestLagNeedsHoldTime(t *testing.T) {
	g := newAgreed()
	g.define(t, "MBX1", "MBX2")
	k := &Keeper{group: g.server("MBX1"), deps: Deps{HoldTime: func() time.Duration { return 48 * time.Hour }}}
	for _, c := range []struct {
		more          string
		refused, hint string
		lag, covered  time.Duration
	}{
		{`,"replay_lag":"2d"`, "", "", 48 * time.Hour, 48 * time.Hour},
		{`,"replay_lag":"7d"`, "--replay-lag 7d is longer than hold_time 2d", "postern transport set hold_time 7d", 48 * time.Hour, 48 * time.Hour},
		{`,"replay_lag":"7d","beyond_hold_time":true`, "", "", 168 * time.Hour, 0},
		{`,"preference":1`, "", "", 168 * time.Hour, 0},
		{`,"beyond_hold_time":true`, "goes with --replay-lag", "", 168 * time.Hour, 0},
		{`,"replay_lag":"36h"`, "", "", 36 * time.Hour, 36 * time.Hour},
		{`,"replay_lag":"0","beyond_hold_time":true`, "", "", 0, 0},
	} {
		got, err := give(t, k, "copy set", c.more)
		if c.refused == "" && err != nil || c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused) || !strings.Contains(err.Error(), c.hint)) {
			t.Errorf("%s: %v", c.more, err)
		}
		if l := org.LongestLag(k.group.View().Databases()); got.ReplayLag != c.lag || l != c.covered {
			t.Errorf("%s: lag %s, %s is to be covered", c.more, got.ReplayLag, l)
		}
	}
}
