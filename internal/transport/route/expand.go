package route

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// item is a recipient on its way to be rows.
type item struct {
	row     int    // the row it is, -1 for none yet
	root    uint16 // the row it all comes of
	parent  uint16 // of the row it would be
	why     queue.Why
	address mail.Address
	orcpt   string
	notify  string
	org     org.OrganizationID // whose forward or group led here
	depth   int
	dest    *directory.Destination // where it is known
	edits   []edit
	path    []string // forwards that led here
}

// itemOf is a row that is new. Done: it could not be one and was decided.
func (r *run) itemOf(n uint16) (item, bool) {
	row := r.q.Rows[n]
	a, err := mail.ParseAddress(row.Address)
	if err != nil {
		r.change(n, returned(553, "5.1.3", "The address cannot be read"))
		return item{}, true
	}
	return item{row: int(n), root: n, parent: row.Parent, why: row.Why, address: a, orcpt: row.Original, notify: row.Notify, org: row.Organization}, false
}

// first decides about a row as far as nothing has to be expanded for it.
func (r *run) first(it *item) (expands bool, err error) {
	if _, ok := reversed(it.address, r.d.Directory, r.d.Secret, r.q.Now); ok && !r.final() {
		return true, nil
	}
	if err := r.resolve(it); err != nil {
		return false, r.problem(*it, err)
	}
	if it.why == 0 && !r.final() {
		if decided := r.rules(it); decided {
			return len(r.moved[it.root]) > 0, nil
		}
	}
	if r.mustExpand(it) {
		return true, nil
	}
	r.terminal(*it)
	return false, nil
}

func (r *run) final() bool { return r.q.Message.Flags&FlagFinal != 0 }

// resolve asks the directory. Nil without a destination: the address is nobody's
// here.
func (r *run) resolve(it *item) error {
	if it.dest != nil {
		return nil
	}
	d, err := r.d.Directory.Destination(it.address)
	switch {
	case err == nil:
		it.dest = &d
		return nil
	case kind.Is(err, kind.Elsewhere):
		return nil
	}
	return err
}

// problem decides about a recipient that the directory refuses; what it cannot
// say now is an error.
func (r *run) problem(it item, err error) error {
	switch kind.Of(err) {
	case kind.NotFound:
		r.give(it, returned(550, "5.1.1", "No such mailbox here"))
	case kind.Denied:
		r.give(it, returned(550, "5.2.1", "The recipient is disabled"))
	case kind.Invalid:
		r.give(it, returned(550, "5.1.3", "The address is not valid"))
	default:
		return err
	}
	return nil
}

// give decides about a recipient: about its row, or one that is added. False:
// there are too many.
func (r *run) give(it item, c queue.RowChange) bool {
	r.placed++
	if it.row >= 0 {
		r.change(uint16(it.row), c)
		return true
	}
	return r.add(it, c)
}

// mustExpand tells whether others get the mail of a recipient.
func (r *run) mustExpand(it *item) bool {
	d := it.dest
	if d == nil || r.final() {
		return false
	}
	return d.Kind == directory.KindGroup || len(d.Forward) > 0 || d.Kind == directory.KindExternal && d.Address.Key() != it.address.Key()
}

// terminal decides about a recipient that is a mailbox or elsewhere. False: there
// are too many.
func (r *run) terminal(it item) bool {
	c, problem := r.way(it)
	if problem {
		return r.give(it, c)
	}
	keys := []string{addressKey(it.address.String())}
	if it.dest != nil && it.dest.ID != (org.MailboxID{}) {
		keys = append(keys, mailboxKey(it.dest.ID))
	}
	for _, key := range keys {
		if by, twice := r.seen[key]; twice {
			r.placed++
			if it.row >= 0 {
				r.change(uint16(it.row), queue.RowChange{State: queue.StateExpanded, Duplicate: true, Status: "2.1.5",
					Text: fmt.Sprintf("The same recipient as number %d", by), Org: c.Org})
			}
			return true
		}
	}
	ok := true
	if len(it.edits) > 0 {
		r.placed++
		ok = r.edit(it, c)
	} else {
		ok = r.give(it, c)
	}
	if ok {
		for _, key := range keys {
			r.seen[key] = it.root
		}
	}
	return ok
}

// expand follows a row to the end of all ways. Where they are too many, it is
// returned as a whole.
func (r *run) expand(root item) error {
	todo := r.moved[root.root] // by a rule
	if len(todo) == 0 {
		todo = []item{root}
	}
	before := r.placed
	fits, err := r.follow(todo)
	switch {
	case err != nil:
		return err
	case !fits:
		r.dropEdits(root.root)
		r.change(root.root, returned(550, "5.5.3", fmt.Sprintf("More than %d recipients in all", r.limit)))
	case r.placed == before && r.changes[root.root].State == queue.StateExpanded:
		r.change(root.root, returned(550, "5.2.1", "Nobody receives what is sent there"))
	}
	return nil
}

// follow takes recipients to the end of all ways. Nothing is added where they
// are too many.
func (r *run) follow(todo []item) (fits bool, err error) {
	rows, seen := len(r.added), maps.Clone(r.seen)
	visited := map[string]bool{}
	for fits = true; len(todo) > 0; {
		next, err := r.step(todo[0], visited, &fits)
		if err != nil {
			return false, err
		}
		if !fits {
			r.added, r.seen = r.added[:rows], seen
			return false, nil
		}
		todo = append(todo[1:], next...)
	}
	return true, nil
}

