package route

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// decided is what organizations decided, in a struct.
type decided struct {
	group      settings.Group
	policy     map[org.OrganizationID]settings.Policy
	connectors map[org.OrganizationID][]settings.Connector
	rules      map[org.OrganizationID][]settings.Rule
}

func (d *decided) Group() settings.Group { return d.group }
func (d *decided) Policy(o org.OrganizationID) settings.Policy {
	return d.policy[o]
}
func (d *decided) Connectors(o org.OrganizationID) []settings.Connector { return d.connectors[o] }
func (d *decided) Rules(o org.OrganizationID) []settings.Rule           { return d.rules[o] }

// world is two organizations with people, and settings.
type world struct {
	t   testing.TB
	dir *directory.Directory
	set *decided
	now time.Time
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, now: time.Unix(1_700_000_000, 0),
		dir: directory.New(directory.NewMemory("DB01"), directory.Options{HashMemory: 64, HashPasses: 1}),
		set: &decided{policy: map[org.OrganizationID]settings.Policy{}, connectors: map[org.OrganizationID][]settings.Connector{},
			rules: map[org.OrganizationID][]settings.Rule{}}}
	for _, o := range []string{"red", "blue"} {
		w.must(w.dir.CreateOrganization(t.Context(), org.OrganizationID(o), ""))
		w.must(w.dir.AddDomain(t.Context(), org.OrganizationID(o), o+".example"))
	}
	w.must(w.dir.AddDomain(t.Context(), "red", "split.example"))
	return w
}

func (w *world) must(_ any, err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func addr(s string) mail.Address {
	a, err := mail.ParseAddress(s)
	if err != nil {
		panic(err)
	}
	return a
}

func addrs(s string) *[]mail.Address {
	out := []mail.Address{}
	for _, a := range strings.Fields(s) {
		out = append(out, addr(a))
	}
	return &out
}

// boxes makes shared mailboxes; the first address of each is primary.
func (w *world) boxes(all ...string) {
	w.t.Helper()
	for _, s := range all {
		a := *addrs(s)
		_, _, err := w.dir.CreateMailbox(w.t.Context(), directory.NewMailbox{Address: a[0], Aliases: a[1:], Shared: true})
		w.must(nil, err)
	}
}

func (w *world) group(a, members string) {
	w.t.Helper()
	w.must(w.dir.CreateGroup(w.t.Context(), addr(a), ""))
	for _, m := range *addrs(members) {
		w.must(w.dir.AddMember(w.t.Context(), addr(a), m))
	}
}

func (w *world) forward(a, to string, keep bool) {
	w.t.Helper()
	w.must(w.dir.ChangeMailbox(w.t.Context(), addr(a), directory.MailboxChange{Forward: addrs(to), ForwardKeep: &keep}))
}

func (w *world) deps() Deps {
	return Deps{Directory: w.dir, Settings: w.set, Hosts: []string{"mx1.example.test", "mx2.example.test"}, Secret: []byte("secret")}
}

const letter = "From: <x@else.example>\r\nSubject: hello\r\n\r\nHello.\r\n"

// stranger is a message that came from the Internet.
func (w *world) stranger(from, to, body string) Question {
	return w.question(mail.Origin{Door: "receive"}, from, to, body)
}

// account is a message that somebody of an organization sent.
func (w *world) account(from, to, body string) Question {
	r, ok := w.dir.ByAddress(addr(from))
	if !ok {
		w.t.Fatalf("no %s", from)
	}
	return w.question(mail.Origin{Door: "submission", Account: string(r.Organization) + "/" + r.ID.String(), Organization: r.Organization, Trusted: true}, from, to, body)
}

func (w *world) question(o mail.Origin, from, to, body string) Question {
	q := Question{Message: queue.Message{ID: mail.TraceID{1, 2, 3, 4, 5, 6, 7}, Size: int64(len(body)), Origin: o, Received: w.now,
		Envelope: mail.Envelope{From: from}}, Body: []byte(body), Now: w.now}
	for i, a := range strings.Fields(to) {
		q.Rows = append(q.Rows, queue.RecipientRow{ID: q.Message.ID, N: uint16(i), Address: a, State: queue.StateNew})
		q.Message.Envelope.Recipients = append(q.Message.Envelope.Recipients, mail.EnvelopeRecipient{Address: a})
	}
	return q
}

// ask categorises, checks what the queue would, and applies the decision to
// the question's rows. Asked again, there is nothing left.
func (w *world) ask(q *Question) Decision {
	w.t.Helper()
	d, err := Categorise(*q, w.deps())
	if err != nil {
		w.t.Fatal(err)
	}
	if again, _ := Categorise(*q, w.deps()); !reflect.DeepEqual(again, d) {
		w.t.Errorf("asked twice:\n %v\n %v", d, again)
	}
	last := -1
	for _, c := range d.Rows {
		if int(c.N) <= last {
			w.t.Fatalf("row %d after %d", c.N, last)
		}
		last = int(c.N)
		if c.New != nil {
			if int(c.N) != len(q.Rows) || int(c.New.Parent) >= len(q.Rows) || c.New.Why == 0 {
				w.t.Fatalf("row %d cannot be added: %+v", c.N, c.New)
			}
			q.Rows = append(q.Rows, queue.RecipientRow{ID: q.Message.ID, N: c.N, Parent: c.New.Parent, Address: c.New.Address, Original: c.New.ORcpt,
				Notify: c.New.Notify, Why: c.New.Why, Organization: c.New.Org, Dest: c.New.Dest, State: queue.StateNew})
		}
		r := &q.Rows[c.N]
		if c.State == 0 || r.State != queue.StateNew {
			w.t.Fatalf("row %d becomes %s from %s", c.N, c.State, r.State)
		}
		if r.State = c.State; c.Dest != "" {
			r.Dest = c.Dest
		}
		if r.Organization == "" {
			r.Organization = c.Org
		}
		r.Mailbox, r.Status, r.Text, r.Duplicate, r.Child = c.Mailbox, c.Status, c.Text, c.Duplicate, c.Child
	}
	for _, r := range q.Rows {
		if r.State == queue.StateNew {
			w.t.Errorf("row %d (%s) was not decided", r.N, r.Address)
		}
	}
	if left, err := Categorise(*q, w.deps()); err != nil || len(left.Rows)+len(left.Copies) > 0 {
		w.t.Errorf("something is left: %v %v", left, err)
	}
	return d
}

var whys = map[queue.Why]string{queue.WhyGroup: "group", queue.WhyAlias: "alias", queue.WhyForward: "forward", queue.WhyRule: "rule"}

// tell writes rows in few words.
func tell(rows []queue.RecipientRow) string {
	var out []string
	for _, r := range rows {
		s := r.Address + " " + r.State.String()
		if r.Why != 0 {
			s = fmt.Sprintf("%s of %d: %s", whys[r.Why], r.Parent, s)
		}
		if r.State == queue.StateReady {
			s += " " + r.Dest
		}
		if r.State == queue.StateReturned {
			s += " " + r.Status
		}
		if r.Duplicate {
			s += " duplicate"
		}
		out = append(out, s)
	}
	return strings.Join(out, "\n")
}
