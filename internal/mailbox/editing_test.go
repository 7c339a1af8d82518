package mailbox

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// TestActiveMeanwhile: a copy that becomes active while something is ordered that
// is for passive ones is left alone, whether it does so after the first look or
// before the change.
func TestActiveMeanwhile(t *testing.T) {
	const at = `{"database":"DB01","server":"MBX2","maximum_in_parallel":10,"begin":true`
	orders := map[string]func(*testing.T, *Keeper) error{
		"copy update": func(t *testing.T, k *Keeper) error {
			_, err := order(t, k, "copy update", strings.Replace(at, "server", "copy", 1)+`}`)
			return err
		},
		"suspended by a responder": func(t *testing.T, k *Keeper) error {
			return (&Keeper{group: k.group, me: "MBX2"}).Suspend(t.Context(), "DB01", "health", "why")
		},
	}
	for _, name := range []string{"copy reseed", "copy remove", "copy suspend"} {
		orders[name] = func(t *testing.T, k *Keeper) error { _, err := order(t, k, name, at+`}`); return err }
	}
	for name, give := range orders {
		for when := range 2 {
			k, g, s := passiveCopies(t, "DB01")
			moment := []*func(){&s.afterView, &s.beforeCommit}[when]
			*moment = func() {
				m := g.mount(t)
				m.Active, m.Term = "MBX2", m.Term+1
				g.put(t, MountKey("DB01"), m)
			}
			err := give(t, k)
			def, _ := k.group.View().Database("DB01")
			c, has := def.Copy("MBX2")
			if !kind.Is(err, kind.Conflict) || !strings.Contains(err.Error(), "is active on MBX2") {
				t.Errorf("%s, %d: %v", name, when, err)
			}
			if m := g.mount(t); !has || c.SeedCount != 0 || c.Suspended || m.Active != "MBX2" || !m.IsInSync("MBX2") {
				t.Errorf("%s, %d: %+v, in sync %v", name, when, c, m.InSync)
			}
		}
	}
}

// passiveCopies are databases of three copies in sync, active on MBX1.
func passiveCopies(t *testing.T, dbs ...org.DatabaseName) (*Keeper, *agreed, *alone) {
	t.Helper()
	g := newAgreed()
	g.heard = true
	all := []org.ServerName{"MBX1", "MBX2", "MBX3"}
	for _, s := range all {
		var sts []org.CopyStatus
		for _, db := range dbs {
			sts = append(sts, org.CopyStatus{Database: db, Server: s, State: org.CopyHealthy})
		}
		g.server(s).Publish(statusSection, codec.MustMarshal(sts))
	}
	for _, db := range dbs {
		def := org.Database{Name: db, Identity: string(db)}
		for i, s := range all {
			def.Copies = append(def.Copies, org.Copy{Server: s, Volume: "vol1", Preference: i + 1})
		}
		g.put(t, DatabaseKey(db), def)
		g.put(t, MountKey(db), org.Mount{Database: db, Term: 1, Active: "MBX1", InSync: all})
	}
	s := g.servers["MBX1"]
	return &Keeper{group: s, me: "MBX1", peers: map[org.ServerName]peerReport{}}, g, s
}

// TestUpdateJudgesAgain: of several copies each is judged again when its seed is
// ordered, also what --safe-delete asks for.
func TestUpdateJudgesAgain(t *testing.T) {
	for says, change := range map[string]func(*org.Mount){
		"DB02 is active on MBX2":                  func(m *org.Mount) { m.Active, m.Term = "MBX2", 2 },
		"DB02: without the copy on MBX2 only 1 w": func(m *org.Mount) { m.InSync = m.InSync[:2] },
	} {
		k, g, s := passiveCopies(t, "DB01", "DB02")
		s.beforeCommit = func() { // the order about DB01
			m, _ := g.servers["MBX3"].View().Mount("DB02")
			change(&m)
			g.put(t, MountKey("DB02"), m)
		}
		_, err := order(t, k, "copy update", `{"server":"MBX2","maximum_in_parallel":10,"begin":true,"safe_delete":true}`)
		if !kind.Is(err, kind.Conflict) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
		v := k.group.View()
		one, _ := v.Mount("DB01")
		two, _ := v.Mount("DB02")
		def, _ := v.Database("DB02")
		if one.IsInSync("MBX2") || !two.IsInSync("MBX2") || def.Copies[1].SeedCount != 0 {
			t.Errorf("in sync %v and %v, %+v", one.InSync, two.InSync, def.Copies[1])
		}
	}
}

