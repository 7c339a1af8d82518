package sim

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

// world makes a group with one database that has copies everywhere.
func world(t *testing.T, o Options) *World {
	t.Helper()
	if os.Getenv("SIM_LOG") != "" {
		o.Log = os.Stderr
	}
	w, err := New(t.Context(), t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited too long: %s", what)
		}
	}
}

func (w *World) mustRun(t *testing.T, server int, name, params string) any {
	t.Helper()
	v, err := w.Server(server).Command(t.Context(), name, params)
	if err != nil {
		t.Fatalf("%s %s: %v", name, params, err)
	}
	return v
}

func (w *World) mount(n int, db org.DatabaseName) org.Mount {
	m, _ := w.Server(n).Cluster.View().Mount(db)
	return m
}

func (w *World) inSync(t *testing.T, n int, db org.DatabaseName, copies int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s has %d copies in sync", db, copies), func() bool { return len(w.mount(n, db).InSync) == copies })
}

var box = org.MailboxRef{ID: org.MailboxID{1}, Database: "DB01"}

func message(i int) []byte {
	return fmt.Appendf(nil, "From: a@example.test\r\nTo: b@example.test\r\nSubject: number %d\r\nMessage-ID: <%d@example.test>\r\n\r\nBody %d\r\n", i, i, i)
}

func (s *Server) append(ctx context.Context, i int) error {
	_, err := s.Store().Append(ctx, box, mail.Append{Folder: "INBOX", Body: message(i)})
	return err
}

// subjects counts the messages of the mailbox of most tests by Message-ID.
func (s *Server) subjects(t *testing.T) map[string]int {
	t.Helper()
	return s.holds(t, box)
}

func (s *Server) holdsOnce(t *testing.T, n int) {
	t.Helper()
	got := s.subjects(t)
	for i := range n {
		id := fmt.Sprintf("%d@example.test", i)
		if got[id] != 1 {
			t.Errorf("message %s is there %d times", id, got[id])
		}
	}
	if len(got) != n {
		t.Errorf("%d different messages, want %d", len(got), n)
	}
}

