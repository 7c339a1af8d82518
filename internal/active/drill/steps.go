package drill

import (
	"cmp"
	"context"
	"crypto"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/active/maintain"
	"github.com/postern-mail/postern/internal/active/plan"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

// World is what drills need beyond what maintenance does.
type World interface {
	Me() org.ServerName
	// MoveTo moves a database to a server, without loss.
	MoveTo(ctx context.Context, db org.DatabaseName, to org.ServerName, why string) error
	// Boot tells one run of a server from another, and its version.
	Boot(org.ServerName) (boot, version string)
	// Red are the critical health sets of the group that are not well.
	Red() []string
	// Mail are the mailboxes, HealthMailbox that of health in a database, made where
	// it is not there.
	Mail() Mail
	HealthMailbox(ctx context.Context, db org.DatabaseName) (org.MailboxRef, error)
	// Recover brings mail of the past back.
	Recover(context.Context, mailbox.Recovery) ([]mailbox.Recovered, error)
	// Verify compares a copy with the others, and says how it did.
	Verify(ctx context.Context, db org.DatabaseName, copy org.ServerName) (string, error)
	// Identity is what reports are signed with.
	Identity() (certificate []byte, key crypto.Signer)
}

// Kind is drills as a kind of plans.
type Kind struct {
	World   World
	Library *maintain.Library
}

// Name implements plan.Kind.
func (Kind) Name() string { return KindName }

// Step implements plan.Kind. Whatever does not come about ends the drill, and what
// it did is taken back.
func (k Kind) Step(p org.Plan, s org.PlanStep) (plan.Step, bool) {
	var o Order
	if json.Unmarshal(p.Args, &o) != nil {
		return plan.Step{}, false
	}
	switch s.Name {
	case StepCheck:
		return k.check(o), true
	case StepMeasure:
		return k.measure(o, p, s), true
	case StepMove, StepBack:
		return k.move(o, s), true
	case StepReseed:
		return k.reseed(o, s), true
	case StepSpare:
		return k.onSpare(o, s), true
	case StepVerify:
		return k.verify(o, p, s), true
	case StepHome:
		return k.home(o, s), true
	case StepWrite:
		return k.write(o, p), true
	case StepDestroy:
		return k.destroy(o, p), true
	case StepRecover:
		return k.recover(o, p), true
	case StepTidy:
		return k.tidy(o, p), true
	case StepCut:
		return k.cut(o), true
	case StepWithout:
		return k.without(o, s), true
	case StepJoin:
		return k.join(o), true
	case StepKill:
		return k.order(o, p, s, org.OrderKillWorker), true
	case StepFreeze:
		return k.order(o, p, s, org.OrderFreezeWorker), true
	case StepAway:
		return k.away(o), true
	case StepReturn:
		return k.another(p, s), true
	case StepSettle:
		return k.settle(o, s), true
	case StepReport:
		return k.report(o, p), true
	}
	def, ok := k.Library.Step(s, maintain.Order{Server: s.Server, By: o.By, Why: "a drill"})
	if def.Late == plan.Hold || def.Late == plan.Ask {
		def.Late = plan.Fail
	}
	return def, ok
}

func (k Kind) check(o Order) plan.Step {
	return plan.Step{Check: func(ctx context.Context) plan.Finding {
		no := Judge(k.Library.Facts(ctx), o, k.World.Red())
		return plan.Finding{Done: len(no) == 0, Stop: strings.Join(no, "; ")}
	}}
}

// settle has clients go on for a while, and waits until redundancy is whole again;
// where it is not in time, the report says so.
func (k Kind) settle(o Order, s org.PlanStep) plan.Step {
	return plan.Step{Late: plan.GoOn, Check: func(context.Context) plan.Finding {
		if s.Begun.IsZero() || k.Library.Now().Sub(s.Begun) < 3*time.Second {
			return plan.Finding{Wait: "for clients to go on"}
		}
		_, behind := changes(o.Active, k.Library.World.View())
		return plan.Finding{Done: len(behind) == 0, Wait: "for redundancy: " + strings.Join(shorten(behind, 5), ", ")}
	}}
}

// measureKey is the row of what a client measured.
func measureKey(drill string, s org.ServerName, db org.DatabaseName) string {
	return measurePrefix + drill + "/" + string(s) + "/" + string(db)
}

// MeasureOp is the row of a measure, to be written as it begins and as it ends.
func MeasureOp(drill string, m Measure) (cluster.Op, error) {
	b, err := json.Marshal(m)
	return cluster.Op{Key: measureKey(drill, m.Server, m.Database), Value: b}, err
}

// measures are those of a drill, and the names of the clients that have not told
// yet: begun, or with ended also how it ended.
func (k Kind) measures(o Order, drill string, ended bool) (got []Measure, missing []string) {
	v := k.Library.World.View()
	for _, s := range o.Meters {
		for _, db := range o.Databases {
			it, ok := v.Get(measureKey(drill, s, db))
			var m Measure
			if !ok || json.Unmarshal(it.Value, &m) != nil || ended && m.Ended.IsZero() {
				missing = append(missing, fmt.Sprintf("%s in %s", s, db))
				continue
			}
			got = append(got, m)
		}
	}
	return got, missing
}

// measure waits for the clients. What is undone last of a drill that failed is
// this step: then the report says that it did. It is always begun, however early
// the clients are: what was not begun is not undone.
func (k Kind) measure(o Order, p org.Plan, s org.PlanStep) plan.Step {
	return plan.Step{Check: func(context.Context) plan.Finding {
		_, missing := k.measures(o, p.ID, false)
		return plan.Finding{Done: s.Tries > 0 && len(missing) == 0, Wait: "for " + cmp.Or(strings.Join(missing, ", "), "clients") + " to measure"}
	}, Undo: func(ctx context.Context, pen *plan.Pen) error {
		if _, ok := k.Library.World.View().Get(reportPrefix + p.ID); ok {
			return nil
		}
		got := k.lastMeasures(ctx, o, p.ID)
		t, err := k.chain(o, pen.Plan, got)
		if err != nil {
			return err
		}
		return pen.Commit(ctx, t)
	}}
}

// lastMeasures waits a while for the clients of a drill that failed to tell what
// they measured. Who does not is named.
func (k Kind) lastMeasures(ctx context.Context, o Order, drill string) []Measure {
	patience := time.NewTimer(lastWait)
	defer patience.Stop()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		got, missing := k.measures(o, drill, true)
		select {
		case <-ctx.Done():
		case <-patience.C:
		case <-tick.C:
			if len(missing) > 0 {
				continue
			}
		}
		for _, who := range missing {
			s, db, _ := strings.Cut(who, " in ")
			got = append(got, Measure{Server: org.ServerName(s), Database: org.DatabaseName(db), Error: "it did not tell what it measured"})
		}
		return got
	}
}