// TestRemovalBeforeMove: who decided to move a database to a copy loses when the
// copy is removed or suspended before it is done.
func TestRemovalBeforeMove(t *testing.T) {
	for _, name := range []string{"copy remove", "copy suspend"} {
		k, g, s := passiveCopies(t, "DB01")
		decided := g.mount(t)
		if _, err := order(t, k, name, `{"database":"DB01","server":"MBX2"}`); err != nil {
			t.Fatal(err)
		}
		m := g.mount(t)
		if want := []org.ServerName{"MBX1", "MBX3"}; name == "copy remove" && !slices.Equal(m.InSync, want) {
			t.Errorf("%s: in sync are %v", name, m.InSync)
		}
		decided.Active, decided.Term = "MBX2", 2
		b, err := json.Marshal(decided)
		if err != nil {
			t.Fatal(err)
		}
		key := MountKey("DB01")
		_, err = s.Commit(t.Context(), cluster.Txn{If: []cluster.Cond{{Key: key, Revision: decided.Revision}}, Then: []cluster.Op{{Key: key, Value: b}}})
		if !kind.Is(err, kind.Conflict) {
			t.Errorf("%s: moved there all the same: %v", name, err)
		}
	}
}

// TestRemoveDatabase: a mailbox that is created while its database is removed keeps
// it, and the mark is taken back; a removal that was broken off is gone on with.
func TestRemoveDatabase(t *testing.T) {
	g := newAgreed()
	g.define(t, "MBX1", "MBX2")
	s := g.server("MBX1")
	k := &Keeper{group: s}
	remove := func(more string) error {
		_, err := order(t, k, "database remove", `{"database":"DB01"`+more+`}`)
		return err
	}
	def := func() (org.Database, int64) {
		v := g.servers["MBX1"].View()
		d, _ := v.Database("DB01")
		return d, v.DatabaseRevision("DB01")
	}
	const box = "recipients/red/1"
	// create is what creates a mailbox on the row as it saw it.
	create := func(rev int64) error {
		_, err := s.Commit(t.Context(), cluster.Txn{If: []cluster.Cond{{Key: DatabaseKey("DB01"), Revision: rev}}, Then: []cluster.Op{{Key: box, Value: []byte(`{"database":"DB01"}`)}}})
		return err
	}
	_, seen := def()
	refused := func(what string) {
		t.Helper()
		if err := remove(""); !kind.Is(err, kind.Conflict) || !strings.Contains(err.Error(), "has mailboxes") {
			t.Errorf("%s: %v", what, err)
		}
		if d, _ := def(); d.Name == "" || d.Removing {
			t.Errorf("%s: %+v", what, d)
		}
	}
	s.beforeCommit = func() { // before the mark
		if err := create(seen); err != nil {
			t.Error(err)
		}
	}
	refused("a mailbox is created before the mark")
	must(t, k.markRemoval(t.Context(), "DB01", true))
	refused("a removal was broken off, and there is a mailbox")
	must(t, k.markRemoval(t.Context(), "DB01", true))
	if err := remove(`,"dry_run":true`); !kind.Is(err, kind.Conflict) {
		t.Errorf("dry run: %v", err)
	}
	if d, _ := def(); !d.Removing {
		t.Error("a dry run took the mark back")
	}
	_, err := s.Commit(t.Context(), cluster.Txn{Then: []cluster.Op{{Key: box, Delete: true}}})
	must(t, err)
	if err := remove(`,"dry_run":true`); err != nil {
		t.Errorf("dry run: %v", err)
	}

	// Another removal takes the mark back and a mailbox is created, after the look.
	s.beforeCommit = func() {
		must(t, k.markRemoval(t.Context(), "DB01", false))
		_, seen := def()
		must(t, create(seen))
	}
	refused("a mailbox is created when the mark was taken back")
	_, err = s.Commit(t.Context(), cluster.Txn{Then: []cluster.Op{{Key: box, Delete: true}}})
	must(t, err)

	_, seen = def()
	s.beforeCommit = func() { // the mark
		s.beforeCommit = func() { // the removal
			if err := create(seen); !kind.Is(err, kind.Conflict) {
				t.Errorf("a mailbox is created on a marked database: %v", err)
			}
		}
	}
	if err := remove(""); err != nil {
		t.Error(err)
	}
	if d, _ := def(); d.Name != "" {
		t.Errorf("left: %+v", d)
	}
	if _, ok := k.group.View().Mount("DB01"); ok {
		t.Error("its mount is left")
	}
}

