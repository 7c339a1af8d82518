package safetynet

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Request is a request by hand. Zero times mean: as far as anything is kept,
// and up to now.
type Request struct {
	Database   org.DatabaseName
	From, To   time.Time
	Conditions org.SafetyNetConditions
	ResubmitTo string // address; empty: to the mailboxes it was for
	Why, By    string
}

// Ask makes the request for what a lossy mount may lack; see
// active.Deps.SafetyNet.
func (n *Net) Ask(db org.DatabaseName, since time.Time, why string) (id string, op cluster.Op) {
	r := AfterLoss(n.d.Group.View(), n.d.Settings(), n.d.Now(), db, since, why)
	return r.ID, RequestOp(r)
}

// Completed tells whether a request was answered in full.
func (n *Net) Completed(id string) bool {
	v := n.d.Group.View()
	e, err := find(v, id)
	if err != nil {
		return false
	}
	state, _ := n.state(v, e)
	return state == StateCompleted
}

func (n *Net) state(v *cluster.View, e *entry) (state, why string) {
	if e.bad != nil {
		return StateFailed, fmt.Sprintf("its row cannot be read: %v", e.bad)
	}
	return State(n.question(v, e))
}

// Requests lists all requests, oldest first.
func (n *Net) Requests() []Status {
	v := n.d.Group.View()
	out := []Status{}
	for _, e := range entries(v) {
		out = append(out, n.status(v, e))
	}
	return out
}

// Show returns one request.
func (n *Net) Show(id string) (Status, error) {
	v := n.d.Group.View()
	e, err := find(v, id)
	if err != nil {
		return Status{}, err
	}
	return n.status(v, e), nil
}

func (n *Net) status(v *cluster.View, e *entry) Status {
	s := Status{Request: e.request, Parts: e.parts}
	s.State, s.Why = n.state(v, e)
	for _, p := range e.parts {
		s.Found += p.Found
		s.Delivered += p.Delivered
		s.Duplicates += p.Duplicates
		s.Failed += p.Failed
	}
	return s
}

// Create makes a request by hand and returns its identity. Invalid where it
// asks for nothing that can be kept, Full where there are too many requests.
func (n *Net) Create(ctx context.Context, q Request) (id string, err error) {
	g, now, v := n.d.Settings(), n.d.Now(), n.d.Group.View()
	oldest := now.Add(-g.HoldTime.Std())
	if q.To.IsZero() || q.To.After(now) {
		q.To = now
	}
	if q.From.IsZero() {
		q.From = oldest
	}
	if err := q.check(v, oldest); err != nil {
		return "", err
	}
	if len(entries(v)) >= MaxRequests {
		return "", kind.WithHint(kind.Errorf(kind.Full, "there are %d Safety Net requests", MaxRequests), "postern safetynet cancel")
	}
	r := finished(org.SafetyNetRequest{Database: q.Database, From: q.From, To: q.To, Why: cut(q.Why, 200), By: cut(q.By, 200),
		Conditions: q.Conditions, ResubmitTo: q.ResubmitTo}, g, now)
	_, err = n.d.Group.Commit(ctx, cluster.Txn{If: []cluster.Cond{{Key: requestKey(r.ID)}}, Then: []cluster.Op{RequestOp(r)}})
	return r.ID, err
}

// check says what is wrong with a request.
func (q *Request) check(v *cluster.View, oldest time.Time) error {
	if _, ok := v.Database(q.Database); !ok {
		return kind.WithHint(kind.Errorf(kind.NotFound, "database %s does not exist", q.Database), "postern database list")
	}
	if !q.From.Before(q.To) {
		return kind.Errorf(kind.Invalid, "the interval ends at %s, before it begins", q.To.Format(time.RFC3339))
	}
	if q.To.Before(oldest) {
		return kind.WithHint(kind.Errorf(kind.Invalid, "nothing is kept that was delivered before %s", oldest.Format(time.RFC3339)), "postern transport show hold_time")
	}
	c := &q.Conditions
	for name, s := range map[string]string{"sender": c.Sender, "recipient": c.Recipient, "message id": c.MessageID} {
		if len(s) > 998 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return kind.Errorf(kind.Invalid, "%s %.40q: want one line of at most 998 bytes", name, s)
		}
	}
	if q.ResubmitTo != "" {
		if _, err := mail.ParseAddress(q.ResubmitTo); err != nil {
			return kind.Errorf(kind.Invalid, "resubmit to: %w", err)
		}
	}
	return nil
}

// Cancel removes a request. What it delivered stays delivered.
func (n *Net) Cancel(ctx context.Context, id string) error {
	e, err := find(n.d.Group.View(), id)
	if err != nil {
		return err
	}
	return n.remove(ctx, e)
}

// remove deletes a request, and then what is left of its parts.
func (n *Net) remove(ctx context.Context, e *entry) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	key := requestKey(e.request.ID)
	ops := []cluster.Op{{Key: key, Delete: true}}
	for _, k := range e.keys {
		ops = append(ops, cluster.Op{Key: k, Delete: true})
	}
	const most = 100 // changes of one transaction
	for len(ops) > 0 {
		m := min(len(ops), most)
		if _, err := n.d.Group.Commit(ctx, cluster.Txn{Then: ops[:m]}); err != nil {
			return err
		}
		ops = ops[m:]
	}
	return nil
}

// Disable holds a request back; Enable lets it go on from where it was.
func (n *Net) Disable(ctx context.Context, id string) error { return n.hold(ctx, id, true) }

// Enable lets a request go on that was held back.
func (n *Net) Enable(ctx context.Context, id string) error { return n.hold(ctx, id, false) }

func (n *Net) hold(ctx context.Context, id string, on bool) error {
	e, err := find(n.d.Group.View(), id)
	if err != nil {
		return err
	}
	if e.bad != nil {
		return kind.Errorf(kind.Corrupt, "Safety Net request %s: %w", id, e.bad)
	}
	r := e.request
	r.Disabled = on
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	key := requestKey(id)
	_, err = n.d.Group.Commit(ctx, cluster.Txn{If: []cluster.Cond{{Key: key, Revision: e.revision}}, Then: []cluster.Op{{Key: key, Value: b}}})
	return err
}
