package maintain

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/active/plan"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// Names of the steps, as plans have them.
const (
	StepCheck    = "check"
	StepBlock    = "block activation"
	StepDoors    = "close doors"
	StepQueue    = "empty queue"
	StepHandOver = "hand over queue"
	StepMove     = "move databases"
	StepRoles    = "move roles"
	StepLeave    = "leave in-sync sets"
	StepOff      = "offline"

	StepBack    = "server is back"
	StepOnline  = "online"
	StepSync    = "copies in sync"
	StepAccept  = "accept mail"
	StepOpen    = "open doors"
	StepAllow   = "allow activation"
	StepBalance = "balance"
)

// doors are the components that clients reach.
var doors = []org.Component{org.SMTPComponent, org.Submission, org.IMAPComponent, org.DNSComponent}

// StartSteps take a server out.
func StartSteps(s org.ServerName, t Times) []org.PlanStep {
	return steps(s, []org.PlanStep{
		{Name: StepCheck, Detail: "redundancy, votes and other servers allow it", Deadline: t.Obey},
		{Name: StepBlock, Detail: "no database becomes active here, no role comes here", Deadline: t.Obey},
		{Name: StepDoors, Detail: "clients go to other servers between commands", Deadline: t.Doors},
		{Name: StepQueue, Detail: "what waits is delivered, as far as it can be", Deadline: t.Queue},
		{Name: StepHandOver, Detail: "what is left goes to the servers that hold its copies", Deadline: t.HandOver},
		{Name: StepMove, Detail: "every database that is active here, without loss", Deadline: t.Move},
		{Name: StepRoles, Detail: "primary Active Manager and lead of the agreed state", Deadline: t.Roles},
		{Name: StepLeave, Detail: "nobody waits for this server's copies", Deadline: t.Leave},
		{Name: StepOff, Detail: "sessions end between commands; safe to stop", Deadline: t.Off},
	})
}

// StopSteps bring a server back.
func StopSteps(s org.ServerName, t Times, balance bool) []org.PlanStep {
	list := []org.PlanStep{
		{Name: StepBack, Detail: "it lives and is heard", Deadline: t.Back},
		{Name: StepOnline, Detail: "its copies may follow again", Deadline: t.Obey},
		{Name: StepSync, Detail: "every copy has what is confirmed", Deadline: t.Sync},
		{Name: StepAccept, Detail: "its queue takes messages", Deadline: t.Roles},
		{Name: StepOpen, Detail: "clients may come", Deadline: t.Roles},
		{Name: StepAllow, Detail: "databases may become active here", Deadline: t.Obey},
	}
	if balance {
		list = append(list, org.PlanStep{Name: StepBalance, Detail: "databases go back to their preferred copies", Deadline: t.Move})
	}
	return steps(s, list)
}

func steps(s org.ServerName, list []org.PlanStep) []org.PlanStep {
	for i := range list {
		list[i].Server, list[i].State = s, org.StepWaiting
	}
	return list
}

// Library carries out the steps.
type Library struct {
	World World
	Times Times
	Now   func() time.Time
}

// Step is how a step for a server is carried out, false where it is not one of
// these.
func (l *Library) Step(s org.PlanStep, o Order) (plan.Step, bool) {
	o.Server = s.Server
	f, ok := map[string]func(Order) plan.Step{
		StepCheck: l.check, StepBlock: l.block, StepDoors: l.closeDoors, StepQueue: l.emptyQueue, StepHandOver: l.handOver,
		StepMove: l.move, StepRoles: l.roles, StepLeave: l.leave, StepOff: l.off,
		StepBack: l.back, StepOnline: l.online, StepSync: l.sync, StepAccept: l.accept, StepOpen: l.open, StepAllow: l.allow, StepBalance: l.balance,
	}[s.Name]
	if !ok {
		return plan.Step{}, false
	}
	return f(o), true
}

// Facts are those of now.
func (l *Library) Facts(ctx context.Context) Facts {
	return Look(l.World, l.World.Leader(ctx), l.Now())
}

func (l *Library) check(o Order) plan.Step {
	return plan.Step{Check: func(ctx context.Context) plan.Finding {
		if no := Judge(l.Facts(ctx), o); len(no) > 0 {
			return plan.Finding{Stop: strings.Join(no, "; ")}
		}
		return plan.Finding{Done: true}
	}}
}

func (l *Library) block(o Order) plan.Step {
	want := map[org.Component]org.ComponentState{org.HighAvailability: org.Draining}
	return plan.Step{Late: plan.Fail, Check: l.checkObeyed(o.Server, want), Do: l.wish(o, want), Undo: l.clear(o, org.HighAvailability)}
}