// TestNoCopyOnAServerThatLeft: a server that is removed while a copy is to be put
// there gets none, and a database that somebody else creates meanwhile is his.
func TestNoCopyOnAServerThatLeft(t *testing.T) {
	for _, c := range []struct{ name, more, says string }{
		{"copy add", `"database":"DB01","server":"MBX9"`, "server MBX9 does not exist"},
		{"database create", `"database":"DB02","servers":"MBX1,MBX9"`, "server MBX9 does not exist"},
		{"database create", `"database":"DB03","servers":"MBX1"`, "database DB03 exists"},
	} {
		k, g, s := passiveCopies(t, "DB01")
		for _, name := range []org.ServerName{"MBX1", "MBX9"} {
			g.put(t, "servers/"+string(name), org.Server{Name: name, Volumes: []org.VolumeName{"vol1"}})
		}
		s.beforeCommit = func() {
			g.put(t, DatabaseKey("DB03"), org.Database{Name: "DB03", Identity: "his"})
			_, err := s.Commit(t.Context(), cluster.Txn{Then: []cluster.Op{{Key: "servers/MBX9", Delete: true}}})
			must(t, err)
		}
		if _, err := order(t, k, c.name, `{`+c.more+`}`); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
		for _, d := range k.group.View().Databases() {
			if _, ok := d.Copy("MBX9"); ok || d.Name == "DB03" && d.Identity != "his" {
				t.Errorf("%s: %+v", c.name, d)
			}
		}
	}
}

// TestOnlyCopyInSync: of a dismounted database no copy is active, and the last one
// that holds everything is neither emptied nor removed all the same.
func TestOnlyCopyInSync(t *testing.T) {
	k, g, _ := passiveCopies(t, "DB01")
	g.put(t, MountKey("DB01"), org.Mount{Database: "DB01", Term: 2, InSync: []org.ServerName{"MBX2"}})
	for _, verb := range []string{"copy reseed", "copy remove"} {
		for _, in := range []string{`{"database":"DB01","server":"MBX2","dry_run":true}`, `{"database":"DB01","server":"MBX2"}`} {
			if _, err := order(t, k, verb, in); !kind.Is(err, kind.Conflict) || !g.mount(t).IsInSync("MBX2") {
				t.Errorf("%s %s, the only one in sync: %v", verb, in, err)
			}
		}
	}
	if _, err := order(t, k, "copy reseed", `{"database":"DB01","server":"MBX3"}`); err != nil || !g.mount(t).IsInSync("MBX2") {
		t.Errorf("another one: %v", err)
	}
	g.put(t, MountKey("DB01"), org.Mount{Database: "DB01", Term: 2})
	if _, err := order(t, k, "copy reseed", `{"database":"DB01","server":"MBX3"}`); err != nil {
		t.Errorf("one of none in sync: %v", err)
	}
}

// TestNoCopyOnANewSpare: a volume that becomes a spare while a copy is to be put
// there gets none.
func TestNoCopyOnANewSpare(t *testing.T) {
	for name, in := range map[string]string{
		"copy add":        `{"database":"DB01","server":"MBX4","volume":"vol1"}`,
		"database create": `{"database":"DB02","servers":"MBX4","volume":"vol1"}`,
	} {
		k, g, s := passiveCopies(t, "DB01")
		g.put(t, "servers/MBX4", org.Server{Name: "MBX4", Volumes: []org.VolumeName{"vol1"}})
		s.beforeCommit = func() { g.put(t, org.VolumeKey("MBX4", "vol1"), org.VolumeRow{State: org.VolumeSpare}) }
		if _, err := order(t, k, name, in); !kind.Is(err, kind.Conflict) || !strings.Contains(err.Error(), "volume vol1 of MBX4 is not for copies") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
