package maintain

import (
	"context"
	"fmt"
	"strings"

	"github.com/postern-mail/postern/internal/active/plan"
	"github.com/postern-mail/postern/internal/org"
)

func (l *Library) back(o Order) plan.Step {
	return plan.Step{Late: plan.Hold, Check: func(context.Context) plan.Finding {
		return plan.Finding{Done: l.World.Heard(o.Server), Wait: "for " + string(o.Server) + " to be heard"}
	}}
}

// online lets the copies follow and become in sync; nothing becomes active yet.
func (l *Library) online(o Order) plan.Step {
	want := map[org.Component]org.ComponentState{org.HighAvailability: org.Draining}
	clear, wish := l.clear(o, org.ServerOffline), l.wish(o, want)
	return plan.Step{Late: plan.GoOn,
		Check: func(context.Context) plan.Finding {
			v := l.World.View()
			for _, e := range v.ComponentEntries(o.Server) {
				if e.Requester == org.Maintenance && (e.Component == org.ServerOffline || e.Component == org.HighAvailability && e.State.AtLeast(org.Inactive)) {
					return plan.Finding{Wait: "for its copies to be let in"}
				}
			}
			return plan.Finding{Done: true}
		},
		Do: func(ctx context.Context, p *plan.Pen) error {
			if err := wish(ctx, p); err != nil {
				return err
			}
			return clear(ctx, p)
		}}
}

// sync waits until each copy has everything confirmed. Copies that an
// administrator suspended are not waited for.
func (l *Library) sync(o Order) plan.Step {
	return plan.Step{Late: plan.Hold, Check: func(context.Context) plan.Finding {
		v := l.World.View()
		reports := map[org.DatabaseName]org.CopyStatus{}
		for _, st := range l.World.Statuses(o.Server) {
			reports[st.Database] = st
		}
		var left []string
		copies := 0
		for _, def := range v.Databases() {
			c, ok := def.Copy(o.Server)
			mt, mounted := v.Mount(def.Name)
			if !ok || c.Suspended || !mounted || mt.Active == "" {
				continue
			}
			copies++
			if mt.IsInSync(o.Server) || mt.Active == o.Server {
				continue
			}
			left = append(left, progress(def.Name, reports[def.Name]))
		}
		if len(left) == 0 {
			return plan.Finding{Done: true, Note: fmt.Sprintf("%d copies are in sync", copies)}
		}
		n := len(left)
		if n > 4 {
			left = append(left[:4], fmt.Sprintf("%d more", n-4))
		}
		return plan.Finding{Wait: fmt.Sprintf("for %d of %d copies: %s", n, copies, strings.Join(left, ", "))}
	}}
}

func progress(db org.DatabaseName, st org.CopyStatus) string {
	switch {
	case st.State == "":
		return fmt.Sprintf("%s has not reported", db)
	case st.SeedTotal > 0 && st.State == org.CopySeeding:
		return fmt.Sprintf("%s seeding %d%%", db, st.SeedDone*100/st.SeedTotal)
	}
	return fmt.Sprintf("%s %s, copy queue %d", db, st.State, st.CopyQueueLength())
}

func (l *Library) accept(o Order) plan.Step {
	return plan.Step{Late: plan.Hold,
		Check: func(ctx context.Context) plan.Finding {
			v := l.World.View()
			if has(v, org.ComponentKey(o.Server, org.Transport, org.Maintenance)) {
				return plan.Finding{Wait: "for transport to be let go"}
			}
			if state, _ := v.Component(o.Server, org.Transport, l.Now()); state != org.Active || l.isWitness(o.Server) {
				return plan.Finding{Done: true, Note: l.holders(o.Server, org.Transport)}
			}
			_, accepting, err := l.World.Queue(ctx, o.Server)
			if err != nil {
				return plan.Finding{Wait: "for an answer: " + err.Error()}
			}
			return plan.Finding{Done: accepting, Wait: "for the queue to accept messages"}
		},
		Do: l.clear(o, org.Transport)}
}

func (l *Library) open(o Order) plan.Step {
	return l.letGo(o, plan.Hold, doors...)
}

func (l *Library) allow(o Order) plan.Step {
	return l.letGo(o, plan.GoOn, org.HighAvailability)
}

// letGo removes wishes and waits until the components are as the other
// requesters want them; those are named.
func (l *Library) letGo(o Order, late plan.Late, cs ...org.Component) plan.Step {
	return plan.Step{Late: late, Do: l.clear(o, cs...), Check: func(context.Context) plan.Finding {
		v := l.World.View()
		obeys, tells := l.World.Obeyed(o.Server)
		for _, c := range cs {
			if has(v, org.ComponentKey(o.Server, c, org.Maintenance)) {
				return plan.Finding{Wait: fmt.Sprintf("for %s to be let go", c)}
			}
			want, _ := v.Component(o.Server, c, l.Now())
			if now := does(obeys, c); tells && !want.AtLeast(now) {
				return plan.Finding{Wait: fmt.Sprintf("for %s to be %s, it is %s", c, want, now)}
			}
		}
		return plan.Finding{Done: true, Note: l.holders(o.Server, cs...)}
	}}
}

// holders names who still holds components back, empty for nobody.
func (l *Library) holders(s org.ServerName, cs ...org.Component) string {
	var out []string
	for _, c := range cs {
		if _, holds := l.World.View().Component(s, c, l.Now()); len(holds) > 0 {
			out = append(out, HeldBy(c, holds))
		}
	}
	return strings.Join(out, "; ")
}

// HeldBy says who holds a component back and why.
func HeldBy(c org.Component, holds []org.ComponentEntry) string {
	var who []string
	for _, e := range holds {
		w := fmt.Sprintf("%s (%s", e.Requester, e.State)
		if e.By != "" {
			w += ", " + e.By
		}
		if e.Reason != "" {
			w += ": " + e.Reason
		}
		who = append(who, w+")")
	}
	return fmt.Sprintf("%s is held by %s", c, strings.Join(who, ", "))
}

func (l *Library) balance(Order) plan.Step {
	return plan.Step{Late: plan.GoOn,
		Check: func(context.Context) plan.Finding {
			left := l.World.Unbalanced()
			return plan.Finding{Done: len(left) == 0, Wait: "for " + strings.Join(left, ", ") + " to go to the preferred copy"}
		},
		Do: func(ctx context.Context, _ *plan.Pen) error { return l.World.Balance(ctx) }}
}
