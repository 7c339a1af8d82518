package active

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/active/balance"
	"github.com/postern-mail/postern/internal/active/choose"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// balanceAtOnce is how many databases balancing moves at the same time; nobody
// waits for it.
const balanceAtOnce = 4

// rebalanceSometimes moves databases back to where they should be inside the
// balance window, not more often than the settings say.
func (m *Manager) rebalanceSometimes(ctx context.Context, v *cluster.View) {
	now := time.Now()
	if m.cfg.PreferenceMoveFrequency < 0 || !m.window.Open(now) || m.damped(now) != "" {
		return
	}
	m.mu.Lock()
	due := m.balanced.IsZero() || now.Sub(m.balanced) >= m.cfg.PreferenceMoveFrequency
	if due {
		m.balanced = now
	}
	m.mu.Unlock()
	// Beside the loop: a move may wait for its target, a failover must not.
	if !due || !m.balancing.TryLock() {
		return
	}
	m.beside.Go(func() {
		defer m.balancing.Unlock()
		os := m.unbalanced(m.look(v), balance.Rules{By: balance.Preference, Deviation: -1})
		switch mode := m.recoveryMode(""); {
		case len(os) == 0 || mode == recoveryOff:
			return
		case mode == recoveryDryRun:
			m.wouldMove(ctx, os)
			return
		}
		for i := range os {
			os[i].automatic = true
		}
		if _, err := m.moveAll(ctx, m.look(v), os, balanceAtOnce, false, false); err != nil {
			m.said.say("rebalance", "balance: %v", err)
		}
	})
}

// unbalanced lists the moves that would bring databases to where they should be.
func (m *Manager) unbalanced(sc *scene, r balance.Rules) []Order {
	var dbs []balance.DB
	for _, def := range sc.v.Databases() {
		mt, ok := sc.v.Mount(def.Name)
		if !ok || mt.Active == "" {
			continue
		}
		dbs = append(dbs, sc.balanced(def, mt))
	}
	var servers []balance.Server
	for _, s := range sc.v.Servers() {
		if s.Witness || !sc.server(s.Name).up {
			continue
		}
		most := s.MaximumActive
		if p := s.MaximumPreferredActive; p > 0 && (most == 0 || p < most) {
			most = p
		}
		servers = append(servers, balance.Server{Name: s.Name, Site: s.Site, Maximum: most})
	}
	var out []Order
	for _, mv := range balance.Plan(dbs, servers, r) {
		out = append(out, Order{Database: mv.Database, To: mv.To, Why: "balance: " + mv.Why, Purpose: choose.Rebalance})
	}
	return out
}

// balanced is a database as balancing sees it: a copy is fit where it would be
// chosen if no other were there.
func (sc *scene) balanced(def org.Database, mt org.Mount) balance.DB {
	db := balance.DB{Name: def.Name, Active: mt.Active}
	q := sc.question(def, mt, choose.Rebalance)
	for _, c := range q.Candidates {
		db.Copies = append(db.Copies, balance.Copy{Server: c.Server, Preference: c.Preference, Fit: c.Server == mt.Active || unfit(q, c) == ""})
	}
	return db
}

// unfit says why a copy would not be chosen if no other were there, empty where
// it would. Maxima are counted by the plan.
func unfit(q choose.Question, c choose.Candidate) string {
	c.MaximumActive, c.MaximumPreferred = 0, 0
	q.Candidates = []choose.Candidate{c}
	d := choose.Choose(q)
	switch {
	case d.Target != "" && c.State == org.CopyHealthy:
		return ""
	case d.Target == "" && len(d.Passed) > 0:
		return d.Passed[0].Why
	}
	return fmt.Sprintf("its copy is %s", c.State)
}

// rebalance is the command of that.
func (m *Manager) rebalance(ctx context.Context, r balance.Rules, dry bool) (command.Plan, error) {
	if err := m.group.Sync(ctx); err != nil {
		return command.Plan{DryRun: dry}, err
	}
	sc := m.look(m.group.View())
	os := m.unbalanced(sc, r)
	if len(os) == 0 {
		return command.Plan{DryRun: dry, Steps: sc.stays(r)}, nil
	}
	p, err := m.moveAll(ctx, sc, os, balanceAtOnce, false, dry)
	if err != nil {
		return p, fmt.Errorf("balance: %w", err)
	}
	return p, nil
}

// stays says why balancing moves nothing: all is where it should be, or what
// would be at home elsewhere cannot go there.
func (sc *scene) stays(r balance.Rules) []command.Step {
	n := 0
	var out []command.Step
	for _, def := range sc.v.Databases() {
		mt, ok := sc.v.Mount(def.Name)
		if !ok || mt.Active == "" {
			out = append(out, command.Step{Name: "leave " + string(def.Name), Detail: "it is active nowhere"})
			continue
		}
		n++
		if why := sc.away(def, mt); r.By == balance.Preference && why != "" {
			out = append(out, command.Step{Name: "leave " + string(def.Name), Detail: fmt.Sprintf("on %s: %s", mt.Active, why)})
		}
	}
	if len(out) > 0 {
		return out
	}
	return []command.Step{{Name: "move nothing", Detail: fmt.Sprintf("every database is where it should be (%d)", n), Done: true}}
}

// away says why a database stays away from its most preferred copy, empty where
// it is there.
func (sc *scene) away(def org.Database, mt org.Mount) string {
	q := sc.question(def, mt, choose.Rebalance)
	best := slices.MinFunc(q.Candidates, func(a, b choose.Candidate) int {
		return cmp.Or(cmp.Compare(a.Preference, b.Preference), cmp.Compare(a.Server, b.Server))
	})
	if best.Server == mt.Active {
		return ""
	}
	return fmt.Sprintf("not %s: %s", best.Server, cmp.Or(unfit(q, best), "it is not up, or it takes no more active databases"))
}

// Spread is how many databases are active on a server, and how many prefer it.
type Spread struct {
	Server    org.ServerName `json:"server" col:"SERVER"`
	Site      org.SiteName   `json:"site,omitempty" col:"SITE"`
	Active    int            `json:"active" col:"ACTIVE"`
	Preferred int            `json:"preferred" col:"ON PREFERRED COPY"`
	Prefer    int            `json:"prefer" col:"PREFER THIS SERVER"`
	Copies    int            `json:"copies" col:"COPIES"`
	Maximum   int            `json:"maximum,omitempty" col:"MAXIMUM"`
}

// spread tells how databases are spread.
func (m *Manager) spread() []Spread {
	v := m.group.View()
	var out []Spread
	for _, s := range v.Servers() {
		if s.Witness {
			continue
		}
		sp := Spread{Server: s.Name, Site: s.Site, Maximum: s.MaximumActive}
		for _, def := range v.Databases() {
			if _, ok := def.Copy(s.Name); !ok {
				continue
			}
			sp.Copies++
			first := prefers(def, s.Name)
			if first {
				sp.Prefer++
			}
			if mt, _ := v.Mount(def.Name); mt.Active == s.Name {
				sp.Active++
				if first {
					sp.Preferred++
				}
			}
		}
		out = append(out, sp)
	}
	return out
}
