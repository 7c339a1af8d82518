package active

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/active/choose"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// decisionsPrefix is what the rows of decisions begin with. A database has
// decisionsKept of them, which are used in turn.
const (
	decisionsPrefix = "decisions/"
	decisionsKept   = 8
)

// Explained is a decision with everything it was made from, as it is kept.
type Explained struct {
	Number   int             `json:"number"` // grows by one for each decision about the database
	At       time.Time       `json:"at"`
	By       org.ServerName  `json:"by"`
	Why      string          `json:"why"` // what made it necessary
	Term     org.Term        `json:"term,omitempty"`
	Question choose.Question `json:"question"`
	Decision choose.Decision `json:"decision"`
	Result   string          `json:"result,omitempty"`
	Took     time.Duration   `json:"took,omitempty"`
}

// ID names the decision.
func (e Explained) ID() string { return fmt.Sprintf("%s-%d", e.Question.Database, e.Number) }

// Sentences tells the decision: what was asked, what was chosen, and for each
// other copy why it was not.
func (e Explained) Sentences() []string {
	q, d := e.Question, e.Decision
	head := fmt.Sprintf("%s: %s from %s, decided by %s: %s", e.ID(), q.Purpose, cmp.Or(q.Source, "nobody"), e.By, e.Why)
	if q.To != "" {
		head += fmt.Sprintf("; to %s as ordered", q.To)
	}
	if q.Failing != "" {
		head += fmt.Sprintf("; %s has to be better on the target", q.Failing)
	}
	out := []string{head}
	if d.Target == "" {
		out = append(out, "no copy was activated")
	} else {
		out = append(out, fmt.Sprintf("activated on %s, term %d: %s", d.Target, e.Term, d.Why))
	}
	for _, p := range d.Passed {
		s := fmt.Sprintf("not %s: %s", p.Server, p.Why)
		if p.Round > 0 {
			s += fmt.Sprintf(" (%s, round %d)", p.Level, p.Round)
		}
		out = append(out, s)
	}
	for _, w := range d.Warnings {
		out = append(out, "warning: "+w)
	}
	switch {
	case d.Target == "":
	case e.Result == mounted:
		out = append(out, fmt.Sprintf("mounted %s after the decision", e.Took.Round(time.Millisecond)))
	case e.Result != "":
		out = append(out, "result: "+e.Result)
	default:
		out = append(out, "not yet reported as mounted")
	}
	return out
}

// same tells that two decisions say the same, but for numbers that grow by
// themselves.
func (e Explained) same(o Explained) bool {
	return digitless(e.Why+e.Decision.String()) == digitless(o.Why+o.Decision.String())
}

func digitless(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, s)
}

// decisionKey is the row of a decision.
func decisionKey(db org.DatabaseName, number int) string {
	return fmt.Sprintf("%s%s/%d", decisionsPrefix, db, number%decisionsKept)
}

// decisionsOf reads what is kept of decisions about a database, oldest first.
func decisionsOf(v *cluster.View, db org.DatabaseName) []Explained {
	var out []Explained
	for _, it := range v.Prefix(decisionsPrefix + string(db) + "/") {
		var e Explained
		if json.Unmarshal(it.Value, &e) == nil {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b Explained) int { return cmp.Compare(a.Number, b.Number) })
	return out
}

// Decisions returns what is known of the newest decisions about a database,
// oldest first.
func (m *Manager) Decisions(db org.DatabaseName) []Explained { return decisionsOf(m.group.View(), db) }

// explainedOp is the row of a decision, with its number.
func (m *Manager) explainedOp(v *cluster.View, e Explained) (cluster.Op, int, error) {
	db := e.Question.Database
	e.Number = 1
	if old := decisionsOf(v, db); len(old) > 0 {
		e.Number = old[len(old)-1].Number + 1
	}
	b, err := json.Marshal(e)
	return cluster.Op{Key: decisionKey(db, e.Number), Value: b}, e.Number, err
}

// Why is one sentence about a decision; the first of each decision carries
// what it was made from.
type Why struct {
	Time     *time.Time `json:"time,omitempty" col:"TIME"`
	Sentence string     `json:"sentence" col:"SENTENCE"`
	Decision *Explained `json:"decision,omitempty" col:"-"`
}

// why tells the last decisions about a database, newest first, and how it
// stands now.
func (m *Manager) why(db org.DatabaseName, last int) ([]Why, error) {
	v := m.group.View()
	if _, ok := v.Database(db); !ok {
		return nil, kind.WithHint(kind.Errorf(kind.NotFound, "database %s does not exist", db), "postern database list")
	}
	var out []Why
	all := decisionsOf(v, db)
	for i := range slices.Backward(all) {
		if len(all)-i > last {
			break
		}
		for n, s := range all[i].Sentences() {
			if n == 0 {
				out = append(out, Why{Time: &all[i].At, Sentence: s, Decision: &all[i]})
				continue
			}
			out = append(out, Why{Sentence: "  " + s})
		}
	}
	if len(out) == 0 {
		mt, _ := v.Mount(db)
		out = append(out, Why{Sentence: fmt.Sprintf("%s is active on %s since its first mount: nothing was decided yet", db, cmp.Or(mt.Active, "nobody"))})
	}
	return out, nil
}
