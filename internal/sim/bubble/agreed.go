package bubble

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// leaseTTL is how long a server's lease counts without a sign of life.
const leaseTTL = 2 * time.Second

// viewsKept are how many of the last views a server that lags may still be given.
const viewsKept = 256

// agreed is the group's agreed state: all servers vote.
type agreed struct {
	l     *links
	rnd   *random
	names []org.ServerName
	blind bool // compare and swap does not compare: a promise broken on purpose
	// violate is told what rows do that they may not.
	violate func(format string, args ...any)

	mu     sync.Mutex // guards the rest
	rows   map[string]cluster.Item
	rev    int64
	views  []seen // by revision, the last viewsKept
	leader org.ServerName
	elect  time.Time // when the next one may be found, zero while there is one
	leases map[org.ServerName]time.Time
	terms  map[term]org.ServerName // who was active, by all rows there ever were
}

// seen is a view with the moment it came about.
type seen struct {
	view *cluster.View
	at   time.Time
}

// term names one term of a database.
type term struct {
	db org.DatabaseName
	n  org.Term
}

func newAgreed(l *links, r *random, names []org.ServerName, violate func(string, ...any)) *agreed {
	a := &agreed{l: l, rnd: r, names: names, violate: violate, rows: map[string]cluster.Item{}, leases: map[org.ServerName]time.Time{},
		terms: map[term]org.ServerName{}}
	a.views = []seen{{cluster.NewView(0, nil), time.Now()}}
	return a
}

// put writes a row without asking anybody.
func (a *agreed) put(key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.apply([]cluster.Op{{Key: key, Value: b}})
	return nil
}

// apply makes one change. a.mu is held.
func (a *agreed) apply(ops []cluster.Op) {
	a.rev++
	for _, o := range ops {
		if o.Delete {
			delete(a.rows, o.Key)
			continue
		}
		a.judge(o)
		a.rows[o.Key] = cluster.Item{Value: o.Value, Revision: a.rev}
	}
	a.views = append(a.views, seen{cluster.NewView(a.rev, maps.Clone(a.rows)), time.Now()})
	if n := len(a.views) - viewsKept; n > 0 {
		a.views = slices.Delete(a.views, 0, n)
	}
}

// judge looks whether a mount row may follow the one before (G3). a.mu is held.
func (a *agreed) judge(o cluster.Op) {
	if !strings.HasPrefix(o.Key, "mounts/") {
		return
	}
	var before, now org.Mount
	if json.Unmarshal(o.Value, &now) != nil {
		a.violate("G3: a mount row that nobody can read")
		return
	}
	_ = json.Unmarshal(a.rows[o.Key].Value, &before) // none at first
	if now.Term < before.Term {
		a.violate("G3: the term of %s went from %d back to %d", now.Database, before.Term, now.Term)
	}
	t := term{now.Database, now.Term}
	if was, ok := a.terms[t]; ok && was != now.Active {
		a.violate("G3: term %d of %s has two active servers, %q and %q", now.Term, now.Database, was, now.Active)
	}
	a.terms[t] = now.Active
}

// commit is a transaction at the leader.
func (a *agreed) commit(t cluster.Txn) (int64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range t.If {
		it, ok := a.rows[c.Key]
		if a.blind {
			continue
		}
		if c.Revision == -1 && !ok || c.Revision >= 0 && it.Revision != c.Revision {
			return a.rev, kind.Errorf(kind.Conflict, "commit: %s has changed", c.Key)
		}
	}
	a.apply(t.Then)
	return a.rev, nil
}

// active is who the row of a term named.
func (a *agreed) active(t term) org.ServerName {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.terms[t]
}

// newest is the view as of a moment.
func (a *agreed) newest(asOf time.Time) *cluster.View {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := len(a.views) - 1; i > 0; i-- {
		if !a.views[i].at.After(asOf) {
			return a.views[i].view
		}
	}
	return a.views[0].view
}

func (a *agreed) revision() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.rev
}

// mount is the row of a database as it is.
func (a *agreed) mount(db org.DatabaseName) org.Mount {
	m, _ := a.newest(time.Now()).Mount(db)
	return m
}

// majority tells whether a server reaches more than half of all.
func (a *agreed) majority(s org.ServerName) bool {
	n := 0
	for _, o := range a.names {
		if a.l.answers(o) != nil && a.l.passes(s, o) && a.l.passes(o, s) {
			n++
		}
	}
	return a.l.answers(s) != nil && 2*n > len(a.names)
}

// reached tells whether a server can change the agreed state now.
func (a *agreed) reached(s org.ServerName) bool {
	a.mu.Lock()
	leader := a.leader
	a.mu.Unlock()
	return leader != "" && a.l.answers(s) != nil && a.l.passes(s, leader) && a.l.passes(leader, s) && a.majority(leader)
}

// turn holds elections and ends leases.
func (a *agreed) turn(now time.Time) {
	a.mu.Lock()
	leader, due := a.leader, a.elect
	a.mu.Unlock()
	if leader != "" && !a.majority(leader) {
		leader = ""
		due = now.Add(a.rnd.between(250*time.Millisecond, 900*time.Millisecond))
	} else if leader == "" && !now.Before(due) {
		if can := a.able(func(org.ServerName) bool { return true }); len(can) > 0 {
			leader = can[a.rnd.intN(len(can))]
			a.renewAll(now)
		}
	} else if leader != "" && a.heldBack(leader, now) {
		// It gives the lead away.
		if can := a.able(func(s org.ServerName) bool { return !a.heldBack(s, now) }); len(can) > 0 {
			leader = can[a.rnd.intN(len(can))]
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.leader, a.elect = leader, due
	if leader == "" {
		return
	}
	for _, s := range slices.Sorted(maps.Keys(a.leases)) {
		if now.After(a.leases[s]) {
			delete(a.leases, s)
			a.apply([]cluster.Op{{Key: liveKey(s), Delete: true}})
		}
	}
}

// able are the servers that can lead and are fit.
func (a *agreed) able(fit func(org.ServerName) bool) []org.ServerName {
	var can []org.ServerName
	for _, s := range a.names {
		if a.majority(s) && fit(s) {
			can = append(can, s)
		}
	}
	return can
}

// renewAll gives every lease its whole time again, as a new leader does.
func (a *agreed) renewAll(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for s := range a.leases {
		a.leases[s] = now.Add(leaseTTL)
	}
}

// renew is a server's sign of life.
func (a *agreed) renew(s org.ServerName, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.leases[s] = now.Add(leaseTTL)
	if _, ok := a.rows[liveKey(s)]; !ok {
		a.apply([]cluster.Op{{Key: liveKey(s), Value: []byte("{}")}})
	}
}

// withdraw ends a lease.
func (a *agreed) withdraw(s org.ServerName) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.leases[s]; ok {
		delete(a.leases, s)
		a.apply([]cluster.Op{{Key: liveKey(s), Delete: true}})
	}
}

func liveKey(s org.ServerName) string { return "live/" + string(s) }
