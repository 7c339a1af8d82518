package mailbox

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// give runs a command on the copy of DB01 on MBX2, with more parameters, and
// returns what is kept of that copy.
func give(t *testing.T, k *Keeper, name, more string) (org.Copy, error) {
	t.Helper()
	_, err := order(t, k, name, `{"database":"DB01","server":"MBX2"`+more+`}`)
	def, _ := k.group.View().Database("DB01")
	c, _ := def.Copy("MBX2")
	return c, err
}

// order runs a command of the table.
func order(t *testing.T, k *Keeper, name, in string) (any, error) {
	t.Helper()
	all := Commands(k)
	i := slices.IndexFunc(all, func(c command.Command) bool { return c.Name() == name })
	if i < 0 {
		t.Fatalf("no command %q", name)
	}
	with := reflect.New(all[i].In)
	if err := json.Unmarshal([]byte(in), with.Interface()); err != nil {
		t.Fatal(err)
	}
	return all[i].Run(t.Context(), with.Elem().Interface())
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
// it is wanted, and then it is nothing to be covered. It suspends the activation
// of the copy unless --activatable is given.
func TestLagNeedsHoldTime(t *testing.T) {
	g := newAgreed()
	g.define(t, "MBX1", "MBX2")
	k := &Keeper{group: g.server("MBX1"), deps: Deps{HoldTime: func() time.Duration { return 48 * time.Hour }}}
	for _, c := range []struct {
		more          string
		refused, hint string
		lag, covered  time.Duration
		barred        bool // its activation is suspended
	}{
		{`,"replay_lag":"2d"`, "", "", 48 * time.Hour, 48 * time.Hour, true},
		{`,"replay_lag":"7d"`, "--replay-lag 7d is longer than hold_time 2d", "postern transport set hold_time 7d", 48 * time.Hour, 48 * time.Hour, true},
		{`,"replay_lag":"7d","beyond_hold_time":true`, "", "", 168 * time.Hour, 0, true},
		{`,"replay_lag":"7d","beyond_hold_time":true,"activatable":true`, "only looked back into", "", 168 * time.Hour, 0, true},
		{`,"preference":1`, "", "", 168 * time.Hour, 0, true},
		{`,"beyond_hold_time":true`, "goes with --replay-lag", "", 168 * time.Hour, 0, true},
		{`,"replay_lag":"36h","activatable":true`, "", "", 36 * time.Hour, 36 * time.Hour, false},
		{`,"replay_lag":"15d"`, "want 0 to 14d", "", 36 * time.Hour, 36 * time.Hour, false},
		{`,"replay_lag":"0","beyond_hold_time":true`, "", "", 0, 0, false},
	} {
		got, err := give(t, k, "copy set", c.more)
		if c.refused == "" && err != nil || c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused) || !strings.Contains(err.Error(), c.hint)) {
			t.Errorf("%s: %v", c.more, err)
		}
		if got.LagBeyondHold {
			if _, err := give(t, k, "copy resume", ""); !kind.Is(err, kind.Conflict) {
				t.Errorf("%s: resumed: %v", c.more, err)
			}
		}
		if l := org.LongestLag(k.group.View().Databases()); got.ReplayLag != c.lag || l != c.covered || got.ActivationSuspended != c.barred {
			t.Errorf("%s: lag %s, %s is to be covered, activation suspended: %t", c.more, got.ReplayLag, l, got.ActivationSuspended)
		}
	}
}

// TestCopiesOfADatabase: one copy on a server, 16 in all; an active one and the
// last one are not removed.
func TestCopiesOfADatabase(t *testing.T) {
	g := newAgreed()
	g.define(t, "MBX1")
	for i := range 18 {
		name := org.ServerName(fmt.Sprintf("MBX%d", i+1))
		g.put(t, "servers/"+string(name), org.Server{Name: name, Volumes: []org.VolumeName{"vol1"}})
	}
	k := &Keeper{group: g.server("MBX1")}
	at := func(n int) string { return fmt.Sprintf(`{"database":"DB01","server":"MBX%d"}`, n) }
	refused := func(want kind.Kind, says, name, in string) {
		t.Helper()
		if _, err := order(t, k, name, in); !kind.Is(err, want) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s %s: %v", name, in, err)
		}
	}
	refused(kind.Conflict, "is active on MBX1", "copy remove", at(1))
	for n := 2; n <= 16; n++ {
		if _, err := order(t, k, "copy add", at(n)); err != nil {
			t.Fatal(err)
		}
	}
	refused(kind.Exists, "has a copy on MBX7", "copy add", at(7))
	refused(kind.Invalid, "has 16 copies", "copy add", at(17))
	if p, err := order(t, k, "copy remove", at(16)); err != nil || !p.(command.Plan).Steps[0].Done {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := order(t, k, "copy add", at(17)); err != nil {
		t.Error(err)
	}
}

