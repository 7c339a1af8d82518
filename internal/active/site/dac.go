package site

import (
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/org"
)

// Facts are what Next looks at.
type Facts struct {
	Me         org.ServerName
	Generation int64 // of the agreed state as this server has it
	// Newer is the newest generation that a member was heard to be of, where that
	// is above Generation.
	Newer   int64
	Members []Member // this server too
	// Stopped are the sites that a person stopped.
	Stopped []org.SiteName
	// Allowed tells that a person let this run of the server lead.
	Allowed bool
}

// Member is a server of the group as this one hears it.
type Member struct {
	Name       org.ServerName
	Site       org.SiteName
	Witness    bool
	GivenUp    bool // by a forced activation, and not back since
	Heard      bool
	Generation int64 // as it tells
	Bit        bool  // as it tells
}

// Next is whether this server may lead from now on, and in one sentence why.
// bit is what it was; it is false when a server starts.
func Next(f Facts, bit bool) (bool, string) {
	me, ok := f.member(f.Me)
	switch {
	case !ok:
		return false, "this server is not a member as far as it knows"
	case f.Newer > f.Generation:
		return false, fmt.Sprintf("the group went on without this server: generation %d, here %d", f.Newer, f.Generation)
	case f.stopped(me.Site):
		return false, fmt.Sprintf("site %s is stopped", me.Site)
	case f.sites() < 2:
		return true, "all mailbox servers stand in one site"
	case bit:
		return true, "it was allowed before, and did not start anew since"
	case f.Allowed:
		return true, "a person allowed it"
	}
	var silent []string
	for _, m := range f.Members {
		switch {
		case m.Name == f.Me || m.GivenUp || f.stopped(m.Site):
		case !m.Heard || m.Generation != f.Generation:
			silent = append(silent, string(m.Name))
		case m.Bit:
			return true, fmt.Sprintf("%s is allowed to, and is heard", m.Name)
		}
	}
	if len(silent) == 0 {
		return true, "every server of the started sites is heard: the whole group starts"
	}
	return false, fmt.Sprintf("it started and nobody it hears is allowed to lead; not heard: %s", strings.Join(silent, " "))
}

func (f Facts) member(s org.ServerName) (Member, bool) {
	i := slices.IndexFunc(f.Members, func(m Member) bool { return m.Name == s })
	if i < 0 {
		return Member{}, false
	}
	return f.Members[i], true
}

func (f Facts) stopped(s org.SiteName) bool { return slices.Contains(f.Stopped, s) }

// sites counts the sites with mailbox servers.
func (f Facts) sites() int {
	seen := map[org.SiteName]bool{}
	for _, m := range f.Members {
		if !m.Witness {
			seen[m.Site] = true
		}
	}
	return len(seen)
}
