package transport

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// waiting has messages wait for DB01, which is away: of rob to ann (red), of
// ben to ann (both), of ben to ben (blue).
func (w *world) waiting() (red, both, blue mail.TraceID) {
	w.store.setAway("DB01", true)
	red = w.send("rob@red.example", rcpt("ann@red.example", ""))
	both = w.send("ben@blue.example", rcpt("ann@red.example", ""))
	blue = w.send("ben@blue.example", rcpt("ben@blue.example", ""))
	w.pass(time.Second)
	return red, both, blue
}

// changed is how many messages a change met.
func changed(t *testing.T, out any) (n int) {
	t.Helper()
	for _, r := range out.([]ChangeRow) {
		if r.Error != "" {
			t.Errorf("%s: %s", r.Server, r.Error)
		}
		n += r.Messages
	}
	return n
}

// TestSuspendMessages: messages that are held back stay where they are, also
// over a restart, and go on when they are resumed.
func TestSuspendMessages(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		red, both, blue := w.waiting()
		if n := changed(t, w.do("queue suspend", "trace="+red.String(), "trace="+both.String())); n != 2 {
			t.Errorf("%d messages suspended, want 2", n)
		}
		w.store.setAway("DB01", false)
		w.pass(2 * time.Minute)
		w.want(red, "suspended")
		w.want(both, "suspended")
		w.want(blue, "delivered")
		w.restart()
		w.pass(2 * time.Minute)
		w.want(red, "suspended")
		if n := changed(t, w.do("queue resume", "trace="+red.String())); n != 1 {
			t.Errorf("%d messages resumed, want 1", n)
		}
		w.pass(time.Second)
		w.want(red, "delivered")
		w.want(both, "suspended")
		w.do("queue resume", "organization=red")
		w.pass(time.Second)
		w.want(both, "delivered")
		if n := len(w.inbox("ann@red.example")); n != 2 {
			t.Errorf("ann has %d messages, want 2", n)
		}
		w.verified()
	})
}

// TestSuspendDestination: what waits for a destination and what comes later is
// held back, by a row of the agreed state that every start follows.
func TestSuspendDestination(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		first, _, blue := w.waiting()
		w.do("queue suspend", "destination=db:DB01", "organization=red")
		w.pass(time.Second)
		w.store.setAway("DB01", false)
		w.pass(2 * time.Minute)
		w.want(blue, "delivered")
		later := w.send("rob@red.example", rcpt("ann@red.example", ""))
		w.restart()
		last := w.send("rob@red.example", rcpt("ann@red.example", ""))
		w.pass(2 * time.Minute)
		for _, id := range []mail.TraceID{first, later, last} {
			if s := w.states(id); s != "new" && s != "ready" && s != "deferred" {
				t.Errorf("a message is %s while its destination is suspended", s)
			}
		}
		rows := w.do("queue list").([]DestRow)
		if i := slices.IndexFunc(rows, func(r DestRow) bool { return r.Dest == "db:DB01" }); i < 0 || rows[i].Suspended < 3 {
			t.Errorf("queue list does not show what is suspended: %+v", rows)
		}
		w.do("queue resume", "destination=db:DB01", "organization=red")
		w.pass(2 * time.Second)
		for _, id := range []mail.TraceID{first, later, last} {
			w.want(id, "delivered")
		}
		w.verified()
	})
}

// TestSuspensionRow: the row counts for the servers it names, and one that
// cannot be read holds nothing back.
func TestSuspensionRow(t *testing.T) {
	for _, c := range []struct {
		name, row string
		held      bool
	}{
		{"all servers", `[{"destination":"db:DB01"}]`, true},
		{"this server", `[{"destination":"db:DB01","server":"MBX1"}]`, true},
		{"another server", `[{"destination":"db:DB01","server":"MBX2"}]`, false},
		{"another destination", `[{"destination":"db:DB02"}]`, false},
		{"an organization", `[{"destination":"db:DB01","organization":"red"}]`, true},
		{"another organization", `[{"destination":"db:DB01","organization":"blue"}]`, false},
		{"all of an organization", `[{"organization":"red"}]`, true},
		{"not readable", `{"destination":`, false},
		{"none", `[]`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				put := func(v string) {
					if _, err := w.group.Commit(t.Context(), cluster.Txn{Then: []cluster.Op{{Key: suspensionsKey, Value: []byte(v)}}}); err != nil {
						t.Fatal(err)
					}
					w.pass(time.Second)
				}
				put(c.row)
				id := w.send("rob@red.example", rcpt("ann@red.example", ""))
				w.pass(time.Second)
				if held := w.states(id) != "delivered"; held != c.held {
					t.Errorf("the row is %s", w.states(id))
				}
				put(`[]`)
				w.pass(time.Second)
				w.want(id, "delivered")
			})
		})
	}
}

