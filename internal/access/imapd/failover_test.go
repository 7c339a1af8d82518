package imapd

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/conf"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
)

// outage makes a store wait like one whose database fails over: calls return
// when it is over, or with Busy when their time is.
type outage struct {
	mu   sync.Mutex
	over chan struct{} // nil: all is well
	hit  chan string   // operations that met it
}

func newOutage(w *world) *outage {
	o := &outage{hit: make(chan string, 100)}
	w.store.setBefore(func(ctx context.Context, op string) error {
		o.mu.Lock()
		over := o.over
		o.mu.Unlock()
		if over == nil {
			return nil
		}
		o.hit <- op
		select {
		case <-over:
			return nil
		case <-ctx.Done():
			return kind.Errorf(kind.Busy, "%s: %w", op, ctx.Err())
		}
	})
	return o
}

func (o *outage) begin() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = make(chan struct{})
}

func (o *outage) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.over)
	o.over = nil
}

// TestFailover shows promises 1 and 2: commands wait, IDLE goes on, nothing is
// told twice or left out.
func TestFailover(t *testing.T) {
	w := newWorld(t, nil)
	w.append("INBOX", hello, hello)
	a, b := w.selected(), w.selected()
	b.send("i IDLE\r\n")
	b.line()
	a.want("NOOP", "OK")
	o := newOutage(w)
	o.begin()
	a.send("x UID STORE 1 +FLAGS (\\Flagged)\r\n")
	if op := <-o.hit; op != "changeflags" {
		t.Fatal(op)
	}
	w.store.ping() // the new active copy wakes all watches
	if op := <-o.hit; op != "changes" {
		t.Fatal(op)
	}
	o.end()
	if u, s := a.until("x"); len(u) != 1 || u[0] != `* 1 FETCH (UID 1 FLAGS (\Flagged))` || !strings.HasPrefix(s, "OK") {
		t.Fatal(u, s)
	}
	if got := b.line(); got != `* 1 FETCH (UID 1 FLAGS (\Flagged))` {
		t.Fatal(got)
	}
	for range 3 {
		w.store.ping()
	}
	w.append("INBOX", hello)
	if got := b.line(); got != "* 3 EXISTS" {
		t.Fatal(got)
	}
	b.send("DONE\r\n")
	if u, s := b.until("i"); len(u) > 0 || !strings.HasPrefix(s, "OK") {
		t.Fatal(u, s)
	}
	a.want("NOOP", "OK", "* 3 EXISTS")
}

// TestOutageLongerThanPatience shows the tagged answer when the wait was in
// vain, and that the session goes on afterwards.
func TestOutageLongerThanPatience(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.WaitTimeout = conf.Duration(50 * time.Millisecond) })
	w.append("INBOX", hello)
	c := w.selected()
	o := newOutage(w)
	o.begin()
	for _, cmd := range []string{"UID STORE 1 +FLAGS (\\Seen)", "FETCH 1 BODY[]", "LIST \"\" *", "STATUS INBOX (UNSEEN)", "COPY 1 Sent", "EXPUNGE",
		"CREATE x", "APPEND INBOX {4+}\r\nA: b"} {
		c.want(cmd, "NO [UNAVAILABLE]")
	}
	c.want("NOOP", "OK")
	c.send("i IDLE\r\n")
	if got := c.line(); got != "+ idling" {
		t.Fatal(got)
	}
	o.end()
	w.append("INBOX", hello)
	if got := c.line(); got != "* 2 EXISTS" {
		t.Fatal(got)
	}
	c.send("DONE\r\n")
	c.until("i")
	c.want("STATUS INBOX (MESSAGES)", "OK", "* STATUS INBOX (MESSAGES 2)")
}

// TestIdleEndsInOutage shows that a client may end IDLE while the store is away.
func TestIdleEndsInOutage(t *testing.T) {
	w := newWorld(t, nil)
	c := w.selected()
	o := newOutage(w)
	o.begin()
	defer o.end()
	c.send("i IDLE\r\n")
	c.line()
	<-o.hit
	c.send("DONE\r\n")
	begun := time.Now()
	if _, s := c.until("i"); !strings.HasPrefix(s, "OK") {
		t.Fatal(s)
	}
	if d := time.Since(begun); d > 2*pollWait {
		t.Errorf("DONE was answered after %s", d)
	}
}

// TestForgottenChanges lets the store forget its change log, as after a
// rebuilt index.
func TestForgottenChanges(t *testing.T) {
	w := newWorld(t, nil)
	w.append("INBOX", hello, hello, hello, hello)
	a, b := w.selected(), w.selected()
	b.want("NOOP", "OK")
	a.ok("UID STORE 2,3 +FLAGS.SILENT (\\Deleted)")
	a.ok("UID STORE 4 +FLAGS.SILENT (\\Seen)")
	a.ok("EXPUNGE")
	w.append("INBOX", hello)
	w.store.mu.Lock()
	f := w.store.boxes[w.ann.ID].byName("INBOX")
	f.horizon, f.gone = f.HighestModSeq, nil
	w.store.mu.Unlock()
	b.want("NOOP", "OK", "* 3 EXPUNGE", "* 2 EXPUNGE", "* 3 EXISTS", `* 2 FETCH (UID 4 FLAGS (\Seen))`)
	b.want("FETCH 1:* UID", "OK", "* 1 FETCH (UID 1)", "* 2 FETCH (UID 4)", "* 3 FETCH (UID 5)")
	b.want("NOOP", "OK")
}

