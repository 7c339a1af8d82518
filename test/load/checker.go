package load

import (
	"fmt"
	"io"
	"slices"

	"github.com/emersion/go-imap/v2"
)

// Report is what the Checker found.
type Report struct {
	Read     int // messages read back
	Expected int // confirmed messages times recipients, and tracked ones
	Lost     []string
	Doubled  []string
	Damaged  []string
	Wrong    []string // flags or folder not as confirmed, watchers that missed or repeated something
	Outside  outsideReport
}

// Good tells that nothing is wrong.
func (r Report) Good() bool {
	return len(r.Lost)+len(r.Doubled)+len(r.Damaged)+len(r.Wrong) == 0
}

// Print writes the report for people; of each list the first ten.
func (r Report) Print(w io.Writer) {
	fmt.Fprintf(w, "read back %d messages, %d had to be there: lost %d, doubled %d, damaged %d, wrong state or view %d\n",
		r.Read, r.Expected, len(r.Lost), len(r.Doubled), len(r.Damaged), len(r.Wrong))
	if o := r.Outside; o != (outsideReport{}) {
		fmt.Fprintf(w, "recipients outside: %d have their message, %d had it returned; %d of them have it more than once by the ledger's own word (%d where no host outside was to blame); %d were refused at the door\n",
			o.Delivered, o.Returned, o.Repeated, o.Ours, o.Refused)
		if o.Woken > 0 {
			fmt.Fprintf(w, "%d were refused by a server that was dead to the others, and delivered by them\n", o.Woken)
		}
	}
	for _, l := range []struct {
		name string
		list []string
	}{{"lost", r.Lost}, {"doubled", r.Doubled}, {"damaged", r.Damaged}, {"wrong", r.Wrong}} {
		for i, s := range l.list {
			if i == 10 {
				fmt.Fprintf(w, "  %s: and %d more\n", l.name, len(l.list)-10)
				break
			}
			fmt.Fprintf(w, "  %s: %s\n", l.name, s)
		}
	}
}

// found is a message as it was read back.
type found struct {
	state State
	sum   Sum
}

// Check reads all mailboxes of the target and compares them with the history.
// Clients must have stopped.
func Check(t *Target, h *History) (Report, error) { return CheckAll(t, h, nil) }

// CheckAll is Check, and compares what came out to the outside world as well.
func CheckAll(t *Target, h *History, o *Outside) (Report, error) {
	var r Report
	returned := map[Delivery]int{}
	for i, u := range t.Users {
		got, told, err := readMailbox(t, i, u)
		if err != nil {
			return r, fmt.Errorf("check %s: %w", u.Address, err)
		}
		r.compare(u, got, h)
		r.misled(u, told, h)
		for d, n := range told {
			returned[d] += n
		}
	}
	if o == nil {
		return r, nil
	}
	return r, o.check(&r, h, returned, t.localOf())
}

func (r *Report) compare(u User, got map[ID][]found, h *History) {
	for _, list := range got {
		r.Read += len(list)
	}
	for id, s := range h.sentTo(u.Address) {
		list := got[id]
		if s.Outcome == Confirmed {
			r.Expected++
			if len(list) == 0 {
				r.Lost = append(r.Lost, fmt.Sprintf("%s for %s", id, u.Address))
			}
		}
		r.copies(u, id, s.Sum, list)
	}
	for id, t := range h.trackedOf(u.Address) {
		list := got[id]
		r.copies(u, id, t.Sum, list)
		nowhere := t.allows(State{})
		if !nowhere {
			r.Expected++
		}
		switch {
		case len(list) == 0 && !nowhere:
			r.Lost = append(r.Lost, fmt.Sprintf("%s of %s, last known as %v", id, u.Address, t.States))
		case len(list) == 1 && !t.allows(list[0].state):
			r.Wrong = append(r.Wrong, fmt.Sprintf("%s of %s is %s, confirmed was %v", id, u.Address, list[0].state, t.States))
		}
	}
	r.watchers(u, got, h)
}

// copies looks at how often and how whole a message is there.
func (r *Report) copies(u User, id ID, sum Sum, list []found) {
	if len(list) > 1 {
		r.Doubled = append(r.Doubled, fmt.Sprintf("%s for %s is there %d times", id, u.Address, len(list)))
	}
	for _, f := range list {
		if f.sum != sum {
			r.Damaged = append(r.Damaged, fmt.Sprintf("%s for %s in %s: checksum %s, sent %s", id, u.Address, f.state.Folder, f.sum, sum))
		}
	}
}

// watchers have to have seen each message of INBOX exactly once.
func (r *Report) watchers(u User, got map[ID][]found, h *History) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, saw := range h.watched {
		if h.watcherOf[name] != u.Address {
			continue
		}
		for id, n := range saw {
			if n > 1 {
				r.Wrong = append(r.Wrong, fmt.Sprintf("%s was told of %s %d times", name, id, n))
			}
		}
		for id, list := range got {
			in := slices.ContainsFunc(list, func(f found) bool { return f.state.Folder == "INBOX" })
			if in && saw[id] == 0 {
				r.Wrong = append(r.Wrong, fmt.Sprintf("%s was never told of %s", name, id))
			}
		}
	}
}

// page is how many messages are read at a time: the client holds them in memory.
const page = 200

// readMailbox reads every message of this load in all folders of a user, and
// what the user was told of messages that could not be delivered.
func readMailbox(t *Target, n int, u User) (map[ID][]found, reports, error) {
	c, err := t.login(n, u, nil)
	if err != nil {
		return nil, nil, err
	}
	defer c.close()
	var folders []*imap.ListData
	if err := c.wait(func() (err error) { folders, err = c.client.List("", "*", nil).Collect(); return err }); err != nil {
		return nil, nil, err
	}
	out, told := map[ID][]found{}, reports{}
	for _, f := range folders {
		if slices.Contains(f.Attrs, imap.MailboxAttrNoSelect) {
			continue
		}
		if err := readFolder(c, f.Mailbox, out, told); err != nil {
			return nil, nil, fmt.Errorf("folder %s: %w", f.Mailbox, err)
		}
	}
	return out, told, nil
}

func readFolder(c *conn, folder string, out map[ID][]found, told reports) error {
	var sel *imap.SelectData
	err := c.wait(func() (err error) {
		sel, err = c.client.Select(folder, &imap.SelectOptions{ReadOnly: true}).Wait()
		return err
	})
	if err != nil {
		return err
	}
	for from := uint32(1); from <= sel.NumMessages; from += page {
		set := imap.SeqSet{imap.SeqRange{Start: from, Stop: min(from+page-1, sel.NumMessages)}}
		err := c.wait(func() error {
			list, err := c.client.Fetch(set, wholeMessage).Collect()
			for _, m := range list {
				raw := bodyOf(m)
				if told.add(raw) {
					continue
				}
				if id, sum, ok := Identify(raw); ok {
					out[id] = append(out[id], found{stateOf(folder, m), sum})
				}
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
