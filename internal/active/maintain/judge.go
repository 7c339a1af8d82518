package maintain

import (
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/org"
)

// Order is what somebody wants of a server.
type Order struct {
	Server org.ServerName `json:"server"`
	// AcceptSingle lets a database with two copies go on with one.
	AcceptSingle bool `json:"accept_single_copy,omitempty"`
	// Force goes on although messages stay in the queue.
	Force bool `json:"force,omitempty"`
	// Balance moves databases back to their preferred copies at the end.
	Balance bool   `json:"balance,omitempty"`
	By      string `json:"by,omitempty"`
	Why     string `json:"why,omitempty"`
}

// Spare is how many servers of a group may be in maintenance at the same time:
// one, and with more than six servers one less than a third.
func Spare(servers int) int {
	if servers <= 6 {
		return 1
	}
	return (servers+2)/3 - 1
}

// Judge tells why a server may not be taken out now, nothing where it may. It
// reads nothing but its arguments.
func Judge(f Facts, o Order) []string {
	self, ok := f.server(o.Server)
	if !ok {
		return []string{fmt.Sprintf("%s is not a member of the group", o.Server)}
	}
	var no []string
	if !self.Heard {
		no = append(no, fmt.Sprintf("%s is not heard: what was active there has been moved already, and nothing can be drained", o.Server))
	}
	var out []string
	votes, left := 0, 0
	for _, s := range f.Servers {
		if s.Out && s.Name != o.Server {
			out = append(out, string(s.Name))
		}
		if s.Voter {
			votes++
			if s.Heard && !s.Out && s.Name != o.Server {
				left++
			}
		}
	}
	if most := Spare(len(f.Servers)); len(out) >= most {
		no = append(no, fmt.Sprintf("%s in maintenance already, and a group of %d servers can spare %d", areOut(out), len(f.Servers), most))
	}
	if self.Voter && left < votes/2+1 {
		no = append(no, fmt.Sprintf("%d of %d votes would be left, %d are a majority", left, votes, votes/2+1))
	}
	for _, d := range f.Databases {
		if why := f.spares(d, o); why != "" {
			no = append(no, why)
		}
	}
	return no
}

func areOut(names []string) string {
	if len(names) == 1 {
		return names[0] + " is"
	}
	return strings.Join(names, ", ") + " are"
}

// spares tells why a database cannot do without the copy on a server.
func (f Facts) spares(d Database, o Order) string {
	if !slices.Contains(d.Copies, o.Server) {
		return ""
	}
	for to, from := range d.Seeding {
		if from == o.Server {
			return fmt.Sprintf("%s on %s is being seeded from %s", d.Name, to, o.Server)
		}
	}
	want, hint := d.Minimum, ""
	if n := len(d.Copies); n <= want {
		hint = fmt.Sprintf("; it has %d copies", n)
		if n == 2 {
			hint += ": --accept-single-copy lets it go on with one"
		}
		if o.AcceptSingle && n > 1 {
			want, hint = 1, ""
		}
	}
	var stay []string
	for _, s := range d.InSync {
		if m, ok := f.server(s); ok && s != o.Server && m.Heard && !m.Out {
			stay = append(stay, string(s))
		}
	}
	if len(stay) >= want {
		return ""
	}
	where := "nowhere"
	if len(stay) > 0 {
		where = "on " + strings.Join(stay, ", ") + " only"
	}
	return fmt.Sprintf("%s would be in sync %s, %d copies are wanted%s", d.Name, where, want, hint)
}

// Successor is the server that should take roles from another: one that lives,
// has no votes only as a witness, and is not held back, with the fewest active
// databases; empty where there is none.
func Successor(f Facts, of org.ServerName) org.ServerName {
	active := map[org.ServerName]int{}
	for _, d := range f.Databases {
		active[d.Active]++
	}
	best := org.ServerName("")
	for _, s := range f.Servers {
		if s.Name == of || s.Witness || !s.Heard || s.Out || s.HighAvailability != org.Active {
			continue
		}
		if best == "" || active[s.Name] < active[best] {
			best = s.Name
		}
	}
	return best
}
