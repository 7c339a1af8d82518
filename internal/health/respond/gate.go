package respond

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// Order is what a responder wants done, and why.
type Order struct {
	Action     Action                 `cbor:"1,keyasint"`
	Target     string                 `cbor:"2,keyasint"`
	Set        string                 `cbor:"3,keyasint"`
	Monitor    string                 `cbor:"4,keyasint"` // Set\Name, with \Target
	Responder  string                 `cbor:"5,keyasint"`
	Component  org.Component          `cbor:"6,keyasint"`
	State      org.HealthState        `cbor:"7,keyasint"`
	Cause      string                 `cbor:"8,keyasint"`
	Evidence   []org.RecoveryEvidence `cbor:"9,keyasint"`
	WantSecond bool                   `cbor:"10,keyasint"`
	Lossless   bool                   `cbor:"11,keyasint"`
}

// GateDeps are what a Gate is built from. The functions must not block.
type GateDeps struct {
	Server org.ServerName
	Rows   Rows // nil: there is no agreed state here, only what can be done alone
	Actor  Actor
	Clock  Clock
	Local  *Journal
	Fast   bool
	// Mode is the recovery mode for a health set, Held why the component
	// recovery_actions holds deeds back.
	Mode func(set string) Mode
	Held func() string
	// Spare is what the group has beside this server; Size counts its servers
	// and the databases with a copy here.
	Spare func() Spare
	Size  func() (servers, databases int)
	// Second asks who else sees what is wrong with a component of this server.
	Second func(c org.Component) (who string, agrees bool)
	// Said is told of each row that was written.
	Said func(org.Recovery)
}

// Gate is the only way to a deed.
type Gate struct {
	deps GateDeps
	mu   sync.Mutex // held for a deed: one at a time
	seq  atomic.Uint64
	lost atomic.Int32 // deeds whose Actor did not come back
}

// Limits of the gate.
const (
	casTries   = 5
	deedTime   = 90 * time.Second // for one deed; moves of a whole server are given 60 s
	deedGrace  = 5 * time.Second  // to come back when that is over
	maxLost    = 4
	commitTime = 10 * time.Second
	maxText    = 512
	maxProof   = 256
	maxProofs  = 10
)

// NewGate makes a gate.
func NewGate(d GateDeps) *Gate { return &Gate{deps: d} }

// Do judges an order, writes down what it finds and, where it is allowed, has it
// done. The row says everything; the error is for a row that could not be
// written at all.
func (g *Gate) Do(ctx context.Context, o Order) (org.Recovery, error) {
	if o.Action != Escalate {
		if !g.mu.TryLock() {
			return org.Recovery{}, kind.Errorf(kind.Busy, "%s %s: another deed of this server is under way", o.Action, o.Target)
		}
		defer g.mu.Unlock()
	}
	row := g.row(o)
	mode := g.deps.Mode(o.Set)
	row.DryRun = mode == DryRun
	if o.WantSecond {
		who, agrees := g.deps.Second(o.Component)
		row.Second = who
		if !agrees {
			row.Refused = "no second opinion: " + who
			return g.record(ctx, row)
		}
	}
	granted, err := g.grant(ctx, &row, mode)
	if err != nil || !granted {
		return row, err
	}
	return g.carryOut(ctx, o, row)
}

// row begins the entry of the recovery log.
func (g *Gate) row(o Order) org.Recovery {
	now := g.deps.Clock.Now().UTC()
	r := org.Recovery{ID: g.NewID(now), Server: g.deps.Server, Action: string(o.Action), Target: o.Target, Responder: o.Responder,
		Monitor: o.Monitor, State: o.State, Begun: now, Cause: cut(o.Cause, maxText)}
	for _, e := range o.Evidence[:min(len(o.Evidence), maxProofs)] {
		e.Text = cut(e.Text, maxProof)
		r.Evidence = append(r.Evidence, e)
	}
	return r
}

// NewID makes an identity whose order is that of time.
func (g *Gate) NewID(at time.Time) string {
	return org.RecoveryID(at, g.deps.Server, strconv.FormatUint(g.seq.Add(1), 10))
}

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-3], "") + "..."
}

