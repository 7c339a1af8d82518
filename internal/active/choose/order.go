package choose

import (
	"cmp"
	"fmt"
)

// criterion is one thing by which candidates are ordered.
type criterion struct {
	compare func(q Question, a, b ranked) int
	says    func(b ranked) string // why b is behind
}

// criteria order candidates, best first: the first that differs decides.
var criteria = []criterion{
	{func(_ Question, a, b ranked) int { return boolFirst(a.InSync, b.InSync) },
		func(ranked) string { return "not in sync" }},
	{func(q Question, a, b ranked) int { return cmp.Compare(q.avoided(a), q.avoided(b)) },
		func(b ranked) string { return b.backOff() }},
	{func(q Question, a, b ranked) int { return cmp.Compare(q.healthOf(a), q.healthOf(b)) },
		func(b ranked) string { return cmp.Or(b.worst, b.level.String()) }},
	{func(_ Question, a, b ranked) int { return cmp.Compare(a.round, b.round) },
		func(b ranked) string { return b.describe() }},
	{func(q Question, a, b ranked) int { return boolFirst(!q.crowded(a), !q.crowded(b)) },
		func(b ranked) string {
			return fmt.Sprintf("its server has as many active databases as preferred, %d", b.MaximumPreferred)
		}},
	{func(q Question, a, b ranked) int { return boolFirst(!q.abroad(a), !q.abroad(b)) },
		func(b ranked) string { return "it is in site " + string(b.Site) }},
	{func(_ Question, a, b ranked) int { return cmp.Compare(a.queue(), b.queue()) },
		func(b ranked) string { return fmt.Sprintf("%d log generations missing", b.Missing) }},
	{func(_ Question, a, b ranked) int { return cmp.Compare(a.Preference, b.Preference) },
		func(b ranked) string { return fmt.Sprintf("preference %d", b.Preference) }},
	{func(_ Question, a, b ranked) int { return cmp.Compare(a.ActiveNow, b.ActiveNow) },
		func(b ranked) string { return fmt.Sprintf("%d databases are active there", b.ActiveNow) }},
	{func(_ Question, a, b ranked) int { return cmp.Compare(a.ReplayQueue, b.ReplayQueue) },
		func(b ranked) string { return fmt.Sprintf("replay queue %d", b.ReplayQueue) }},
	{func(_ Question, a, b ranked) int { return cmp.Compare(a.Server, b.Server) },
		func(ranked) string { return "by name" }},
}

// compare orders candidates, best first.
func (q Question) compare(a, b ranked) int {
	for _, c := range criteria {
		if n := c.compare(q, a, b); n != 0 {
			return n
		}
	}
	return 0
}

// behind says by what b comes after a.
func (q Question) behind(a, b ranked) string {
	for _, c := range criteria {
		if c.compare(q, a, b) != 0 {
			return c.says(b)
		}
	}
	return ""
}

// avoided is how long a server is to be avoided yet; the shortest comes first
// where nothing else is left.
func (q Question) avoided(r ranked) int64 {
	if q.Skip.Suppression {
		return 0
	}
	return int64(r.BackOff)
}

func (q Question) healthOf(r ranked) Level {
	if q.Skip.Health {
		return 0
	}
	return r.level
}

func (q Question) crowded(r ranked) bool { return !q.Skip.Maximum && r.overPreferred() }

func (q Question) abroad(r ranked) bool { return q.PreferSite && q.Site != "" && r.Site != q.Site }

func (c Candidate) overPreferred() bool {
	return c.MaximumPreferred > 0 && c.ActiveNow >= c.MaximumPreferred
}

func boolFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}