// lastWait is how long that is.
const lastWait = 20 * time.Second

func (k Kind) move(o Order, s org.PlanStep) plan.Step {
	return plan.Step{
		Check: func(context.Context) plan.Finding {
			mt, _ := k.Library.World.View().Mount(o.Database)
			return plan.Finding{Done: mt.Active == s.Server, Wait: fmt.Sprintf("for %s to be active on %s", o.Database, s.Server)}
		},
		Do: func(ctx context.Context, pen *plan.Pen) error {
			if err := pen.Holds(); err != nil {
				return err
			}
			return k.World.MoveTo(ctx, o.Database, s.Server, "a drill")
		}}
}

// order asks the mail worker that runs now to end or to freeze. A worker that
// has been started again is another.
func (k Kind) order(o Order, p org.Plan, s org.PlanStep, do string) plan.Step {
	return plan.Step{
		Check: func(context.Context) plan.Finding {
			x, ok := k.Library.Ordered(p.ID, s.Server, do)
			boot, _ := k.World.Boot(s.Server)
			heard := boot != "" && k.Library.World.Heard(s.Server)
			switch {
			case !ok:
				return plan.Finding{Wait: "for the order to be written"}
			case do == org.OrderFreezeWorker:
				return plan.Finding{Done: !heard || boot != x.Boot, Wait: fmt.Sprintf("for %s to fall silent", s.Server)}
			}
			return plan.Finding{Done: heard && boot != x.Boot, Wait: fmt.Sprintf("for another mail worker on %s", s.Server)}
		},
		Do: func(ctx context.Context, pen *plan.Pen) error {
			boot, _ := k.World.Boot(s.Server)
			return k.Library.OrderHost(ctx, pen, do, boot, o.By)
		}}
}

// away waits until what was active on the server is active elsewhere.
func (k Kind) away(o Order) plan.Step {
	return plan.Step{Check: func(context.Context) plan.Finding {
		var left []string
		n := 0
		v := k.Library.World.View()
		for db, was := range o.Active {
			if was != o.Server {
				continue
			}
			n++
			if mt, _ := v.Mount(db); mt.Active == "" || mt.Active == o.Server {
				left = append(left, string(db))
			}
		}
		slices.Sort(left)
		return plan.Finding{Done: len(left) == 0, Note: fmt.Sprintf("%d databases", n), Wait: "for " + strings.Join(shorten(left, 5), ", ") + " to be active elsewhere"}
	}}
}

// another waits until the host has ended the worker that hangs, and the next is
// heard.
func (k Kind) another(p org.Plan, s org.PlanStep) plan.Step {
	return plan.Step{Check: func(context.Context) plan.Finding {
		x, ok := k.Library.Ordered(p.ID, s.Server, org.OrderFreezeWorker)
		boot, _ := k.World.Boot(s.Server)
		return plan.Finding{Done: ok && boot != "" && boot != x.Boot && k.Library.World.Heard(s.Server), Wait: fmt.Sprintf("for another mail worker on %s", s.Server)}
	}}
}
