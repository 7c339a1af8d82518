package route

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// people are those of the table below.
func people(t testing.TB) *world {
	w := newWorld(t)
	yes, route, dom, small := true, "cloud", "cloud", int64(10)
	w.boxes("ann@red.example a.smith@red.example", "bob@red.example", "carl@red.example", "dora@red.example", "eve@red.example",
		"off@red.example", "cloud@red.example", "small@red.example", "ann@blue.example", "here@split.example")
	w.group("team@red.example", "ann@red.example bob@red.example off@red.example")
	w.group("all@red.example", "team@red.example carl@red.example ann@red.example")
	w.group("inside@red.example", "ann@red.example")
	w.group("owned@red.example", "bob@red.example carl@red.example")
	w.group("empty@red.example", "")
	w.forward("bob@red.example", "b@else.example", true)
	w.forward("carl@red.example", "dora@red.example c@else.example", false)
	w.forward("eve@red.example", "bob@red.example", false)
	for a, c := range map[string]directory.MailboxChange{
		"off@red.example": {Disabled: &yes}, "cloud@red.example": {Route: &route}, "small@red.example": {MaxMessage: &small},
	} {
		w.must(w.dir.ChangeMailbox(t.Context(), addr(a), c))
	}
	w.must(w.dir.ChangeGroup(t.Context(), addr("inside@red.example"), directory.GroupChange{InsideOnly: &yes}))
	w.must(w.dir.ChangeGroup(t.Context(), addr("owned@red.example"), directory.GroupChange{Owners: addrs("ann@red.example")}))
	catch := addr("lost@else.example")
	w.must(w.dir.ChangeDomain(t.Context(), "blue.example", directory.DomainChange{CatchAll: &catch}))
	w.must(w.dir.ChangeDomain(t.Context(), "split.example", directory.DomainChange{Route: &dom}))
	return w
}

func TestCategorise(t *testing.T) {
	w := people(t)
	w.set.connectors["red"] = []settings.Connector{{Name: "partner", Organization: "red", Enabled: true, Direction: settings.DirectionOut, Domains: []string{"partner.example"}}}
	for _, c := range []struct{ name, to, want string }{
		{"a mailbox", "ann@red.example", "ann@red.example ready db:DB01"},
		{"plus", "Ann+list@red.example", "Ann+list@red.example ready db:DB01"},
		{"twice", "a.smith@red.example ann@red.example ann+x@red.example",
			"a.smith@red.example ready db:DB01\nann@red.example expanded duplicate\nann+x@red.example expanded duplicate"},
		{"unknown", "nobody@red.example", "nobody@red.example returned 5.1.1"},
		{"disabled", "off@red.example", "off@red.example returned 5.2.1"},
		{"forward and keep", "bob@red.example", "bob@red.example ready db:DB01\nforward of 0: b@else.example ready mx:else.example"},
		{"forward", "carl@red.example", "carl@red.example expanded\nforward of 0: dora@red.example ready db:DB01\nforward of 0: c@else.example ready mx:else.example"},
		{"forward of a forward", "eve@red.example",
			"eve@red.example expanded\nforward of 0: bob@red.example ready db:DB01\nforward of 1: b@else.example ready mx:else.example"},
		{"group", "team@red.example",
			"team@red.example expanded\ngroup of 0: ann@red.example ready db:DB01\ngroup of 0: bob@red.example ready db:DB01\nforward of 2: b@else.example ready mx:else.example"},
		{"groups within, and somebody named besides", "all@red.example dora@red.example ann@red.example",
			"all@red.example expanded\ndora@red.example ready db:DB01\nann@red.example ready db:DB01\n" +
				"group of 0: bob@red.example ready db:DB01\nforward of 0: c@else.example ready mx:else.example\nforward of 3: b@else.example ready mx:else.example"},
		{"group for insiders", "inside@red.example", "inside@red.example returned 5.7.1"},
		{"group of nobody", "empty@red.example", "empty@red.example returned 5.2.1"},
		{"catch-all", "who@blue.example", "who@blue.example expanded\nalias of 0: lost@else.example ready mx:else.example"},
		{"route of a mailbox", "cloud@red.example", "cloud@red.example ready connector:red/cloud"},
		{"route of a domain", "here@split.example there@split.example",
			"here@split.example ready connector:red/cloud\nthere@split.example ready connector:red/cloud"},
		{"too large", "small@red.example", "small@red.example returned 5.3.4"},
		{"no relay", "x@else.example", "x@else.example returned 5.7.1"},
		{"literal", "x@[192.0.2.1]", "x@[192.0.2.1] returned 5.7.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			q := w.stranger("x@else.example", c.to, letter)
			w.ask(&q)
			if got := tell(q.Rows); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
	for _, c := range []struct{ from, to, want string }{
		{"ann@red.example", "x@else.example", "x@else.example ready mx:else.example"},
		{"ann@red.example", "x@[192.0.2.1]", "x@[192.0.2.1] returned 5.1.2"},
		{"ann@red.example", "inside@red.example", "inside@red.example expanded\ngroup of 0: ann@red.example ready db:DB01"},
		{"ann@blue.example", "inside@red.example", "inside@red.example returned 5.7.1"},
		{"ann@red.example", "x@partner.example", "x@partner.example ready connector:red/partner"},
		{"ann@blue.example", "x@partner.example", "x@partner.example ready mx:partner.example"},
	} {
		w.t = t
		q := w.account(c.from, c.to, letter)
		w.ask(&q)
		if got := tell(q.Rows); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.from, got, c.want)
		}
	}
	w.set.group.SmartHost = "out.example:587"
	q := w.account("ann@red.example", "x@else.example", letter)
	if w.ask(&q); tell(q.Rows) != "x@else.example ready smarthost:out.example:587" {
		t.Error(tell(q.Rows))
	}
	// A connector for all that is elsewhere comes behind one that names the
	// domain, and takes no hosted mailbox.
	w.set.connectors["red"] = append(w.set.connectors["red"], settings.Connector{Name: "all", Organization: "red", Enabled: true,
		Direction: settings.DirectionOut, Domains: []string{settings.AllDomains}})
	q = w.account("ann@red.example", "x@else.example x@partner.example ann@red.example", letter)
	if w.ask(&q); tell(q.Rows) != "x@else.example ready connector:red/all\nx@partner.example ready connector:red/partner\nann@red.example ready db:DB01" {
		t.Error(tell(q.Rows))
	}
}

