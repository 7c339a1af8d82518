package reseed

import (
	"cmp"
	"slices"

	"github.com/postern-mail/postern/internal/org"
)

// Need is a copy that has to be seeded.
type Need struct {
	Database org.DatabaseName
	Sources  []Source
}

// Source is a copy that could give the log.
type Source struct {
	Server   org.ServerName
	Active   bool
	SameSite bool
	Healthy  bool // and in sync
	Busy     int  // seeds it gives already
}

// Sources chooses where each copy is seeded from: databases with the fewest
// healthy copies first; a source in the same site before others, then the one
// with the fewest streams, then a passive copy before the active one. A
// database without a healthy source is missing from the answer.
func Sources(needs []Need) map[org.DatabaseName]org.ServerName {
	out := map[org.DatabaseName]org.ServerName{}
	load := map[org.ServerName]int{}
	healthy := func(n Need) []Source {
		return slices.DeleteFunc(slices.Clone(n.Sources), func(s Source) bool { return !s.Healthy })
	}
	order := slices.Clone(needs)
	slices.SortStableFunc(order, func(a, b Need) int {
		return cmp.Or(cmp.Compare(len(healthy(a)), len(healthy(b))), cmp.Compare(a.Database, b.Database))
	})
	for _, n := range order {
		all := healthy(n)
		if len(all) == 0 {
			continue
		}
		s := slices.MinFunc(all, func(a, b Source) int {
			return cmp.Or(before(a.SameSite, b.SameSite), cmp.Compare(a.Busy+load[a.Server], b.Busy+load[b.Server]),
				before(!a.Active, !b.Active), cmp.Compare(a.Server, b.Server))
		})
		out[n.Database] = s.Server
		load[s.Server]++
	}
	return out
}

// before puts what is true first.
func before(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}