func started(t *testing.T, o Options) *World {
	t.Helper()
	w := world(t, o)
	w.mustRun(t, 1, "database create", `{"database":"DB01","servers":"MBX1,MBX2,MBX3"}`)
	w.inSync(t, 1, "DB01", 3)
	if err := w.Server(2).Store().Setup(t.Context(), box, mail.MailboxSetup{Organization: "o1"}); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestReplicateMoveVerify(t *testing.T) {
	w := started(t, Options{})
	for i := range 20 {
		if err := w.Server(1+i%3).append(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	w.mustRun(t, 3, "database move", `{"database":"DB01","to":"MBX2"}`)
	if m := w.mount(3, "DB01"); m.Active != "MBX2" {
		t.Fatalf("active on %s", m.Active)
	}
	for i := 20; i < 40; i++ {
		if err := w.Server(1+i%3).append(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	w.Server(3).holdsOnce(t, 40)
	for _, v := range w.mustRun(t, 1, "copy verify", `{"bodies":true}`).([]mailbox.Verified) {
		t.Logf("%+v", v)
	}
	b, err := w.Server(1).Store().Messages(t.Context(), box, mail.MessagesRequest{Folder: 1, UIDs: []mail.UIDRange{{First: 7, Last: 7}}})
	if err != nil || len(b.Messages) != 1 {
		t.Fatal(b, err)
	}
	body, err := w.Server(1).Store().Body(t.Context(), box, mail.BodyRequest{Blob: b.Messages[0].Blob})
	if err != nil || !bytes.Equal(body, message(6)) {
		t.Fatalf("%q %v", body, err)
	}
}

func TestFailover(t *testing.T) {
	w := started(t, Options{})
	for round := range 4 {
		active := w.mount(1, "DB01").Active
		victim := w.Named(active)
		other := w.Server(1)
		if victim == other {
			other = w.Server(2)
		}
		watch := other.Store().Watch(box)
		for i := range 10 {
			if err := other.append(t.Context(), round*20+i); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		victim.Stop()
		for i := 10; i < 20; i++ {
			if err := other.append(t.Context(), round*20+i); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("round %d: %s stopped, ten changes confirmed after %s", round, active, time.Since(began))
		<-watch.C()
		watch.Close()
		if err := victim.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.inSync(t, 1, "DB01", 3)
	}
	w.Server(1).holdsOnce(t, 80)
	w.mustRun(t, 2, "copy verify", `{"bodies":true}`)
}

// TestLossyMountBringsBothHistories forces a divergence: the active copy
// confirms changes alone and dies, another is mounted with loss, the first
// comes back. Every message of both histories is there exactly once.
func TestLossyMountBringsBothHistories(t *testing.T) {
	w := started(t, Options{})
	for i := range 5 {
		if err := w.Server(1).append(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range []string{"MBX2", "MBX3"} {
		w.mustRun(t, 1, "copy suspend", `{"database":"DB01","server":"`+s+`"}`)
	}
	w.inSync(t, 1, "DB01", 1)
	for i := 5; i < 15; i++ {
		if err := w.Server(2).append(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	if w.mount(2, "DB01").AloneSince == nil {
		t.Error("nobody noted that changes were confirmed on one copy")
	}
	fs, err := w.Server(2).Store().Folders(t.Context(), box)
	if err != nil {
		t.Fatal(err)
	}
	w.Server(1).Stop()
	for _, s := range []string{"MBX2", "MBX3"} {
		w.mustRun(t, 2, "copy resume", `{"database":"DB01","server":"`+s+`"}`)
	}
	eventually(t, "the former active copy is fenced", func() bool { return !w.Server(2).Cluster.Alive("MBX1") })
	if _, err := w.Server(2).Command(t.Context(), "database move", `{"database":"DB01","to":"MBX2"}`); err == nil {
		t.Fatal("a copy that lacks changes was activated without a dial")
	}
	eventually(t, "a lossy mount by hand", func() bool {
		_, err := w.Server(2).Command(t.Context(), "database move", `{"database":"DB01","to":"MBX2","mount_dial":"BestEffort"}`)
		if err != nil {
			t.Log(err)
		}
		return err == nil
	})
	for i := 15; i < 25; i++ {
		if err := w.Server(3).append(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	// The sender of message 7 did not trust the answer and sent it again.
	if err := w.Server(3).append(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	now, err := w.Server(2).Store().Folders(t.Context(), box)
	if err != nil {
		t.Fatal(err)
	}
	if now[0].UIDNext <= fs[0].UIDNext || now[0].HighestModSeq <= fs[0].HighestModSeq {
		t.Errorf("numbers may have been given out twice: %+v after %+v", now[0], fs[0])
	}
	if err := w.Server(1).Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.inSync(t, 2, "DB01", 3)
	eventually(t, "all messages of both histories", func() bool { return len(w.Server(1).subjects(t)) == 25 })
	w.Server(1).holdsOnce(t, 25)
	w.mustRun(t, 1, "copy verify", `{"bodies":true}`)
}

// load appends until stop; it returns how many were confirmed.
func (w *World) load(ctx context.Context, s *Server, from int, stop <-chan struct{}) (int, error) {
	for i := from; ; i++ {
		select {
		case <-stop:
			return i, nil
		default:
		}
		if err := s.append(ctx, i); err != nil {
			return i, err
		}
	}
}

// TestAddCopyUnderLoad seeds a copy from a passive one while writes go on, and
// the source dies in between.
func TestAddCopyUnderLoad(t *testing.T) {
	w := world(t, Options{Servers: 4})
	w.mustRun(t, 1, "database create", `{"database":"DB01","servers":"MBX1,MBX2,MBX3"}`)
	w.inSync(t, 1, "DB01", 3)
	if err := w.Server(1).Store().Setup(t.Context(), box, mail.MailboxSetup{Organization: "o1"}); err != nil {
		t.Fatal(err)
	}
	big := append(message(1_000_000), bytes.Repeat([]byte("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n"), 8000)...)
	for range 40 { // 20 MiB, so that a seed takes a while at its rate
		if _, err := w.Server(1).Store().Append(t.Context(), box, mail.Append{Folder: "Archive", Body: big}); err != nil {
			t.Fatal(err)
		}
	}
	stop := make(chan struct{})
	done := make(chan int)
	go func() {
		n, err := w.load(t.Context(), w.Server(2), 0, stop)
		if err != nil {
			t.Error(err)
		}
		done <- n
	}()
	w.mustRun(t, 1, "copy add", `{"database":"DB01","server":"MBX4","seed_from":"MBX3","seed_rate":6000000}`)
	status := func() mailbox.CopyRow {
		for _, r := range w.mustRun(t, 2, "copy status", `{"database":"DB01"}`).([]mailbox.CopyRow) {
			if r.Server == "MBX4" {
				return r
			}
		}
		return mailbox.CopyRow{}
	}
	eventually(t, "the seed is under way", func() bool { return status().Seed != "" && status().Copied > 4<<20 })
	t.Logf("%+v", status())
	w.Server(3).Stop()
	before := status().Copied
	if err := w.Server(3).Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the seed goes on", func() bool {
		if status().Copied < before {
			t.Fatalf("the seed began again: %d after %d", status().Copied, before)
		}
		return status().State == org.CopyHealthy
	})
	w.inSync(t, 1, "DB01", 4)
	close(stop)
	n := <-done
	got := w.Server(4).subjects(t)
	delete(got, "1000000@example.test")
	if len(got) != n {
		t.Errorf("%d messages, want %d", len(got), n)
	}
	w.mustRun(t, 1, "copy verify", `{"bodies":true}`)
}
