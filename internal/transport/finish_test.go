package transport

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/dsn"
	"github.com/postern-mail/postern/internal/transport/quarantine"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// TestTells is which changes of rows are told to whom.
func TestTells(t *testing.T) {
	for _, c := range []struct {
		state  queue.State
		notify string
		want   dsn.Kind
	}{
		{queue.StateReturned, "", dsn.Failed},
		{queue.StateReturned, "NEVER", dsn.Failed}, // Build leaves the row out
		{queue.StateRelayed, "", silent},
		{queue.StateRelayed, "FAILURE,success", dsn.Relayed},
		{queue.StateDelivered, "SUCCESS", dsn.Delivered},
		{queue.StateDelivered, "FAILURE,DELAY", silent},
		{queue.StateDeferred, "SUCCESS,DELAY", silent},
		{queue.StateRemoved, "FAILURE", silent},
		{queue.StateQuarantined, "", silent},
	} {
		if got := tells(queue.RowChange{State: c.state}, queue.RecipientRow{Notify: c.notify}); got != c.want {
			t.Errorf("%s with NOTIFY %q: %d, want %d", c.state, c.notify, got, c.want)
		}
	}
}

// TestFinish is what the sender hears of what became of recipients, however
// often it is found out.
func TestFinish(t *testing.T) {
	type end struct {
		state  queue.State
		notify string
	}
	for _, c := range []struct {
		name    string
		from    string // rob when empty
		ends    []end
		states  string
		reports []string // in the sender's mailbox
	}{
		{"returned", "", []end{{queue.StateReturned, ""}}, "returned", []string{"failed"}},
		{"returned, not to be told", "", []end{{queue.StateReturned, "NEVER"}}, "returned", nil},
		{"returned, only success is wanted", "", []end{{queue.StateReturned, "SUCCESS"}}, "returned", nil},
		{"returned to nobody", "<>", []end{{queue.StateReturned, ""}}, "returned", nil},
		{"two returned in one report", "", []end{{queue.StateReturned, ""}, {queue.StateReturned, "FAILURE"}}, "returned returned", []string{"failed failed"}},
		{"one to be told of", "", []end{{queue.StateReturned, "NEVER"}, {queue.StateReturned, ""}}, "returned returned", []string{"failed"}},
		{"delivered", "", []end{{queue.StateDelivered, ""}}, "delivered", nil},
		{"delivered, wanted", "", []end{{queue.StateDelivered, "SUCCESS"}}, "delivered", []string{"delivered"}},
		{"delivered, wanted by nobody", "<>", []end{{queue.StateDelivered, "SUCCESS"}}, "delivered", nil},
		{"of each kind", "", []end{{queue.StateReturned, ""}, {queue.StateDelivered, "SUCCESS,FAILURE"}, {queue.StateDelivered, ""}}, "returned delivered delivered", []string{"failed", "delivered"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.store.setAway("DB01", true)
				from := "rob@red.example"
				if c.from == "<>" {
					from = ""
				}
				var to []mail.EnvelopeRecipient
				var cs []queue.RowChange
				for i, e := range c.ends {
					a := []string{"ann@red.example", "ben@blue.example", "amy@red.example"}[i]
					to = append(to, rcpt(a, e.notify))
					cs = append(cs, queue.RowChange{N: uint16(i), State: e.state, Code: 550, Status: "5.1.1", Text: "so it ended", Dest: "db:DB01", Mailbox: w.boxes[a]})
				}
				id := w.send(from, to...)
				msg, rows, err := w.queue.Message(id)
				if err != nil {
					t.Fatal(err)
				}
				for try := range 3 { // as after a restart in between, or by two servers
					err := w.Finish(t.Context(), msg, rows, cs)
					if try == 0 && err != nil {
						t.Fatal(err)
					}
				}
				w.pass(time.Minute)
				w.want(id, c.states)
				got := w.reports("rob@red.example")
				slices.Sort(got)
				slices.Sort(c.reports)
				if !slices.Equal(got, c.reports) {
					t.Errorf("reports %q, want %q", got, c.reports)
				}
				for _, r := range w.rows(id) {
					told := len(c.reports) > 0 && (r.Notify == "" || strings.Contains(r.Notify, "FAILURE"))
					if r.State == queue.StateReturned && told != (r.Child != mail.TraceID{}) {
						t.Errorf("row %d names report %s", r.N, r.Child)
					}
				}
				if n := w.queue.Stats().Open; n != 0 {
					t.Errorf("%d messages are unfinished", n)
				}
			})
		})
	}
}

// TestUnknownRecipient: a group's member that is gone by the time the message
// is routed is returned to the sender, once, and not to the null sender.
func TestUnknownRecipient(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		id := w.send("rob@red.example", rcpt("nobody@red.example", ""), rcpt("ann@red.example", ""))
		w.want(id, "returned delivered")
		null := w.send("", rcpt("nobody@red.example", ""))
		w.want(null, "returned")
		w.pass(20 * time.Minute)
		if got := w.reports("rob@red.example"); !slices.Equal(got, []string{"failed"}) {
			t.Errorf("reports %q", got)
		}
		w.restart()
		w.pass(20 * time.Minute)
		if got := w.reports("rob@red.example"); len(got) != 1 {
			t.Errorf("after a restart: reports %q", got)
		}
		w.verified()
	})
}