func TestNullSenderGoesToOwners(t *testing.T) {
	w := people(t)
	q := w.stranger("", "owned@red.example team@red.example", letter)
	w.ask(&q)
	if got := tell(q.Rows); !strings.HasPrefix(got, "owned@red.example expanded\nteam@red.example expanded\ngroup of 0: ann@red.example ready") ||
		!strings.Contains(got, "group of 1: bob@red.example ready") {
		t.Error(got)
	}
	q = w.stranger("x@else.example", "owned@red.example team@red.example", letter)
	w.ask(&q)
	for _, r := range q.Rows {
		want := "x@else.example"
		if r.Why != 0 && r.Address != "ann@red.example" { // of the first group
			want = "ann@red.example"
		}
		if got := ReportTo(q.Message, q.Rows, r.N, w.dir); got != want {
			t.Errorf("report about %s to %s, want %s:\n%s", r.Address, got, want, tell(q.Rows))
		}
	}
	q.Message.Envelope.From = ""
	if got := ReportTo(q.Message, q.Rows, 2, w.dir); got != "" {
		t.Errorf("report about a report to %s", got)
	}
}

func TestLoops(t *testing.T) {
	w := people(t)
	own := strings.Repeat("Received: from a by MX2.example.test (Postern); x\r\n", maxHops)
	q := w.stranger("x@else.example", "ann@red.example bob@red.example", own+letter)
	if w.ask(&q); q.Rows[0].State != queue.StateReady {
		t.Error(tell(q.Rows))
	}
	q = w.stranger("x@else.example", "ann@red.example bob@red.example", "Received: by mx1.example.test\r\n"+own+letter)
	if w.ask(&q); tell(q.Rows) != "ann@red.example returned 5.4.6\nbob@red.example returned 5.4.6" {
		t.Error(tell(q.Rows))
	}
	for a, want := range map[string]string{
		"team@red.example": "team@red.example returned 5.4.6",
		"carl@red.example": "carl@red.example returned 5.4.6",
		"bob@red.example":  "bob@red.example ready db:DB01",
		"ann@red.example":  "ann@red.example ready db:DB01",
	} {
		q = w.stranger("x@else.example", a, "Delivered-To: "+a+"\r\n"+letter)
		if w.ask(&q); tell(q.Rows) != want {
			t.Errorf("%s: %s", a, tell(q.Rows))
		}
	}
	// What came by a connector does not go back there.
	q = w.stranger("x@else.example", "here@split.example there@split.example", letter)
	q.Message.Origin.Connector, q.Message.Origin.Organization = "cloud", "red"
	if w.ask(&q); tell(q.Rows) != "here@split.example ready db:DB01\nthere@split.example returned 5.4.6" {
		t.Error(tell(q.Rows))
	}
}