// TestCopyStatus: queues count in generations of 1 MiB, the active copy's log is
// what the others lack, and a server that is not heard is ServiceDown.
func TestCopyStatus(t *testing.T) {
	g := newAgreed()
	g.heard = true
	g.define(t, "MBX1", "MBX2", "MBX3")
	g.put(t, "databases/DB01", org.Database{Name: "DB01", Copies: []org.Copy{{Server: "MBX1", Volume: "vol1", Preference: 1, ActivationSuspended: true},
		{Server: "MBX2", Volume: "vol1", Preference: 2, ActivationSuspended: true, SuspendComment: "new disk"}, {Server: "MBX3", Volume: "vol1", Preference: 3}}})
	const mib = 1 << 20
	for s, st := range map[org.ServerName]org.CopyStatus{
		"MBX1": {State: org.CopyMounted, Generated: 30 * mib, Copied: 30 * mib, Replayed: 30 * mib},
		"MBX2": {State: org.CopyHealthy, Generated: 20 * mib, Copied: 20 * mib, Replayed: 15 * mib, Reason: "why"},
		"MBX3": {State: org.CopyHealthy, Copied: 30 * mib, Replayed: 30 * mib},
	} {
		st.Database, st.Server = "DB01", s
		g.server(s).Publish(statusSection, codec.MustMarshal([]org.CopyStatus{st}))
	}
	at := g.servers["MBX1"]
	delete(g.servers, "MBX3") // nobody hears it
	rows, err := order(t, &Keeper{group: at, me: "MBX1", peers: map[org.ServerName]peerReport{}}, "copy status", `{"database":"DB01"}`)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range rows.([]CopyRow) {
		got = append(got, fmt.Sprintf("%s %s %d %d %s %s", r.Server, r.State, r.CopyQueue, r.ReplayQ, r.Copied, r.Reason))
	}
	if want := []string{"MBX1 Mounted 0 0 30.0 MiB activation is suspended", "MBX2 Healthy 10 5 20.0 MiB why; activation is suspended: new disk", "MBX3 ServiceDown 0 0 0 B "}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestUpdateOrders: what copy update takes, and what it makes of the copy.
func TestUpdateOrders(t *testing.T) {
	g := newAgreed()
	g.heard = true
	g.define(t, "MBX1", "MBX2", "MBX3")
	for s, st := range map[org.ServerName]org.CopyStatus{"MBX1": {State: org.CopyMounted}, "MBX2": {State: org.CopySeeding, SeedTotal: 100, SeedDone: 40}, "MBX3": {State: org.CopyHealthy}} {
		st.Database, st.Server = "DB01", s
		g.server(s).Publish(statusSection, codec.MustMarshal([]org.CopyStatus{st}))
	}
	sync := func(in ...org.ServerName) {
		g.put(t, MountKey("DB01"), org.Mount{Database: "DB01", Term: 1, Active: "MBX1", InSync: in})
	}
	sync("MBX1", "MBX2", "MBX3")
	k := &Keeper{group: g.servers["MBX1"], me: "MBX1", peers: map[org.ServerName]peerReport{}}
	mine := func() org.Copy {
		def, _ := k.group.View().Database("DB01")
		c, _ := def.Copy("MBX2")
		return c
	}
	give := func(more string) error {
		_, err := order(t, k, "copy update", `{"database":"DB01","copy":"MBX2","maximum_in_parallel":10`+more+`}`)
		return err
	}
	for more, says := range map[string]string{
		`,"source":"MBX2"`:             "no healthy copy",
		`,"source":"MBX9"`:             "no healthy copy",
		`,"network":"Replication01"`:   "there is no network",
		`,"maximum_in_parallel":0`:     "at least 1",
		`,"rate":-1`:                   "0 or more",
		`,"server":"MBX2"`:             "give a database, or --server",
		`,"copy":"MBX1"`:               "an active copy cannot be seeded",
		`,"copy":"MBX3","cancel":true`: "no seed is under way",
	} {
		if err := give(more); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", more, err, says)
		}
	}
	if err := give(`,"begin":true,"dry_run":true`); err != nil || mine().SeedCount != 0 {
		t.Errorf("dry run: %v, %+v", err, mine())
	}
	if err := give(`,"begin":true,"safe_delete":true,"source":"MBX3","rate":1000,"manual_resume":true`); err != nil {
		t.Fatal(err)
	}
	if c, m := mine(), g.mount(t); c.SeedCount != 1 || c.SeedFrom != "MBX3" || c.SeedRate != 1000 || !c.SeedManual || m.IsInSync("MBX2") {
		t.Errorf("%+v, in sync %v", c, m.InSync)
	}
	sync("MBX1", "MBX2") // without it only one would hold everything
	if err := give(`,"begin":true,"safe_delete":true`); !kind.Is(err, kind.Conflict) || mine().SeedCount != 1 {
		t.Errorf("safe delete: %v", err)
	}
	if _, err := order(t, k, "copy update", `{"server":"MBX2","begin":true,"maximum_in_parallel":10,"no_throttle":true}`); err != nil {
		t.Fatal(err)
	}
	if c := mine(); c.SeedCount != 2 || c.SeedRate != 0 || c.SeedFrom != "" || c.SeedManual {
		t.Errorf("all of a server, without a limit: %+v", c)
	}
	if seeds, err := order(t, k, "copy seeds", `{}`); err != nil || len(seeds.([]Seed)) != 1 || seeds.([]Seed)[0].Percent != 40 {
		t.Errorf("%+v, %v", seeds, err)
	}
	if err := give(`,"cancel":true`); err != nil || !mine().Suspended || mine().SuspendComment != cancelledComment {
		t.Errorf("cancelled: %v, %+v", err, mine())
	}
	if _, err := order(t, k, "copy reseed", `{"database":"DB01","server":"MBX2","seed_rate":7}`); err != nil || mine().SeedCount != 3 || mine().SeedRate != 7 || mine().Suspended {
		t.Errorf("reseed: %v, %+v", err, mine())
	}
}

