package shadow

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// Facts are what is known of a server's queue when it is judged.
type Facts struct {
	Row    org.QueueRow
	Self   bool // it is the server that judges
	Failed bool // its disk failed; known of itself only
	Member bool
	// Lost is how long it is dead for the group, and its lease over; 0 where it
	// is not.
	Lost          time.Duration
	WhyDead       string
	TakeoverAfter time.Duration
}

// Decision is what to do: Fence is to write TakenUpTo = Epoch into its row.
type Decision struct {
	Fence bool
	Why   string
}

// Judge decides whether the messages of a server are to be taken over.
func Judge(f Facts) Decision {
	switch {
	case f.Row.Fenced():
		return Decision{}
	case f.Self && f.Failed:
		return Decision{true, "the disk of its queue failed"}
	case f.Self:
		return Decision{}
	case !f.Member:
		return Decision{true, "it was removed from the group"}
	case f.Lost > 0 && f.Lost >= f.TakeoverAfter:
		return Decision{true, f.WhyDead}
	}
	return Decision{}
}

// Candidate is a server that could hold a copy.
type Candidate struct {
	Server org.ServerName
	Remote bool  // of another site
	Bytes  int64 // its queue holds
}

// Order is the order in which candidates are asked: the preferred server
// first, then as the settings say, those with less to hold rather sooner.
func Order(cs []Candidate, prefer org.ServerName, g settings.Group) []org.ServerName {
	var first, local, remote []Candidate
	for _, c := range cs {
		switch {
		case c.Remote && g.ShadowPreference == "local_only", !c.Remote && g.ShadowPreference == "remote_only":
		case c.Server == prefer:
			first = append(first, c)
		case c.Remote:
			remote = append(remote, c)
		default:
			local = append(local, c)
		}
	}
	local, remote = spread(local, g.RetriesLocalSite), spread(remote, g.RetriesRemoteSite)
	var out []org.ServerName
	for _, c := range slices.Concat(first, remote, local) {
		out = append(out, c.Server)
	}
	return out
}

// spread puts n of the candidates in an order in which each is the one of two
// random ones that holds less.
func spread(cs []Candidate, n int) []Candidate {
	rand.Shuffle(len(cs), func(i, j int) { cs[i], cs[j] = cs[j], cs[i] })
	for i := 0; i+1 < len(cs); i++ {
		if cs[i+1].Bytes < cs[i].Bytes {
			cs[i], cs[i+1] = cs[i+1], cs[i]
		}
	}
	return cs[:min(max(n, 0), len(cs))]
}

// copyRank orders copies that are to be taken; the greatest goes on.
type copyRank struct {
	epoch  uint64
	try    uint8
	server org.ServerName
}

func (r copyRank) before(o copyRank) bool {
	return cmp.Or(cmp.Compare(r.epoch, o.epoch), cmp.Compare(r.try, o.try), cmp.Compare(r.server, o.server)) < 0
}

// step is what to do with a message that is claimed.
type step uint8

const (
	stepWait   step = iota // somebody else is about to go on with it
	stepGo                 // it is this server's
	stepYield              // somebody else owns it
	stepFinish             // it is finished elsewhere
	stepVoid               // it was never confirmed
)

// weighHeld decides about a copy that is to be taken, by what the other servers
// said. by is whose word it follows.
func weighHeld(mine copyRank, said map[org.ServerName]claim) (s step, by org.ServerName) {
	s = stepGo
	for _, from := range sortedNames(said) {
		c := said[from]
		switch c.State {
		case claimFinished:
			return stepFinish, from
		case claimVoid:
			return stepVoid, from
		case claimOwned:
			s, by = stepYield, from
		case claimFenced:
			if s == stepGo && mine.before(copyRank{c.Epoch, c.Try, from}) {
				s, by = stepWait, from
			}
		}
	}
	return s, by
}

// weighOwn decides about an own message that is fenced.
func weighOwn(me org.ServerName, said map[org.ServerName]claim) (s step, by org.ServerName) {
	s = stepGo
	for _, from := range sortedNames(said) {
		c := said[from]
		switch c.State {
		case claimFinished:
			return stepFinish, from
		case claimOwned:
			s, by = stepYield, from
		case claimFenced:
			if s == stepGo {
				s, by = stepWait, from
			}
		case claimReconciling:
			if s == stepGo && from < me {
				s, by = stepWait, from
			}
		}
	}
	return s, by
}

func sortedNames(said map[org.ServerName]claim) []org.ServerName {
	var out []org.ServerName
	for s := range said {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}