// grant judges and writes the grant and the row together. It tells whether the
// deed is to be done; row has the reason if not.
func (g *Gate) grant(ctx context.Context, row *org.Recovery, mode Mode) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, commitTime)
	defer cancel()
	var lost error
	for range casTries {
		now := g.deps.Clock.Now().UTC()
		b, revision := g.budget(now, mode)
		q := g.request(row, mode)
		row.Refused = Allow(b, q, g.deps.Spare(), now)
		row.Allowed = row.Refused == ""
		if !row.Allowed || mode == DryRun || row.Action == string(Escalate) {
			_, err := g.record(ctx, *row)
			return row.Allowed && mode != DryRun && row.Action != string(Escalate), err
		}
		next := b.With(Grant{ID: row.ID, At: now, Server: row.Server, Action: Action(row.Action), Target: row.Target}, now)
		if !q.Quorum {
			return true, g.alone(*row, g.deps.Local.Grant(next, *row))
		}
		err := g.deps.Rows.Commit(ctx, []Op{
			{Key: BudgetKey, Value: encode(next), If: true, Revision: revision}, {Key: RowKey(row.ID), Value: encode(row)}})
		if err == nil {
			g.said(*row)
			return true, nil
		}
		lost = err
		if !kind.Is(err, kind.Conflict) {
			break
		}
	}
	row.Allowed, row.Refused = false, "the group is busy: "+cut(lost.Error(), maxProof)
	_, err := g.record(ctx, *row)
	return false, err
}

// request asks for a row's deed.
func (g *Gate) request(row *org.Recovery, mode Mode) Request {
	q := Request{Server: row.Server, Action: Action(row.Action), Target: row.Target, Mode: mode, Held: g.deps.Held(),
		Quorum: g.deps.Rows != nil && g.deps.Rows.Quorum(), Fast: g.deps.Fast}
	q.Servers, q.Databases = g.deps.Size()
	if ok, why := g.deps.Clock.Trusted(); !ok {
		q.Clock = why
	}
	return q
}

// budget is what was granted until now: by the group, by this server alone, or,
// for a dry run, in the dry runs of the group.
func (g *Gate) budget(now time.Time, mode Mode) (b Budget, revision int64) {
	if g.deps.Rows == nil {
		return g.deps.Local.Budget(), 0
	}
	if mode == DryRun {
		return g.shadow(now), 0
	}
	raw, revision, ok := g.deps.Rows.Get(BudgetKey)
	if ok && json.Unmarshal(raw, &b) != nil {
		b = Budget{} // written by a version that is not ours: begin anew, under the row's revision
	}
	for _, own := range g.deps.Local.Budget().Grants {
		if !slices.ContainsFunc(b.Grants, func(x Grant) bool { return x.ID == own.ID }) {
			b.Grants = append(b.Grants, own)
		}
	}
	return b, revision
}

// shadow is the history of dry runs, from the recovery log.
func (g *Gate) shadow(now time.Time) Budget {
	var b Budget
	oldest := RowKey(now.Add(-budgetFor).Format(org.RecoveryTime))
	for key, raw := range g.deps.Rows.Prefix(org.RecoveryPrefix) {
		var r org.Recovery
		if key < oldest {
			continue
		}
		if json.Unmarshal(raw, &r) != nil || !r.DryRun || !r.Allowed || now.Sub(r.Begun) >= budgetFor {
			continue
		}
		// A deed that nobody does has ended at once.
		b.Grants = append(b.Grants, Grant{ID: r.ID, At: r.Begun, Ended: r.Begun, Server: r.Server, Action: Action(r.Action), Target: r.Target})
	}
	return b
}

// carryOut does a granted deed and writes down its end.
func (g *Gate) carryOut(ctx context.Context, o Order, row org.Recovery) (org.Recovery, error) {
	result, err := g.act(ctx, Deed{ID: row.ID, Action: o.Action, Target: o.Target, Component: o.Component, Set: o.Set, Monitor: o.Monitor, State: o.State,
		Why: row.Cause, Lossless: o.Lossless})
	row.Ended, row.Result = g.deps.Clock.Now().UTC(), cut(result, maxText)
	if err != nil {
		row.Failed, row.Result = true, cut("failed: "+err.Error(), maxText)
	}
	return g.end(ctx, row)
}

// act calls the Actor within its time, and bears its panic: a responder that
// fails must not take the server with it. One that does not come back is left
// behind; after a few of those no deed is begun.
func (g *Gate) act(ctx context.Context, d Deed) (string, error) {
	if g.lost.Load() >= maxLost {
		return "", fmt.Errorf("%d deeds before it have not come back", maxLost)
	}
	ctx, cancel := context.WithTimeout(ctx, deedTime)
	defer cancel()
	type answer struct {
		result string
		err    error
	}
	done := make(chan answer, 1)
	g.lost.Add(1)
	go func() {
		var a answer
		defer func() {
			if p := recover(); p != nil {
				a.err = fmt.Errorf("%s %s: %v", d.Action, d.Target, p)
			}
			g.lost.Add(-1)
			done <- a
		}()
		a.result, a.err = g.deps.Actor.Act(ctx, d)
	}()
	select {
	case a := <-done:
		return a.result, a.err
	case <-ctx.Done():
	}
	t := time.NewTimer(deedGrace)
	defer t.Stop()
	select {
	case a := <-done:
		return a.result, a.err
	case <-t.C:
		return "", fmt.Errorf("no answer within %v", deedTime)
	}
}