// step takes one recipient one step on.
func (r *run) step(it item, visited map[string]bool, fits *bool) ([]item, error) {
	if back, ok := reversed(it.address, r.d.Directory, r.d.Secret, r.q.Now); ok && it.dest == nil {
		next := r.child(it, queue.WhyAlias, back)
		next.org, _ = r.d.Directory.OrganizationOf(it.address.Domain)
		r.expanded(it, next.org)
		return []item{next}, nil
	}
	if err := r.resolve(&it); err != nil {
		return nil, r.problem(it, err)
	}
	if !r.mustExpand(&it) {
		*fits = r.terminal(it)
		return nil, nil
	}
	d := it.dest
	key := string(d.Kind) + addressKey(d.Address.String())
	switch {
	case visited[key]:
		if d.Kind == directory.KindMailbox && !d.Keep && slices.Contains(it.path, key) {
			// Forwards of several organizations can make a circle nobody gets
			// anything of: whoever sent has to hear.
			*fits = r.give(it, returned(554, "5.4.6", "The forwards lead in a circle"))
			return nil, nil
		}
		r.expanded(it, d.Organization)
		return nil, nil
	case it.depth >= maxDepth:
		*fits = r.give(it, returned(554, "5.4.6", "Groups and forwards lead too far"))
		return nil, nil
	}
	visited[key] = true
	switch d.Kind {
	case directory.KindGroup:
		return r.group(it, fits)
	case directory.KindExternal:
		next := r.child(it, queue.WhyAlias, d.Address)
		next.dest, next.org = nil, d.Organization
		r.expanded(it, d.Organization)
		return []item{next}, nil
	}
	it.path = append(slices.Clip(it.path), key)
	return r.forward(it, fits)
}

// child is what a recipient leads to. It is below the row that the recipient
// is, or would have been.
func (r *run) child(it item, why queue.Why, a mail.Address) item {
	next := item{row: -1, root: it.root, parent: it.parent, why: why, address: a, orcpt: it.orcpt, notify: it.notify, org: it.org, depth: it.depth + 1, path: it.path}
	if it.row >= 0 {
		next.parent = uint16(it.row)
	}
	if next.orcpt == "" {
		next.orcpt = origPrefix + it.address.String()
	}
	return next
}

func (r *run) expanded(it item, o org.OrganizationID) {
	if it.row >= 0 {
		r.change(uint16(it.row), queue.RowChange{State: queue.StateExpanded, Org: o})
	}
}

// group takes the members of a group, or its owners where a report came for
// it.
func (r *run) group(it item, fits *bool) ([]item, error) {
	d := it.dest
	switch {
	case !d.Allows(r.sender):
		*fits = r.give(it, returned(550, "5.7.1", "The sender may not write to this group"))
		return nil, nil
	case r.looped(d.Address):
		*fits = r.give(it, returned(554, "5.4.6", "The message was sent to this group before, it is in a loop"))
		return nil, nil
	}
	if c, large := r.tooLarge(d); large {
		*fits = r.give(it, c)
		return nil, nil
	}
	members := d.Members
	if r.q.Message.Envelope.From == "" && len(d.Owners) > 0 {
		members = d.Owners
	}
	var next []item
	for _, id := range members {
		m, ok := r.d.Directory.Expand(d.Organization, id)
		if !ok {
			continue
		}
		c := r.child(it, queue.WhyGroup, m.Address)
		c.dest, c.org, c.edits = &m, d.Organization, it.edits
		next = append(next, c)
	}
	if len(next) == 0 && it.why != queue.WhyGroup {
		*fits = r.give(it, returned(550, "5.2.1", "The group has no member that receives"))
		return nil, nil
	}
	r.expanded(it, d.Organization)
	return next, nil
}

// forward takes the forwards of a mailbox, which gets the message as well if
// it keeps it, or if it would be the second time.
func (r *run) forward(it item, fits *bool) ([]item, error) {
	d := *it.dest
	again := r.looped(d.Address)
	if again && !d.Keep {
		*fits = r.give(it, returned(554, "5.4.6", "The message was forwarded from here before, it is in a loop"))
		return nil, nil
	}
	if c, large := r.tooLarge(&d); large {
		*fits = r.give(it, c)
		return nil, nil
	}
	below := it
	if d.Keep || again {
		plain := d
		plain.Forward = nil
		own := it
		own.dest = &plain
		at := len(r.q.Rows) + len(r.added)
		if *fits = r.terminal(own); !*fits || again {
			return nil, nil
		}
		if own.row < 0 && len(r.q.Rows)+len(r.added) > at {
			below.parent = uint16(at)
		}
	} else {
		r.expanded(it, d.Organization)
	}
	var next []item
	for _, a := range d.Forward {
		c := r.child(below, queue.WhyForward, a)
		c.orcpt, c.org = origPrefix+d.Address.String(), d.Organization
		next = append(next, c)
	}
	return next, nil
}

// looped tells whether the message says it went to an address before.
func (r *run) looped(a mail.Address) bool {
	return !a.IsZero() && slices.Contains(r.survey.DeliveredTo, strings.ToLower(a.String()))
}

// tooLarge refuses what a recipient or its organization does not take.
func (r *run) tooLarge(d *directory.Destination) (queue.RowChange, bool) {
	limit := d.MaxMessage
	if p := r.d.Settings.Policy(d.Organization).MaxMessage; p > 0 && (limit == 0 || p < limit) {
		limit = p
	}
	if limit > 0 && r.q.Message.Size > limit {
		c := returned(552, "5.3.4", "The message is larger than the recipient takes")
		c.Org = d.Organization
		return c, true
	}
	return queue.RowChange{}, false
}
