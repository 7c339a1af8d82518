package load

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Outside is what became of messages to the outside world.
type Outside struct {
	Sink *Sink
	// Repeatable tells whether the server's own books say that a delivery may
	// have been made twice.
	Repeatable func(s Sent, recipient string) (bool, error)
	// Away tells whether a server was dead to the others at a moment: what it had
	// not accepted yet may be delivered by those that hold copies, whatever it says
	// to its client when it wakes up.
	Away func(server string, at time.Time) bool
}

// outsideReport counts beyond what a Report lists.
type outsideReport struct {
	Delivered int // recipients outside that have their message
	Returned  int // recipients whose message came back instead
	Repeated  int // had it more than once, and the books say so
	Ours      int // of these, where the host outside always answered
	Refused   int // refused at the door and not delivered, as it should be
	Woken     int // refused by a server that was dead to the others, and delivered by them
}

// check compares recipients outside with the history. returned is how often the
// author was told that a message could not be delivered.
func (o *Outside) check(r *Report, h *History, returned map[Delivery]int, local func(string) bool) error {
	all := o.Sink.All()
	for _, s := range h.Sent() {
		for _, to := range s.Recipients {
			if local(to) {
				continue
			}
			d := Delivery{s.ID, to}
			t, back := all[d], returned[d]
			delete(all, d)
			if err := o.judge(r, s, d, t, back); err != nil {
				return err
			}
		}
	}
	for d := range all {
		r.Wrong = append(r.Wrong, fmt.Sprintf("%s for %s came out, and nobody sent it", d.ID, d.Recipient))
	}
	for _, d := range o.Sink.Changed() {
		r.Damaged = append(r.Damaged, fmt.Sprintf("%s for %s came out twice and not the same", d.ID, d.Recipient))
	}
	return nil
}

func (o *Outside) judge(r *Report, s Sent, d Delivery, t Taken, back int) error {
	say := fmt.Sprintf("%s for %s (%s, trace %s): taken %d times, %d of them without an answer, returned %d times",
		d.ID, d.Recipient, s.Outcome, s.Trace, t.Times(), t.Silent, back)
	if t.Times() > 0 && t.Sum != s.Sum {
		r.Damaged = append(r.Damaged, say)
	}
	n := t.Times() + back
	switch s.Outcome {
	case Confirmed:
		r.Expected++
		if n == 0 {
			r.Lost = append(r.Lost, say)
		}
	case Refused:
		switch {
		case n == 1 && o.Away(s.Server, s.Ended):
			r.Outside.Woken++
		case n > 0:
			r.Doubled = append(r.Doubled, say+", though it was refused")
		default:
			r.Outside.Refused++
		}
		return nil
	}
	switch {
	case n == 1 && back == 1:
		r.Outside.Returned++
	case n == 1:
		r.Outside.Delivered++
	case n > 1:
		may, err := false, error(nil)
		if back <= 1 {
			may, err = o.Repeatable(s, d.Recipient)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", say, err)
		}
		if may {
			r.Outside.Repeated++
			if t.Silent == 0 {
				r.Outside.Ours++
			}
			r.Outside.Delivered++
		} else {
			r.Doubled = append(r.Doubled, say)
		}
	}
	return nil
}

func (o Outcome) String() string {
	return [...]string{"no answer", "confirmed", "refused"}[min(o, Refused)]
}

// localOf tells which addresses are mailboxes of the target.
func (t *Target) localOf() func(string) bool {
	users := map[string]bool{}
	for _, u := range t.Users {
		users[u.Address] = true
	}
	return func(a string) bool { return users[a] }
}

// reports are what a user was told of messages that could not be delivered.
type reports map[Delivery]int

// add takes a message of a mailbox when it is a report.
func (p reports) add(raw []byte) bool {
	id, to, ok := Returned(raw)
	for _, r := range to {
		p[Delivery{id, strings.ToLower(r)}]++
	}
	return ok
}

// misled finds people who were told of messages that were not theirs.
func (r *Report) misled(u User, told reports, h *History) {
	var list []string
	author := map[ID]string{}
	for _, s := range h.Sent() {
		author[s.ID] = s.Author
	}
	for d := range told {
		if author[d.ID] != u.Address {
			list = append(list, fmt.Sprintf("%s was told that %s for %s failed, of which %q is the author", u.Address, d.ID, d.Recipient, author[d.ID]))
		}
	}
	slices.Sort(list)
	r.Wrong = append(r.Wrong, list...)
}
