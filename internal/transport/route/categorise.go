package route

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/message"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/quarantine"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// FlagFinal marks a message whose recipients are where it goes: groups and
// forwards were followed and rules asked before.
const FlagFinal uint32 = 1 << 24

const (
	maxDepth = 16 // of groups and forwards within each other
	maxHops  = 10 // times a message may come by here
)

// Settings is what organizations and operators decided. *settings.Book is one.
type Settings interface {
	Group() settings.Group
	Policy(o org.OrganizationID) settings.Policy
	Connectors(o org.OrganizationID) []settings.Connector
	Rules(o org.OrganizationID) []settings.Rule
}

// Deps are what decisions rest on besides the message.
type Deps struct {
	Directory Directory
	Settings  Settings
	// Hosts are the names of the group's servers, in small letters, as they
	// stand in Received and Authentication-Results.
	Hosts  []string
	Secret []byte // of rewritten senders (SRS), the same on all servers
}

// Question is a message with its rows as they are known.
type Question struct {
	Message queue.Message
	Rows    []queue.RecipientRow // all, in their order
	Body    []byte               // the message as it is kept
	Now     time.Time
}

// Decision says what is to be done, copies first.
type Decision struct {
	// Rows are changes of the message: rows that become ready with their
	// destination, that are expanded, returned or quarantined, and new ones.
	Rows   []queue.RowChange
	Copies []Copy
	Why    []string // for the log: rules that held, and what else is not seen in rows
}

// Copy is a new message that comes of this one.
type Copy struct {
	Submission mail.Submission
	Parent     mail.TraceID
	Flags      uint32
}

// Categorise decides about the rows that are new. An error is the directory's,
// and is to be asked again.
func Categorise(q Question, d Deps) (Decision, error) {
	r := newRun(q, d)
	if len(r.fresh) == 0 {
		return Decision{}, nil
	}
	if hops := r.ownHops(); hops > maxHops {
		for _, n := range r.fresh {
			r.change(n, returned(554, "5.4.6", "The message came by here too often, it is in a loop"))
		}
		return r.finish(), nil
	}
	var later []item
	for _, n := range r.fresh {
		it, done := r.itemOf(n)
		if done {
			continue
		}
		expands, err := r.first(&it)
		if err != nil {
			return Decision{}, err
		}
		if expands {
			later = append(later, it)
		}
	}
	// What is named itself comes before what groups lead to.
	for _, it := range later {
		if err := r.expand(it); err != nil {
			return Decision{}, err
		}
	}
	for _, it := range r.extra {
		fits, err := r.follow([]item{it})
		if err != nil {
			return Decision{}, err
		}
		if !fits {
			r.out.Why = append(r.out.Why, "no row is left for "+it.address.String())
		}
	}
	r.journals()
	return r.finish(), nil
}

// run is the work on one question.
type run struct {
	q      Question
	d      Deps
	survey message.Survey
	sender directory.Sender
	from   mail.Address // zero: null sender, or one that cannot be read

	fresh   []uint16
	changes map[uint16]queue.RowChange
	added   []queue.RowChange
	limit   int
	placed  int               // recipients that came to something
	seen    map[string]uint16 // who gets it already, by the row it comes of
	known   map[string]bool   // rows that an earlier run added
	edits   map[string]*edited
	order   []string          // of edits
	moved   map[uint16][]item // where rules redirect rows to
	extra   []item            // who gets it besides, by rules
	orgs    []org.OrganizationID
	facts   facts
	out     Decision
}

func newRun(q Question, d Deps) *run {
	r := &run{q: q, d: d, changes: map[uint16]queue.RowChange{}, seen: map[string]uint16{}, known: map[string]bool{},
		edits: map[string]*edited{}, moved: map[uint16][]item{}}
	r.limit = min(cmp.Or(d.Settings.Group().MaxRecipientsExpanded, queue.MaxRows), queue.MaxRows)
	for _, row := range q.Rows {
		if row.Why != 0 {
			r.known[knownKey(row.Parent, row.Why, row.Address)] = true
		}
		switch {
		case row.State == queue.StateNew:
			r.fresh = append(r.fresh, row.N)
		case row.Mailbox != (org.MailboxRef{}):
			r.seen[mailboxKey(row.Mailbox.ID)] = row.N
		case row.State != queue.StateExpanded:
			r.seen[addressKey(row.Address)] = row.N
		}
	}
	if len(r.fresh) == 0 {
		return r
	}
	r.survey = message.Look(q.Body)
	o := q.Message.Origin
	r.sender.Organization = o.Organization
	if _, id, ok := strings.Cut(o.Account, "/"); ok {
		if r.sender.Account.UnmarshalText([]byte(id)) != nil {
			r.sender.Account = org.MailboxID{}
		}
	}
	if a, err := mail.ParseAddress(q.Message.Envelope.From); err == nil {
		r.from, r.sender.Domain = a, a.Domain
	}
	return r
}

func knownKey(parent uint16, why queue.Why, address string) string {
	return string([]byte{byte(parent >> 8), byte(parent), byte(why)}) + addressKey(address)
}

func mailboxKey(id org.MailboxID) string { return "m" + string(id[:]) }

func addressKey(s string) string {
	if a, err := mail.ParseAddress(s); err == nil {
		return "a" + a.Key()
	}
	return "a" + s
}

// ownHops counts how often servers of this group had the message.
func (r *run) ownHops() int {
	n := 0
	for _, h := range r.survey.ReceivedBy {
		if slices.Contains(r.d.Hosts, h) {
			n++
		}
	}
	return n
}

// internal tells whether the system wrote the message: nobody's rules and
// journals see it.
func (r *run) internal() bool { return r.q.Message.Origin.Door == "internal" }

// released tells whether an administrator let the message out of quarantine:
// a rule may not put it back.
func (r *run) released() bool { return r.q.Message.Origin.Door == quarantine.Door }

// returned is the end of a row that is given up.
func returned(code uint16, status, text string) queue.RowChange {
	return queue.RowChange{State: queue.StateReturned, Code: code, Status: status, Text: text}
}

// change decides about a row that is there.
func (r *run) change(n uint16, c queue.RowChange) {
	c.N = n
	r.changes[n] = c
}

// add adds a row below another. False: there are too many.
func (r *run) add(it item, c queue.RowChange) bool {
	if r.known[knownKey(it.parent, it.why, it.address.String())] {
		return true
	}
	n := len(r.q.Rows) + len(r.added)
	if n >= r.limit {
		return false
	}
	c.N = uint16(n)
	c.New = &queue.RowNew{Parent: it.parent, Address: it.address.String(), ORcpt: it.orcpt, Notify: it.notify, Dest: c.Dest, Org: c.Org, Why: it.why}
	r.added = append(r.added, c)
	return true
}

// finish puts the decision together.
func (r *run) finish() Decision {
	r.editCopies()
	for _, n := range r.fresh {
		if c, ok := r.changes[n]; ok {
			r.out.Rows = append(r.out.Rows, c)
		}
	}
	r.out.Rows = append(r.out.Rows, r.added...)
	return r.out
}