func (l *Library) closeDoors(o Order) plan.Step {
	want := map[org.Component]org.ComponentState{}
	for _, c := range doors {
		want[c] = org.Draining
	}
	obeyed := l.checkObeyed(o.Server, want)
	return plan.Step{Late: plan.GoOn, Do: l.wish(o, want), Undo: l.clear(o, doors...),
		Check: func(ctx context.Context) plan.Finding {
			f := obeyed(ctx)
			if !f.Done {
				return f
			}
			now, _ := l.World.Obeyed(o.Server)
			if n := now.Components[org.SMTPComponent].Left + now.Components[org.Submission].Left; n > 0 {
				return plan.Finding{Wait: fmt.Sprintf("for %d SMTP sessions to end", n)}
			}
			return f
		}}
}

// emptyQueue only waits: with the doors closed nothing new comes.
func (l *Library) emptyQueue(o Order) plan.Step {
	return plan.Step{Late: plan.GoOn, Check: func(ctx context.Context) plan.Finding {
		if l.isWitness(o.Server) {
			return plan.Finding{Done: true}
		}
		n, _, err := l.World.Queue(ctx, o.Server)
		if err != nil {
			return plan.Finding{Wait: "for an answer: " + err.Error()}
		}
		return plan.Finding{Done: n == 0, Wait: fmt.Sprintf("for %d messages to be delivered", n)}
	}}
}

func (l *Library) handOver(o Order) plan.Step {
	want := map[org.Component]org.ComponentState{org.Transport: org.Draining}
	obeyed := l.checkObeyed(o.Server, want)
	late := plan.Hold
	if o.Force {
		late = plan.GoOn
	}
	return plan.Step{Late: late,
		Check: func(ctx context.Context) plan.Finding {
			if f := obeyed(ctx); !f.Done || l.isWitness(o.Server) {
				return f
			}
			n, accepting, err := l.World.Queue(ctx, o.Server)
			switch {
			case err != nil:
				return plan.Finding{Wait: "for an answer: " + err.Error()}
			case accepting:
				return plan.Finding{Wait: "for the queue to take nothing new"}
			}
			return plan.Finding{Done: n == 0, Wait: fmt.Sprintf("for %d messages to be handed over", n)}
		},
		Do: l.wish(o, want), Undo: l.clear(o, org.Transport)}
}

// move is not undone: where a database is active does not matter.
func (l *Library) move(o Order) plan.Step {
	return plan.Step{Late: plan.Fail,
		Check: func(context.Context) plan.Finding {
			left := l.activeOn(o.Server)
			return plan.Finding{Done: len(left) == 0, Wait: "for " + strings.Join(left, ", ") + " to be active elsewhere"}
		},
		Do: func(ctx context.Context, p *plan.Pen) error {
			return l.World.Evacuate(ctx, o.Server, "maintenance of "+string(o.Server), p.Holds)
		}}
}

func (l *Library) activeOn(s org.ServerName) []string {
	var out []string
	for _, mt := range l.World.View().Mounts() {
		if mt.Active == s {
			out = append(out, string(mt.Database))
		}
	}
	return out
}

// roles waits for the lead of the agreed state: a server that is held back gives
// it away by itself (cluster).
func (l *Library) roles(o Order) plan.Step {
	return plan.Step{Late: plan.Fail,
		Check: func(ctx context.Context) plan.Finding {
			if l.World.Primary() == o.Server {
				return plan.Finding{Wait: "for another primary Active Manager"}
			}
			if !slices.ContainsFunc(l.World.View().Servers(), func(s org.Server) bool { return s.Voter }) {
				return plan.Finding{Done: true} // the agreed state is kept elsewhere
			}
			switch leader := l.World.Leader(ctx); leader {
			case o.Server:
				return plan.Finding{Wait: "for another server to lead the agreed state"}
			case "":
				return plan.Finding{Wait: "for the agreed state to have a leader"}
			}
			return plan.Finding{Done: true}
		},
		Do: func(ctx context.Context, p *plan.Pen) error {
			if l.World.Primary() != o.Server {
				return nil
			}
			to := Successor(l.Facts(ctx), o.Server)
			if to == "" {
				return kind.Errorf(kind.Busy, "no other server can take the primary role")
			}
			return l.World.PassRole(ctx, p, to, "maintenance of "+string(o.Server))
		}}
}

