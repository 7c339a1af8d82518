package active

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/active/balance"
	"github.com/postern-mail/postern/internal/active/drill"
	"github.com/postern-mail/postern/internal/active/maintain"
	"github.com/postern-mail/postern/internal/active/plan"
	"github.com/postern-mail/postern/internal/active/site"
	"github.com/postern-mail/postern/internal/active/upgrade"
	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

// PlanDeps are what plans need of other rooms, beyond what Active Manager needs.
type PlanDeps struct {
	// Leader leads the agreed state, empty where that is not known now.
	Leader func(context.Context) org.ServerName
	// Boot tells one run of a server from another, and the version that runs.
	Boot func(org.ServerName) (boot, version string)
	// Queue is what waits in the queue of a server; nil at a witness, which carries
	// out no plans.
	Queue func(ctx context.Context, s org.ServerName) (waiting int64, accepting bool, err error)
	// Store are the mailboxes, in which drills measure; nil at a witness.
	Store drill.Mail
	// HealthMailbox is the health mailbox of a database, made where it is not there;
	// Keeper keeps the copies. Both nil at a witness.
	HealthMailbox func(context.Context, org.DatabaseName) (org.MailboxRef, error)
	Keeper        Keeper
	// Networks are those between the servers.
	Networks func() []cluster.NetworkInfo
	// Identity is what reports of drills are signed with, Authority what it is
	// checked by.
	Identity  func() (certificate []byte, key crypto.Signer)
	Authority *x509.Certificate
}

// Keeper is what drills need of the mailbox room; *mailbox.Keeper is one.
type Keeper interface {
	KeepsPast(context.Context, org.DatabaseName) []org.ServerName
	Recover(context.Context, mailbox.Recovery) ([]mailbox.Recovered, error)
	Verify(ctx context.Context, db org.DatabaseName, bodies bool) ([]mailbox.Verified, error)
	SparesFor(context.Context, org.ServerName, org.DatabaseName) []mailbox.SpareVolume
}

// works are the plans of this server's Active Manager.
type works struct {
	m        *Manager
	engine   *plan.Engine
	maintain *maintain.Library
}

func newWorks(m *Manager) *works {
	w := &works{m: m}
	times := maintain.Defaults()
	if m.deps.Fast {
		times = maintain.Fast()
	}
	w.maintain = &maintain.Library{World: w, Times: times, Now: time.Now}
	w.engine = plan.New(plan.Deps{Group: m.group, RoleKey: primaryKey, Primary: m.decider, Tell: w.tell, Log: m.deps.Log},
		slices.Concat(append(maintain.Kinds(w.maintain), upgrade.New(w, w.maintain), drill.Kind{World: w, Library: w.maintain}), site.Kinds(w, time.Now))...)
	return w
}

// decider is who has the primary role; nobody while this server has it and may
// not lead.
func (m *Manager) decider() org.ServerName {
	p := m.Primary()
	if _, ok := m.mayLead(); p == m.me && !ok {
		return ""
	}
	return p
}

// RunPlans carries out plans while this server has the primary role, until ctx
// ends.
func (m *Manager) RunPlans(ctx context.Context) error { return m.works.engine.Run(ctx) }

// tell says what becomes of a plan.
func (w *works) tell(p org.Plan, what string) {
	w.m.said.say("plan "+p.ID, "plan %s (%s) %s", p.ID, p.Title, what)
	switch p.State {
	case org.PlanHeld:
		w.m.deps.Events.Emit(evPlanHeld, "plan %s (%s) %s", p.ID, p.Title, what)
	case org.PlanUndoing, org.PlanFailed:
		w.m.deps.Events.Emit(evPlanFailed, "plan %s (%s) %s", p.ID, p.Title, what)
	default:
		w.m.deps.Events.Emit(evPlan, "plan %s (%s) %s", p.ID, p.Title, what)
	}
}