// TestSilentStoreTellsOthersChanges: what another session changed in between is
// told also to one that stores silently.
func TestSilentStoreTellsOthersChanges(t *testing.T) {
	w := newWorld(t, nil)
	w.append("INBOX", hello, hello)
	c := w.selected()
	c.want("NOOP", "OK")
	inserted := false
	w.store.setBefore(func(ctx context.Context, op string) error {
		if op != "changeflags" || inserted {
			return nil
		}
		inserted = true // another session is a moment earlier
		_, err := w.store.ChangeFlags(ctx, w.ann, mail.FlagsChange{Folder: 1, UIDs: []mail.UIDRange{{First: 1, Last: 1}}, Op: "add", Flags: mail.Answered})
		return err
	})
	c.want("STORE 1:2 +FLAGS.SILENT (\\Seen)", "OK", `* 1 FETCH (UID 1 FLAGS (\Answered \Seen))`)
	c.want("NOOP", "OK")
}

// TestDeletedMailbox: a session whose mailbox is deleted ends, another's stays.
func TestDeletedMailbox(t *testing.T) {
	w := newWorld(t, nil)
	a, b := w.login(), w.login()
	a.ok("CREATE x")
	b.ok("SELECT x")
	a.ok("DELETE x")
	b.want("NOOP", "OK")
	if got := b.eof(); got != "* BYE The selected mailbox was deleted" {
		t.Error(got)
	}
	a.want("NOOP", "OK")
}

// TestOthersSurvivePanic shows promise 8.
func TestOthersSurvivePanic(t *testing.T) {
	w := newWorld(t, nil)
	a, b := w.selected(), w.selected()
	w.store.setBefore(func(_ context.Context, op string) error {
		if op == "copy" || op == "changeflags" {
			panic("a bug")
		}
		return nil
	})
	w.append("INBOX", hello)
	a.ok("NOOP")
	a.send("x COPY 1 Sent\r\n")
	if got := a.eof(); got != "* BYE [SERVERBUG] Internal server error" {
		t.Error(got)
	}
	b.want("NOOP", "OK", "* 1 EXISTS")
}

// TestShutdown: clients hear BYE, also those in IDLE, and Run returns.
func TestShutdown(t *testing.T) {
	w := newWorld(t, nil)
	a, b := w.selected(), w.selected()
	b.send("i IDLE\r\n")
	b.line()
	w.stop()
	for _, c := range []*client{a, b} {
		if got := c.eof(); got != "* BYE The server is being stopped, connect again" {
			t.Error(got)
		}
	}
}

// TestShutdownInOutage: a command that waits for its database does not hold up
// the end.
func TestShutdownInOutage(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.DrainTimeout = conf.Duration(20 * time.Millisecond) })
	c := w.login()
	o := newOutage(w)
	o.begin()
	c.send("x SELECT INBOX\r\n")
	<-o.hit
	w.stop()
	c.eof()
	o.end()
}

// TestStoreWithoutEffect: another session changed several messages in one step,
// and this one sets a flag that is set already.
func TestStoreWithoutEffect(t *testing.T) {
	w := newWorld(t, nil)
	w.append("INBOX", hello, hello, hello)
	c := w.selected()
	c.want("NOOP", "OK")
	if _, err := w.store.ChangeFlags(t.Context(), w.ann, mail.FlagsChange{Folder: 1, UIDs: []mail.UIDRange{{First: 1, Last: 3}}, Op: "add", Flags: mail.Seen}); err != nil {
		t.Fatal(err)
	}
	c.want(`STORE 1 +FLAGS (\Seen)`, "OK", `* 1 FETCH (UID 1 FLAGS (\Seen))`,
		`* 1 FETCH (UID 1 FLAGS (\Seen))`, `* 2 FETCH (UID 2 FLAGS (\Seen))`, `* 3 FETCH (UID 3 FLAGS (\Seen))`)
	c.want("NOOP", "OK")
}

// TestOwnChangeAsksNothing: a session that is up to date knows what its own
// change made of the mailbox.
func TestOwnChangeAsksNothing(t *testing.T) {
	w := newWorld(t, nil)
	w.append("INBOX", hello, hello)
	c := w.selected()
	c.want("NOOP", "OK")
	before := w.store.called("changes")
	c.want(`STORE 1 +FLAGS (\Seen)`, "OK", `* 1 FETCH (UID 1 FLAGS (\Seen))`)
	c.want(`STORE 1:2 +FLAGS.SILENT (\Flagged)`, "OK")
	if n := w.store.called("changes") - before; n != 0 {
		t.Errorf("the store was asked for changes %d times", n)
	}
	w.append("INBOX", hello)
	c.want("NOOP", "OK", "* 3 EXISTS")
}
