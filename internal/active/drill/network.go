package drill

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

// withoutFor is how long a network stays out of use.
const withoutFor = 15 * time.Second

// network is the row of the network of a drill.
func (k Kind) network(o Order) (n org.Network, rev int64, err error) {
	it, ok := k.Library.World.View().Get(cluster.NetworkKey(o.Network))
	if !ok {
		return n, 0, kind.Errorf(kind.NotFound, "there is no network %s any more", o.Network)
	}
	err = json.Unmarshal(it.Value, &n)
	return n, it.Revision, err
}

// setIgnored has the servers leave a network alone, or use it again.
func (k Kind) setIgnored(ctx context.Context, pen *plan.Pen, o Order, ignore bool) error {
	n, rev, err := k.network(o)
	if kind.Is(err, kind.NotFound) && !ignore {
		return nil // somebody removed it: there is nothing to give back
	}
	if err != nil || n.Ignore == ignore {
		return err
	}
	n.Ignore = ignore
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	key := cluster.NetworkKey(o.Network)
	return pen.Commit(ctx, cluster.Txn{If: []cluster.Cond{{Key: key, Revision: rev}}, Then: []cluster.Op{{Key: key, Value: b}}})
}

// cut takes the network out of use, and waits until no log comes by it.
func (k Kind) cut(o Order) plan.Step {
	return plan.Step{
		Check: func(context.Context) plan.Finding {
			n, _, err := k.network(o)
			if err != nil {
				return plan.Finding{Stop: err.Error()}
			}
			by := k.logBy(o.Network)
			return plan.Finding{Done: n.Ignore && len(by) == 0, Wait: "for log to come by another network: " + strings.Join(shorten(by, 5), ", ")}
		},
		Do:   func(ctx context.Context, pen *plan.Pen) error { return k.setIgnored(ctx, pen, o, true) },
		Undo: func(ctx context.Context, pen *plan.Pen) error { return k.setIgnored(ctx, pen, o, false) }}
}

// logBy are the copies whose log comes by a network.
func (k Kind) logBy(network string) (out []string) {
	for _, s := range k.Library.World.View().Servers() {
		for _, st := range k.Library.World.Statuses(s.Name) {
			if st.Network == network {
				out = append(out, fmt.Sprintf("%s on %s", st.Database, s.Name))
			}
		}
	}
	slices.Sort(out)
	return out
}

// without has the clients go on for a while: every copy has to be in sync.
func (k Kind) without(o Order, s org.PlanStep) plan.Step {
	return plan.Step{Check: func(context.Context) plan.Finding {
		if s.Begun.IsZero() || k.Library.Now().Sub(s.Begun) < withoutFor {
			return plan.Finding{Wait: fmt.Sprintf("for %s to go by", withoutFor)}
		}
		_, behind := changes(o.Active, k.Library.World.View())
		behind = append(behind, k.logBy(o.Network)...)
		return plan.Finding{Done: len(behind) == 0, Note: fmt.Sprintf("every copy was in sync after %s without %s", withoutFor, o.Network), Wait: strings.Join(shorten(behind, 5), ", ")}
	}}
}

// join lets the network be used again.
func (k Kind) join(o Order) plan.Step {
	return plan.Step{
		Check: func(context.Context) plan.Finding {
			n, _, err := k.network(o)
			return plan.Finding{Done: err == nil && !n.Ignore, Wait: "for the network to be used again"}
		},
		Do: func(ctx context.Context, pen *plan.Pen) error { return k.setIgnored(ctx, pen, o, false) }}
}