// View implements maintain.World, as do the methods below.
func (w *works) View() *cluster.View { return w.m.group.View() }

// Heard tells whether a server lives and is heard.
func (w *works) Heard(s org.ServerName) bool {
	_, dead := w.m.group.Dead(s)
	return !dead && w.m.group.Alive(s)
}

// Statuses are what a server reports of its copies.
func (w *works) Statuses(s org.ServerName) []org.CopyStatus { return w.m.copies.PeerStatuses(s) }

// Primary has the primary role.
func (w *works) Primary() org.ServerName { return w.m.Primary() }

// Leader leads the agreed state.
func (w *works) Leader(ctx context.Context) org.ServerName {
	if w.m.deps.Plans.Leader == nil {
		return ""
	}
	return w.m.deps.Plans.Leader(ctx)
}

// obeyedFresh is how old what a server tells of its components may be.
const obeyedFresh = 15 * time.Second

// Obeyed is what a server does about the wishes.
func (w *works) Obeyed(s org.ServerName) (o org.ServerComponents, ok bool) {
	b, heard, ok := w.m.group.Published(s, org.ComponentsSection)
	if !ok || time.Since(heard) > obeyedFresh && s != w.m.me || codec.Unmarshal(b, &o) != nil {
		return org.ServerComponents{}, false
	}
	return o, true
}

var errNoQueue = errors.New("this server has no queue and cannot ask for another's")

// Queue is what waits in a server's queue.
func (w *works) Queue(ctx context.Context, s org.ServerName) (int64, bool, error) {
	if w.m.deps.Plans.Queue == nil {
		return 0, false, errNoQueue
	}
	return w.m.deps.Plans.Queue(ctx, s)
}

// Evacuate moves what is active on a server: to healthy servers, and where none is
// healthy enough to the least ill, since this one is about to be stopped.
func (w *works) Evacuate(ctx context.Context, s org.ServerName, why string, holds func() error) error {
	if err := holds(); err != nil {
		return err
	}
	_, err := w.m.Evacuate(ctx, Evacuation{Server: s, Why: why})
	if err == nil || ctx.Err() != nil || holds() != nil {
		return err
	}
	_, err = w.m.Evacuate(ctx, Evacuation{Server: s, Why: why + ", no server is healthier", Skip: Skip{Health: true}})
	return err
}

// byPreference is where databases go after maintenance.
func byPreference() balance.Rules { return balance.Rules{By: balance.Preference, Deviation: -1} }

// Unbalanced names the databases that could go to a more preferred copy.
func (w *works) Unbalanced() []string {
	var out []string
	for _, o := range w.m.unbalanced(w.m.look(w.m.group.View()), byPreference()) {
		out = append(out, string(o.Database))
	}
	return out
}

// Balance moves them.
func (w *works) Balance(ctx context.Context) error {
	_, err := w.m.rebalance(ctx, byPreference(), false)
	return err
}

// PassRole makes another server the primary. What carries the plan out stops
// here with that, and goes on there.
func (w *works) PassRole(ctx context.Context, p *plan.Pen, to org.ServerName, why string) error {
	b, err := json.Marshal(primary{Server: to, Since: time.Now().UTC(), Why: why})
	if err != nil {
		return err
	}
	if err := p.Commit(ctx, cluster.Txn{Then: []cluster.Op{{Key: primaryKey, Value: b}}}); err != nil {
		return fmt.Errorf("pass the primary role to %s: %w", to, err)
	}
	w.m.said.say("role", "%s passed the primary role to %s: %s", w.m.me, to, why)
	return nil
}

// notFoundServer is the error for a name that no member has, nil for one that has.
func notFoundServer(v *cluster.View, s org.ServerName) error {
	if _, ok := v.Server(s); s != "" && !ok {
		return kind.WithHint(kind.Errorf(kind.NotFound, "server %s: not a member of the group", s), "postern server list")
	}
	return nil
}
