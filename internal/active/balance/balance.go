// Package balance works out, from values alone, which databases should be
// active elsewhere so that each is on its preferred copy and no server has many
// more than the others (Exchange: RedistributeActiveDatabases.ps1), and when
// that may be done without anybody asking for it (Window).
//
// It promises that a plan moves a database only to a copy that is fit, at most
// once, and never over a server's maximum; that it does not depend on the
// order of its arguments; and that a plan made from the outcome of one is empty
// where no maximum stands in the way.
package balance

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/postern-mail/postern/internal/org"
)

// By is what databases are spread by.
type By string

// Ways to spread.
const (
	// Preference moves each database to its most preferred copy that is fit.
	Preference By = "preference"
	// Site does so within the sites first: a database stays in the site of its
	// most preferred copy as long as a copy there is fit, and servers of a site
	// share what is active in it evenly.
	Site By = "site"
)

// Rules are how a plan is made.
type Rules struct {
	By By
	// Deviation is by how many percent of the mean a server may have more
	// databases than the mean, rounded up to whole databases; negative where
	// preferences alone count.
	Deviation int
}

// Copy is one copy of a database.
type Copy struct {
	Server     org.ServerName
	Preference int
	// Fit tells that it may become the active one; the active one is fit.
	Fit bool
}

// DB is a database and where it is active.
type DB struct {
	Name   org.DatabaseName
	Active org.ServerName
	Copies []Copy
}

// Server is a server that databases may be active on. Maximum is 0 for none.
type Server struct {
	Name    org.ServerName
	Site    org.SiteName
	Maximum int
}

// Move is one step of a plan.
type Move struct {
	Database org.DatabaseName
	From, To org.ServerName
	Why      string
}

// Plan lists the moves: first each database goes to the best of its copies,
// then from servers above the allowed number to others below the mean.
func Plan(dbs []DB, servers []Server, r Rules) []Move {
	p := newPlanner(dbs, servers, r)
	for i := range p.dbs {
		p.prefer(i)
	}
	if r.Deviation >= 0 {
		p.level()
	}
	return p.moves()
}

type planner struct {
	r     Rules
	sites map[org.ServerName]org.SiteName
	most  map[org.ServerName]int
	count map[org.ServerName]int
	dbs   []DB
	at    []org.ServerName // where each is to be
	why   []string
}

func newPlanner(dbs []DB, servers []Server, r Rules) *planner {
	p := &planner{r: r, sites: map[org.ServerName]org.SiteName{}, most: map[org.ServerName]int{}, count: map[org.ServerName]int{}}
	for _, s := range servers {
		p.sites[s.Name], p.most[s.Name] = s.Site, s.Maximum
		p.count[s.Name] = 0
	}
	p.dbs = slices.Clone(dbs)
	slices.SortFunc(p.dbs, func(a, b DB) int { return cmp.Compare(a.Name, b.Name) })
	for i, d := range p.dbs {
		p.dbs[i].Copies = slices.SortedFunc(slices.Values(d.Copies), func(a, b Copy) int {
			return cmp.Or(cmp.Compare(a.Preference, b.Preference), cmp.Compare(a.Server, b.Server))
		})
		p.count[d.Active]++
	}
	p.at, p.why = make([]org.ServerName, len(p.dbs)), make([]string, len(p.dbs))
	for i, d := range p.dbs {
		p.at[i] = d.Active
	}
	return p
}

// full tells that a server takes no more.
func (p *planner) full(s org.ServerName) bool { return p.most[s] > 0 && p.count[s] >= p.most[s] }

func (p *planner) put(i int, to org.ServerName, why string) {
	p.count[p.at[i]]--
	p.count[to]++
	p.at[i], p.why[i] = to, why
}

// prefer brings a database to the first of its copies that is fit.
func (p *planner) prefer(i int) {
	for _, c := range p.order(p.dbs[i]) {
		if c.Server == p.at[i] {
			return
		}
		if _, known := p.most[c.Server]; known && c.Fit && !p.full(c.Server) {
			p.put(i, c.Server, fmt.Sprintf("preference %d", c.Preference))
			return
		}
	}
}

// order is in which order the copies of a database are wanted.
func (p *planner) order(d DB) []Copy {
	out := slices.Clone(d.Copies)
	if p.r.By != Site || len(out) == 0 {
		return out
	}
	home := p.sites[out[0].Server]
	slices.SortStableFunc(out, func(a, b Copy) int {
		return cmp.Compare(b2i(p.sites[a.Server] != home), b2i(p.sites[b.Server] != home))
	})
	return out
}

// level takes databases from servers that have too many.
func (p *planner) level() {
	for range p.dbs { // each pass moves one at most
		from := p.fullest()
		if from == "" || !p.relieve(from) {
			return
		}
	}
}

// group are the servers among which databases are shared evenly.
func (p *planner) group(s org.ServerName) []org.ServerName {
	var out []org.ServerName
	for o := range p.most {
		if p.r.By != Site || p.sites[o] == p.sites[s] {
			out = append(out, o)
		}
	}
	slices.Sort(out)
	return out
}

// allowed is how many databases a server may have.
func (p *planner) allowed(s org.ServerName) int {
	g, sum := p.group(s), 0
	for _, o := range g {
		sum += p.count[o]
	}
	mean := float64(sum) / float64(max(len(g), 1))
	return int(math.Ceil(mean * (1 + float64(p.r.Deviation)/100)))
}

// fullest is the server furthest above what it may have.
func (p *planner) fullest() org.ServerName {
	best, over := org.ServerName(""), 0
	for s := range p.most {
		o := p.count[s] - p.allowed(s)
		if o > over || o == over && o > 0 && s < best {
			best, over = s, o
		}
	}
	return best
}

// relieve moves one database away from a server: the one whose other copy is
// most wanted, to the emptiest server, if that has at least two fewer.
func (p *planner) relieve(from org.ServerName) bool {
	bestDB, bestTo, key := -1, org.ServerName(""), [2]int{math.MaxInt, math.MaxInt}
	in := p.group(from)
	for i, d := range p.dbs {
		if p.at[i] != from {
			continue
		}
		for _, c := range d.Copies {
			if !slices.Contains(in, c.Server) || !c.Fit || c.Server == from || p.full(c.Server) || p.count[c.Server]+1 >= p.count[from] {
				continue
			}
			if k := [2]int{p.count[c.Server], c.Preference}; slices.Compare(k[:], key[:]) < 0 {
				bestDB, bestTo, key = i, c.Server, k
			}
		}
	}
	if bestDB < 0 {
		return false
	}
	p.put(bestDB, bestTo, fmt.Sprintf("%s has %d active databases, at most %d by the deviation", from, p.count[from], p.allowed(from)))
	return true
}

func (p *planner) moves() []Move {
	var out []Move
	for i, d := range p.dbs {
		if p.at[i] != d.Active {
			out = append(out, Move{d.Name, d.Active, p.at[i], p.why[i]})
		}
	}
	return out
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
