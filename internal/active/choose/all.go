package choose

import (
	"cmp"
	"maps"
	"slices"

	"github.com/postern-mail/postern/internal/org"
)

// ChooseAll decides about many databases in one pass, for example all of a lost
// server. active counts the databases active on each server now; the counts
// grow as it decides, so that no maximum is passed. Those with the fewest
// copies to choose from come first. Decisions stand in the order of the
// questions, and do not depend on it.
func ChooseAll(qs []Question, active map[org.ServerName]int) []Decision {
	counts := maps.Clone(active)
	if counts == nil {
		counts = map[org.ServerName]int{}
	}
	choices := make([]int, len(qs))
	order := make([]int, len(qs))
	for i, q := range qs {
		order[i], choices[i] = i, q.choices()
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(choices[a], choices[b]), cmp.Compare(qs[a].Database, qs[b].Database))
	})
	out := make([]Decision, len(qs))
	for _, i := range order {
		q := qs[i]
		q.Candidates = slices.Clone(q.Candidates)
		for j := range q.Candidates {
			q.Candidates[j].ActiveNow = counts[q.Candidates[j].Server]
		}
		out[i] = Choose(q)
		if t := out[i].Target; t != "" {
			counts[t]++
			if q.Source != "" {
				counts[q.Source]--
			}
		}
	}
	return out
}

// choices counts the copies that hold everything and are not excluded; a
// database without any has a lossy mount at best.
func (q Question) choices() int {
	n := 0
	for _, c := range q.Candidates {
		if c.InSync && q.excludes(c) == "" {
			n++
		}
	}
	return n
}