// TestRetry: what waits for long is tried at once when an administrator says so.
func TestRetry(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		red, _, blue := w.waiting()
		w.pass(30 * time.Minute)
		w.store.setAway("DB01", false)
		w.do("queue retry", "trace="+red.String())
		w.pass(10 * time.Millisecond)
		w.want(red, "delivered")
		w.do("queue retry", "destination=db:DB01")
		w.pass(10 * time.Millisecond)
		w.want(blue, "delivered")
	})
}

// TestRemove: a message is removed with or without a word to its sender, once.
func TestRemove(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		red, both, blue := w.waiting()
		plan := w.do("queue remove", "trace="+red.String(), "dry_run=true").(command.Plan)
		if !plan.DryRun || len(plan.Steps) != 1 || plan.Steps[0].Done {
			t.Errorf("dry run: %+v", plan)
		}
		w.pass(time.Second)
		if w.rows(red)[0].State.Finished() {
			t.Error("a dry run removed it")
		}
		w.do("queue remove", "trace="+red.String(), "notify=true", "reason=wrong address")
		w.do("queue remove", "trace="+red.String(), "notify=true")
		w.do("queue remove", "trace="+both.String())
		w.pass(time.Second)
		w.want(red, "returned")
		w.want(both, "removed")
		if got := w.reports("rob@red.example"); !slices.Equal(got, []string{"failed"}) {
			t.Errorf("reports %q", got)
		}
		if !strings.Contains(string(w.inbox("rob@red.example")[0].Body), "wrong address") {
			t.Error("the report does not say why")
		}
		w.store.setAway("DB01", false)
		w.pass(2 * time.Minute)
		w.want(red, "returned")
		w.want(both, "removed")
		w.want(blue, "delivered")
		if n := len(w.inbox("ann@red.example")); n != 0 {
			t.Errorf("ann has %d messages that were removed", n)
		}
		w.verified()
	})
}

// TestCommandsScoped: who is bound to an organization sees and changes what its
// people sent and got.
func TestCommandsScoped(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		red, both, blue := w.waiting()
		redAdmin, blueAdmin := w.as(command.OrganizationAdmin, "red"), w.as(command.OrganizationAdmin, "blue")
		seen := func(rows []MessageRow) (out []string) {
			for _, r := range rows {
				out = append(out, r.Trace)
			}
			return out
		}
		for name, params := range map[string][]string{"queue show": nil, "message trace": {"since=1h"}} {
			for _, c := range []struct {
				of   string
				want []mail.TraceID
			}{{"red", []mail.TraceID{red, both}}, {"blue", []mail.TraceID{both, blue}}} {
				out, err := w.call(w.as(command.OrganizationAdmin, c.of), name, params...)
				if err != nil {
					t.Fatal(err)
				}
				var want []string
				for _, id := range c.want {
					want = append(want, id.String())
				}
				got := seen(out.([]MessageRow))
				slices.Sort(got)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Errorf("%s: %s sees %q, want %q", name, c.of, got, want)
				}
			}
			if _, err := w.call(redAdmin, name, append(params, "organization=blue")...); !kind.Is(err, kind.NotFound) {
				t.Errorf("%s of another organization: %v", name, err)
			}
		}
		if _, err := w.call(redAdmin, "message show", "trace="+blue.String()); !kind.Is(err, kind.NotFound) {
			t.Errorf("a message of others: %v", err)
		}
		if rows, err := w.call(redAdmin, "message show", "trace="+both.String()); err != nil || len(rows.([]MessageRow)) != 1 {
			t.Errorf("a message for us: %v %v", rows, err)
		}
		for _, name := range []string{"queue list", "queue status", "queue verify", "message export"} {
			if _, err := w.call(redAdmin, name); !kind.Is(err, kind.Denied) {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, id := range []mail.TraceID{red, blue} {
			if out, err := w.call(redAdmin, "queue suspend", "trace="+id.String()); err != nil || (changed(t, out) == 1) != (id == red) {
				t.Errorf("suspend: %+v %v", out, err)
			}
		}
		if _, err := w.call(redAdmin, "queue remove", "destination=db:DB01", "reason=ours"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.want(red, "removed")
		w.want(both, "removed")
		if w.rows(blue)[0].State.Finished() {
			t.Errorf("a message of others is %s", w.states(blue))
		}
		if _, err := w.call(blueAdmin, "queue retry"); !kind.Is(err, kind.Invalid) {
			t.Errorf("retry of nothing: %v", err)
		}
		if _, err := w.call(blueAdmin, "queue suspend", "trace=nonsense"); !kind.Is(err, kind.Invalid) {
			t.Errorf("a trace that is none: %v", err)
		}
	})
}