// TestVolumeReset: a replaced disk is accepted anew, as a spare where no copy is
// on it, and what was noted of the old one is forgotten.
func TestVolumeReset(t *testing.T) {
	g := newAgreed()
	g.define(t, "MBX1")
	g.put(t, "servers/MBX1", org.Server{Name: "MBX1", Volumes: []org.VolumeName{"vol1", "vol2"}})
	k := &Keeper{group: g.server("MBX1"), me: "MBX1"}
	for _, c := range []struct {
		more string
		want org.VolumeState
		says string
	}{
		{`"volume":"vol2","dry_run":true`, org.VolumeFailed, ""},
		{`"volume":"vol2"`, org.VolumeSpare, ""},
		{`"volume":"vol1"`, org.VolumeData, ""},
		{`"volume":"vol1","spare":true`, org.VolumeFailed, "holds 1 copies"},
		{`"volume":"vol9"`, "", "has no volume vol9"},
	} {
		for _, v := range []org.VolumeName{"vol1", "vol2"} {
			g.put(t, org.VolumeKey("MBX1", v), org.VolumeRow{Server: "MBX1", Volume: v, State: org.VolumeFailed, Identity: "old"})
		}
		_, err := order(t, k, "volume reset", `{"server":"MBX1",`+c.more+`}`)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.more, err)
		}
		for _, info := range k.volumeInfos("MBX1", "") {
			if strings.Contains(c.more, string(info.Volume)) && (info.State != c.want || (info.Identity == "") != (err == nil && c.want != org.VolumeFailed)) {
				t.Errorf("%s: %+v", c.more, info)
			}
		}
	}
}

// TestVolumeCheckOfTheSilent: what nobody can look at is one sentence, and an
// error where it was asked for by name.
func TestVolumeCheckOfTheSilent(t *testing.T) {
	for heard, says := range map[bool]string{false: "MBX2 is not heard", true: "MBX2 does not answer"} {
		g := newAgreed()
		g.heard = heard // and calls fail all the same
		g.define(t, "MBX1", "MBX2")
		g.put(t, "servers/MBX2", org.Server{Name: "MBX2", Volumes: []org.VolumeName{"vol1", "vol2", "vol3"}})
		g.server("MBX2")
		k := &Keeper{group: g.server("MBX1"), me: "MBX1", volumes: map[org.VolumeName]*volume{}}
		if out, err := order(t, k, "volume check", `{"server":"MBX2"}`); !kind.Is(err, kind.Busy) || !strings.Contains(err.Error(), says) {
			t.Errorf("by name: %+v, %v", out, err)
		}
		out, err := k.volumeCheck(t.Context(), volumeFilter{})
		silent := 0
		for _, p := range out {
			if p.Server == "MBX2" {
				silent++
			}
		}
		if err != nil || silent != 1 {
			t.Errorf("of all: %+v, %v", out, err)
		}
	}
}