func (l *Library) leave(o Order) plan.Step {
	want := map[org.Component]org.ComponentState{org.HighAvailability: org.Inactive}
	obeyed := l.checkObeyed(o.Server, want)
	return plan.Step{Late: plan.GoOn, Do: l.wish(o, want),
		Undo: l.wish(o, map[org.Component]org.ComponentState{org.HighAvailability: org.Draining}),
		Check: func(ctx context.Context) plan.Finding {
			f := obeyed(ctx)
			if !f.Done {
				return f
			}
			var left []string
			for _, mt := range l.World.View().Mounts() {
				if len(mt.InSync) > 2 && mt.IsInSync(o.Server) {
					left = append(left, string(mt.Database))
				}
			}
			return plan.Finding{Done: len(left) == 0, Wait: "for " + strings.Join(left, ", ") + " to go on without its copy here"}
		}}
}

func (l *Library) off(o Order) plan.Step {
	want := map[org.Component]org.ComponentState{org.ServerOffline: org.Inactive}
	obeyed := l.checkObeyed(o.Server, want)
	return plan.Step{Late: plan.GoOn, Do: l.wish(o, want), Undo: l.clear(o, org.ServerOffline),
		Check: func(ctx context.Context) plan.Finding {
			f := obeyed(ctx)
			if !f.Done {
				return f
			}
			now, _ := l.World.Obeyed(o.Server)
			n := 0
			for _, c := range doors {
				n += now.Components[c].Left
			}
			if n > 0 {
				return plan.Finding{Wait: fmt.Sprintf("for %d sessions to end", n)}
			}
			return plan.Finding{Done: true, Note: "safe to stop"}
		}}
}

func (l *Library) isWitness(s org.ServerName) bool {
	row, _ := l.World.View().Server(s)
	return row.Witness
}

// wish writes what the requester Maintenance wants of components.
func (l *Library) wish(o Order, want map[org.Component]org.ComponentState) func(context.Context, *plan.Pen) error {
	return func(ctx context.Context, p *plan.Pen) error {
		t := cluster.Txn{Then: []cluster.Op{{Key: org.ComponentGuard, Value: []byte(p.Plan.ID)}}}
		for c, s := range want {
			b, err := json.Marshal(org.ComponentEntry{Component: c, Requester: org.Maintenance, State: s, Since: l.Now().UTC(),
				By: o.By, Reason: o.Why, Plan: p.Plan.ID})
			if err != nil {
				return err
			}
			t.Then = append(t.Then, cluster.Op{Key: org.ComponentKey(o.Server, c, org.Maintenance), Value: b})
		}
		return p.Commit(ctx, t)
	}
}

// clear removes what the requester Maintenance wants of components.
func (l *Library) clear(o Order, cs ...org.Component) func(context.Context, *plan.Pen) error {
	return func(ctx context.Context, p *plan.Pen) error {
		var t cluster.Txn
		v := l.World.View()
		for _, c := range cs {
			if key := org.ComponentKey(o.Server, c, org.Maintenance); has(v, key) {
				t.Then = append(t.Then, cluster.Op{Key: key, Delete: true})
			}
		}
		return p.Commit(ctx, t)
	}
}

func has(v *cluster.View, key string) bool {
	_, ok := v.Get(key)
	return ok
}

// checkObeyed tells whether wishes of maintenance are written and obeyed. A
// server that does not tell what it obeys is taken at its word.
func (l *Library) checkObeyed(s org.ServerName, want map[org.Component]org.ComponentState) func(context.Context) plan.Finding {
	return func(context.Context) plan.Finding {
		v := l.World.View()
		obeys, tells := l.World.Obeyed(s)
		for _, c := range org.Components() {
			state, ok := want[c]
			if !ok {
				continue
			}
			if !wished(v, s, c, state) {
				return plan.Finding{Wait: fmt.Sprintf("for %s to be asked to be %s", c, state)}
			}
			if now := does(obeys, c); tells && !now.AtLeast(state) {
				return plan.Finding{Wait: fmt.Sprintf("for %s to be %s, it is %s", c, state, now)}
			}
		}
		return plan.Finding{Done: true}
	}
}

// does is what a component does; one that is not named is Active.
func does(o org.ServerComponents, c org.Component) org.ComponentState {
	return org.Active.Stronger(o.Components[c].State)
}

func wished(v *cluster.View, s org.ServerName, c org.Component, want org.ComponentState) bool {
	for _, e := range v.ComponentEntries(s) {
		if e.Component == c && e.Requester == org.Maintenance && e.State.AtLeast(want) {
			return true
		}
	}
	return false
}
