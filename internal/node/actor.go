package node

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"time"

	"github.com/postern-mail/postern/internal/active"
	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/health"
	"github.com/postern-mail/postern/internal/org"
)

// HostLink is a worker's line to its host; *Link is one.
type HostLink interface {
	// Ready tells that the worker does its work now.
	Ready()
	// Order asks for the restart of a worker.
	Order(worker string) error
}

// Ends of wishes that recovery actions make. Health ends them sooner when all is
// well; nobody renews them, so that a server whose health is dead comes back.
const (
	offlineFor = 4 * time.Hour
	refuseFor  = time.Hour
)

// actor does the deeds of health in the mail worker.
type actor struct{ w *mailWorker }

// Act implements health.Actor.
func (a actor) Act(ctx context.Context, d health.Deed) (string, error) {
	w := a.w
	switch d.Action {
	case health.Escalate:
		return "told", nil
	case health.RestartService:
		return a.restart(ctx, d.Target)
	case health.Offline:
		if !w.serving.Load() {
			return "", kind.Errorf(kind.Busy, "take %s out: the server is not serving", d.Target)
		}
		return a.hold(ctx, d, org.Component(d.Target), org.Inactive, offlineFor)
	case health.Online:
		return a.hold(ctx, d, org.Component(d.Target), org.Active, 0)
	case health.RefuseWork:
		if _, err := a.hold(ctx, d, org.SMTPComponent, org.Draining, refuseFor); err != nil {
			return "", err
		}
		return a.hold(ctx, d, org.Submission, org.Draining, refuseFor)
	case health.RestartCopy, health.SuspendCopy:
		return a.beginCopy(ctx, d)
	case health.RestartWorker:
		if err := w.link.Order(d.Target); err != nil {
			return "", err
		}
		return "the host was asked to restart the " + d.Target + " worker", nil
	case health.MoveDatabase:
		return a.move(ctx, d, org.DatabaseName(d.Target))
	case health.MoveDatabases:
		dbs := w.activeOn(org.VolumeName(d.Target))
		if len(dbs) == 0 {
			return "no database is active on " + d.Target, nil
		}
		return a.move(ctx, d, dbs...)
	case health.Evacuate:
		return a.move(ctx, d)
	}
	return "", kind.Errorf(kind.Invalid, "%s is not possible on this server", d.Action)
}

// restart builds a service anew.
func (a actor) restart(ctx context.Context, name string) (string, error) {
	if !a.w.serving.Load() {
		return "", kind.Errorf(kind.Busy, "restart %s: the server is not serving", name)
	}
	var err error
	switch {
	case name == serviceSMTP && a.w.smtp != nil:
		err = a.w.smtp.restart(ctx)
	case name == serviceIMAP && a.w.imap != nil:
		err = a.w.imap.restart(ctx)
	case name == serviceHTTPS && a.w.https != nil:
		err = a.w.https.restart(ctx)
	default:
		err = kind.Errorf(kind.NotFound, "there is no service %s", name)
	}
	if err != nil {
		return "", err
	}
	return name + " was built anew", nil
}

// hold writes the wish of the recovery actions about a component of this server.
func (a actor) hold(ctx context.Context, d health.Deed, c org.Component, s org.ComponentState, length time.Duration) (string, error) {
	e := org.ComponentEntry{Component: c, Requester: org.HealthAPI, State: s, By: d.Monitor, Reason: d.Why}
	if length > 0 {
		e.Expires = time.Now().Add(length).UTC().Truncate(time.Second)
	}
	r, err := a.w.components.Set(ctx, a.w.cluster.Name(), e)
	if err != nil {
		return "", err
	}
	text := string(c) + " is " + string(r.State)
	if r.Who != "" {
		text += ": " + r.Who
	}
	return text, nil
}

// copyWait bounds how long a copy may take to leave its role.
const copyWait = 20 * time.Second

// beginCopy begins the role of a copy anew, or suspends it so that AutoReseed
// takes it. The active copy has to be moved first.
func (a actor) beginCopy(ctx context.Context, d health.Deed) (string, error) {
	db, by := org.DatabaseName(d.Target), "autoreseed"
	if d.Action == health.RestartCopy {
		by = "system"
	}
	if err := a.w.mailbox.Suspend(ctx, db, by, d.Why); err != nil {
		return "", err
	}
	if d.Action == health.SuspendCopy {
		return "the copy of " + d.Target + " is suspended; AutoReseed takes it", nil
	}
	ctx, cancel := context.WithTimeout(ctx, copyWait)
	defer cancel()
	if err := a.w.mailbox.ResumeFrom(ctx, db, by); err != nil {
		return "", err
	}
	return "the copy of " + d.Target + " began anew", nil
}

