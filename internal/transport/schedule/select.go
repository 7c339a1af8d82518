package schedule

import (
	"iter"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Selector names jobs; what is empty matches all.
type Selector struct {
	ID           mail.TraceID
	Dest         Dest
	Organization org.OrganizationID
	Sender       uint64
}

func (l Selector) matches(it *item) bool {
	k := it.flow.gates[ofSender].key
	return (l.ID == mail.TraceID{} || l.ID == it.id) && (l.Dest == "" || l.Dest == it.flow.dest.name) &&
		(l.Organization == "" || l.Organization == k.org) && (l.Sender == 0 || l.Sender == k.sender)
}

// covers tells whether l names everything m names.
func (l Selector) covers(m Selector) bool {
	return (l.ID == mail.TraceID{} || l.ID == m.ID) && (l.Dest == "" || l.Dest == m.Dest) &&
		(l.Organization == "" || l.Organization == m.Organization) && (l.Sender == 0 || l.Sender == m.Sender)
}

// all gives the jobs that match. It walks over all jobs unless a message is
// named.
func (s *Scheduler) all(l Selector) iter.Seq[*item] {
	return func(yield func(*item) bool) {
		if (l.ID != mail.TraceID{}) {
			s.chain(s.jobs[l.ID], l, yield)
			return
		}
		for _, first := range s.jobs {
			if !s.chain(first, l, yield) {
				return
			}
		}
	}
}

func (s *Scheduler) chain(it *item, l Selector, yield func(*item) bool) bool {
	for it != nil {
		next := it.sibling
		if l.matches(it) && !yield(it) {
			return false
		}
		it = next
	}
	return true
}

func (s *Scheduler) held(it *item) bool {
	return slices.ContainsFunc(s.holds, func(l Selector) bool { return l.matches(it) })
}

// Suspend keeps the jobs that match from being tried, and, unless a message is
// named, those that come later as well. Attempts under way end. It tells how
// many jobs it met. Full: there are too many suspensions already.
func (s *Scheduler) Suspend(l Selector, now int64) (int, error) {
	s.advance(now)
	if (l.ID == mail.TraceID{}) && !slices.Contains(s.holds, l) {
		if len(s.holds) >= maxHolds {
			return 0, kind.Errorf(kind.Full, "suspend: %d suspensions already", len(s.holds))
		}
		s.holds = append(s.holds, l)
	}
	n := 0
	for it := range s.all(l) {
		switch it.state {
		case suspended:
			continue
		case flying, looked:
			it.flags |= flagHold
		default:
			s.detach(it)
			it.flags |= flagHold
			s.place(it, it.at)
			s.review(it.flow.dest)
		}
		n++
	}
	return n, nil
}

// Waits tells whether a job for a destination that came now would not be tried
// now: it failed, or is suspended.
func (s *Scheduler) Waits(name Dest, o org.OrganizationID) bool {
	if slices.ContainsFunc(s.holds, func(l Selector) bool {
		return (l.Dest == "" || l.Dest == name) && (l.Organization == "" || l.Organization == o) && l.Sender == 0
	}) {
		return true
	}
	d := s.dests[name]
	return d != nil && d.fails > 0
}

// Resume ends the suspension of the jobs that match and of suspensions that
// name nothing else. A job that another suspension names stays suspended,
// unless its message is named here. It tells how many jobs go on.
func (s *Scheduler) Resume(l Selector, now int64) int {
	s.advance(now)
	s.holds = slices.DeleteFunc(s.holds, l.covers)
	n := 0
	for it := range s.all(l) {
		if (l.ID == mail.TraceID{}) && s.held(it) {
			continue
		}
		switch {
		case it.state == suspended:
			s.detach(it)
			s.place(it, it.at)
			s.review(it.flow.dest)
		case it.flags&flagHold != 0:
			it.flags &^= flagHold
		default:
			continue
		}
		n++
	}
	return n
}

// Suspensions are those that hold for jobs to come.
func (s *Scheduler) Suspensions() []Selector { return slices.Clone(s.holds) }

// RetryNow forgets the waits of the jobs that match and of their destinations:
// a database is mounted again, an administrator mended something. It tells how
// many jobs it met that waited by themselves.
func (s *Scheduler) RetryNow(l Selector, now int64) int {
	s.advance(now)
	n := 0
	hurry := func(it *item) {
		if it.state == waiting {
			it.flow.dest.waiting.remove(it)
			it.at = s.now
			s.ripe(it)
			n++
		}
	}
	if l == (Selector{Dest: l.Dest}) && l.Dest != "" { // not a walk over all
		d := s.dests[l.Dest]
		if d == nil {
			return 0
		}
		for _, it := range slices.Clone(d.waiting.s) {
			hurry(it)
		}
		s.freshen(d)
		return n
	}
	met := map[*dest]bool{}
	for it := range s.all(l) {
		hurry(it)
		met[it.flow.dest] = true
	}
	for d := range met {
		s.freshen(d)
	}
	return n
}

// freshen lets a destination be tried at once, from the first step of its
// ladder on; how many attempts at a time is felt anew.
func (s *Scheduler) freshen(d *dest) {
	d.until, d.fails = 0, 0
	s.review(d)
}

// Remove forgets the jobs of a message for a destination, or for all with "".
// Those in flight go when they end. It tells how many it met.
func (s *Scheduler) Remove(id mail.TraceID, name Dest) int {
	if (id == mail.TraceID{}) {
		return 0 // not all messages
	}
	n := 0
	for it := range s.all(Selector{ID: id, Dest: name}) {
		if it.flags&flagRemoved != 0 {
			continue
		}
		n++
		if it.state == flying || it.state == looked {
			it.flags |= flagRemoved
			continue
		}
		d := it.flow.dest
		s.detach(it)
		s.drop(it)
		s.review(d)
	}
	return n
}

// DestStats is what an operator sees of a destination.
type DestStats struct {
	Dest      Dest
	Ready     int // could be tried as far as they are concerned
	Waiting   int // for their own time
	Suspended int
	InFlight  int
	Limit     int    // attempts at a time, at present
	Fails     int    // in a row
	Until     int64  // not tried before, 0: no such time
	Reason    string // of the last failure
}

// Stats tells of each destination that has jobs, sorted by name.
func (s *Scheduler) Stats() []DestStats {
	var out []DestStats
	for _, d := range s.dests {
		if d.items > 0 {
			st := DestStats{Dest: d.name, Ready: int(d.ready), Waiting: d.waiting.len(), Suspended: int(d.suspended),
				InFlight: int(d.running), Limit: int(d.limit), Fails: int(d.fails), Reason: d.reason}
			if d.until > s.now {
				st.Until = d.until
			}
			out = append(out, st)
		}
	}
	slices.SortFunc(out, func(a, b DestStats) int { return strings.Compare(string(a.Dest), string(b.Dest)) })
	return out
}

// SetRules changes the settings. Attempts above a limit that became smaller
// end by themselves.
func (s *Scheduler) SetRules(r Rules, now int64) {
	s.advance(now)
	s.rules = r
	s.repool()
	for _, d := range s.dests {
		d.limits = r.limits(d.name)
		d.limit = min(d.limit, int32(d.limits.concurrency()))
		if d.fails == 0 {
			d.limit = max(d.limit, int32(d.limits.start()))
		}
	}
	s.reshare()
	for _, g := range s.gates {
		switch g.key.kind {
		case ofOrganization:
			g.share = r.share(g.key.org)
		case ofSender:
			g.share = r.Sender
		case ofShare:
			g.share.Concurrency = g.key.dest.limits.PerOrganization
		}
		s.reviewGate(g)
	}
	for _, d := range s.dests {
		s.review(d)
	}
}

// repool gives each destination the pool that its kind has now.
func (s *Scheduler) repool() {
	s.pools, s.order = map[string]*pool{}, nil
	for _, d := range s.dests {
		if d.inRing {
			d.inRing = false
			d.pool.ring.remove(d)
		}
		d.pool = s.poolOf(d.name)
		d.pool.running += int(d.running)
	}
}

// reshare brings flows to the gates of shares that were not limited when they
// came, with what they have in flight.
func (s *Scheduler) reshare() {
	came := map[*flow]bool{}
	for _, f := range s.flows {
		if f.gates[ofShare] != nil {
			continue
		}
		if g := s.shareOf(f); g != nil {
			f.gates[ofShare] = g
			g.refs++
			came[f] = true
		}
	}
	for it := range s.all(Selector{}) {
		if it.state == flying && came[it.flow] {
			it.flow.gates[ofShare].running++
		}
	}
}