// TestMembersOfOthers: the administrator of who wrote to a group of another
// organization learns what became of the message, not who is in the group.
func TestMembersOfOthers(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		team, _ := mail.ParseAddress("team@red.example")
		if _, err := w.dir.CreateGroup(t.Context(), team, "Team"); err != nil {
			t.Fatal(err)
		}
		for _, m := range []string{"ann@red.example", "rob@red.example"} {
			a, _ := mail.ParseAddress(m)
			if _, err := w.dir.AddMember(t.Context(), team, a); err != nil {
				t.Fatal(err)
			}
		}
		id := w.send("ben@blue.example", rcpt("team@red.example", ""), rcpt("amy@red.example", ""))
		w.pass(time.Second)
		for _, c := range []struct {
			of   string
			rows int
		}{{"red", 4}, {"blue", 2}} {
			out, err := w.call(w.as(command.OrganizationAdmin, c.of), "message show", "trace="+id.String())
			if err != nil || len(out.([]MessageRow)) != c.rows {
				t.Fatalf("%s sees %+v, %v; want %d rows", c.of, out, err, c.rows)
			}
			for _, r := range out.([]MessageRow) {
				if c.of == "blue" && (r.Mailbox != "" || r.Database != "" || r.Dest != "" || r.State == "") {
					t.Errorf("blue sees %+v", r)
				}
			}
		}
	})
}

// TestSuspendLeavesOthers: an administrator of one organization holds back what
// is for its people, and nothing of another's in the same message and database.
func TestSuspendLeavesOthers(t *testing.T) {
	for _, by := range []string{"trace", "destination"} {
		inBubble(t, func(t *testing.T, w *world) {
			w.store.setAway("DB01", true)
			id := w.send("x@else.example", rcpt("ann@red.example", ""), rcpt("ben@blue.example", ""))
			w.pass(time.Second)
			what := "destination=db:DB01"
			if by == "trace" {
				what = "trace=" + id.String()
			}
			out, err := w.call(w.as(command.OrganizationAdmin, "red"), "queue suspend", what)
			if err != nil || changed(t, out) != 1 {
				t.Fatal(out, err)
			}
			if by == "trace" {
				w.restart()
			}
			w.store.setAway("DB01", false)
			w.pass(time.Minute)
			w.want(id, "suspended delivered")
			later := w.send("x@else.example", rcpt("ben@blue.example", ""))
			w.pass(time.Minute)
			w.want(later, "delivered")
			if _, err := w.call(w.as(command.OrganizationAdmin, "red"), "queue resume", what); err != nil {
				t.Fatal(err)
			}
			w.pass(time.Minute)
			w.want(id, "delivered delivered")
			w.verified()
		})
	}
}

// TestTraceOnce: a message is listed once for each recipient, however many
// servers know of it; copies are listed when asked for.
func TestTraceOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.send("rob@red.example", rcpt("ann@red.example", ""), rcpt("ben@blue.example", ""))
		s := w.submission("rob@red.example", rcpt("ann@red.example", ""))
		enc, err := w.queue.Encode(queue.Accepted{ID: s.Trace, Identity: s.Identity, Received: s.Received.UnixNano(), Origin: s.Origin, Envelope: s.Envelope}, int64(len(s.Body)))
		if err != nil {
			t.Fatal(err)
		}
		if err := w.queue.StoreShadow(t.Context(), queue.ShadowCopy{Primary: "MBX2", Queue: "q2", Try: 1, Accept: enc, Body: s.Body}); err != nil {
			t.Fatal(err)
		}
		if rows := w.do("message trace", "sender=<rob@red.example>").([]MessageRow); len(rows) != 2 {
			t.Errorf("%d rows, want 2: %+v", len(rows), rows)
		}
		if rows := w.do("message trace", "sender=rob@red.example", "copies=true").([]MessageRow); len(rows) != 3 {
			t.Errorf("%d rows with copies, want 3: %+v", len(rows), rows)
		}
		if rows := w.do("message trace", "recipient=ben@blue.example").([]MessageRow); len(rows) != 1 || rows[0].State != "delivered" {
			t.Errorf("by recipient: %+v", rows)
		}
		if rows := w.do("message trace", "message_id=<1@red.example>").([]MessageRow); len(rows) != 2 {
			t.Errorf("by Message-ID: %+v", rows)
		}
		// Its server is away: what is known of the copy is better than nothing.
		if rows := w.do("message show", "trace="+s.Trace.String()).([]MessageRow); len(rows) != 1 || rows[0].Server != "MBX2" {
			t.Errorf("a copy: %+v", rows)
		}
		if x := w.do("message export", "trace="+s.Trace.String()).(Exported); x.Body != string(s.Body) {
			t.Errorf("exported %q", x.Body)
		}
	})
}
