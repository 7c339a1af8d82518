package load

import (
	"fmt"
	"slices"
	"strings"
)

// State is where a message of a session is and what flags it has. The zero
// State is "nowhere".
type State struct {
	Folder string
	Flags  string // sorted, joined by spaces
}

func (s State) String() string {
	if s.Folder == "" {
		return "nowhere"
	}
	return fmt.Sprintf("%s (%s)", s.Folder, s.Flags)
}

// flagsOf is the one spelling of a set of flags.
func flagsOf(flags []string) string {
	f := slices.Clone(flags)
	for i := range f {
		f[i] = strings.ToLower(f[i])
	}
	f = slices.DeleteFunc(f, func(s string) bool { return s == `\recent` })
	slices.Sort(f)
	return strings.Join(slices.Compact(f), " ")
}

// Tracked is a message that a session changes: the states it may be in. One is
// certain; two are possible while a change was asked for and not answered.
type Tracked struct {
	ID     ID
	Sum    Sum
	User   string
	States []State
}

// allows tells whether the message may be found so.
func (t Tracked) allows(s State) bool { return slices.Contains(t.States, s) }

// Track notes that a message may be in one of the states from now on.
func (h *History) Track(id ID, sum Sum, user string, states ...State) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tracked[id] = &Tracked{id, sum, user, slices.Clone(states)}
}

// trackedOf returns copies of what is tracked for a user.
func (h *History) trackedOf(user string) map[ID]Tracked {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[ID]Tracked{}
	for id, t := range h.tracked {
		if t.User == user {
			out[id] = Tracked{t.ID, t.Sum, t.User, slices.Clone(t.States)}
		}
	}
	return out
}

// sentTo returns copies of the messages sent to a user.
func (h *History) sentTo(user string) map[ID]Sent {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[ID]Sent{}
	for id, s := range h.sent {
		if slices.Contains(s.Recipients, user) {
			out[id] = *s
		}
	}
	return out
}