func TestTooMany(t *testing.T) {
	w := newWorld(t)
	var names []string
	for i := range 8 {
		names = append(names, fmt.Sprintf("u%d@red.example", i))
	}
	w.boxes(names...)
	w.group("big@red.example", strings.Join(names, " "))
	w.group("small@red.example", strings.Join(names[:2], " "))
	w.set.group.MaxRecipientsExpanded = 8
	q := w.stranger("x@else.example", "big@red.example small@red.example u7@red.example", letter)
	w.ask(&q)
	if got := tell(q.Rows); got != "big@red.example returned 5.5.3\nsmall@red.example expanded\nu7@red.example ready db:DB01\n"+
		"group of 1: u0@red.example ready db:DB01\ngroup of 1: u1@red.example ready db:DB01" {
		t.Error(got)
	}
}

// TestContinues: a server that takes over knows some rows and not the others.
func TestContinues(t *testing.T) {
	w := people(t)
	q := w.stranger("x@else.example", "all@red.example eve@red.example ann@red.example", letter)
	first := append([]queue.RecipientRow(nil), q.Rows...)
	w.ask(&q)
	for cut := len(first); cut <= len(q.Rows); cut++ {
		half := q
		half.Rows = append([]queue.RecipientRow(nil), q.Rows[:cut]...)
		copy(half.Rows, first)
		w.ask(&half)
		got := map[string]int{}
		for _, r := range half.Rows {
			if r.State == queue.StateReady {
				got[r.Address]++
			}
		}
		for a, n := range got {
			if n != 1 {
				t.Errorf("with %d rows known, %s gets it %d times:\n%s", cut, a, n, tell(half.Rows))
			}
		}
		if len(got) != 5 { // ann, bob, dora, b@else, c@else
			t.Errorf("with %d rows known:\n%s", cut, tell(half.Rows))
		}
	}
}

func TestSenderOfRows(t *testing.T) {
	w := people(t)
	q := w.stranger("x@else.example", "bob@red.example who@blue.example", letter)
	w.ask(&q)
	secret := w.deps().Secret
	for _, c := range []struct{ address, domain string }{{"b@else.example", "red.example"}, {"lost@else.example", "blue.example"}} {
		for _, r := range q.Rows {
			if r.Address != c.address {
				continue
			}
			a := addr(Sender(q.Message, r, w.dir, secret))
			if a.Domain != c.domain {
				t.Errorf("%s leaves as %s", r.Address, a)
			}
			// It leads back.
			back := w.stranger("", a.String(), letter)
			w.ask(&back)
			if got := tell(back.Rows); got != a.String()+" expanded\nalias of 0: x@else.example ready mx:else.example" {
				t.Error(got)
			}
		}
	}
	if got := Sender(q.Message, q.Rows[0], w.dir, secret); got != "x@else.example" {
		t.Errorf("a row of the envelope leaves as %s", got)
	}
	q = w.account("ann@red.example", "bob@red.example", letter)
	w.ask(&q)
	if got := Sender(q.Message, q.Rows[1], w.dir, secret); got != "ann@red.example" {
		t.Errorf("mail of ours leaves as %s", got)
	}
	forged := w.stranger("", "SRS0=aaaaaaaa=aa=else.example=x@red.example", letter)
	if w.ask(&forged); forged.Rows[0].Status != "5.1.1" {
		t.Error(tell(forged.Rows))
	}
	var none mail.Origin
	q = w.question(none, "", "bob@red.example", letter)
	w.ask(&q)
	if got := Sender(q.Message, q.Rows[1], w.dir, secret); got != "" {
		t.Errorf("the null sender leaves as %s", got)
	}
}

