package networks

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// PathState is how a path to one server is.
type PathState struct {
	Network string
	Up      bool
	For     time.Duration // in that state
	RTT     time.Duration // 0 = not measured
}

// Use is what a path is wanted for.
type Use int

// Uses.
const (
	// Client is calls on behalf of somebody who waits.
	Client Use = iota
	// Replication is log shipping and seeding.
	Replication
)

// Order sorts the paths to a server, the one to use first. For replication
// come the networks that may replicate, by preference, the client's after the
// others, by round trip, by name; then those that may not: better slow than
// not at all. Paths that are down come last. last is the network in use: it is
// kept while it works and until a better one has worked for failback.
func Order(ps []PathState, nets []org.Network, use Use, last string, failback time.Duration) []string {
	rule := map[string]org.Network{}
	for _, n := range nets {
		rule[n.Name] = n
	}
	if failback == 0 {
		failback = org.DefaultFailback
	}
	keep := slices.ContainsFunc(ps, func(p PathState) bool { return p.Network == last && p.Up })
	ps = slices.Clone(ps)
	slices.SortStableFunc(ps, func(a, b PathState) int {
		return cmp.Or(
			cmp.Compare(b2i(!a.Up), b2i(!b.Up)),
			cmp.Compare(b2i(early(a, keep, last, failback)), b2i(early(b, keep, last, failback))),
			byRule(rule[a.Network], rule[b.Network], use),
			cmp.Compare(weight(a, last), weight(b, last)),
			cmp.Compare(b2i(a.Network != last), b2i(b.Network != last)),
			natural(a.Network, b.Network), cmp.Compare(a.Network, b.Network))
	})
	out := make([]string, len(ps))
	for i, p := range ps {
		out[i] = p.Network
	}
	return out
}

// early tells that a path has not worked for long enough to leave last for it.
func early(p PathState, keep bool, last string, failback time.Duration) bool {
	return keep && p.Network != last && p.For < failback
}

func byRule(a, b org.Network, use Use) int {
	client := cmp.Compare(b2i(a.Role == org.RoleClient), b2i(b.Role == org.RoleClient))
	if use == Client {
		return -client
	}
	rank := func(n org.Network) int {
		if n.Preference == 0 {
			return 1 << 30
		}
		return n.Preference
	}
	return cmp.Or(
		cmp.Compare(b2i(!a.Replication && a.Name != ""), b2i(!b.Replication && b.Name != "")),
		cmp.Compare(rank(a), rank(b)), client)
}

// weight is a round trip for comparing: whole milliseconds, and the path in
// use has a tenth and a millisecond in its favour, else streams would wander
// with the weather.
func weight(p PathState, last string) time.Duration {
	if p.Network == last {
		return max(0, p.RTT*9/10-time.Millisecond).Truncate(time.Millisecond)
	}
	return p.RTT.Truncate(time.Millisecond)
}

// State is how a network is (Exchange: the states of Get-DatabaseAvailabilityGroupNetwork).
type State string

// States of networks.
const (
	StateUp            State = "Up"
	StateDown          State = "Down"
	StatePartitioned   State = "Partitioned"   // some pairs of servers do not hear each other on it
	StateMisconfigured State = "Misconfigured" // a server has no address in it
	StateUnavailable   State = "Unavailable"   // ignored, or nobody stands in it
	StateUnknown       State = "Unknown"       // nothing was heard yet
)

// Link is what one server finds of the path to another in one network.
type Link struct {
	From, To org.ServerName
	Network  string
	Up       bool
}

// StateOf judges a network by what the servers find of each other on it, and
// says why. A server that nobody hears on any network is gone and not cut off, so
// it does not count.
func StateOf(n org.Network, servers []org.Server, links []Link) (State, string) {
	if n.Ignore {
		return StateUnavailable, "it is ignored"
	}
	heard := map[org.ServerName]bool{}
	for _, l := range links {
		if l.Up {
			heard[l.To] = true
		}
	}
	var in, out []string
	members := map[org.ServerName]bool{}
	for _, s := range servers {
		_, ok := place(s, n)
		// A server with a single address stands where clients reach it.
		ok = ok || n.Role == org.RoleClient && len(s.Interfaces) == 0
		switch {
		case ok && (heard[s.Name] || len(links) == 0):
			members[s.Name] = true
			in = append(in, string(s.Name))
		case !ok:
			out = append(out, string(s.Name))
		}
	}
	var up int
	var down []string
	for _, l := range links {
		if l.Network != n.Name || !members[l.From] || !members[l.To] {
			continue
		}
		if l.Up {
			up++
		} else {
			down = append(down, fmt.Sprintf("%s-%s", l.From, l.To))
		}
	}
	slices.Sort(down)
	switch {
	case len(in) < 2 && len(out) > 0 && len(in)+len(out) == len(servers):
		return StateUnavailable, "fewer than two servers stand in it"
	case up == 0 && len(down) == 0:
		return StateUnknown, "nobody was heard on it yet"
	case up == 0:
		return StateDown, "no server hears another on it"
	case len(down) > 0:
		return StatePartitioned, "not heard: " + strings.Join(down, " ")
	case len(out) > 0:
		return StateMisconfigured, "no address in it: " + strings.Join(out, " ")
	}
	return StateUp, strings.Join(in, " ")
}