// end writes that a deed has ended. Where that cannot be written the grant
// counts as under way for its time.
func (g *Gate) end(ctx context.Context, row org.Recovery) (org.Recovery, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTime)
	defer cancel()
	for range casTries {
		now := g.deps.Clock.Now().UTC()
		if g.deps.Rows == nil || g.deps.Local.Has(row.ID) {
			return row, g.alone(row, g.deps.Local.End(row, now))
		}
		var b Budget
		raw, revision, ok := g.deps.Rows.Get(BudgetKey)
		if !ok || json.Unmarshal(raw, &b) != nil {
			break
		}
		err := g.deps.Rows.Commit(ctx, []Op{
			{Key: BudgetKey, Value: encode(b.Ended(row, now)), If: true, Revision: revision}, {Key: RowKey(row.ID), Value: encode(row)}})
		if err == nil {
			g.said(row)
			return row, nil
		}
		if !kind.Is(err, kind.Conflict) {
			break
		}
	}
	return g.record(ctx, row)
}

// CloseOpen writes the end of deeds of this server that began before a time and
// have none: the process that did them was ended, often by the deed itself.
func (g *Gate) CloseOpen(ctx context.Context, before time.Time) error {
	var open []org.Recovery
	for _, raw := range g.deps.Rows.Prefix(org.RecoveryPrefix) {
		var r org.Recovery
		if json.Unmarshal(raw, &r) == nil && r.Server == g.deps.Server && r.Allowed && !r.DryRun && r.Ended.IsZero() &&
			r.Action != string(Escalate) && r.Begun.Before(before) {
			open = append(open, r)
		}
	}
	for _, r := range open {
		r.Ended, r.Result = g.deps.Clock.Now().UTC(), "the process was restarted before the end was written"
		if _, err := g.end(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// Record writes what a part of the server did by itself, because it had to, into
// the recovery log: here until there is quorum, where there is none.
func (g *Gate) Record(ctx context.Context, row org.Recovery) error {
	_, err := g.record(ctx, row)
	return err
}

// RecordAll writes rows of things that have happened, together; nobody is told,
// as whoever did them has done so. Without quorum they wait here for it.
func (g *Gate) RecordAll(ctx context.Context, rows []org.Recovery) error {
	if g.deps.Rows != nil && g.deps.Rows.Quorum() {
		ctx, cancel := context.WithTimeout(ctx, commitTime)
		defer cancel()
		var ops []Op
		for _, r := range rows {
			ops = append(ops, Op{Key: RowKey(r.ID), Value: encode(r)})
		}
		if g.deps.Rows.Commit(ctx, ops) == nil {
			return nil
		}
	}
	for _, r := range rows {
		if err := g.deps.Local.Write(r); err != nil {
			return err
		}
	}
	return nil
}

// record writes a row of the log and nothing else: to the agreed state, or to
// the journal of this server where that is not possible.
func (g *Gate) record(ctx context.Context, row org.Recovery) (org.Recovery, error) {
	if g.deps.Rows != nil {
		ctx, cancel := context.WithTimeout(ctx, commitTime)
		defer cancel()
		if err := g.deps.Rows.Commit(ctx, []Op{{Key: RowKey(row.ID), Value: encode(row)}}); err == nil {
			g.said(row)
			return row, nil
		}
	}
	g.said(row)
	return row, g.deps.Local.Write(row)
}

// alone tells of a row that is kept here until there is quorum again. A gate that
// never has the agreed state hands its rows over, and they are told of there.
func (g *Gate) alone(row org.Recovery, err error) error {
	if err == nil && g.deps.Rows != nil {
		g.said(row)
	}
	return err
}

func (g *Gate) said(row org.Recovery) {
	if g.deps.Said != nil {
		g.deps.Said(row)
	}
}

// RowKey is the key of a row of the recovery log.
func RowKey(id string) string { return org.RecoveryPrefix + id }

// encode makes the value of a row; its types are known to encode.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", v, err))
	}
	return b
}