// TestCircles: forwards of two organizations may lead in a circle, which none
// of them can see.
func TestCircles(t *testing.T) {
	w := newWorld(t)
	w.boxes("ann@red.example", "keep@red.example", "ann@blue.example", "keep@blue.example")
	w.forward("ann@red.example", "ann@blue.example", false)
	w.forward("ann@blue.example", "ann@red.example", false)
	w.forward("keep@red.example", "keep@blue.example", false)
	w.forward("keep@blue.example", "keep@red.example", true)
	for to, want := range map[string]string{
		"ann@red.example":   "ann@red.example expanded\nforward of 0: ann@red.example returned 5.4.6",
		"keep@red.example":  "keep@red.example expanded\nforward of 0: keep@blue.example ready db:DB01\nforward of 1: keep@red.example returned 5.4.6",
		"keep@blue.example": "keep@blue.example ready db:DB01",
	} {
		q := w.stranger("x@else.example", to, letter)
		if w.ask(&q); tell(q.Rows) != want {
			t.Errorf("%s:\n%s", to, tell(q.Rows))
		}
	}
}

// TestAnyDirectory: whatever leads where, each gets a message once, and each
// that is named comes to something.
func TestAnyDirectory(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		var all []string
		for _, o := range []string{"red", "blue"} {
			for i := range 4 {
				all = append(all, fmt.Sprintf("m%d@%s.example", i, o), fmt.Sprintf("g%d@%s.example", i, o))
				w.boxes(all[len(all)-2])
				w.group(all[len(all)-1], "")
			}
		}
		pick := rapid.SampledFrom(append(all, "x@else.example", "y@else.example", "none@red.example"))
		for range rapid.IntRange(0, 25).Draw(rt, "changes") {
			a, b := addr(pick.Draw(rt, "a")), addr(pick.Draw(rt, "b"))
			if keep := rapid.Bool().Draw(rt, "keep"); a.Local[0] == 'g' {
				_, _ = w.dir.AddMember(t.Context(), a, b) // refused where it is not allowed
			} else {
				_, _ = w.dir.ChangeMailbox(t.Context(), a, directory.MailboxChange{Forward: &[]mail.Address{b}, ForwardKeep: &keep})
			}
		}
		if rapid.Bool().Draw(rt, "rule") {
			w.set.rules["red"] = []settings.Rule{{Name: "r", Organization: "red", Action: "header", AddName: "X-A", AddValue: "b", Recipient: pick.Draw(rt, "rule")}}
		}
		w.set.group.MaxRecipientsExpanded = rapid.IntRange(6, 20).Draw(rt, "limit")
		q := w.question(mail.Origin{Door: "submission", Trusted: true}, "s@else.example", strings.Join(rapid.SliceOfN(pick, 1, 5).Draw(rt, "to"), " "), letter)
		first := append([]queue.RecipientRow(nil), q.Rows...)
		d := w.ask(&q)
		if rapid.Bool().Draw(rt, "taken over") { // by who knows some of the rows
			q.Rows = q.Rows[:rapid.IntRange(len(first), len(q.Rows)).Draw(rt, "rows")]
			copy(q.Rows, first)
			d = w.ask(&q)
		}
		got := map[string]int{}
		for _, r := range q.Rows {
			if r.State == queue.StateReady {
				got[addr(r.Address).Key()]++
			}
		}
		for _, c := range d.Copies {
			for _, r := range c.Submission.Envelope.Recipients {
				got[r.Address]++
			}
		}
		for a, n := range got {
			if n > 1 {
				rt.Fatalf("%s gets it %d times:\n%s\n%v", a, n, tell(q.Rows), d.Copies)
			}
		}
		if len(got) == 0 && !strings.Contains(tell(q.Rows), "returned") {
			rt.Fatalf("it comes to nothing:\n%s", tell(q.Rows))
		}
	})
}

// BenchmarkOne is the way of one message to one mailbox.
func BenchmarkOne(b *testing.B) {
	w := newWorld(b)
	w.boxes("ann@red.example")
	q := w.stranger("x@else.example", "ann@red.example", strings.Repeat("X-Header: some value of it\r\n", 20)+letter)
	d := w.deps()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Categorise(q, d); err != nil {
			b.Fatal(err)
		}
	}
}
