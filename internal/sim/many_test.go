package sim

import (
	"fmt"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/active"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

// many makes databases with copies on three servers, all active on the first.
func many(t *testing.T, n int) (*World, []org.DatabaseName) {
	t.Helper()
	w := world(t, Options{Mailbox: func(c *mailbox.Config) { c.SegmentSize = 256 << 10 }})
	var dbs []org.DatabaseName
	for i := range n {
		db := org.DatabaseName(fmt.Sprintf("DB%02d", i+1))
		w.mustRun(t, 1, "database create", fmt.Sprintf(`{"database":%q,"servers":"MBX1,MBX2,MBX3"}`, db))
		dbs = append(dbs, db)
	}
	for _, db := range dbs {
		w.inSync(t, 1, db, 3)
	}
	return w, dbs
}

// mounted waits until no database is active on server n, and each is mounted
// where it is.
func (w *World) mounted(t *testing.T, asked int, dbs []org.DatabaseName, not org.ServerName) {
	t.Helper()
	for _, db := range dbs {
		eventually(t, string(db)+" is mounted elsewhere", func() bool {
			mt := w.mount(asked, db)
			if mt.Active == not || mt.Active == "" {
				return false
			}
			ready, _ := w.Named(mt.Active).Keeper.Lead(db)
			return ready
		})
	}
}

// TestEvacuateAndLose moves 30 databases off a server while somebody writes, and
// back; then the server that has them all is lost.
func TestEvacuateAndLose(t *testing.T) {
	const n = 30
	w, dbs := many(t, n)
	ref := org.MailboxRef{ID: org.MailboxID{1}, Database: dbs[7]}
	if err := w.Server(2).Store().Setup(t.Context(), ref, mail.MailboxSetup{Organization: "o1"}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	p, err := w.Server(3).Command(t.Context(), "server evacuate", `{"server":"MBX1"}`)
	took := time.Since(began)
	if err != nil {
		t.Fatalf("%v: %+v", err, p)
	}
	if steps := p.(command.Plan).Steps; len(steps) != n {
		t.Errorf("%d steps", len(steps))
	}
	w.mounted(t, 3, dbs, "MBX1")
	t.Logf("%d databases were moved off a server in %s", n, took.Round(time.Millisecond))
	if took > 10*time.Second {
		t.Errorf("took %s, the aim is 10 s", took)
	}
	if _, err := w.Server(2).Store().Append(t.Context(), ref, mail.Append{Folder: "INBOX", Body: message(1)}); err != nil {
		t.Error(err)
	}
	eventually(t, "all are home again", func() bool {
		_, err := w.Server(2).Command(t.Context(), "database balance", `{"by":"preference","deviation":-1}`)
		if err != nil {
			t.Log(err)
			return false
		}
		for _, s := range w.mustRun(t, 2, "database spread", "").([]active.Spread) {
			if s.Server == "MBX1" {
				return s.Preferred == n
			}
		}
		return false
	})
	w.mounted(t, 2, dbs, "")
	for _, db := range dbs {
		w.inSync(t, 2, db, 3)
	}
	began = time.Now()
	w.Server(1).Stop()
	w.mounted(t, 2, dbs, "MBX1")
	t.Logf("%d databases of a server that ended were mounted elsewhere after %s", n, time.Since(began).Round(time.Millisecond))
	eventually(t, "what was decided is on record", func() bool {
		why := w.mustRun(t, 3, "database why", fmt.Sprintf(`{"database":%q,"last":8}`, dbs[7])).([]active.Why)
		return len(why) > 3 && why[0].Decision != nil && why[0].Decision.Question.Source == "MBX1" && why[0].Decision.Result == "mounted"
	})
}

// TestGatherLastLog: the active copy and the only others in sync are lost. What
// a copy holds that may not be activated is brought to the one that may.
func TestGatherLastLog(t *testing.T) {
	w := started(t, Options{})
	for i := range 5 {
		if err := w.Server(1).append(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	w.mustRun(t, 1, "copy suspend", `{"database":"DB01","server":"MBX2"}`)
	w.inSync(t, 1, "DB01", 2)
	for i := 5; i < 10; i++ {
		if err := w.Server(1).append(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	if mt := w.mount(1, "DB01"); mt.Active != "MBX1" {
		t.Fatalf("%+v", mt)
	}
	w.mustRun(t, 1, "copy suspend", `{"database":"DB01","server":"MBX3"}`)
	w.inSync(t, 1, "DB01", 1)
	if err := w.Server(1).append(t.Context(), 10); err != nil { // only MBX1 has it
		t.Fatal(err)
	}
	w.Server(1).Stop()
	w.mustRun(t, 2, "copy resume", `{"database":"DB01","server":"MBX2"}`)
	w.mustRun(t, 2, "copy resume", `{"database":"DB01","server":"MBX3","replication_only":true}`)
	eventually(t, "the former active copy is fenced", func() bool { return !w.Server(2).Cluster.Alive("MBX1") })
	eventually(t, "a lossy mount by hand", func() bool {
		_, err := w.Server(2).Command(t.Context(), "database move", `{"database":"DB01","to":"MBX2","mount_dial":"BestEffort"}`)
		if err != nil {
			t.Log(err)
		}
		return err == nil
	})
	got := w.Server(2).subjects(t)
	for i := range 10 {
		if id := fmt.Sprintf("%d@example.test", i); got[id] != 1 {
			t.Errorf("message %s is there %d times", id, got[id])
		}
	}
	if got["10@example.test"] != 0 {
		t.Error("what only the lost server had cannot be here")
	}
	if mt := w.mount(2, "DB01"); mt.Lossy == nil || mt.Active != "MBX2" {
		t.Errorf("%+v", mt)
	}
	if err := w.Server(1).Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.inSync(t, 2, "DB01", 3)
	eventually(t, "what the lost server had is offered again", func() bool { return w.Server(2).subjects(t)["10@example.test"] == 1 })
}