// TestOverdue has a database be away for longer than messages are kept, 48 minutes here.
func TestOverdue(t *testing.T) {
	for _, c := range []struct {
		name, from, notify string
		after              time.Duration
		state              string // empty: any that is not finished
		reports            []string
	}{
		{"nothing is due", "rob@red.example", "", 3 * time.Minute, "", nil},
		{"delayed", "rob@red.example", "", 5 * time.Minute, "", []string{"delayed"}},
		{"delayed is told once", "rob@red.example", "", 40 * time.Minute, "", []string{"delayed"}},
		{"delays do not matter", "rob@red.example", "FAILURE", 40 * time.Minute, "", nil},
		{"too old", "rob@red.example", "", 49 * time.Minute, "returned", []string{"delayed", "failed"}},
		{"too old, once", "rob@red.example", "", 100 * time.Minute, "returned", []string{"delayed", "failed"}},
		{"too old, nobody wants to know", "rob@red.example", "NEVER", 49 * time.Minute, "returned", nil},
		{"too old, from nobody", "", "", 49 * time.Minute, "returned", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.store.setAway("DB01", true)
				id := w.send(c.from, rcpt("ann@red.example", c.notify))
				w.pass(c.after / 2)
				w.restart()
				w.pass(c.after - c.after/2)
				if r := w.rows(id)[0]; r.State.Finished() != (c.state != "") || c.state != "" && r.State.String() != c.state {
					t.Errorf("the row is %s, want %q", r.State, c.state)
				}
				if got := w.reports("rob@red.example"); !slices.Equal(got, c.reports) {
					t.Errorf("reports %q, want %q", got, c.reports)
				}
				w.store.setAway("DB01", false)
				w.pass(5 * time.Minute)
				if n := len(w.inbox("ann@red.example")); (n == 1) != (c.state == "") {
					t.Errorf("the mailbox has it %d times", n)
				}
				w.verified()
			})
		})
	}
}

// TestUntrustedClock: while the others' clocks differ nothing expires and nobody
// is told of delays. It goes on when they agree.
func TestUntrustedClock(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.store.setAway("DB01", true)
		id := w.send("rob@red.example", rcpt("ann@red.example", ""))
		for range 60 { // the witness is an hour ahead for 60 minutes
			w.group.tell("W", ClockSection, binary.BigEndian.AppendUint64(nil, uint64(time.Now().Add(time.Hour).UnixNano())))
			<-time.After(time.Minute)
		}
		synctest.Wait()
		if r := w.rows(id)[0]; r.State.Finished() {
			t.Fatalf("the row is %s", r.State)
		}
		if got := w.reports("rob@red.example"); len(got) != 0 {
			t.Fatalf("reports %q", got)
		}
		w.pass(5 * time.Minute) // nothing is heard of it any more
		w.want(id, "returned")
		if got := w.reports("rob@red.example"); !slices.Contains(got, "failed") || len(got) > 2 {
			t.Errorf("reports %q", got)
		}
	})
}

// TestOverdueElsewhere: what another server may have taken over is not given
// back.
func TestOverdueElsewhere(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.store.setAway("DB01", true)
		id := w.send("rob@red.example", rcpt("ann@red.example", ""))
		msg, rows, err := w.queue.Message(id)
		if err != nil {
			t.Fatal(err)
		}
		msg.Epoch = 0 // of a time before the last takeover
		w.pass(50 * time.Minute)
		next, over, err := w.Overdue(t.Context(), msg, rows)
		if err != nil || over || next.IsZero() {
			t.Errorf("%v %v %v: want to look again", next, over, err)
		}
	})
}

// TestQuarantine: a message that policy wants aside is nowhere else, one
// entry for each organization, also after a restart.
func TestQuarantine(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		s := w.submission("someone@elsewhere.example", rcpt("ann@red.example", ""), rcpt("ben@blue.example", "SUCCESS"))
		s.Quarantine = "it looks like spam"
		if _, err := w.Accept(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		w.pass(time.Minute)
		w.want(s.Trace, "quarantined quarantined")
		if len(w.inbox("ann@red.example"))+len(w.inbox("ben@blue.example")) != 0 {
			t.Error("it was delivered")
		}
		for _, r := range w.rows(s.Trace) {
			if !strings.Contains(r.Text, "spam") {
				t.Errorf("row %d says %q", r.N, r.Text)
			}
		}
		for _, o := range []org.OrganizationID{"red", "blue"} {
			at, ok := w.dir.FindSystemMailbox(o, quarantine.Purpose)
			w.store.mu.Lock()
			n := len(w.store.boxes[at.ID])
			w.store.mu.Unlock()
			if !ok || n != 1 {
				t.Errorf("%s has %d messages in quarantine", o, n)
			}
		}
		w.restart()
		w.pass(20 * time.Minute)
		w.want(s.Trace, "quarantined quarantined")
		if len(w.inbox("ann@red.example"))+len(w.inbox("ben@blue.example")) != 0 {
			t.Error("it was delivered after a restart")
		}
		w.verified()
	})
}