// move gives databases of this server, all where none is named, to servers on
// which the failing component is better.
func (a actor) move(ctx context.Context, d health.Deed, dbs ...org.DatabaseName) (string, error) {
	p, err := a.w.active.Evacuate(ctx, active.Evacuation{Server: a.w.cluster.Name(), Databases: dbs, Why: d.Why, Purpose: active.HealthMove, Failing: d.Set, FailingState: d.State})
	if err != nil {
		return "", err
	}
	moved := 0
	for _, s := range p.Steps {
		if s.Done {
			moved++
		}
	}
	return fmt.Sprintf("%d of %d databases were moved", moved, len(p.Steps)), nil
}

// rows is the agreed state as health wants it.
type rows struct{ c *cluster.Cluster }

func (r rows) Get(key string) ([]byte, int64, bool) {
	it, ok := r.c.View().Get(key)
	return it.Value, it.Revision, ok
}

func (r rows) Prefix(p string) iter.Seq2[string, []byte] { return adminState(r).Prefix(p) }
func (r rows) Changed() <-chan struct{}                  { return r.c.Changed() }
func (r rows) Quorum() bool                              { return r.c.Quorum() }

func (r rows) Commit(ctx context.Context, ops []health.Op) error {
	var t cluster.Txn
	for _, o := range ops {
		if o.If {
			t.If = append(t.If, cluster.Cond{Key: o.Key, Revision: o.Revision})
		}
		t.Then = append(t.Then, cluster.Op{Key: o.Key, Value: o.Value, Delete: o.Value == nil})
	}
	_, err := r.c.Commit(ctx, t)
	return err
}

// mesh is what servers tell each other, as health wants it.
type mesh struct{ *cluster.Cluster }

// Members implements health.Mesh.
func (m mesh) Members() []org.ServerName {
	var out []org.ServerName
	for _, s := range m.View().Servers() {
		if !s.Witness {
			out = append(out, s.Name)
		}
	}
	return out
}

// Up implements health.Mesh.
func (m mesh) Up(s org.ServerName) bool {
	if s == m.Name() {
		return true
	}
	for _, p := range m.Peers() {
		if p.Server == s {
			return p.State == cluster.PeerUp
		}
	}
	return false
}

// spares tells what the group could do without this server.
type spares struct{ c *cluster.Cluster }

// Databases implements health.Spares.
func (s spares) Databases() []health.DatabaseSpare {
	v, up := s.c.View(), mesh{s.c}.Up
	var out []health.DatabaseSpare
	for _, def := range v.Databases() {
		mt, ok := v.Mount(def.Name)
		x, here := health.DatabaseSpare{Database: def.Name}, false
		for _, c := range def.Copies {
			if c.Server == s.c.Name() {
				here = true
				continue
			}
			x.Minimum = 1
			if ok && mt.IsInSync(c.Server) && up(c.Server) {
				x.InSync = append(x.InSync, c.Server)
			}
		}
		if here {
			out = append(out, x)
		}
	}
	return out
}

// Held implements health.Spares.
func (s spares) Held() string { return holder(s.c.View()) }

// holder is the plan that is carried out, empty for none.
func holder(v *cluster.View) string {
	for _, it := range v.Prefix(org.PlanPrefix) {
		var p org.Plan
		if json.Unmarshal(it.Value, &p) != nil || p.State != org.PlanRunning && p.State != org.PlanUndoing {
			continue // one that is held waits for a person: repairs go on
		}
		return p.Kind + " " + p.ID
	}
	return ""
}

// healthOf is how a server is and how old that news is, for Active Manager; nil
// where it has told nothing that counts. The age is that of the last report, whose
// number grows each time: a server that beats and reports nothing grows old.
func (w *mailWorker) healthOf(s org.ServerName) (map[string]org.SetHealth, time.Duration) {
	b, _, ok := w.cluster.Published(s, org.HealthSection)
	came, known := w.cluster.Came(s, org.HealthSection)
	var h org.ServerHealth
	if !ok || !known || codec.Unmarshal(b, &h) != nil || h.Silent {
		return nil, 0
	}
	return h.Sets, time.Since(came)
}

func (w *mailWorker) fast() bool { return w.cfg.Timers == "fast" }

// activeOn are the databases of a volume of this server that are active here.
func (w *mailWorker) activeOn(v org.VolumeName) []org.DatabaseName {
	var out []org.DatabaseName
	view := w.cluster.View()
	for _, def := range view.Databases() {
		mt, _ := view.Mount(def.Name)
		for _, c := range def.Copies {
			if c.Server == w.cluster.Name() && c.Volume == v && mt.Active == c.Server {
				out = append(out, def.Name)
			}
		}
	}
	return out
}
